//! Output, input, exit codes, terminals.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use ros_runtime::{AttachStream, Process, SpecInput};

use crate::host::{Host, exec, expect, output, spec};

pub async fn exit_codes(host: &Host) -> Result<()> {
    for (id, script, code) in
        [("a0", "true", 0), ("a5", "exit 5", 5), ("a137", "sh -c 'kill -9 $$'; exit $?", 137)]
    {
        ensure!(host.sh(id, script).await?.0 == code, "{script}");
        let exit = fs::read_to_string(host.dir.join("containers").join(id).join("exit.json"))?;
        ensure!(exit.contains(&format!("\"code\":{code}")), "{exit}");
    }
    Ok(())
}

pub async fn output_comes_on_its_stream_and_in_the_log(host: &Host) -> Result<()> {
    let process = host
        .runtime
        .create(&host.request("o", &["sh", "-c", "echo out; echo err >&2; printf rest"]))
        .await?;
    let (mut one, mut two) = (process.attach(false).await?, process.attach(false).await?);
    process.start().await?;
    for stream in [&mut one, &mut two] {
        ensure!(output(stream).await? == ("out\nrest".into(), "err\n".into()));
    }
    process.wait().await?;
    let log = host.log("o");
    ensure!(log.contains("out\n") && log.contains("err\n") && log.ends_with("rest"), "{log:?}");
    ensure!(process.wait().await?.code == 0, "asking again is answered");
    process.delete().await?;
    process.delete().await?;
    ensure!(host.runtime.reattach("o").await?.is_none());
    Ok(())
}

pub async fn stdin_reaches_the_process_and_ends(host: &Host) -> Result<()> {
    let mut request = host.request("i", &["cat"]);
    request.open_stdin = true;
    let process = host.runtime.create(&request).await?;
    let mut stream = process.attach(true).await?;
    process.start().await?;
    let much = "0123456789\n".repeat(40_000);
    let (mut reader, mut writer) = stream_halves(&mut stream, &process).await?;
    let write = async {
        writer.write(much.as_bytes()).await?;
        writer.close_stdin().await
    };
    let read = async {
        let mut got = 0;
        while let Some(frame) = reader.next().await? {
            got += frame.bytes.len();
        }
        std::io::Result::Ok(got)
    };
    let (written, got) = tokio::join!(write, read);
    written?;
    ensure!(got? == much.len());
    ensure!(process.wait().await?.code == 0);
    Ok(())
}

/// The stream itself would do; this makes sure that another client may come and go meanwhile.
pub async fn stream_halves(
    stream: &mut AttachStream,
    process: &Process,
) -> Result<(ros_runtime::AttachReader, ros_runtime::AttachWriter)> {
    let second = process.attach(true).await?;
    let first = std::mem::replace(stream, process.attach(false).await?);
    drop(second);
    Ok(first.split())
}

pub async fn a_terminal_and_its_size(host: &Host) -> Result<()> {
    let mut request =
        host.request("t", &["sh", "-c", "stty size; read a; stty size; echo got $a; exit 4"]);
    (request.tty, request.open_stdin) = (true, true);
    request.spec = spec(&SpecInput {
        terminal: true,
        ..host.input("t", &["sh", "-c", "read a; stty size; echo got $a; read b; exit 4"])
    });
    let process = host.runtime.create(&request).await?;
    let mut stream = process.attach(true).await?;
    process.start().await?;
    process.resize(33, 111).await?;
    stream.write(b"x\n").await?;
    expect(&mut stream, "33 111\r\ngot x").await?;
    let mut request = exec("e", &["sh", "-c", "read a; stty size; exit 6"]);
    (request.tty, request.open_stdin) = (true, true);
    let exec = process.exec(&request).await?;
    let mut exec_stream = exec.attach(true).await?;
    exec.start().await?;
    exec.resize(20, 40).await?;
    exec_stream.write(b"\n").await?;
    expect(&mut exec_stream, "20 40").await?;
    ensure!(exec.wait().await?.code == 6);
    stream.write(b"\n").await?;
    ensure!(process.wait().await?.code == 4);
    ensure!(host.log("t").contains("got x\r\n"));
    Ok(())
}

pub async fn a_client_that_reads_nothing_holds_nobody_up(host: &Host) -> Result<()> {
    let process = host
        .runtime
        .create(&host.request("q", &["sh", "-c", "yes | head -c 3000000; echo; echo end"]))
        .await?;
    let silent = process.attach(false).await?;
    process.start().await?;
    let exit = tokio::time::timeout(Duration::from_secs(60), process.wait()).await??;
    ensure!(exit.code == 0);
    ensure!(host.log("q").ends_with("end\n"));
    drop(silent);
    Ok(())
}

//! Commands in a container, and those that cannot be run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ros_runtime::{Propagation, RuntimeError, SpecInput};

use crate::host::{Host, bind, exec, exec_output, expect, output, spec};

pub async fn a_missing_command_and_one_that_cannot_run(host: &Host) -> Result<()> {
    let table = [
        ("m1", "nothing", 127),
        ("m2", "/bin/nothing", 127),
        ("m3", "/bin/plain", 126),
        ("m4", "/etc", 126),
    ];
    for (id, command, code) in table {
        let error = host
            .runtime
            .create(&host.request(id, &[command]))
            .await
            .err()
            .context("was created")?;
        ensure!(error.exit_code() == code, "{command}: {error}");
        ensure!(host.runtime.reattach(id).await?.is_none(), "something is left of {id}");
    }
    Ok(())
}

pub async fn a_missing_source_is_a_bad_mount(host: &Host) -> Result<()> {
    let mut request = host.request("bm", &["true"]);
    request.mounts = vec![bind(Path::new("/nonexistent"), "/x", Propagation::Rprivate)];
    let error = host.runtime.create(&request).await.err().context("was created")?;
    ensure!(matches!(error, RuntimeError::BadMount(_)), "{error}");
    let mut request = host.request("bm", &["true"]);
    request.user = "nobody-here".into();
    let error = host.runtime.create(&request).await.err().context("was created")?;
    ensure!(matches!(error, RuntimeError::BadUser(_)), "{error}");
    Ok(())
}

pub async fn exec_sees_the_container_s_root(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("x", &["sleep", "100"])).await?;
    let (code, text) =
        exec_output(&process, &exec("e1", &["sh", "-c", "cat /etc/mark; echo $HOME; exit 3"]))
            .await?;
    ensure!((code, text.as_str()) == (3, "container\n/root\n"), "{code} {text:?}");
    let mut request = exec("e2", &["sh", "-c", "id -u; id -G; pwd; echo $HOME $A"]);
    (request.user, request.cwd, request.env) = ("ann".into(), "/tmp".into(), vec!["A=b".into()]);
    let (_, text) = exec_output(&process, &request).await?;
    ensure!(text == "1000\n1000 29\n/tmp\n/home/ann b\n", "{text:?}");
    let mut request = exec("e3", &["cat"]);
    request.open_stdin = true;
    let cat = process.exec(&request).await?;
    let mut stream = cat.attach(true).await?;
    cat.start().await?;
    ensure!(cat.pid() > 0);
    stream.write(b"hello").await?;
    stream.close_stdin().await?;
    ensure!(output(&mut stream).await?.0 == "hello");
    cat.delete().await?;
    let left = fs::read_dir(host.dir.join("run/x/state/x"))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("tenant"))
        .count();
    ensure!(left == 0, "{left} sockets are left");
    Ok(())
}

pub async fn exec_has_the_container_s_confinement(host: &Host) -> Result<()> {
    let script = "grep -E '^(Cap|Seccomp:|NoNewPrivs|SigIgn|SigBlk)' /proc/self/status; true";
    for nnp in [false, true] {
        let id = format!("cf{nnp}");
        let mut request = host.request(&id, &["sh", "-c", &format!("{script}; sleep 100")]);
        let input = SpecInput {
            no_new_privileges: nnp,
            ..host.input(&id, &["sh", "-c", &format!("{script}; sleep 100")])
        };
        request.spec = spec(&input);
        let process = host.runtime.create(&request).await?;
        let mut stream = process.attach(false).await?;
        process.start().await?;
        let of_init = expect(&mut stream, "Seccomp:").await?;
        let (_, of_exec) = exec_output(&process, &exec("e", &["sh", "-c", script])).await?;
        ensure!(of_init == of_exec, "init {of_init}\nexec {of_exec}");
        ensure!(of_exec.contains("Seccomp:\t2"), "{of_exec}");
        let ignored =
            of_exec.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).context("SigIgn")?;
        ensure!(
            u64::from_str_radix(ignored, 16)? & (1 << 12) == 0,
            "SIGPIPE is ignored: {ignored}"
        );
        ensure!(of_exec.contains("SigBlk:\t0000000000000000"), "{of_exec}");
        let (code, text) = exec_output(&process, &exec("u", &["unshare", "-m", "true"])).await?;
        ensure!(code != 0, "{text}");
        let mut request = exec("p", &["sh", "-c", script]);
        request.privileged = true;
        let (_, text) = exec_output(&process, &request).await?;
        ensure!(text.contains("Seccomp:\t0"), "{text}");
    }
    Ok(())
}

pub async fn exec_errors(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("xe", &["sleep", "100"])).await?;
    for (id, command, code) in [("e1", "nothing", 127), ("e2", "/bin/plain", 126)] {
        let exec = process.exec(&exec(id, &[command])).await?;
        let error = exec.start().await.err().context("was started")?;
        ensure!(error.exit_code() == code, "{command}: {error}");
        ensure!(exec.wait().await?.code == code);
        exec.delete().await?;
    }
    let mut request = exec("e3", &["true"]);
    request.cwd = "/none".into();
    let error = exec_output(&process, &request).await.err().context("was started")?;
    ensure!(error.to_string().contains("/none"), "{error}");
    let waiting = process.exec(&exec("e4", &["true"])).await?;
    process.delete().await?;
    ensure!(waiting.start().await.is_err(), "an exec does not outlive its container");
    ensure!(process.exec(&exec("e5", &["true"])).await.is_err());
    Ok(())
}

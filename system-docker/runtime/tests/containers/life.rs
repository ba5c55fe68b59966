//! From start to end, and what outlives whom.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ros_runtime::{Namespace, Namespaces, Phase, Runtime, RuntimeError, ShimRequest, SpecInput};

use crate::host::{Host, SIGKILL, SIGTERM, expect, spec};

pub async fn signals_end_it(host: &Host) -> Result<()> {
    let script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    for (id, signal, code) in [("s15", SIGTERM, 7), ("s9", SIGKILL, 137)] {
        let process = host.runtime.create(&host.request(id, &["sh", "-c", script])).await?;
        let mut stream = process.attach(false).await?;
        process.start().await?;
        expect(&mut stream, "ready").await?;
        ensure!(process.status().await?.phase == Phase::Running);
        process.kill(signal, false).await?;
        ensure!(process.wait().await?.code == code);
        let error = process.kill(signal, false).await.err().context("killed twice")?;
        ensure!(matches!(error, RuntimeError::Gone(_)), "{error}");
    }
    Ok(())
}

pub async fn pause_and_resume(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("z", &["sleep", "100"])).await?;
    process.pause().await?;
    ensure!(process.status().await?.phase == Phase::Paused);
    ensure!(process.pause().await.is_err());
    process.resume().await?;
    ensure!(process.status().await?.phase == Phase::Running);
    ensure!(process.pids()? == [process.pid()]);
    process.stats()?;
    process.pause().await?;
    process.kill(SIGKILL, false).await?;
    ensure!(process.wait().await?.code == 137);
    Ok(())
}

pub async fn what_is_left_behind_is_killed(host: &Host) -> Result<()> {
    let script = "(trap '' HUP TERM; sleep 100) & exit 2";
    let mut request = host.request("k", &["sh", "-c", script]);
    let namespaces = Namespaces { pid: Namespace::Host, ..Namespaces::default() };
    request.spec = spec(&SpecInput { namespaces, ..host.input("k", &["sh", "-c", script]) });
    let begin = Instant::now();
    let (code, _) = host.run(&request).await?;
    ensure!(
        code == 2 && begin.elapsed() < Duration::from_secs(2),
        "{code} after {:?}",
        begin.elapsed()
    );
    Ok(())
}

/// `<this> daemon <dir>`: makes a container, starts it, and waits to be killed.
pub fn daemon(dir: &Path) -> ExitCode {
    let work = async {
        let request: ShimRequest = serde_json::from_slice(&fs::read(dir.join("daemon.json"))?)?;
        let process =
            Runtime::new(&dir.join("run"), &std::env::current_exe()?).create(&request).await?;
        process.start().await?;
        println!("started");
        std::future::pending::<()>().await;
        anyhow::Ok(())
    };
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(work))
    {
        Ok(Ok(())) => ExitCode::SUCCESS,
        failed => {
            println!("{failed:?}");
            ExitCode::FAILURE
        }
    }
}

pub async fn the_container_outlives_its_daemon(host: &Host) -> Result<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let script =
        "trap 'exit 9' TERM; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done";
    fs::write(
        host.dir.join("daemon.json"),
        serde_json::to_vec(&host.request("l", &["sh", "-c", script]))?,
    )?;
    let mut daemon = tokio::process::Command::new(std::env::current_exe()?)
        .arg("daemon")
        .arg(&host.dir)
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().context("stdout")?).read_line(&mut line).await?;
    ensure!(line == "started\n", "{line}");
    daemon.kill().await?;
    let process = host.runtime.reattach("l").await?.context("the container is gone")?;
    ensure!(process.status().await?.phase == Phase::Running && process.pid() > 0);
    let mut stream = process.attach(false).await?;
    expect(&mut stream, "line").await?;
    let before = host.log("l").len();
    expect(&mut stream, "\n").await?;
    expect(&mut stream, "line").await?;
    ensure!(host.log("l").len() > before, "the log goes on");
    process.kill(SIGTERM, false).await?;
    ensure!(process.wait().await?.code == 9);
    Ok(())
}

pub async fn a_dead_shim_is_noticed(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("g", &["sleep", "100"])).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let shim =
        status.lines().find_map(|line| line.strip_prefix("PPid:\t")).context("PPid")?.parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    let process = host.runtime.reattach("g").await?.context("gone")?;
    while process.status().await?.phase != Phase::Orphaned {
        tokio::task::yield_now().await;
    }
    process.kill(SIGKILL, false).await?;
    ensure!(process.wait().await?.code == 137);
    process.delete().await?;
    ensure!(process.wait().await.is_err());
    Ok(())
}

pub async fn what_it_costs(host: &Host) -> Result<()> {
    let mut times = Vec::new();
    for number in 0..20 {
        let request = host.request(&format!("c{number}"), &["true"]);
        let begin = Instant::now();
        let process = host.runtime.create(&request).await?;
        process.start().await?;
        process.wait().await?;
        process.delete().await?;
        times.push(begin.elapsed());
    }
    times.sort();
    let process = host.sleeper(host.request("mem", &["sleep", "100"])).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).context("PPid")?;
    let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup"))?;
    let private: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    println!(
        "     create, start, wait, delete: median {:?}; shim private {private} kB",
        times[times.len() / 2]
    );
    Ok(())
}

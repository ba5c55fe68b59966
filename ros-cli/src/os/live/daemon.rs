//! The daemon replaced under the containers that run: they keep their processes, and the new one must find each of them.
//!
//! PID 1 does it and undoes it, see [`ros_api::init`]; here it is asked to, and the result is looked at from outside.
//! A new daemon is kept only with the verdict over the whole switch.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bollard::query_parameters::ListContainersOptions;
use ros_api::init::{DaemonReport, InitRequest};
use ros_api::paths;
use tokio::time::{Instant, sleep};

use crate::commands::power::request_of_init;
use crate::services::clock::uptime_ms;
use crate::services::engine::Engine;

/// What a daemon is called among the services of a receipt.
pub const NAME: &str = "system-docker";
/// How long a daemon may take until it answers.
pub const LIMIT: Duration = Duration::from_secs(60);
/// A daemon is watched for so long.
pub const WINDOW: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Processes by container id.
pub type Processes = BTreeMap<String, i64>;

/// The containers that run.
///
/// # Errors
/// When the daemon fails.
pub async fn running(engine: &Engine) -> Result<Processes> {
    let listed = engine.docker().list_containers(None::<ListContainersOptions>).await;
    let mut processes = Processes::new();
    for id in listed.context("list containers")?.into_iter().filter_map(|container| container.id) {
        let state = engine.inspect(&id).await?.and_then(|container| container.state);
        if let Some(pid) = state.and_then(|state| state.pid).filter(|pid| *pid > 0) {
            processes.insert(id, pid);
        }
    }
    Ok(processes)
}

/// Has PID 1 replace the daemon by that of generation `to`, unless it did already; answers for how many milliseconds
/// none answered.
///
/// # Errors
/// Why the new one is not to be had; PID 1 has gone back to the old one, or does when it is asked to.
pub async fn replace(to: u32, trial: Duration) -> Result<u64> {
    if report()?.generation == Some(to) {
        return reached(to).await.map(|()| 0);
    }
    let seconds = u32::try_from(trial.as_secs()).unwrap_or(u32::MAX);
    let from = uptime_ms();
    request_of_init(
        Path::new(paths::INIT_CONTROL),
        InitRequest::TryDaemon { generation: to, seconds },
    )?;
    reached(to).await?;
    Ok(uptime_ms() - from)
}

fn report() -> Result<DaemonReport> {
    DaemonReport::read().context("PID 1 does not say which daemon runs")
}

/// Waits until the daemon of generation `to` answers.
async fn reached(to: u32) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let report = report()?;
        if let Some(dropped) = report.dropped.filter(|dropped| dropped.generation == to) {
            bail!("{}", dropped.reason);
        }
        if report.generation == Some(to) && report.pid.is_some() && Engine::reached().await.is_ok()
        {
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not answer within {} s", LIMIT.as_secs());
        sleep(LOOK_AGAIN).await;
    }
}

/// Whether each of the containers that ran `before` runs as it did. One whose process ended meanwhile is not lost, whether
/// it was started again or not; so this must see the host's processes.
///
/// # Errors
/// Names those that are lost.
pub async fn check_found(engine: &Engine, before: &Processes) -> Result<()> {
    let mut lost = Vec::new();
    for (id, pid) in before {
        let now = engine.inspect(id).await?;
        let state = now.as_ref().and_then(|container| container.state.clone()).unwrap_or_default();
        let lives = || Path::new("/proc").join(pid.to_string()).exists();
        if state.pid != Some(*pid) && lives() {
            lost.push(now.and_then(|container| container.name).unwrap_or_else(|| id.clone()));
        }
    }
    ensure!(lost.is_empty(), "it did not re-attach to {}", lost.join(", "));
    Ok(())
}

/// Whether the daemon on trial is the one that was tried, and never ended.
///
/// # Errors
/// How it ended, or why it was dropped.
pub fn is_well(to: u32) -> Result<()> {
    judge(&report()?, to)
}

fn judge(report: &DaemonReport, to: u32) -> Result<()> {
    if let Some(dropped) = report.dropped.as_ref().filter(|dropped| dropped.generation == to) {
        bail!("{NAME}: {}", dropped.reason);
    }
    if let Some(trial) = report.trial.as_ref().filter(|trial| trial.ends > 0) {
        bail!("{NAME}: {}, and was started again", trial.last);
    }
    ensure!(report.generation == Some(to), "{NAME}: another one than that of generation {to} runs");
    Ok(())
}

/// The verdict is good: the daemon on trial stays.
///
/// # Errors
/// When PID 1 does not listen.
pub fn keep() -> Result<()> {
    request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::KeepDaemon)
}

/// Has the daemon of generation `from` run again, if another one does; waits until it answers.
///
/// # Errors
/// When it does not.
pub async fn back(from: u32) -> Result<()> {
    let control = Path::new(paths::INIT_CONTROL);
    let Some(report) = DaemonReport::read() else { return Ok(()) };
    match report.trial {
        _ if report.generation == Some(from) => reached(from).await,
        Some(_) => {
            request_of_init(control, InitRequest::DropDaemon)?;
            reached(from).await
        }
        // It was kept already.
        None => {
            replace(from, 2 * LIMIT).await?;
            keep()
        }
    }
}

#[cfg(test)]
mod tests {
    use ros_api::init::{DaemonTrial, Dropped};

    use super::*;

    #[test]
    fn only_the_daemon_that_was_tried_and_never_ended_is_well() {
        let trial = |ends| Some(DaemonTrial { generation: 2, ends, last: "ended with 3".into() });
        let dropped = Some(Dropped { generation: 2, reason: "ended with 3 (3 times)".into() });
        let of = |generation, trial, dropped| DaemonReport {
            generation: Some(generation),
            pid: Some(7),
            trial,
            dropped,
        };
        let other = Some(Dropped { generation: 5, reason: "of before".into() });
        let table = [
            (of(2, trial(0), None), ""),
            (of(2, trial(0), other), ""),
            (of(2, None, None), ""),
            (of(2, trial(1), None), "ended with 3, and was started again"),
            (of(1, None, dropped), "3 times"),
            (of(1, None, None), "another one"),
        ];
        for (report, expected) in table {
            let said = judge(&report, 2).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        }
    }
}

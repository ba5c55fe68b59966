//! Health checks, as Docker defines them:
//!
//! ```text
//!  starting ── a probe succeeds ──► healthy ── `retries` failures in a row ──► unhealthy
//!      └───── the same, after the start period ───────────────────────────────────▲   │ success ► healthy
//! ```
//!
//! Within the start period probes come at the start interval, the first one interval after the start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::HealthConfig;
use ros_runtime::{ExecRequest, Process, Stream};
use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::container::Container;
use super::time::{now, rfc3339};
use super::{Engine, new_id};

/// Probes remembered.
const REMEMBERED: usize = 5;
/// Bytes of a probe's output that are kept.
const OUTPUT: usize = 4096;

/// What a container's probes said.
#[derive(Debug)]
pub struct Health {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: &'static str,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The latest probes.
    pub log: VecDeque<Probe>,
    task: AbortHandle,
}

/// One probe, as inspect shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    start: String,
    end: String,
    exit_code: i32,
    output: String,
}

/// A health check with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

impl Check {
    /// None when there is nothing to check.
    fn of(config: &HealthConfig) -> Option<Self> {
        let test = config.test.as_deref().unwrap_or_default();
        let command = match test.split_first() {
            Some((kind, [line])) if kind == "CMD-SHELL" => {
                vec!["/bin/sh".into(), "-c".into(), line.clone()]
            }
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => words.to_vec(),
            _ => return None,
        };
        let time = |nanoseconds: Option<i64>, default: u64| {
            let given = nanoseconds.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
            given.map_or(Duration::from_secs(default), Duration::from_nanos)
        };
        Some(Self {
            command,
            interval: time(config.interval, 30),
            timeout: time(config.timeout, 30),
            retries: config
                .retries
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(3),
            start_period: time(config.start_period, 0),
            start_interval: time(config.start_interval, 5),
        })
    }

    fn pause(&self, since: Instant, status: &str) -> Duration {
        let starting = status == "starting" && since.elapsed() < self.start_period;
        if starting { self.start_interval.min(self.interval) } else { self.interval }
    }
}

impl Engine {
    /// Begins to probe, if the container has a health check; at once when it was well before this daemon began.
    pub(super) fn watch_health(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Process,
        at_once: bool,
    ) {
        let config = container.record().config.healthcheck.clone();
        let Some(check) = config.as_ref().and_then(Check::of) else {
            *container.health() = None;
            return;
        };
        let probing =
            Arc::clone(self).probe_on(Arc::clone(container), process.clone(), check, at_once);
        let task = tokio::spawn(probing).abort_handle();
        *container.health() =
            Some(Health { status: "starting", failing_streak: 0, log: VecDeque::new(), task });
    }

    /// Stops probing; what the probes said stays to be read.
    pub(super) fn forget_health(&self, container: &Container) {
        if let Some(health) = container.health().as_ref() {
            health.task.abort();
        }
    }

    async fn probe_on(
        self: Arc<Self>,
        container: Arc<Container>,
        process: Process,
        check: Check,
        mut at_once: bool,
    ) {
        let since = Instant::now();
        loop {
            let status = container.health().as_ref().map_or("starting", |health| health.status);
            if !std::mem::take(&mut at_once) {
                tokio::time::sleep(check.pause(since, status)).await;
            }
            let paused =
                matches!(container.record().state, super::State::Running { paused: true, .. });
            if paused {
                continue;
            }
            let probe = probe(&process, &check).await;
            self.judge(&container, &check, since, probe);
        }
    }

    fn judge(&self, container: &Container, check: &Check, since: Instant, probe: Probe) {
        let changed = {
            let mut guard = container.health();
            let Some(health) = guard.as_mut() else { return };
            let before = health.status;
            if probe.exit_code == 0 {
                (health.status, health.failing_streak) = ("healthy", 0);
            } else if health.status != "starting" || since.elapsed() >= check.start_period {
                health.failing_streak += 1;
                if health.failing_streak >= check.retries {
                    health.status = "unhealthy";
                }
            }
            if health.log.len() == REMEMBERED {
                health.log.pop_front();
            }
            health.log.push_back(probe);
            (before != health.status).then_some(health.status)
        };
        if let Some(status) = changed {
            self.events().container(container, &format!("health_status: {status}"), &[]);
            container.touch();
        }
    }
}

/// Runs the check once.
async fn probe(process: &Process, check: &Check) -> Probe {
    let start = rfc3339(now());
    let (exit_code, output) = match run(process, check).await {
        Ok(answer) => answer,
        Err(error) => (-1, error.to_string()),
    };
    Probe { start, end: rfc3339(now()), exit_code, output }
}

async fn run(process: &Process, check: &Check) -> super::Result<(i32, String)> {
    let request = ExecRequest {
        id: new_id()?,
        args: check.command.clone(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        privileged: false,
        tty: false,
        open_stdin: false,
    };
    let exec = process.exec(&request).await?;
    let done = tokio::time::timeout(check.timeout, finish(&exec)).await;
    if done.is_err() {
        let _ = exec.kill(9, false).await;
    }
    let deleted = exec.delete().await;
    let answer = match done {
        Ok(answer) => answer?,
        Err(_) => (-1, format!("Health check exceeded timeout ({} ms)", check.timeout.as_millis())),
    };
    deleted?;
    Ok(answer)
}

async fn finish(exec: &Process) -> super::Result<(i32, String)> {
    let mut stream = exec.attach(false).await?;
    exec.start().await?;
    let mut output = Vec::new();
    while let Some(frame) = stream.next().await? {
        if matches!(frame.stream, Stream::Stdout | Stream::Stderr) && output.len() < OUTPUT {
            output.extend_from_slice(&frame.bytes);
        }
    }
    output.truncate(OUTPUT);
    let exit = exec.wait().await?;
    Ok((exit.code, String::from_utf8_lossy(&output).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: &[&str]) -> Option<Check> {
        let test = test.iter().map(|word| (*word).to_owned()).collect();
        Check::of(&HealthConfig { test: Some(test), ..Default::default() })
    }

    #[test]
    fn checks_have_dockers_forms_and_defaults() {
        let shell = check(&["CMD-SHELL", "true && true"]).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "true && true"]);
        assert_eq!(
            (shell.interval.as_secs(), shell.retries, shell.start_interval.as_secs()),
            (30, 3, 5)
        );
        assert_eq!(check(&["CMD", "a", "b"]).unwrap().command, ["a", "b"]);
        for none in [&[][..], &["NONE"], &["CMD"], &["what", "a"]] {
            assert_eq!(check(none), None, "{none:?}");
        }
    }
}

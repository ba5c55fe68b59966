//! What held before a change of the OS must hold after it: the user's own checks, `ros.upgrade.health`, and that the machine
//! can be reached. Each of the user's is a command line for the console's shell, or an address (`http://…`) that must
//! answer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use cloud_config::Settings;
use ros_api::{durable, paths};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::live::probe::exec;
use super::trial::Trial;
use crate::services::engine::Engine;

/// Where they run: the console sees what the user sees.
const CONSOLE: &str = "console";
/// How long one may take: no verdict waits for ever.
const LIMIT: Duration = Duration::from_secs(20);
/// How long they may take to hold after a boot in which every service is ready.
const AFTER_BOOT: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(1);
/// Whoever loses one of these cannot be helped from elsewhere.
const REACHABLE: [(&str, &str); 2] = [
    (
        "a default route",
        "for ip in -4 -6; do /bin/busybox ip $ip route | /bin/busybox grep -q ^default && exit; done; exit 1",
    ),
    (
        "an answer by ssh",
        "/bin/busybox nc -w 3 127.0.0.1 22 < /dev/null | /bin/busybox grep -q ^SSH",
    ),
];

/// Those that are configured, after those that everybody has.
#[must_use]
pub fn wanted(settings: &Settings) -> Vec<String> {
    let everybodys = REACHABLE.iter().map(|(name, _)| (*name).to_owned());
    everybodys.chain(settings.ros.upgrade.health.iter().cloned()).collect()
}

fn reachable(check: &str) -> Option<&'static str> {
    REACHABLE.iter().find(|(name, _)| *name == check).map(|(_, line)| *line)
}

fn command(check: &str) -> Vec<String> {
    let words: &[&str] = match check {
        url if url.starts_with("http://") || url.starts_with("https://") => {
            &["/bin/busybox", "wget", "-q", "-T", "5", "-O", "/dev/null", url]
        }
        line => &["/bin/sh", "-c", reachable(line).unwrap_or(line)],
    };
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Runs one.
///
/// # Errors
/// With what it said when it does not hold.
pub async fn run(engine: &Engine, check: &str) -> Result<(), String> {
    match timeout(LIMIT, exec(engine, CONSOLE, command(check))).await {
        Ok(ran) => ran.map_err(|error| format!("{check}: {error:#}")),
        Err(_) => Err(format!("{check}: it did not end within {} s", LIMIT.as_secs())),
    }
}

/// Those of `checks` that hold now. One that does not hold before a change says nothing about it.
pub async fn that_hold(engine: &Engine, checks: &[String]) -> Vec<String> {
    let mut hold = Vec::new();
    for check in checks {
        match run(engine, check).await {
            Ok(()) => hold.push(check.clone()),
            // A machine without a network has nothing to lose.
            Err(_) if reachable(check).is_some() => {}
            Err(error) => eprintln!("not counted, it does not hold now: {error}"),
        }
    }
    hold
}

/// What held before the boot into a generation.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    generation: u32,
    checks: Vec<String>,
}

/// Keeps what holds before the boot into `generation`, for [`lost_by_boot`].
///
/// # Errors
/// When it cannot be written.
pub fn keep(generation: u32, checks: Vec<String>) -> Result<()> {
    let text = serde_json::to_vec(&Held { generation, checks })?;
    Ok(durable::write(Path::new(paths::CHECKS), &text, 0o600)?)
}

/// What held before the boot into `running`, which is on trial, and does not now; each with what it says.
pub async fn lost_by_boot(engine: &Engine, running: u32) -> Vec<String> {
    if !Trial::open().is_ok_and(|trial| trial.is_some_and(|trial| trial.is_of(running))) {
        return Vec::new();
    }
    let held = fs::read(paths::CHECKS).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(Held { checks, .. }) = held.filter(|held: &Held| held.generation == running) else {
        return Vec::new();
    };
    let end = Instant::now() + AFTER_BOOT;
    loop {
        let mut lost = Vec::new();
        for check in &checks {
            lost.extend(run(engine, check).await.err());
        }
        if lost.is_empty() || Instant::now() >= end {
            return lost;
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_fetched_and_a_line_is_the_shells() {
        assert_eq!(command("test -e /a").join(" "), "/bin/sh -c test -e /a");
        let fetch = command("http://127.0.0.1:80/health").join(" ");
        assert_eq!(fetch, "/bin/busybox wget -q -T 5 -O /dev/null http://127.0.0.1:80/health");
        for check in wanted(&Settings::default()) {
            assert!(command(&check)[2].contains("busybox"), "{check} is a name, no command");
        }
    }
}

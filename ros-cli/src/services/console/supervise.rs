//! Keeps the console's programs running: each is started again when it ends, later and later while it ends
//! at once. Stops them all when asked to. It is not PID 1 and waits only for its own children.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// A program that lived this long was not failing.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// First pause before a program that failed is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a program may take to end once asked.
const GRACE: Duration = Duration::from_secs(5);

/// A program to keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// For messages.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Pause before the next start, given the last pause and how long the program lived.
#[must_use]
pub fn next_pause(last: Duration, lived: Duration) -> Duration {
    if lived >= HEALTHY_AFTER {
        return Duration::ZERO;
    }
    (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Keeps `program` running until `stop` says true.
pub async fn keep(program: Program, mut stop: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    while !*stop.borrow() {
        let started = Instant::now();
        match spawn(&program) {
            Ok(mut child) => tokio::select! {
                _ = child.wait() => {}
                _ = stop.changed() => return end(child).await,
            },
            Err(error) => eprintln!("{}: {error}", program.name),
        }
        pause = next_pause(pause, started.elapsed());
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.changed() => {}
        }
    }
}

fn spawn(program: &Program) -> std::io::Result<Child> {
    let [name, arguments @ ..] = &program.command[..] else {
        return Err(std::io::Error::other("there is nothing to run"));
    };
    Command::new(name).args(arguments).stdin(Stdio::null()).spawn()
}

async fn end(mut child: Child) {
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Sends `signal` to a child that was not waited for yet.
pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_a_program_ends_at_once() {
        let s = Duration::from_secs;
        let short = Duration::from_millis(10);
        assert_eq!(next_pause(Duration::ZERO, short), FIRST_PAUSE);
        assert_eq!(next_pause(s(1), short), s(2));
        assert_eq!(next_pause(s(20), short), LONGEST_PAUSE);
        assert_eq!(next_pause(s(20), s(6)), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_program_is_started_again_and_stopped_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let line =
            format!("echo run >> {}; test $(wc -l < {0}) -lt 2 || exec sleep 60", log.display());
        let program =
            Program { name: "test".into(), command: vec!["sh".into(), "-c".into(), line] };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(keep(program, stopped));
        let twice = async {
            while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), twice).await.unwrap();
        stop.send(true).unwrap();
        timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    }
}

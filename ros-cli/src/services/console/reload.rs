//! Has the console take the configuration over in place, by SIGHUP to its first process. The console shares the
//! host's process table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Process of `ros console-init`.
const PID: &str = "/run/ros/console.pid";
/// Process of sshd, as it writes it itself.
const SSHD_PID: &str = "/run/sshd.pid";

/// Writes down who is to be asked.
///
/// # Errors
/// When it cannot be written.
pub fn listen() -> Result<()> {
    fs::write(PID, std::process::id().to_string()).with_context(|| format!("write {PID}"))
}

/// Asks the console.
///
/// # Errors
/// When it does not run.
pub fn ask() -> Result<()> {
    hang_up(Path::new(PID), "console-init").context("ask the console")
}

/// Has sshd read its configuration again; sessions stay.
///
/// # Errors
/// When it does not run.
pub fn sshd() -> Result<()> {
    hang_up(Path::new(SSHD_PID), "sshd").context("ask sshd")
}

/// Sends SIGHUP to the process that `file` names, when it is still the one with `word` in its command line.
fn hang_up(file: &Path, word: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let pid: i32 = text.trim().parse().context("no process number")?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    ensure!(String::from_utf8_lossy(&line).contains(word), "process {pid} is not {word}");
    kill(Pid::from_raw(pid), Signal::SIGHUP).with_context(|| format!("signal process {pid}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    #[tokio::test]
    async fn only_the_right_process_is_asked() {
        // Where SIGHUP is ignored (nohup) a child would inherit that; what is caught here is its default there.
        let _caught = signal(SignalKind::hangup()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(&file, child.id().to_string()).unwrap();
        // A process has its command line a moment after it is there.
        while fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(hang_up(&file, "sshd").is_err());
        hang_up(&file, "sleep").unwrap();
        assert!(!child.wait().unwrap().success(), "SIGHUP ended it");
        assert!(hang_up(&file, "sleep").is_err());
    }
}

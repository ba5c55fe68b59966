//! Programs of the building machine: run, with what they said in the error when they fail.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command; `/sbin` is in its search path too.
#[must_use]
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// A command that needs root: by `sudo` when we are not.
#[must_use]
pub fn as_root(program: &OsStr) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = command("sudo");
    sudo.arg(program);
    sudo
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Runs to the end and answers what it printed.
///
/// # Errors
/// When it cannot be started or fails; what it said is in the message.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().with_context(|| format!("start {name}"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let lines: Vec<&str> = said.trim().lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
        bail!("{name} failed ({}):\n  {last}", ended.status);
    }
    Ok(ended.stdout)
}

/// The same for a filter: it is given `input`, which must be short.
///
/// # Errors
/// As [`output`].
pub fn with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("start {name}"))?;
    if let Some(mut to) = child.stdin.take() {
        to.write_all(input).with_context(|| format!("write to {name}"))?;
    }
    let ended = child.wait_with_output().with_context(|| format!("wait for {name}"))?;
    if !ended.status.success() {
        bail!("{name} failed ({})", ended.status);
    }
    Ok(ended.stdout)
}

/// The same, for text; the end is trimmed.
///
/// # Errors
/// As [`output`].
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).trim_end().to_owned())
}

//! This program once more, on its own: it outlives whoever started it, and a closed terminal does not end it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Starts `ros` with `arguments`; nobody hears what it says.
///
/// # Errors
/// When it cannot be started.
pub fn start(arguments: &[&str]) -> Result<()> {
    let ros = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(ros);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("start ros {}", arguments.join(" ")))?;
    Ok(())
}

/// What is started so begins with it: a session of its own.
pub fn leave() {
    let _ = rustix::process::setsid();
}

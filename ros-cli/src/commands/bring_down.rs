//! `ros bring-down`: run by PID 1 before it ends everything; stops the services in order.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::services::{bring_down, progress, verdict};

/// How long it may take.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Seconds after which what still runs is left to be killed
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    timeout: u64,
}

/// Runs the command.
///
/// # Errors
/// When the daemon does not answer.
pub async fn run(args: Args) -> Result<ExitCode> {
    // First: what follows may be cut short, and a user's own reboot must not count against a trial.
    if let Err(error) = verdict::orderly_shutdown() {
        progress::complain(&format!("{error:#}"));
    }
    bring_down::bring_down(Duration::from_secs(args.timeout)).await?;
    Ok(ExitCode::SUCCESS)
}

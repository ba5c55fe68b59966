//! `ros bring-up`: run by PID 1 once the daemon is there; starts the services and says whether this
//! generation is good.

use std::process::ExitCode;

use anyhow::Result;

use crate::services::{bring_up, verdict};

/// It takes no arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When there is no daemon or no release: PID 1 tries again.
pub async fn run(_: Args) -> Result<ExitCode> {
    let report = bring_up::bring_up().await?;
    verdict::pronounce(&report).await?;
    Ok(ExitCode::SUCCESS)
}

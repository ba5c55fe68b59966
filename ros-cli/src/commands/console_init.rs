//! `ros console-init`: what the console service runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::commands::config;
use crate::services::applied::Trials;
use crate::services::configuration::Configuration;
use crate::services::console::run::{self, Wants};
use crate::services::roster::Running;

/// It takes no arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs until the service is stopped.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn run(_: Args) -> Result<ExitCode> {
    run::run(wants(), wants).await
}

fn wants() -> Wants {
    let configuration = Configuration::load();
    let version = Running::read().map(|running| running.release.version).unwrap_or_default();
    let (wants, wrong) = Wants::of(&configuration.settings, &version);
    wrong.iter().for_each(|warning| eprintln!("{warning}"));
    if Trials::machine().current().is_some()
        && let Err(error) = config::start_guard()
    {
        eprintln!("{error:#}");
    }
    wants
}

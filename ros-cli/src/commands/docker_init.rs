//! `ros docker-init`: what the docker service runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::services::configuration::Configuration;
use crate::services::docker::{self, Places};

/// It takes no arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs until the engine ends or the service is stopped.
///
/// # Errors
/// When the engine cannot be set up or started.
pub async fn run(_: Args) -> Result<ExitCode> {
    docker::run(&Configuration::load().settings, &Places::service()).await
}

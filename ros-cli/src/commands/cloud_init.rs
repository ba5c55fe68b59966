//! `ros cloud-init`: what the cloud-init service runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::services::cloud_init;

/// `ros cloud-init …`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Instance data from volumes and files
    Local,
    /// Instance data from a URL
    Network,
    /// What VMware's hypervisor was told for this guest
    Guestinfo,
}

/// Runs the command.
///
/// # Errors
/// When instance data that is there cannot be read or kept.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Local => cloud_init::local(),
        Verb::Network => cloud_init::network().await,
        Verb::Guestinfo => cloud_init::guestinfo::print(),
    }
}

//! A small client of the API, so that a node needs no other: the verbs of `docker`, with its names and exit codes.

use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Shows the versions of client and daemon.
    Version,
}

pub async fn run(_verb: Verb) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
pub fn exit_code(_: &anyhow::Error) -> u8 {
    1
}

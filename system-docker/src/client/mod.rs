//! A small client of the API, so that a node needs no other: the verbs of `docker`, with its names and exit codes.

mod attach;
mod containers;
mod images;
mod run;
mod system;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result};
use bollard::Docker;
use ros_api::paths;

/// Names another socket than the machine's own.
const HOST: &str = "SYSTEM_DOCKER_HOST";
/// Seconds after which a request without an answer is given up.
const TIMEOUT: u64 = 3600;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Shows the versions of client and daemon.
    Version,
    /// Shows what the daemon has and can do.
    Info,
    /// Shows what happens.
    Events(system::Events),
    /// Lists images.
    Images(images::Images),
    /// Fetches images.
    Pull(images::Named),
    /// Gives an image one more name.
    Tag(images::Tag),
    /// Removes images.
    Rmi(images::Remove),
    /// Loads images from an archive.
    Load(images::Load),
    /// Writes images to an archive.
    Save(images::Save),
    /// Makes a container.
    Create(run::Options),
    /// Makes a container and runs it.
    Run(run::Run),
    /// Starts containers.
    Start(containers::Start),
    /// Lists containers.
    Ps(containers::Ps),
    /// Shows all that is known of containers or images.
    Inspect(containers::Named),
    /// Shows a container's output.
    Logs(containers::Logs),
    /// Runs one more command in a container.
    Exec(run::Exec),
    /// Stops containers.
    Stop(containers::Stop),
    /// Sends a signal to containers.
    Kill(containers::Kill),
    /// Waits for containers to end and prints their exit codes.
    Wait(containers::Named),
    /// Stops containers and starts them.
    Restart(containers::Stop),
    /// Removes containers.
    Rm(containers::Remove),
}

/// Does the verb. The exit code is Docker's.
pub async fn run(verb: Box<Verb>) -> Result<ExitCode> {
    let docker = connect()?;
    match *verb {
        Verb::Version => system::version(&docker).await,
        Verb::Info => system::info(&docker).await,
        Verb::Events(args) => system::events(&docker, args).await,
        Verb::Images(args) => images::list(&docker, args).await,
        Verb::Pull(args) => images::pull(&docker, &args.names).await,
        Verb::Tag(args) => images::tag(&docker, args).await,
        Verb::Rmi(args) => images::remove(&docker, args).await,
        Verb::Load(args) => images::load(&docker, args).await,
        Verb::Save(args) => images::save(&docker, args).await,
        Verb::Create(args) => run::create_only(&docker, args).await,
        Verb::Run(args) => run::run(&docker, args).await,
        Verb::Start(args) => containers::start(&docker, args).await,
        Verb::Ps(args) => containers::list(&docker, args).await,
        Verb::Inspect(args) => containers::inspect(&docker, args).await,
        Verb::Logs(args) => containers::logs(&docker, args).await,
        Verb::Exec(args) => run::exec(&docker, args).await,
        Verb::Stop(args) => containers::stop(&docker, args).await,
        Verb::Kill(args) => containers::kill(&docker, args).await,
        Verb::Wait(args) => containers::wait(&docker, args).await,
        Verb::Restart(args) => containers::restart(&docker, args).await,
        Verb::Rm(args) => containers::remove(&docker, args).await,
    }
}

/// Docker's exit codes for what could not be run: 125 the daemon refused, 126 not executable, 127 not found.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let text = format!("{error:#}");
    match () {
        () if !error.is::<run::NotRun>() => 1,
        () if text.contains("executable file not found") => 127,
        () if text.contains("permission denied or not an executable") => 126,
        () => 125,
    }
}

fn connect() -> Result<Docker> {
    let address = address();
    Docker::connect_with_unix(&address, TIMEOUT, bollard::API_DEFAULT_VERSION)
        .with_context(|| format!("connect to {address}: does the daemon run, and may you use it?"))
}

fn address() -> String {
    let host = std::env::var(HOST).unwrap_or_else(|_| paths::SYSTEM_DOCKER_SOCKET.into());
    host.strip_prefix("unix://").unwrap_or(&host).to_owned()
}

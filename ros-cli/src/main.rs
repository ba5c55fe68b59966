//! `ros`: replaces the operating system, configures it, and looks after its services.

mod commands;
mod install;
mod os;
mod services;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use commands::{
    bring_down, bring_up, cloud_init, config, console_init, docker_init,
    install as install_command, network, os as os_command, power, service,
};

/// Replaces the operating system, configures it, and looks after its services.
#[derive(Parser)]
#[command(name = "ros", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The release that this machine runs, and the others that it may run
    Os(os_command::Args),
    /// This machine's configuration
    Config(config::Args),
    /// The system's services
    Service(service::Args),
    /// Puts ros on a disk; whatever is on it is lost
    Install(install_command::Args),
    /// Stops everything in order and boots again
    Reboot(power::Args),
    /// Stops everything in order and switches off
    #[command(visible_alias = "shutdown")]
    Poweroff(power::Args),
    /// Stops everything in order and halts
    Halt(power::Args),
    #[command(hide = true)]
    BringUp(bring_up::Args),
    #[command(hide = true)]
    BringDown(bring_down::Args),
    #[command(hide = true)]
    CloudInit(cloud_init::Args),
    #[command(hide = true)]
    ConsoleInit(console_init::Args),
    #[command(hide = true)]
    DockerInit(docker_init::Args),
    #[command(hide = true)]
    Network(network::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ros: {error:#}");
            if is_denied(&error) && !rustix::process::geteuid().is_root() {
                eprintln!(
                    "root may do it: sudo {}",
                    std::env::args().collect::<Vec<_>>().join(" ")
                );
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether something that it needed is another user's.
fn is_denied(error: &anyhow::Error) -> bool {
    let denied = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(denied))
}

fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Os(args) => os_command::run(args).await,
            Command::Config(args) => config::run(args),
            Command::Install(args) => install_command::run(args).await,
            Command::Service(args) => service::run(args).await,
            Command::Reboot(args) => power::reboot(args).await,
            Command::Poweroff(args) => power::poweroff(args).await,
            Command::Halt(args) => power::halt(args).await,
            Command::BringUp(args) => bring_up::run(args).await,
            Command::BringDown(args) => bring_down::run(args).await,
            Command::CloudInit(args) => cloud_init::run(args).await,
            Command::ConsoleInit(args) => console_init::run(args).await,
            Command::DockerInit(args) => docker_init::run(args).await,
            Command::Network(args) => network::run(args).await,
        }
    })
}

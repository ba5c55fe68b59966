//! The one binary: PID 1, modprobe, the shim of a container, the daemon, and a small client of its own API.
//! What it is depends on how it was called; the first three are decided before any thread exists.

mod alive;
mod archive;
mod check;
mod client;
mod daemon;
mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod init;
mod install;
mod listen;
mod memory;
mod net;
mod seed;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "system-docker", version, about = "The system container runtime of ros")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serves the Docker Engine API.
    Daemon(daemon::Args),
    /// Fills a state folder with the images and the first generation of a release.
    Seed(seed::Args),
    /// Puts the release that this is a part of on a disk.
    #[command(hide = true)]
    Install(install::Args),
    /// Holds every object of the store against its digest.
    Check(check::Args),
    /// Reads or writes files of a container's root.
    #[command(hide = true)]
    Archive(archive::Args),
    #[command(flatten)]
    Client(Box<client::Verb>),
}

/// What the program does, by the name and the words that it was called with.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|arg| Path::new(arg).file_name()).unwrap_or_default();
    if called == "docker-init" {
        return init::run(args.get(1..).unwrap_or_default());
    }
    if std::process::id() == 1 {
        ros_boot::pid1::main();
    }
    if called == "modprobe" {
        let words = args.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned());
        return ros_boot::modules::modprobe_main(words);
    }
    if let [_, verb, dir] = args.as_slice()
        && verb == "shim"
    {
        return ros_runtime::shim::main(Path::new(dir));
    }
    let verb = match Cli::parse().verb {
        Verb::Archive(args) => return archive::run(&args),
        verb => verb,
    };
    match run(verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("system-docker: {error:#}");
            ExitCode::from(client::exit_code(&error))
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match verb {
        Verb::Daemon(args) => {
            ros_sys::memory::one_arena();
            runtime.block_on(daemon::run(&args)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Archive(_) => Ok(ExitCode::SUCCESS),
        Verb::Seed(args) => seed::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Install(args) => install::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Check(args) => runtime.block_on(check::run(&args)),
        Verb::Client(verb) => {
            let code = runtime.block_on(client::run(verb));
            // A thread may hang in a read of the terminal: it is not waited for.
            runtime.shutdown_background();
            code
        }
    }
}

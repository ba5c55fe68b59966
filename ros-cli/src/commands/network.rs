//! `ros network`: what the network service runs, the hook of its dhcpcd, and what mounts other machines' folders.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use ros_api::paths;

use crate::services::configuration::Configuration;
use crate::services::network::run::{self, Places, Wants};
use crate::services::network::{hook, interfaces};
use crate::services::remote_mounts;

/// Folder of the one resolv.conf.
const RESOLV: &str = "/run/ros/resolv";

/// `ros network …`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Sets the network up and keeps it
    Run,
    /// What dhcpcd runs at each change
    Hook,
    /// Mounts what is configured of other machines, until all of it is
    Mounts,
}

/// Runs the command.
///
/// # Errors
/// When dhcpcd cannot be run, or a file cannot be written.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Run => {
            let configuration = Configuration::load();
            let (wants, wrong) =
                Wants::of(&configuration.settings.ros.network, &interfaces::present());
            wrong.iter().for_each(|warning| eprintln!("{warning}"));
            let dir = Path::new(paths::RUN_ROS).join("network");
            let places = Places { dir, resolv: RESOLV.into(), ready: paths::NETWORK_READY.into() };
            run::run(&wants, &places).await
        }
        Verb::Hook => {
            let environment: BTreeMap<String, String> = std::env::vars().collect();
            let done = Path::new(paths::RUN_ROS).join("network").join(run::DONE);
            let places = hook::Places {
                resolv: Path::new(RESOLV),
                ready: Path::new(paths::NETWORK_READY),
                done: &done,
            };
            hook::run(&environment, places)?;
            if let Some(interface) = hook::routes_due(&environment) {
                let network = Configuration::load().settings.ros.network;
                let (wants, _) = Wants::of(&network, &interfaces::present());
                run::set_routes(&wants, interface).await;
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Mounts => {
            remote_mounts::run();
            Ok(ExitCode::SUCCESS)
        }
    }
}

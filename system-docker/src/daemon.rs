//! The daemon: opens the store, finds what an earlier daemon left running, serves the socket.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::ServiceExt;
use axum::extract::Request;
use ros_api::paths;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::engine::users::Remap;
use crate::engine::{Engine, Options};
use crate::{http, listen};

#[derive(clap::Args)]
pub struct Args {
    /// Images, containers and volumes.
    #[arg(long, default_value = paths::STORE)]
    root: PathBuf,
    /// Shims' folders; must not outlive a boot.
    #[arg(long, default_value = paths::RUN_SYSTEM_DOCKER)]
    run: PathBuf,
    /// Socket of the API.
    #[arg(long, default_value = paths::SYSTEM_DOCKER_SOCKET)]
    socket: PathBuf,
    #[command(flatten)]
    listen: listen::Args,
    /// Network of a container that names none: the host's, or Docker's bridge.
    #[arg(long, default_value = "host", value_parser = ["host", "bridge"])]
    default_network: String,
    /// Containers that say nothing have user namespaces of their own; `--userns=host` is one of the host's then.
    #[arg(long, value_parser = ["auto"])]
    userns_remap: Option<String>,
    /// Refuse when a container that runs cannot be taken up; nothing was changed then.
    #[arg(long)]
    take_over: bool,
    /// Containers may use every device: for a host that may not load device programs (no CAP_SYS_RESOURCE).
    #[arg(long, hide = true)]
    without_device_rules: bool,
}

/// Serves until SIGTERM or SIGINT. Containers keep running.
pub async fn run(args: &Args) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
    let exe = std::env::current_exe().context("find this program")?;
    let acceptor = args.listen.acceptor()?;
    let options = Options {
        device_rules: !args.without_device_rules,
        default_network: args.default_network.clone(),
        remap: args.userns_remap.as_ref().map_or(Remap::Asked, |_| Remap::Auto),
    };
    let engine = Engine::open(&args.root, &args.run, &exe, &options)?;
    crate::alive::or_end(crate::alive::LIMIT);
    crate::memory::give_back_after(engine.events().listen().1);
    if args.take_over {
        engine.check_take_over().await?;
    }
    engine.recover().await;
    let socket = listen::unix(&args.socket)?;
    tracing::info!("listening on {}", args.socket.display());
    let service = || ServiceExt::<Request>::into_make_service(http::service(Arc::clone(&engine)));
    let mut servers = JoinSet::new();
    servers.spawn(axum::serve(socket, service()).into_future());
    if let Some(acceptor) = acceptor {
        for listener in args.listen.bind(&acceptor).await? {
            servers.spawn(axum::serve(listener, service()).into_future());
        }
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        Some(ended) = servers.join_next() => ended?.context("serve the API")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = fs::remove_file(&args.socket);
    Ok(())
}

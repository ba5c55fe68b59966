//! The daemon: opens the store, finds what an earlier daemon left running, serves the socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::paths;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::engine::Engine;
use crate::http;

/// Group that may use the socket, by number: the console's `docker-system`.
const SOCKET_GROUP: u32 = 989;

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
    /// Network of a container that names none: the host's, or Docker's bridge.
    #[arg(long, default_value = "host", value_parser = ["host", "bridge"])]
    default_network: String,
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
    let device_rules = !args.without_device_rules;
    let engine = Engine::open(&args.root, &args.run, &exe, device_rules, &args.default_network)?;
    crate::alive::or_end(crate::alive::LIMIT);
    if args.take_over {
        engine.check_take_over().await?;
    }
    engine.recover().await;
    let listener = bind(&args.socket)?;
    tracing::info!("listening on {}", args.socket.display());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        served = axum::serve(listener, axum::ServiceExt::<axum::extract::Request>::into_make_service(http::service(engine))) => served.context("serve the API")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = fs::remove_file(&args.socket);
    Ok(())
}

fn bind(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    // Without the right to give it away (a user's own daemon), the owner's group keeps it.
    let _ = std::os::unix::fs::chown(path, None, Some(SOCKET_GROUP));
    Ok(listener)
}

//! Runs the network service: writes what dhcpcd reads, keeps it running, says when the network is ready.
//!
//! Ready means: an address is there, or none is expected, or none came in time. A machine without a network
//! must boot too, so the wait is bounded, and short when no cable is in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::dhcpcd::{self, Link};
use super::links::{self, Step};
use super::resolv::{self, Dns};
use super::{interfaces, netlink, ready};
use crate::services::console::supervise;
use crate::services::progress;

/// How long a link may take to appear before no cable is thought to be in.
const CARRIER_LIMIT: Duration = Duration::from_secs(5);
/// How long one command of the configuration may take.
const HOOK_LIMIT: Duration = Duration::from_secs(30);
/// What was done in this boot, by name below the service's folder: see [`dhcpcd::undo`]. The hook adds leases.
pub const DONE: &str = "done";
/// How often links are looked at until then.
const LOOK: Duration = Duration::from_millis(200);

/// What the network is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Each interface that is configured.
    pub links: Vec<Link>,
    /// What is made before: bonds, bridges, VLANs.
    pub steps: Vec<Step>,
    /// Commands before and after everything, and around each interface.
    pub before: Vec<Vec<String>>,
    /// After.
    pub after: Vec<Vec<String>>,
    /// Configured name servers.
    pub dns: Dns,
    /// How long an address may take.
    pub limit: Duration,
}

/// Where the service keeps things.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder of `dhcpcd.conf` and the hook.
    pub dir: PathBuf,
    /// Folder of `resolv.conf`.
    pub resolv: PathBuf,
    /// The marker.
    pub ready: PathBuf,
}

/// Runs until dhcpcd ends or the service is stopped.
///
/// # Errors
/// When dhcpcd cannot be set up or started.
pub async fn run(wants: &Wants, places: &Places) -> Result<ExitCode> {
    ready::clear(&places.ready)?;
    resolv::configure(&places.resolv, &wants.dns)?;
    let config = write_config(wants, places)?;
    ip(&["link", "set", "dev", "lo", "up"]).await;
    hooks(&wants.before).await;
    for line in stale(wants, &places.dir.join(DONE))? {
        ip(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let steps = steps(wants, &places.dir.join("made"))?;
    netlink::carry_out(&steps).await.iter().for_each(|wrong| say_wrong(wrong));
    for line in wants.links.iter().flat_map(dhcpcd::commands) {
        ip(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    hooks(&wants.after).await;
    let mut child = Command::new("dhcpcd")
        .args(["--nobackground", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start dhcpcd")?;
    supervised(&mut child, wants, places).await
}

async fn supervised(child: &mut Child, wants: &Wants, places: &Places) -> Result<ExitCode> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut readiness = std::pin::pin!(wait_for_address(wants, &places.ready));
    let mut waiting = true;
    loop {
        tokio::select! {
            why = &mut readiness, if waiting => {
                waiting = false;
                if let Some(why) = why {
                    eprintln!("network: {why}");
                    ready::mark(&places.ready, &why)?;
                }
            }
            ended = child.wait() => return code_of(ended.context("wait for dhcpcd")?),
            _ = term.recv() => supervise::signal(child, Signal::SIGTERM),
            _ = interrupt.recv() => supervise::signal(child, Signal::SIGTERM),
        }
    }
}

fn code_of(status: std::process::ExitStatus) -> Result<ExitCode> {
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Why the network is ready although the hook has not said so; none when it has.
async fn wait_for_address(wants: &Wants, marker: &Path) -> Option<String> {
    let expecting: Vec<&Link> = wants.links.iter().filter(|link| link.expects_address()).collect();
    if expecting.is_empty() {
        return Some("no address is expected".into());
    }
    let (no_cable, limit) = (Instant::now() + CARRIER_LIMIT, Instant::now() + wants.limit);
    loop {
        let now = Instant::now();
        if marker.exists() {
            return None;
        }
        if now >= limit {
            return Some(format!("no address within {} s; still trying", wants.limit.as_secs()));
        }
        if now >= no_cable && !expecting.iter().any(|link| interfaces::has_carrier(&link.name)) {
            return Some("no interface has a link; still trying".into());
        }
        sleep_until(limit.min(now + LOOK)).await;
    }
}

/// Sets the routes of the link `name` again.
pub async fn set_routes(wants: &Wants, name: &str) {
    for line in wants.links.iter().filter(|link| link.name == name).flat_map(dhcpcd::routes) {
        ip(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

/// What is done to links, those of an earlier configuration of this boot included: their names are in `file`.
fn steps(wants: &Wants, file: &Path) -> Result<Vec<Step>> {
    let earlier = fs::read_to_string(file).unwrap_or_default();
    let earlier: Vec<&str> = earlier.lines().collect();
    let made: Vec<&str> = wants.steps.iter().filter_map(Step::makes).collect();
    fs::write(file, made.join("\n")).with_context(|| format!("write {}", file.display()))?;
    Ok(links::instead_of(&earlier, &wants.steps))
}

/// What an earlier start left on links that are there and nobody wants any more. `file` says what this start does.
fn stale(wants: &Wants, file: &Path) -> Result<Vec<Vec<String>>> {
    let earlier = fs::read_to_string(file).unwrap_or_default();
    let earlier: Vec<&str> = earlier.lines().collect();
    let leases = earlier.iter().filter(|line| dhcpcd::is_leased(line, &wants.links));
    let now = wants.links.iter().flat_map(dhcpcd::commands).map(|line| line.join(" "));
    let lines: Vec<String> = leases.map(|&line| line.to_owned()).chain(now).collect();
    fs::write(file, lines.join("\n") + "\n")
        .with_context(|| format!("write {}", file.display()))?;
    let mut undone = dhcpcd::undo(&earlier, &wants.links);
    undone.retain(|line| {
        let link = line.iter().skip_while(|word| *word != "dev").nth(1);
        link.is_some_and(|link| Path::new("/sys/class/net").join(link).exists())
    });
    Ok(undone)
}

/// Writes `dhcpcd.conf` and the hook it names.
fn write_config(wants: &Wants, places: &Places) -> Result<PathBuf> {
    fs::create_dir_all(&places.dir).with_context(|| format!("create {}", places.dir.display()))?;
    let (config, hook) = (places.dir.join("dhcpcd.conf"), places.dir.join("hook"));
    let ros = std::env::current_exe().context("find this program")?;
    let script = format!("#!/bin/sh\nexec {} network hook\n", ros.display());
    fs::write(&hook, script).with_context(|| format!("write {}", hook.display()))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", hook.display()))?;
    let text = dhcpcd::config(&wants.links, &hook.display().to_string());
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Ok(config)
}

fn say_wrong(wrong: &str) {
    eprintln!("network: {wrong}");
    progress::complain(&format!("network: {wrong}"));
}

/// Runs commands of the configuration, each bounded; one that fails is said.
async fn hooks(commands: &[Vec<String>]) {
    for words in commands {
        let [program, arguments @ ..] = &words[..] else { continue };
        let run =
            Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).status();
        match tokio::time::timeout(HOOK_LIMIT, run).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => say_wrong(&format!("{words:?}: {status}")),
            Ok(Err(error)) => say_wrong(&format!("{words:?}: {error}")),
            Err(_) => say_wrong(&format!("{words:?}: not done after {} s", HOOK_LIMIT.as_secs())),
        }
    }
}

/// Runs `ip`, or busybox's. What fails is said: dhcpcd does its part all the same.
async fn ip(arguments: &[&str]) {
    let mut ended = Command::new("ip").args(arguments).output().await;
    if ended.is_err() {
        ended = Command::new("busybox").arg("ip").args(arguments).output().await;
    }
    match ended {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => eprintln!("ip {}: {error}", arguments.join(" ")),
    }
}

//! `ros install`: from a machine that runs ros, out of RAM or from a disk, onto a whole disk.
//!
//! ```text
//!  look     configuration · disk · release · room          everything that is wrong at once; nothing written
//!  ask      what is on the disk, who can log in
//!  fetch    only with -i, as an upgrade does
//!  install  container `ros-install` of that release ──► system-docker install (its drawing says how it writes)
//! ```
//!
//! The container goes on without this command, and says in the kernel log how it ended. Until its last write the disk is
//! an empty one; the same command begins anew.

mod config;
mod container;
mod disk;
mod target;

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use ros_api::boot::Mode;
use ros_api::init::InitRequest;
use ros_api::paths;

use self::config::Config;
use self::container::Task;
use self::disk::Disk;
use self::target::Target;
use crate::commands::power::request_of_init;
use crate::os::machine::Machine;
use crate::os::plan::size;
use crate::os::{config_check, upgrade};
use crate::services::engine::Engine;
use crate::services::roster::boot_report;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The disk.
    pub device: String,
    /// Another release than the one that runs.
    pub image: Option<String>,
    /// File or URL.
    pub cloud_config: Option<String>,
    /// Kernel arguments to add.
    pub append: String,
    /// Ask nothing.
    pub force: bool,
    /// Leave the reboot to the user.
    pub no_reboot: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Although a newer signed release was good here.
    pub allow_downgrade: bool,
}

/// Installs.
///
/// # Errors
/// When it is refused or fails; from the first write on the disk is an empty one then.
pub async fn run(order: &Order) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root may write to disks: use sudo");
    let (config, disk) = look(order).await?;
    let machine = Machine::read()?;
    let _lock = if order.dry_run { None } else { Some(upgrade::lock()?) };
    let engine = Engine::connect()?;
    container::refuse_second(engine.docker()).await?;
    let target = Target::find(&machine, &engine, order).await?;
    disk.check_room(target.content(&engine).await?)?;
    config::put(config.as_ref())?;
    let done = go_on(order, &machine, &engine, &disk, config.as_ref(), &target).await;
    let cleared = config::clear();
    done.and(cleared)
}

/// What can be wrong with the words of the command, all of it.
async fn look(order: &Order) -> Result<(Option<Config>, Disk)> {
    let config = match &order.cloud_config {
        Some(from) => Some(Config::read(from).await).transpose(),
        None => Ok(None),
    };
    let disk = Disk::look(&order.device).and_then(|disk| disk.refuse().map(|()| disk));
    match (config, disk) {
        (Ok(config), Ok(disk)) => Ok((config, disk)),
        (Err(wrong), Err(also)) => bail!("{also:#}; {wrong:#}"),
        (Err(wrong), _) | (_, Err(wrong)) => Err(wrong),
    }
}

async fn go_on(
    order: &Order,
    machine: &Machine,
    engine: &Engine,
    disk: &Disk,
    config: Option<&Config>,
    target: &Target,
) -> Result<()> {
    let new = config::of_new_machine(&target.release, &order.append);
    let removed = config_check::removed(&target.release, &new);
    ensure!(
        removed.is_empty() || order.force,
        "{} does not take this configuration: {}: change it, or --force",
        target.release.version,
        removed.join("; ")
    );
    talk(&plan(order, disk, config, target));
    for warning in warnings(config::lets_somebody_in(&new.settings)) {
        talk(&format!("warning: {warning}\n"));
    }
    if order.dry_run {
        return Ok(());
    }
    confirm(order, disk)?;
    target.fetch(machine, engine).await?;
    talk(
        "from here on it goes on without this command, to its end; the console says how it ended\n",
    );
    let version = &target.release.version;
    let (image, digest, append) = (&target.image, target.digest, order.append.as_str());
    let task = Task { node: &disk.node, image, digest, version, append };
    container::run(engine.docker(), &task).await?;
    talk(&format!("{version} is on {}: a BIOS boots it, and UEFI does\n", disk.node));
    end(order)
}

fn plan(order: &Order, disk: &Disk, config: Option<&Config>, target: &Target) -> String {
    let mut text = format!("{} onto {} ({})\n", target.release.version, disk.node, size(disk.size));
    let mut line = |name: &str, value: &str| text += &format!("  {name:<9} {value}\n");
    line("release", target.file().unwrap_or(&target.image.to_string()));
    if target.fetch_bytes() > 0 {
        line("fetch", &size(target.fetch_bytes()));
    }
    line("config", config.map_or("none", |config| &config.name));
    if !order.append.is_empty() {
        line("kernel", &order.append);
    }
    match disk.contents.is_empty() {
        true => line("on it", "nothing"),
        false => line("LOST", &disk.contents.join(", ")),
    }
    text
}

fn warnings(lets_somebody_in: bool) -> Vec<&'static str> {
    let alone = boot_report().is_none_or(|report| report.mode != Mode::Disk);
    let nobody = "neither the configuration nor the release has an ssh key or a password: unless a cloud or a volume brings one, nobody can log in";
    let twice = "the disk that this machine runs from has the same labels: only one of the two may be there at a boot";
    [(!lets_somebody_in).then_some(nobody), (!alone).then_some(twice)]
        .into_iter()
        .flatten()
        .collect()
}

fn confirm(order: &Order, disk: &Disk) -> Result<()> {
    if order.force {
        return Ok(());
    }
    if std::io::stdin().is_terminal() {
        ensure!(ask(&format!("Write to {}?", disk.node))?, "nothing was written");
        return Ok(());
    }
    ensure!(
        disk.contents.is_empty(),
        "{} is not empty, and nobody is there to be asked: -f to lose what is on it; nothing was written",
        disk.node
    );
    Ok(())
}

fn ask(question: &str) -> Result<bool> {
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The reboot, as far as it is wanted.
fn end(order: &Order) -> Result<()> {
    let asks = !order.force && !order.no_reboot && std::io::stdin().is_terminal();
    let now = order.force && !order.no_reboot || asks && ask("Reboot now?")?;
    if !now {
        talk("take out what this machine was booted from, then `ros reboot`\n");
        return Ok(());
    }
    talk("rebooting\n");
    request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot)
}

/// Says it on stderr. A terminal that went away must not stop what was begun.
fn talk(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

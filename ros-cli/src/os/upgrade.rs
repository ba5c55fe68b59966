//! `ros os upgrade` and `ros os rollback`, step by step. See [`crate::os`] for the drawing.

use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use ros_api::boot::InitRequest;
use ros_api::generation::Status;
use ros_api::{Generation, Reference, Release, paths};
use rustix::fs::{FlockOperation, flock};

use super::asked::{Asked, now};
use super::daemon::{self, Remote};
use super::fetch::Fetch;
use super::install::Installed;
use super::machine::{Machine, boot_sets};
use super::plan::{Class, Plan};
use super::{preflight, switch};
use crate::commands::power::request_of_init;
use crate::services::engine::Engine;

/// One upgrade at a time.
const LOCK: &str = "/run/ros/upgrade.lock";
/// The container of a release's own installer.
const INSTALLER: &str = "ros-installer";

/// How it is done.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Install, and do not boot it.
    pub stage: bool,
    /// Leave the reboot to the user.
    pub no_reboot: bool,
    /// Although it is pinned, or failed before.
    pub force: bool,
    /// Ask no question.
    pub yes: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Kernel arguments to add.
    pub append: String,
}

/// Upgrades (or downgrades) to the release that `asked` means.
///
/// # Errors
/// When it is refused or fails; what boots has not changed then.
pub async fn upgrade(asked: &str, how: &How) -> Result<()> {
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    let _lock = if how.dry_run { None } else { Some(lock()?) };
    let image = machine.reference(asked)?;
    let remote = daemon::remote(&image).await?;
    let release = remote.release(&image)?;
    check_allowed(&machine, &release.version, how)?;
    let services = missing_services(&machine, &release, &image).await?;
    let images: Vec<&Remote> =
        std::iter::once(&remote).chain(services.iter().map(|(_, remote)| remote)).collect();
    let plan = Plan::of(&machine.running.release, &release, &image, remote.digest, &images);
    let runs = machine
        .current()
        .is_some_and(|current| current.digest == remote.digest && current.append == how.append);
    if runs && !how.dry_run && plan.class == Class::None {
        eprintln!("{} runs already", release.version);
        return Ok(());
    }
    eprint!("{}", plan.text());
    preflight::check(&plan, boot_sets().join(release.boot_set.digest.hex()).exists())?;
    if how.dry_run {
        return Ok(());
    }
    confirm(&format!("Replace {} by {}?", machine.version(), release.version), how.yes)?;
    let engine = Engine::connect()?;
    fetch(&engine, &plan, &services).await?;
    let number = install(&engine, &plan, &how.append).await?;
    let generation = machine.generations.get(number)?;
    finish(&machine, &generation, "upgrade", how)
}

/// Goes to an installed generation: of `version`, or the newest good one that does not run.
///
/// # Errors
/// When there is none, it is refused, or a file cannot be written.
pub fn rollback(version: Option<&str>, how: &How) -> Result<()> {
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    let _lock = lock()?;
    let generation = match version {
        Some(version) => machine.of_version(version).with_context(|| {
            format!("{version} is not installed: `ros os list` shows what is; `ros os upgrade -i os:{version}` fetches it")
        })?,
        None => machine.previous().context("there is no other good generation to go back to: see `ros os list`")?,
    };
    if generation.number == machine.running.generation {
        eprintln!("{} runs already", generation.version);
        return Ok(());
    }
    check_allowed(&machine, &generation.version, how)?;
    eprintln!(
        "{} -> {}  (generation {}, {})",
        machine.version(),
        generation.version,
        generation.number,
        generation.status.word()
    );
    confirm(&format!("Go back from {} to {}?", machine.version(), generation.version), how.yes)?;
    finish(&machine, generation, "rollback", how)
}

fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("open {LOCK}: are you root?"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow!("another upgrade is at work: wait for its end"))?;
    Ok(file)
}

/// Refuses to leave a pinned version, and to go to one that failed here, unless forced.
fn check_allowed(machine: &Machine, version: &str, how: &How) -> Result<()> {
    if how.force {
        return Ok(());
    }
    let running = machine.version();
    if running != version && machine.pins.versions.contains(running) {
        bail!(
            "this machine is pinned to {running}: `ros os unpin {running}` lets it move, or --force"
        );
    }
    if let Some(Status::Failed { reason }) =
        machine.of_version(version).map(|generation| &generation.status)
    {
        bail!("{version} failed on this machine before: {reason}: try it again with --force");
    }
    Ok(())
}

/// Services of the release whose images are not here.
async fn missing_services(
    machine: &Machine,
    release: &Release,
    image: &Reference,
) -> Result<Vec<(Reference, Remote)>> {
    let here: Vec<_> =
        machine.running.release.services.values().map(|service| service.digest).collect();
    let engine = Engine::connect()?;
    let mut missing = Vec::new();
    for service in release.services.values().filter(|service| !here.contains(&service.digest)) {
        let name = release.service_reference(image, service);
        let names = [name.to_string(), service.digest.to_string()];
        if engine.image(&names).await.is_err() {
            let remote = daemon::remote(&name).await?;
            missing.push((name, remote));
        }
    }
    Ok(missing)
}

fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: say --yes to go on without a question");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

async fn fetch(engine: &Engine, plan: &Plan, services: &[(Reference, Remote)]) -> Result<()> {
    let fetch = Fetch::new(engine);
    let pinned = plan.image.with_digest(plan.digest);
    fetch.image(&pinned).await?;
    for (name, _) in services {
        fetch.image(name).await?;
    }
    fetch.tag(&pinned, &plan.image).await
}

/// Runs the release's own installer; answers the number of the generation.
async fn install(engine: &Engine, plan: &Plan, append: &str) -> Result<u32> {
    let docker = engine.docker();
    let remove = RemoveContainerOptionsBuilder::default().force(true).build();
    // One that was cut short is in the way.
    let _ = docker.remove_container(INSTALLER, Some(remove.clone())).await;
    let mut arguments = vec![
        "--image".to_owned(),
        plan.image.to_string(),
        "--digest".into(),
        plan.digest.to_string(),
    ];
    if !append.is_empty() {
        arguments.extend(["--append".into(), append.to_owned()]);
    }
    let bind = |path: &str| format!("{path}:{path}");
    let host_config = HostConfig {
        binds: Some([paths::BOOT, paths::ROS, paths::RUN_ROS].map(bind).to_vec()),
        network_mode: Some("none".into()),
        ..Default::default()
    };
    let body = ContainerCreateBody {
        image: Some(plan.image.with_digest(plan.digest).to_string()),
        cmd: Some(arguments),
        host_config: Some(host_config),
        ..Default::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(INSTALLER).build();
    docker.create_container(Some(options), body).await.context("make the installer")?;
    let installed = run_installer(docker).await;
    docker.remove_container(INSTALLER, Some(remove)).await.context("remove the installer")?;
    installed
}

async fn run_installer(docker: &bollard::Docker) -> Result<u32> {
    docker
        .start_container(INSTALLER, None::<StartContainerOptions>)
        .await
        .context("start the installer")?;
    let ended = docker
        .wait_container(INSTALLER, None::<WaitContainerOptions>)
        .try_collect::<Vec<_>>()
        .await;
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let mut said = String::new();
    let mut lines = std::pin::pin!(docker.logs(INSTALLER, Some(options)));
    while let Some(line) = lines.next().await {
        said += &line?.to_string();
    }
    ended.map_err(|_| anyhow!("the installer failed: {}", said.trim()))?;
    let installed: Option<Installed> =
        said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    Ok(installed.with_context(|| format!("the installer said: {}", said.trim()))?.generation)
}

/// Switches to the generation and reboots, as far as that is wanted.
fn finish(machine: &Machine, generation: &Generation, by: &str, how: &How) -> Result<()> {
    let Generation { number, version, .. } = generation;
    if how.stage {
        eprintln!(
            "{version} is installed as generation {number}; `ros os rollback {version}` boots it"
        );
        return Ok(());
    }
    Asked {
        by: by.into(),
        version: version.clone(),
        digest: generation.digest,
        generation: *number,
        time: now(),
    }
    .write()?;
    switch::to_trial(&machine.generations, generation)?;
    if how.no_reboot {
        eprintln!("{version} boots next (generation {number}, on trial); `ros reboot` does it now");
        return Ok(());
    }
    eprintln!(
        "rebooting into {version} (generation {number}, on trial); if it is not healthy, {} comes back",
        machine.version()
    );
    request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot)
}

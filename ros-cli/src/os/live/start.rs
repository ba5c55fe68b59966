//! Starts the container that switches, and follows it: `ros-switch`, of the release that is switched to. It needs
//! nobody who follows: Ctrl-C, a lost line or a killed caller change nothing.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Status, HostConfig,
    RestartPolicy, RestartPolicyNameEnum as Policy,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, LogsOptionsBuilder};
use futures_util::StreamExt;
use ros_api::generation;
use ros_api::{Generation, Generations, labels, paths};

use tokio::time::sleep;

use super::daemon;
use super::journal::{Journal, boot_id};
use super::probe::ended;
use crate::services::engine::{Engine, label};
use crate::services::roster::running_generation;

/// The container's name.
const NAME: &str = "ros-switch";
/// Pause between two looks at it.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);
/// How often it is started again when it does not come to its end.
const RETRIES: i64 = 5;

/// The switch of this boot that is not over; the generation that it goes to.
///
/// # Errors
/// When its journal cannot be read.
pub fn under_way() -> Result<Option<u32>> {
    let journal = Journal::read(Path::new(paths::SWITCH))?;
    Ok(journal.filter(|journal| journal.boot_id == boot_id()).map(|journal| journal.to))
}

/// Switches to `generation`, or goes on with a switch to it; returns when it is over.
///
/// # Errors
/// When it is sick and what ran before runs again, or nothing can be said.
pub async fn switch(engine: &Engine, generation: &Generation) -> Result<()> {
    let there = engine.inspect(NAME).await?;
    let same = there.as_ref().is_some_and(|there| {
        ended(there).is_none() && label(there, labels::GENERATION) == Some(number(generation))
    });
    if !same {
        engine.remove(NAME).await?;
        create(engine, generation).await?;
        engine.start(NAME).await?;
    }
    follow().await?;
    Engine::connect()?.remove(NAME).await?;
    outcome(generation)
}

fn number(generation: &Generation) -> String {
    generation.number.to_string()
}

async fn create(engine: &Engine, generation: &Generation) -> Result<()> {
    let installed = Generations::at(Path::new(paths::GENERATIONS));
    let mut images = vec![generation.image.with_digest(generation.digest).to_string()];
    images.push(generation.image.to_string());
    // The release that runs knows how to go back to one whose own image was removed.
    if let Some(runs) = running_generation().and_then(|number| installed.get(number).ok()) {
        images.push(runs.image.with_digest(runs.digest).to_string());
        images.push(runs.image.to_string());
    }
    let (image, _) = engine.image(&images).await?;
    let options = CreateContainerOptionsBuilder::default().name(NAME).build();
    engine
        .docker()
        .create_container(Some(options), body(&image, generation))
        .await
        .context("make the container that switches")?;
    Ok(())
}

fn body(image: &str, generation: &Generation) -> ContainerCreateBody {
    let bind = |path: &str| format!("{path}:{path}");
    let policy =
        RestartPolicy { name: Some(Policy::ON_FAILURE), maximum_retry_count: Some(RETRIES) };
    let host_config = HostConfig {
        binds: Some([paths::BOOT, paths::ROS, "/run"].map(bind).to_vec()),
        network_mode: Some("none".into()),
        // It looks whether processes that the daemon does not know any more are there.
        pid_mode: Some("host".into()),
        restart_policy: Some(policy),
        ..Default::default()
    };
    let program = format!("{}/bin/ros", paths::RELEASE_DIR);
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec![program, "os".into(), "switch-services".into()]),
        cmd: Some(vec!["--to".into(), number(generation), "--boot-id".into(), boot_id()]),
        labels: Some(HashMap::from([(labels::GENERATION.to_owned(), number(generation))])),
        host_config: Some(host_config),
        // It can be cut short anywhere: nobody has to wait for it.
        stop_signal: Some("SIGKILL".into()),
        ..Default::default()
    }
}

/// Passes on what the container says, until it has ended for good. The daemon may be replaced meanwhile.
async fn follow() -> Result<()> {
    let mut shown = 0;
    loop {
        let engine = Engine::connect_within(daemon::LIMIT)
            .await
            .context("follow the switch: it goes on; see `ros os status`")?;
        // A connection that breaks says nothing: what there is to say is read again.
        let _ = pass_on(&engine, &mut shown).await;
        // Its exit code says only whether it is to run again; what became of it is on disk.
        match engine.inspect(NAME).await {
            Ok(there) if there.as_ref().is_none_or(is_over) => return Ok(()),
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Passes on what the container says after the first `shown` pieces.
async fn pass_on(engine: &Engine, shown: &mut usize) -> Result<()> {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(true).build();
    let mut said = std::pin::pin!(engine.docker().logs(NAME, Some(options)).skip(*shown));
    while let Some(piece) = said.next().await {
        let piece = piece?;
        *shown += 1;
        use std::io::Write;
        let _ = std::io::stderr().write_all(&piece.into_bytes());
    }
    Ok(())
}

fn is_over(container: &ContainerInspectResponse) -> bool {
    let status = container.state.as_ref().and_then(|state| state.status);
    !matches!(status, Some(Status::RUNNING | Status::RESTARTING | Status::PAUSED))
}

fn outcome(generation: &Generation) -> Result<()> {
    let installed = Generations::at(Path::new(paths::GENERATIONS));
    let Generation { number, version, .. } = generation;
    let runs = running_generation() == Some(*number);
    match installed.get(*number)?.status {
        generation::Status::Good if runs && under_way()?.is_none() => Ok(()),
        generation::Status::Failed { reason } => {
            bail!("{version} failed, what ran before runs again: {reason}")
        }
        _ => bail!("the switch to {version} was cut short: the same command goes on with it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;
    use generation::Status;

    #[test]
    fn it_is_started_again_and_may_reach_the_daemon_but_no_network() {
        let machine = machine(&[("v1.0", Status::Good), ("v1.1", Status::Staged)]);
        let body = body("h:1/os@sha256:1", &machine.installed[1]);
        let host = body.host_config.unwrap();
        assert_eq!(host.restart_policy.unwrap().name, Some(Policy::ON_FAILURE));
        assert_eq!((host.network_mode.as_deref(), host.privileged), (Some("none"), None));
        assert!(host.binds.unwrap().contains(&"/run:/run".to_owned()));
        assert_eq!(body.cmd.unwrap(), ["--to", "2", "--boot-id", &boot_id()]);
    }
}

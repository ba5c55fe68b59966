//! Starts a release's own installer: a container of the release image, whose entry point is [`super::install`].

use anyhow::{Context, Result, anyhow};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use ros_api::paths;

use super::config_check;
use super::install::Installed;
use super::plan::Plan;
use super::upgrade::How;
use crate::services::engine::Engine;

/// The container's name.
const NAME: &str = "ros-installer";

/// Runs the installer of the release that `plan` is about; answers the number of the generation.
///
/// # Errors
/// With what the installer said when it failed.
pub async fn run(engine: &Engine, plan: &Plan, how: &How) -> Result<u32> {
    let docker = engine.docker();
    let remove = RemoveContainerOptionsBuilder::default().force(true).build();
    // One that was cut short is in the way.
    let _ = docker.remove_container(NAME, Some(remove.clone())).await;
    let options = CreateContainerOptionsBuilder::default().name(NAME).build();
    docker
        .create_container(Some(options), container(plan, how))
        .await
        .context("make the installer")?;
    let installed = to_its_end(docker).await;
    docker.remove_container(NAME, Some(remove)).await.context("remove the installer")?;
    installed
}

fn container(plan: &Plan, how: &How) -> ContainerCreateBody {
    let mut arguments = vec![
        "--image".to_owned(),
        plan.image.to_string(),
        "--digest".into(),
        plan.digest.to_string(),
    ];
    if !how.append().is_empty() {
        arguments.extend(["--append".into(), how.append().to_owned()]);
    }
    let bind = |path: &str| format!("{path}:{path}");
    let host_config = HostConfig {
        binds: Some([paths::BOOT, paths::ROS, paths::RUN_ROS].map(bind).to_vec()),
        network_mode: Some("none".into()),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(plan.image.with_digest(plan.digest).to_string()),
        cmd: Some(arguments),
        env: Some(environment(how.force)),
        host_config: Some(host_config),
        ..Default::default()
    }
}

/// What the installer of another release may want to know: one that does not ask has no argument for it to stumble over.
fn environment(force: bool) -> Vec<String> {
    let mut variables = vec![format!("{}={}", config_check::KNOWN, config_check::known())];
    variables.extend(force.then(|| format!("{}=1", config_check::FORCE)));
    variables
}

async fn to_its_end(docker: &Docker) -> Result<u32> {
    docker
        .start_container(NAME, None::<StartContainerOptions>)
        .await
        .context("start the installer")?;
    let ended =
        docker.wait_container(NAME, None::<WaitContainerOptions>).try_collect::<Vec<_>>().await;
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let mut said = String::new();
    let mut lines = std::pin::pin!(docker.logs(NAME, Some(options)));
    while let Some(line) = lines.next().await {
        said += &line.context("read what the installer said")?.to_string();
    }
    ended.map_err(|_| anyhow!("the installer failed: {}", said.trim()))?;
    let installed: Option<Installed> =
        said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    Ok(installed.with_context(|| format!("the installer said: {}", said.trim()))?.generation)
}

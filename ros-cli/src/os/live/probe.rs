//! A service's own health check, run at once: during a switch nobody waits for the daemon's next turn.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ExecConfig, RestartPolicy,
};
use futures_util::StreamExt;
use ros_api::ServiceSpec;
use ros_api::service::parse_duration_ms;
use tokio::time::{Instant, sleep, timeout};

use crate::services::container::Service;
use crate::services::engine::Engine;

/// A probe that takes longer has failed, when the check does not say.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at a service that is not ready.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A service that ended so often while it became ready is sick.
const ENDS: i64 = 3;

/// What runs in a health check; none when the service has none.
#[must_use]
pub fn command(spec: &ServiceSpec) -> Option<Vec<String>> {
    let test = &spec.healthcheck.as_ref()?.test;
    match test.split_first() {
        Some((word, rest)) if word == "CMD" && !rest.is_empty() => Some(rest.to_vec()),
        Some((word, [line])) if word == "CMD-SHELL" => {
            Some(vec!["/bin/sh".into(), "-c".into(), line.clone()])
        }
        _ => None,
    }
}

/// How long one probe may take.
fn limit(spec: &ServiceSpec) -> Duration {
    let stated = spec.healthcheck.as_ref().and_then(|check| check.timeout.as_deref());
    stated.and_then(parse_duration_ms).map_or(PROBE_LIMIT, Duration::from_millis)
}

/// Runs the service's health check in `container` once.
///
/// # Errors
/// With what it printed.
pub async fn once(engine: &Engine, service: &Service, container: &str) -> Result<()> {
    let Some(command) = command(&service.spec) else { return Ok(()) };
    let ran = timeout(limit(&service.spec), exec(engine, container, command)).await;
    ran.map_err(|_| anyhow!("its health check takes too long"))?
}

/// Runs `command` in a container.
///
/// # Errors
/// When it does not end with 0: with what it printed.
pub async fn exec(engine: &Engine, container: &str, command: Vec<String>) -> Result<()> {
    let docker = engine.docker();
    let config = ExecConfig {
        cmd: Some(command),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let made = docker.create_exec(container, config).await.context("make the probe")?;
    let mut said = String::new();
    if let StartExecResults::Attached { mut output, .. } =
        docker.start_exec(&made.id, None).await.context("start the probe")?
    {
        while let Some(Ok(line)) = output.next().await {
            said += &line.to_string();
        }
    }
    match docker.inspect_exec(&made.id).await.context("look at the probe")?.exit_code {
        Some(0) => Ok(()),
        Some(code) if said.trim().is_empty() => bail!("health check ended with {code}"),
        Some(code) => bail!("health check ended with {code}: {}", said.trim()),
        None => bail!("health check did not end"),
    }
}

/// Waits until the service in `container` is ready.
///
/// # Errors
/// Why it is sick: it ended again and again, or was not ready when its time was over.
pub async fn until_ready(engine: &Engine, service: &Service, container: &str) -> Result<()> {
    let limit = Duration::from_millis(service.ready_ms());
    let deadline = Instant::now() + limit;
    loop {
        let state = engine.inspect(container).await?.context("its container was removed")?;
        let reason = match ended(&state) {
            Some(reason) if state.restart_count.unwrap_or(0) >= ENDS => bail!("{reason}"),
            Some(reason) => reason,
            None => match once(engine, service, container).await {
                Ok(()) => return Ok(()),
                Err(error) => format!("{error:#}"),
            },
        };
        if Instant::now() >= deadline {
            bail!("{reason} (after {} s)", limit.as_secs());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Why a container does not run; none when it does.
#[must_use]
pub fn ended(container: &ContainerInspectResponse) -> Option<String> {
    let state = container.state.clone().unwrap_or_default();
    match state.status {
        Some(Status::RUNNING) => None,
        Some(Status::EXITED | Status::DEAD | Status::RESTARTING) => {
            let error = state.error.filter(|error| !error.is_empty());
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            Some(format!("ended with {}{error}", state.exit_code.unwrap_or(0)))
        }
        other => Some(format!("is {}", other.unwrap_or(Status::EMPTY))),
    }
}

/// When the container's process started: another time means that it ended in between.
#[must_use]
pub fn started(container: &ContainerInspectResponse) -> String {
    container.state.as_ref().and_then(|state| state.started_at.clone()).unwrap_or_default()
}

/// A policy by which a container that ends stays ended.
#[must_use]
pub fn stay_ended() -> RestartPolicy {
    let name = Some(bollard::models::RestartPolicyNameEnum::NO);
    RestartPolicy { name, maximum_retry_count: None }
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    #[test]
    fn checks_are_composes() {
        let table: [(&str, Option<&[&str]>); 5] = [
            ("{}", None),
            ("healthcheck: {test: [NONE]}", None),
            ("healthcheck: {test: [CMD, a, b]}", Some(&["a", "b"])),
            ("healthcheck: {test: [CMD-SHELL, 'a b']}", Some(&["/bin/sh", "-c", "a b"])),
            ("healthcheck: {test: [CMD]}", None),
        ];
        for (yaml, expected) in table {
            let spec: ServiceSpec = serde_yaml::from_str(yaml).unwrap();
            let expected = expected.map(|words| words.iter().map(|w| (*w).to_owned()).collect());
            assert_eq!(command(&spec), expected, "{yaml}");
        }
        let spec = serde_yaml::from_str("healthcheck: {test: [CMD, a], timeout: 2s}").unwrap();
        assert_eq!(limit(&spec), Duration::from_secs(2));
    }

    #[test]
    fn only_what_runs_has_not_ended() {
        let with = |status, code| ContainerInspectResponse {
            state: Some(ContainerState {
                status: Some(status),
                exit_code: Some(code),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(ended(&with(Status::RUNNING, 0)), None);
        assert_eq!(ended(&with(Status::RESTARTING, 3)).as_deref(), Some("ended with 3"));
        assert_eq!(ended(&with(Status::CREATED, 0)).as_deref(), Some("is created"));
    }
}

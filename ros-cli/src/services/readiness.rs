//! Whether a service is ready, judged from its container's state alone (level-triggered: an event only
//! says when to look again).
//!
//! | | not yet | ready | sick |
//! |---|---|---|---|
//! | oneshot | runs | ended with 0 | ended with anything else |
//! | with a healthcheck | not healthy | healthy | still not healthy when its time is over |
//! | without | not running | runs | still not running when its time is over |

use bollard::models::{ContainerState, ContainerStateStatusEnum as Status, HealthStatusEnum};

/// What is known of a service that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet; why not, for when its time is over.
    NotYet(String),
    /// What depends on it may start.
    Ready,
    /// It will not become ready by waiting.
    Sick(String),
}

/// Judges a container's state.
#[must_use]
pub fn judge(state: &ContainerState, oneshot: bool) -> Readiness {
    let status = state.status.unwrap_or(Status::EMPTY);
    let code = state.exit_code.unwrap_or(0);
    match (status, oneshot) {
        (Status::EXITED, true) if code == 0 => Readiness::Ready,
        (Status::EXITED | Status::DEAD, true) => Readiness::Sick(ended(state)),
        (_, true) => Readiness::NotYet("did not end".into()),
        (Status::RUNNING, false) => healthy(state),
        (Status::EXITED | Status::DEAD | Status::RESTARTING, false) => {
            Readiness::NotYet(ended(state))
        }
        (other, false) => Readiness::NotYet(format!("is {other}")),
    }
}

fn healthy(state: &ContainerState) -> Readiness {
    let Some(health) = &state.health else { return Readiness::Ready };
    match health.status {
        None
        | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE | HealthStatusEnum::HEALTHY) => {
            Readiness::Ready
        }
        Some(_) => {
            let last = health.log.iter().flatten().last();
            let said = last.and_then(|probe| probe.output.as_deref()).map_or("", str::trim);
            Readiness::NotYet(format!(
                "not healthy{}{said}",
                if said.is_empty() { "" } else { ": " }
            ))
        }
    }
}

fn ended(state: &ContainerState) -> String {
    let code = state.exit_code.unwrap_or(0);
    match state.error.as_deref() {
        Some(error) if !error.is_empty() => format!("ended with {code}: {error}"),
        _ => format!("ended with {code}"),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{Health, HealthcheckResult};

    use super::*;

    fn state(status: Status, code: i64, health: Option<HealthStatusEnum>) -> ContainerState {
        let log =
            vec![HealthcheckResult { output: Some("no route\n".into()), ..Default::default() }];
        let health = health.map(|status| Health {
            status: Some(status),
            log: Some(log),
            ..Default::default()
        });
        ContainerState { status: Some(status), exit_code: Some(code), health, ..Default::default() }
    }

    #[test]
    fn states_are_judged() {
        let not_yet = |text: &str| Readiness::NotYet(text.into());
        let table = [
            (state(Status::EXITED, 0, None), true, Readiness::Ready),
            (state(Status::EXITED, 3, None), true, Readiness::Sick("ended with 3".into())),
            (state(Status::RUNNING, 0, None), true, not_yet("did not end")),
            (state(Status::CREATED, 0, None), true, not_yet("did not end")),
            (state(Status::RUNNING, 0, None), false, Readiness::Ready),
            (
                state(Status::RUNNING, 0, Some(HealthStatusEnum::STARTING)),
                false,
                not_yet("not healthy: no route"),
            ),
            (
                state(Status::RUNNING, 0, Some(HealthStatusEnum::UNHEALTHY)),
                false,
                not_yet("not healthy: no route"),
            ),
            (state(Status::RUNNING, 0, Some(HealthStatusEnum::HEALTHY)), false, Readiness::Ready),
            (state(Status::RESTARTING, 1, None), false, not_yet("ended with 1")),
            (state(Status::CREATED, 0, None), false, not_yet("is created")),
        ];
        for (state, oneshot, expected) in table {
            assert_eq!(judge(&state, oneshot), expected, "{state:?} {oneshot}");
        }
    }
}

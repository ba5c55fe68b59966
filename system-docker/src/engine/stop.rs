//! `stop` and `restart`: the stop signal, a grace time, SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use ros_runtime::{Process, RuntimeError};

use super::container::{Container, State};
use super::error::{ApiError, Result};
use super::{Engine, signal};

/// Docker's grace time in seconds.
const GRACE: i64 = 10;
const SIGKILL: i32 = 9;
/// A killed process that does not end within it hangs in the kernel.
const KILLED: Duration = Duration::from_secs(30);

impl Engine {
    /// Stops a container. `grace` in seconds: none is the container's own, negative is for ever.
    pub async fn stop(
        &self,
        container: &Container,
        grace: Option<i64>,
        stop_signal: Option<&str>,
    ) -> Result<()> {
        let asked = stop_signal.map(signal::parse).transpose()?;
        let _one = container.verbs.lock().await;
        match container.record().state {
            State::Running { .. } | State::Restarting { .. } => {}
            _ => return Err(ApiError::unchanged()),
        }
        self.bring_to_end(container, grace, asked).await?;
        self.events().container(container, "stop", &[]);
        Ok(())
    }

    /// Stops it if it runs, and starts it.
    pub async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        grace: Option<i64>,
        stop_signal: Option<&str>,
    ) -> Result<()> {
        let asked = stop_signal.map(signal::parse).transpose()?;
        let _one = container.verbs.lock().await;
        self.bring_to_end(container, grace, asked).await?;
        container.change(|record| {
            record.stopped = false;
            record.restart_count = 0;
        })?;
        self.launch(container).await?;
        self.events().container(container, "restart", &[]);
        Ok(())
    }

    /// Ends the process, if there is one. The caller holds `verbs`.
    pub(super) async fn bring_to_end(
        &self,
        container: &Container,
        grace: Option<i64>,
        asked: Option<i32>,
    ) -> Result<()> {
        let state = container.record().state.clone();
        if let State::Restarting { exit } = state {
            return container.change(|record| {
                record.stopped = true;
                record.state = State::Exited { exit, error: String::new() };
            });
        }
        let Ok(process) = container.running() else { return Ok(()) };
        container.change(|record| record.stopped = true)?;
        if matches!(state, State::Running { paused: true, .. }) {
            process.resume().await?;
        }
        let (own_signal, own_grace) = {
            let record = container.record();
            (record.config.stop_signal.clone(), record.config.stop_timeout)
        };
        let number = match asked {
            Some(number) => number,
            None => signal::parse(
                own_signal.as_deref().filter(|name| !name.is_empty()).unwrap_or("TERM"),
            )?,
        };
        let grace = grace.or(own_grace).unwrap_or(GRACE);
        let limit = u64::try_from(grace).ok().map(Duration::from_secs);
        if limit != Some(Duration::ZERO) {
            self.send(container, &process, number).await?;
            if until_ended(container, limit).await {
                return Ok(());
            }
        }
        self.send(container, &process, SIGKILL).await?;
        match until_ended(container, Some(KILLED)).await {
            true => Ok(()),
            false => Err(ApiError::internal(format!(
                "container {} does not end: it hangs in the kernel",
                container.id
            ))),
        }
    }

    /// Sends a signal; a process that has just ended is as good as signalled.
    pub(super) async fn send(
        &self,
        container: &Container,
        process: &Process,
        number: i32,
    ) -> Result<()> {
        match process.kill(number, false).await {
            Ok(()) => self.events().container(container, "kill", &[("signal", number.to_string())]),
            Err(RuntimeError::Gone(_) | RuntimeError::WrongState(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Whether it ended within `limit`.
pub(super) async fn until_ended(container: &Container, limit: Option<Duration>) -> bool {
    let mut changes = container.changes();
    let ended = changes.wait_for(|_| !container.record().state.is_running());
    match limit {
        Some(limit) => tokio::time::timeout(limit, ended).await.is_ok(),
        None => ended.await.is_ok(),
    }
}

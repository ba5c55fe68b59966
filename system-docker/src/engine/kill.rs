//! `kill`, `pause` and `unpause`.

use super::container::{Container, State};
use super::error::{ApiError, Result};
use super::{Engine, signal};

/// As long as Docker waits for the end of what was killed.
const KILLED: std::time::Duration = std::time::Duration::from_secs(10);

impl Engine {
    /// Sends a signal (SIGKILL when none is named). One that ends the container lets its policy rest.
    pub async fn kill(&self, container: &Container, name: Option<&str>) -> Result<()> {
        let number = signal::parse(name.filter(|name| !name.is_empty()).unwrap_or("KILL"))?;
        let process = container.running()?;
        let stops = container.record().config.stop_signal.clone().unwrap_or_else(|| "TERM".into());
        if number == signal::parse("KILL")?
            || signal::parse(&stops).is_ok_and(|stop| stop == number)
        {
            container.change(|record| record.stopped = true)?;
        }
        self.send(container, &process, number).await?;
        // Who kills counts on its being over.
        if number == signal::parse("KILL")? {
            super::stop::until_ended(container, Some(KILLED)).await;
        }
        Ok(())
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, container: &Container) -> Result<()> {
        let _one = container.verbs.lock().await;
        if matches!(container.record().state, State::Running { paused: true, .. }) {
            return Err(ApiError::conflict(format!(
                "Container {} is already paused",
                container.id
            )));
        }
        container.running()?.pause().await?;
        set_paused(container, true)?;
        self.events().container(container, "pause", &[]);
        Ok(())
    }

    /// Thaws them.
    pub async fn unpause(&self, container: &Container) -> Result<()> {
        let _one = container.verbs.lock().await;
        if !matches!(container.record().state, State::Running { paused: true, .. }) {
            return Err(ApiError::conflict(format!("Container {} is not paused", container.id)));
        }
        container.running()?.resume().await?;
        set_paused(container, false)?;
        self.events().container(container, "unpause", &[]);
        Ok(())
    }
}

fn set_paused(container: &Container, now: bool) -> Result<()> {
    container.change(|record| {
        if let State::Running { paused, .. } = &mut record.state {
            *paused = now;
        }
    })
}

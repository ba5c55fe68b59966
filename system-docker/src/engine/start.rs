//! `start`: a shim, its container, those who waited to attach, the command.

use std::sync::Arc;

use ros_runtime::{Exit, Process, RuntimeError};

use super::Engine;
use super::container::{Container, State};
use super::error::{ApiError, Result};
use super::time::now;

impl Engine {
    /// Starts a container; its restart policy counts from zero again.
    pub async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _one = container.verbs.lock().await;
        let record = container.record();
        match record.state {
            State::Running { paused: true, .. } => {
                return Err(ApiError::conflict(
                    "cannot start a paused container, try unpause instead",
                ));
            }
            State::Running { .. } => return Err(ApiError::unchanged()),
            _ => {}
        }
        if record.stopped || record.restart_count != 0 {
            container.change(|record| {
                record.stopped = false;
                record.restart_count = 0;
            })?;
        }
        self.launch(container).await
    }

    /// Runs the container's command. The caller holds `verbs`.
    pub(super) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        match self.bring_to_life(container).await {
            Ok(process) => {
                self.events().container(container, "start", &[]);
                self.watch_health(container, &process, false);
                tokio::spawn(Arc::clone(self).watch_exit(Arc::clone(container), process));
                Ok(())
            }
            Err((error, code)) => {
                container.waiting().clear();
                let exit = Exit { code, finished_at: now(), ..Exit::default() };
                let message = error.message.clone();
                container.change(|record| record.state = State::Exited { exit, error: message })?;
                container.tell_exit(exit);
                if container.record().auto_remove() {
                    tokio::spawn(Arc::clone(self).remove_ended(Arc::clone(container)));
                }
                Err(error)
            }
        }
    }

    async fn bring_to_life(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> std::result::Result<Process, (ApiError, i32)> {
        let ours = |error: ApiError| (error, 128);
        let process = match self.reserve_network(container) {
            Ok(()) => self.make(container).await,
            Err(error) => Err(ours(error)),
        };
        if process.is_err() {
            self.give_back(container).await;
        }
        process
    }

    async fn make(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> std::result::Result<Process, (ApiError, i32)> {
        let ours = |error: ApiError| (error, 128);
        let record = container.record();
        let layers = self.layers(&record).await.map_err(ours)?;
        self.mount_volumes(&record, &layers).await.map_err(ours)?;
        let request = self.shim_request(container, &record, layers).map_err(ours)?;
        let process = self.runtime.create(&request).await.map_err(refused)?;
        let plugged = self.plug_network(container, process.pid()).await.map_err(ours);
        let ran = match plugged {
            Ok(()) => self.run(container, &process).await,
            Err(error) => Err(error),
        };
        match ran {
            Ok(()) => Ok(process),
            Err(error) => {
                if let Err(left) = process.delete().await {
                    tracing::warn!("container {}: {left}", container.id);
                }
                container.set_process(None);
                Err(error)
            }
        }
    }

    async fn run(
        &self,
        container: &Container,
        process: &Process,
    ) -> std::result::Result<(), (ApiError, i32)> {
        // From here on, who attaches finds the process; those who came before are served now.
        container.set_process(Some(process.clone()));
        let waiting = std::mem::take(&mut *container.waiting());
        for waiter in waiting {
            let stream = process.attach(waiter.stdin).await.map_err(refused)?;
            // Whoever went away meanwhile needs none.
            let _ = waiter.to.send(stream);
        }
        let pid = process.start().await.map_err(refused)?;
        let boot_id = self.boot_id.clone();
        let state = State::Running { pid, started_at: now(), paused: false };
        let change = |record: &mut super::Record| {
            record.state = state;
            record.boot_id = boot_id;
        };
        container.change(change).map_err(|error| (error, 128))
    }
}

/// Docker's wording, so that its CLI finds its exit codes.
fn refused(error: RuntimeError) -> (ApiError, i32) {
    let code = error.exit_code();
    let mut refusal = ApiError::from(error);
    refusal.status = if matches!(code, 126 | 127) { 400 } else { refusal.status.max(500) };
    refusal.message = format!(
        "failed to create task for container: OCI runtime create failed: unable to start container process: {}",
        refusal.message
    );
    (refusal, code)
}

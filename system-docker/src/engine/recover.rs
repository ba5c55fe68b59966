//! What an earlier daemon left: running containers are taken up again; after a machine's boot, those whose policy
//! says so are started. Services of the OS are `ros`'s to start.

use std::sync::Arc;

use anyhow::{Result, bail};
use bollard_stubs::models::RestartPolicyNameEnum as Policy;
use ros_runtime::{Exit, Phase, Process};

use super::Engine;
use super::container::{Container, Record, State};
use super::time::now;

impl Engine {
    /// Whether every container that runs can be taken up. Nothing is changed by it, neither containers nor records: a
    /// daemon that cannot do this must leave them to one that can.
    ///
    /// # Errors
    /// Names those that cannot.
    pub async fn check_take_over(&self) -> Result<()> {
        let all: Vec<Arc<Container>> = self.containers().values().cloned().collect();
        let mut lost = Vec::new();
        for container in all {
            let record = container.record();
            if record.state.is_running()
                && record.boot_id == self.boot_id
                && !self.is_found(&container.id).await
            {
                lost.push(record.name.clone());
            }
        }
        if !lost.is_empty() {
            bail!("cannot re-attach to {}", lost.join(", "));
        }
        Ok(())
    }

    /// Whether there is a trace of its process, which may have ended meanwhile.
    async fn is_found(&self, id: &str) -> bool {
        match self.runtime.reattach(id).await {
            Ok(Some(process)) => process.status().await.is_ok(),
            _ => false,
        }
    }

    /// Takes up what there is.
    pub async fn recover(self: &Arc<Self>) {
        self.sweep_strangers().await;
        self.restore_networks().await;
        self.sweep_volumes();
        let all: Vec<Arc<Container>> = self.containers().values().cloned().collect();
        for container in all {
            self.recover_one(&container).await;
        }
    }

    /// Ends what runs without a record.
    async fn sweep_strangers(&self) {
        for id in self.runtime.list().unwrap_or_default() {
            if self.containers().contains_key(&id) {
                continue;
            }
            if let Ok(Some(process)) = self.runtime.reattach(&id).await
                && let Err(error) = process.delete().await
            {
                tracing::warn!("leftover {id}: {error}");
            }
        }
    }

    async fn recover_one(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        let same_boot = record.boot_id == self.boot_id;
        let process = match self.runtime.reattach(&container.id).await {
            Ok(process) => process.filter(|_| same_boot),
            Err(error) => {
                tracing::warn!("container {}: {error}", container.id);
                None
            }
        };
        match (record.state.clone(), process) {
            (State::Running { .. }, Some(process)) => self.take_up(container, process).await,
            (_, Some(process)) if is_running(&process).await => {
                self.believe(container, &process);
                self.take_up(container, process).await;
            }
            (state, process) => {
                // Made and not started, or ended and not taken away, when the daemon died: in the way of a start.
                if let Some(process) = process
                    && let Err(error) = process.delete().await
                {
                    tracing::warn!("container {}: {error}", container.id);
                }
                self.recover_ended(container, &state, same_boot).await;
            }
        }
    }

    async fn recover_ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        was: &State,
        same_boot: bool,
    ) {
        if matches!(was, State::Running { .. } | State::Restarting { .. }) {
            let exit = recorded_exit(container).unwrap_or_else(|| Exit::unknown(now()));
            self.note_end(container, exit, same_boot).await;
        } else {
            self.start_at_boot(container, same_boot);
        }
    }

    /// Whatever the record says, its process runs: the daemon died between the start and the record, or one that did
    /// not find it wrote that it had ended.
    fn believe(&self, container: &Container, process: &Process) {
        let pid = process.pid();
        tracing::warn!("container {}: it runs as {pid}, other than its record says", container.id);
        let state = State::Running { pid, started_at: now(), paused: false };
        if let Err(error) = container.change(|record| record.state = state) {
            tracing::error!("container {}: {error}", container.id);
        }
    }

    async fn take_up(self: &Arc<Self>, container: &Arc<Container>, process: Process) {
        container.set_process(Some(process.clone()));
        let phase = process.status().await.map(|status| status.phase);
        match phase {
            Ok(Phase::Created) => {
                // The record is written after the start: this one never ran.
                self.ended(container, &process, Exit::unknown(now())).await;
            }
            _ => {
                self.take_up_network(container, process.pid()).await;
                self.watch_health(container, &process, true);
                tokio::spawn(Arc::clone(self).watch_exit(Arc::clone(container), process));
            }
        }
    }

    /// It ended while no daemon watched.
    async fn note_end(self: &Arc<Self>, container: &Arc<Container>, exit: Exit, same_boot: bool) {
        let state = State::Exited { exit, error: String::new() };
        if let Err(error) = container.change(|record| record.state = state) {
            tracing::error!("container {}: {error}", container.id);
        }
        self.give_back(container).await;
        container.tell_exit(exit);
        if container.record().auto_remove() {
            let _ = self.remove(container, false, true).await;
            return;
        }
        let wanted =
            wanted_at_boot(&container.record()) && (same_boot || !container.record().is_service());
        if wanted {
            self.start_in_background(container);
        }
    }

    fn start_at_boot(self: &Arc<Self>, container: &Arc<Container>, same_boot: bool) {
        let record = container.record();
        let ran = !record.boot_id.is_empty();
        if !same_boot && ran && !record.is_service() && wanted_at_boot(&record) {
            self.start_in_background(container);
        }
    }

    fn start_in_background(self: &Arc<Self>, container: &Arc<Container>) {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            if let Err(error) = engine.start(&container).await {
                tracing::warn!("container {}: {error}", container.id);
            }
        });
    }
}

async fn is_running(process: &Process) -> bool {
    let phase = process.status().await.map(|status| status.phase);
    matches!(phase, Ok(Phase::Running | Phase::Orphaned))
}

/// `always` starts at a boot even what was stopped by hand, as in Docker.
fn wanted_at_boot(record: &Record) -> bool {
    match record.restart_policy().0 {
        Policy::ALWAYS => true,
        Policy::UNLESS_STOPPED => !record.stopped,
        Policy::ON_FAILURE => {
            !record.stopped && record.state.exit().is_some_and(|exit| exit.code != 0)
        }
        _ => false,
    }
}

/// What the shim left in the container's own folder, which outlives a reboot.
fn recorded_exit(container: &Container) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(container.dir().join("exit.json")).ok()?).ok()
}

//! What happens when a container's process ends: its record, those who wait, its restart policy.

use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::RestartPolicyNameEnum as Policy;
use ros_runtime::{Exit, Process};

use super::Engine;
use super::container::{Container, Record, State};
use super::time::now;

/// Waits for the first restart; doubled with each, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// Whoever ran that long is not in a loop: waiting begins anew.
const STEADY: i64 = 10_000_000_000;

impl Engine {
    /// Waits for the end of `process` and does what follows from it.
    pub(super) async fn watch_exit(self: Arc<Self>, container: Arc<Container>, process: Process) {
        let exit = match process.wait().await {
            Ok(exit) => exit,
            Err(error) => {
                tracing::warn!("container {}: {error}", container.id);
                Exit::unknown(now())
            }
        };
        self.ended(&container, &process, exit).await;
    }

    pub(super) async fn ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Process,
        exit: Exit,
    ) {
        self.forget_health(container);
        if let Err(error) = process.delete().await {
            tracing::warn!("container {}: {error}", container.id);
        }
        self.give_back(container).await;
        container.set_process(None);
        let again = again(&container.record(), &exit);
        let state = match again {
            Some(_) => State::Restarting { exit },
            None => State::Exited { exit, error: String::new() },
        };
        if let Err(error) = container.change(|record| record.state = state) {
            tracing::error!("container {}: {error}", container.id);
        }
        if exit.oom_killed {
            self.events().container(container, "oom", &[]);
        }
        self.events().container(container, "die", &[("exitCode", exit.code.to_string())]);
        container.tell_exit(exit);
        match again {
            Some(pause) => {
                tokio::spawn(Arc::clone(self).restart_after(Arc::clone(container), pause));
            }
            None if container.record().auto_remove() => {
                tokio::spawn(Arc::clone(self).remove_ended(Arc::clone(container)));
            }
            None => {}
        }
    }

    /// Takes back what a container had outside of itself while it ran.
    pub(super) async fn give_back(&self, container: &Container) {
        if let Err(error) = self.release_network(container).await {
            tracing::warn!("container {}: {error}", container.id);
        }
        self.unmount_volumes(container).await;
    }

    /// Boxed, because a launch spawns the watch that comes back here.
    fn restart_after(
        self: Arc<Self>,
        container: Arc<Container>,
        pause: Duration,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            let _one = container.verbs.lock().await;
            if !matches!(container.record().state, State::Restarting { .. }) {
                return;
            }
            if let Err(error) = container.change(|record| record.restart_count += 1) {
                tracing::error!("container {}: {error}", container.id);
            }
            if let Err(error) = self.launch(&container).await {
                tracing::warn!("container {} is not restarted: {error}", container.id);
            }
        })
    }

    /// What `--rm` asks for.
    pub(super) async fn remove_ended(self: Arc<Self>, container: Arc<Container>) {
        if let Err(error) = self.remove(&container, false, true).await
            && error.status != 404
        {
            tracing::warn!("container {}: {error}", container.id);
        }
    }
}

/// Whether the policy starts it again, and after what pause.
fn again(record: &Record, exit: &Exit) -> Option<Duration> {
    let (policy, most) = record.restart_policy();
    let wanted = match policy {
        Policy::ALWAYS | Policy::UNLESS_STOPPED => true,
        Policy::ON_FAILURE => {
            exit.code != 0 && (most == 0 || i64::from(record.restart_count) < most)
        }
        _ => false,
    };
    if !wanted || record.stopped {
        return None;
    }
    let steady = exit.finished_at - exit.started_at >= STEADY;
    let doublings = if steady { 0 } else { record.restart_count.min(16) };
    Some((FIRST * 2u32.pow(doublings)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::{HostConfig, RestartPolicy};

    use super::*;

    #[test]
    fn policies_are_dockers() {
        let table = [
            (Policy::NO, 0, 1, 0, false, None),
            (Policy::ALWAYS, 0, 0, 0, false, Some(100)),
            (Policy::ALWAYS, 0, 0, 3, false, Some(800)),
            (Policy::ALWAYS, 0, 0, 60, false, Some(60_000)),
            (Policy::ALWAYS, 0, 1, 0, true, None),
            (Policy::UNLESS_STOPPED, 0, 1, 0, false, Some(100)),
            (Policy::ON_FAILURE, 0, 0, 0, false, None),
            (Policy::ON_FAILURE, 3, 1, 2, false, Some(400)),
            (Policy::ON_FAILURE, 3, 1, 3, false, None),
        ];
        for (name, most, code, count, stopped, expected) in table {
            let policy = RestartPolicy { name: Some(name), maximum_retry_count: Some(most) };
            let host_config = HostConfig { restart_policy: Some(policy), ..Default::default() };
            let record = Record { host_config, restart_count: count, stopped, ..Record::example() };
            let exit = Exit { code, ..Exit::default() };
            let pause = again(&record, &exit).map(|pause| pause.as_millis());
            assert_eq!(pause, expected, "{name} {most} {code} {count} {stopped}");
        }
    }
}

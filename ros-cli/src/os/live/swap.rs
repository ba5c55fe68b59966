//! One service replaced, or put back.
//!
//! ```text
//!  restart    <name>.next made ─► <name> stopped, called <name>.old ─► <name>.next called <name>, started ─► ready
//!  overlap    <name>.next made, started, ready ─► <name> stopped, called <name>.old ─► <name>.next called <name>
//!  hand-over  <name>.next made, started, prepared ─► <name> called <name>.<id> ─► <name>.next called <name>
//!             ─► <name>.<id> gets SIGUSR1: lets go, ends with its last session ─► <name> ready
//! ```
//!
//! What was there stays as `<name>.old` until the verdict, with all that is in its file system. Each function can be
//! cut short anywhere and called again: what is done already is seen in the containers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerUpdateBody};
use bollard::query_parameters::KillContainerOptionsBuilder;
use ros_api::{labels, paths};
use tokio::time::{Instant, sleep};

use super::probe::{ended, stay_ended, until_ready};
use super::steps::Act;
use crate::services::clock::uptime_ms;
use crate::services::container::Service;
use crate::services::engine::{Engine, label};
use crate::services::hand_over;

/// How long a look at a container that prepares is apart from the next.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Replaces services through `engine`; new containers belong to `generation`.
pub struct Swap<'a> {
    /// The daemon.
    pub engine: &'a Engine,
    /// The generation to go to.
    pub generation: u32,
}

fn old_name(name: &str) -> String {
    format!("{name}.old")
}

impl Swap<'_> {
    /// Brings `service` to what it is to be by `act`; answers for how many milliseconds it did not serve.
    ///
    /// # Errors
    /// Why it is sick.
    pub async fn forward(&self, service: &Service, act: Act) -> Result<u64> {
        let there = self.engine.inspect(&service.name).await?;
        let is_done = there.as_ref().is_some_and(|there| is_of(there, service));
        match act {
            Act::Stop => self.stop(&service.name, service.grace_ms()).await,
            _ if is_done => self.as_started(service).await,
            _ if there.as_ref().is_none_or(|there| ended(there).is_some()) => {
                self.restart(service).await
            }
            Act::Start | Act::Restart | Act::TakeOver => self.restart(service).await,
            Act::Overlap => self.overlap(service).await,
            Act::HandOver => self.hand_over(service, there.and_then(|there| there.id)).await,
        }
    }

    /// It is there already, from a switch that was cut short.
    async fn as_started(&self, service: &Service) -> Result<u64> {
        self.engine.start(&service.name).await?;
        self.let_go(&service.name).await?;
        until_ready(self.engine, service, &service.name).await?;
        Ok(0)
    }

    async fn restart(&self, service: &Service) -> Result<u64> {
        let next = self.engine.prepare(service, self.generation).await?;
        let from = uptime_ms();
        self.set_aside(&service.name, service.grace_ms()).await?;
        self.engine.rename(&next, &service.name).await?;
        self.engine.start(&service.name).await?;
        until_ready(self.engine, service, &service.name).await?;
        Ok(uptime_ms() - from)
    }

    async fn overlap(&self, service: &Service) -> Result<u64> {
        let next = self.engine.prepare(service, self.generation).await?;
        self.engine.start(&next).await?;
        until_ready(self.engine, service, &next).await?;
        self.set_aside(&service.name, service.grace_ms()).await?;
        self.engine.rename(&next, &service.name).await?;
        Ok(0)
    }

    async fn hand_over(&self, service: &Service, old: Option<String>) -> Result<u64> {
        let old = old.context("the daemon names no id")?;
        let marker = Marker::wanted(&service.name)?;
        let next = self.engine.prepare(service, self.generation).await?;
        self.engine.start(&next).await?;
        self.wait_for(service, &next, "prepared to take over", || marker.is_prepared()).await?;
        // When the sessions in it have ended, it is not to begin anew.
        let body = ContainerUpdateBody { restart_policy: Some(stay_ended()), ..Default::default() };
        self.engine.docker().update_container(&old, body).await.context("let the old end")?;
        let id: String = old.chars().take(12).collect();
        self.engine.rename(&old, &format!("{}.{id}", service.name)).await?;
        self.engine.rename(&next, &service.name).await?;
        let from = uptime_ms();
        self.let_go(&service.name).await?;
        self.wait_for(service, &service.name, "let in by the old", || marker.is_gone()).await?;
        until_ready(self.engine, service, &service.name).await?;
        Ok(uptime_ms() - from)
    }

    /// Asks every container of the service but the one with its name to let go. Asked again, they go on as they do.
    async fn let_go(&self, name: &str) -> Result<()> {
        for id in namesakes(self.engine, name).await? {
            if self.engine.inspect(&id).await?.is_some_and(|there| ended(&there).is_none()) {
                let options = KillContainerOptionsBuilder::default().signal("SIGUSR1").build();
                self.engine
                    .docker()
                    .kill_container(&id, Some(options))
                    .await
                    .context("hand over")?;
            }
        }
        Ok(())
    }

    async fn wait_for(
        &self,
        service: &Service,
        container: &str,
        what: &str,
        is_so: impl Fn() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(service.ready_ms());
        while !is_so() {
            let state =
                self.engine.inspect(container).await?.context("its container was removed")?;
            if let Some(reason) = ended(&state) {
                bail!("{reason} before it was {what}");
            }
            if Instant::now() >= deadline {
                bail!("it was not {what} within {} s", service.ready_ms() / 1000);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Stops what has the name and keeps it as `<name>.old`.
    async fn set_aside(&self, name: &str, grace_ms: u64) -> Result<()> {
        if self.engine.inspect(name).await?.is_none() {
            return Ok(());
        }
        self.engine.remove(&old_name(name)).await?;
        self.engine.stop(name, grace_ms).await?;
        self.engine.rename(name, &old_name(name)).await
    }

    async fn stop(&self, name: &str, grace_ms: u64) -> Result<u64> {
        self.set_aside(name, grace_ms).await?;
        Ok(0)
    }

    /// Makes the service what it was. `None`: there was none of this name.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn back(&self, name: &str, was: Option<&Service>) -> Result<()> {
        self.engine.remove(&format!("{name}.next")).await?;
        let there = self.engine.inspect(name).await?;
        let Some(was) = was else { return self.engine.remove(name).await };
        if there.as_ref().is_some_and(|there| is_of(there, was)) {
            self.engine.start(name).await?;
            return until_ready(self.engine, was, name).await;
        }
        let old = old_name(name);
        let kept = self.engine.inspect(&old).await?.is_some_and(|old| is_of(&old, was));
        let next = if kept { old } else { self.engine.prepare(was, self.generation).await? };
        if there.is_some() {
            self.engine.stop(name, was.grace_ms()).await?;
            self.engine.remove(name).await?;
        }
        self.engine.rename(&next, name).await?;
        self.engine.start(name).await?;
        until_ready(self.engine, was, name).await
    }
}

/// Whether a container is what `service` says.
fn is_of(container: &ContainerInspectResponse, service: &Service) -> bool {
    label(container, labels::SPEC_HASH) == Some(service.hash())
}

/// The file of a hand-over, see [`crate::services::hand_over`].
struct Marker {
    path: PathBuf,
}

impl Marker {
    fn wanted(name: &str) -> Result<Self> {
        let path = hand_over::path(name);
        fs::create_dir_all(paths::HAND_OVER)
            .and_then(|()| fs::write(&path, hand_over::WANTED))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path })
    }

    fn is_prepared(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| text == hand_over::PREPARED)
    }

    fn is_gone(&self) -> bool {
        !self.path.exists()
    }
}

/// Containers of the service `name` that have another name: made and not used, set aside, or handed over.
async fn namesakes(engine: &Engine, name: &str) -> Result<Vec<String>> {
    let all = strangers(engine).await?;
    Ok(all.into_iter().filter(|(service, _)| service == name).map(|(_, id)| id).collect())
}

/// Service and id of every container that has another name than its service.
async fn strangers(engine: &Engine) -> Result<Vec<(String, String)>> {
    let stranger = |container: ContainerSummary| {
        let service = container.labels?.get(labels::SERVICE_NAME)?.clone();
        let names = container.names.unwrap_or_default();
        let has_its_name = names.iter().any(|own| own.trim_start_matches('/') == service);
        (!has_its_name).then_some((service, container.id?))
    };
    Ok(engine.services().await?.into_iter().filter_map(stranger).collect())
}

/// Gives a service's container that was set aside its name again, when it is what `service` says and what has the name
/// is not: so that what is in its file system stays.
///
/// # Errors
/// When the daemon fails.
pub async fn take_up(engine: &Engine, service: &Service) -> Result<()> {
    let (name, old) = (&service.name, old_name(&service.name));
    if !engine.inspect(&old).await?.is_some_and(|old| is_of(&old, service)) {
        return Ok(());
    }
    if engine.inspect(name).await?.is_some_and(|there| is_of(&there, service)) {
        return Ok(());
    }
    engine.remove(name).await?;
    engine.rename(&old, name).await
}

/// Takes away what an ended switch left. What still runs has sessions in it.
///
/// # Errors
/// When the daemon fails.
pub async fn collect(engine: &Engine) -> Result<()> {
    for (_, id) in strangers(engine).await? {
        if engine.inspect(&id).await?.is_some_and(|there| ended(&there).is_some()) {
            engine.remove(&id).await?;
        }
    }
    Ok(())
}

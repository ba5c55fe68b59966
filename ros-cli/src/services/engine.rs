//! The daemon, as far as services need it: images by digest, a service's container, waiting until ready.
//!
//! A service's container has the service's name. A changed one is made before the old one is removed:
//!
//! ```text
//!  create <name>.next ─► stop and remove <name> ─► rename <name>.next to <name> ─► start
//! ```

use std::collections::HashMap;
use std::future::ready;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState, ContainerSummary, ImageInspect};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use ros_api::{labels, paths};
use tokio::time::{Instant, sleep, timeout_at};

use super::container::Service;
use super::readiness::{Readiness, judge};

/// Environment variable that names another socket than the machine's own.
pub const HOST_VARIABLE: &str = "SYSTEM_DOCKER_HOST";

/// What a service's container is called beside its name until it has it.
const NEXT: &str = ".next";

/// Seconds after which a request is given up.
const REQUEST_TIMEOUT: u64 = 120;
/// So much of what a sick service said last, in characters: a record of the kernel log is small, and one too long is refused.
const LAST_WORDS: usize = 160;
/// How often a state is looked at even when no event said so.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// A handle on the daemon.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
}

/// What was done about a service's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// The one that was there is the right one.
    Kept,
    /// It was made, or made anew.
    Created,
}

impl Engine {
    /// The daemon at its socket. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn connect() -> Result<Self> {
        let host =
            std::env::var(HOST_VARIABLE).unwrap_or_else(|_| paths::SYSTEM_DOCKER_SOCKET.into());
        let socket = host.strip_prefix("unix://").unwrap_or(&host);
        let docker =
            Docker::connect_with_unix(socket, REQUEST_TIMEOUT, bollard::API_DEFAULT_VERSION)
                .with_context(|| format!("connect to {socket}"))?;
        Ok(Self { docker })
    }

    /// The client itself.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The daemon, once it answers.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn connect_within(limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(5);
        loop {
            let error = match timeout_at(deadline, Self::reached()).await {
                Ok(Ok(engine)) => return Ok(engine),
                Ok(Err(error)) => error,
                Err(_) => anyhow!("no answer"),
            };
            if Instant::now() + pause >= deadline {
                return Err(error.context(format!(
                    "system-docker did not answer within {} s",
                    limit.as_secs()
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// The daemon, if it answers now.
    ///
    /// # Errors
    /// When it does not.
    pub async fn reached() -> Result<Self> {
        let engine = Self::connect()?;
        engine.docker.ping().await?;
        Ok(engine)
    }

    /// The first of `names` that is an image on this machine, and what it is.
    ///
    /// # Errors
    /// When none is, or the daemon fails.
    pub async fn image(&self, names: &[String]) -> Result<(String, ImageInspect)> {
        for name in names {
            if let Some(image) =
                found(self.docker.inspect_image(name).await).context("inspect image")?
            {
                return Ok((name.clone(), image));
            }
        }
        let name = names.first().map_or("", String::as_str);
        Err(anyhow!("image {name} is not on this machine"))
    }

    /// All containers that are services, stopped ones too.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn services(&self) -> Result<Vec<ContainerSummary>> {
        let filters = HashMap::from([("label", vec![labels::SERVICE_NAME])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        self.docker.list_containers(Some(options)).await.context("list containers")
    }

    /// The container `name`, if it is there.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        found(self.docker.inspect_container(name, None).await)
            .with_context(|| format!("inspect {name}"))
    }

    /// The exit code with which a container's process ended last, at or after `since`: an inspect of one that runs
    /// again does not tell. None when the daemon does not remember.
    pub async fn last_exit(&self, name: &str, since: &str) -> Option<i64> {
        let filters = HashMap::from([("container", vec![name]), ("event", vec!["die"])]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let options = EventsOptionsBuilder::default().since(since).until(&now);
        let events = self.docker.events(Some(options.filters(&filters).build()));
        let ends: Vec<_> = events.filter_map(|event| ready(event.ok())).collect().await;
        ends.last()?.actor.as_ref()?.attributes.as_ref()?.get("exitCode")?.parse().ok()
    }

    /// Makes sure that the service's container is there and as defined; it is not started.
    ///
    /// # Errors
    /// When it cannot be made; an old one is still there then.
    pub async fn ensure(&self, service: &Service, generation: u32) -> Result<Container> {
        let old = self.inspect(&service.name).await?;
        let Some(old) = old else {
            self.create(service, &service.name, generation).await?;
            return Ok(Container::Created);
        };
        if label(&old, labels::SPEC_HASH) == Some(service.hash()) {
            return Ok(Container::Kept);
        }
        let next = self.prepare(service, generation).await?;
        self.stop(&service.name, service.grace_ms()).await?;
        self.remove(&service.name).await?;
        self.rename(&next, &service.name).await?;
        Ok(Container::Created)
    }

    /// Makes the container that is to take the service's name, beside the one that has it; answers its name for now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn prepare(&self, service: &Service, generation: u32) -> Result<String> {
        let next = format!("{}{NEXT}", service.name);
        self.remove(&next).await?;
        self.create(service, &next, generation).await?;
        Ok(next)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let options = RenameContainerOptionsBuilder::default().name(to).build();
        self.docker
            .rename_container(from, options)
            .await
            .with_context(|| format!("rename {from} to {to}"))
    }

    async fn create(&self, service: &Service, name: &str, generation: u32) -> Result<()> {
        let body = service.create_body(generation)?;
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .with_context(|| format!("create {name}"))?;
        Ok(())
    }

    /// Starts a container; one that runs already is as good.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(&self, name: &str) -> Result<()> {
        let options = None::<StartContainerOptions>;
        unless(304, self.docker.start_container(name, options).await)
            .with_context(|| format!("start {name}"))
    }

    /// Stops a container, killing it when its grace is over; one that does not run is as good.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop(&self, name: &str, grace_ms: u64) -> Result<()> {
        let seconds = i32::try_from(grace_ms.div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let stopped = unless(304, self.docker.stop_container(name, Some(options)).await);
        stopped.with_context(|| format!("stop {name}"))
    }

    /// Removes a container; one that is not there is as good.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        found(self.docker.remove_container(name, Some(options)).await)
            .with_context(|| format!("remove {name}"))?;
        Ok(())
    }

    /// Runs the service's container until it is ready; for a oneshot, until it ended.
    ///
    /// # Errors
    /// Why it is sick: it ended, or was not ready when its time was over.
    pub async fn start_until_ready(&self, service: &Service) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(service.ready_ms());
        let mut changes = Box::pin(self.changes(&service.name));
        // The request is sent now, so that what happens from here on is not missed.
        let _ = futures_util::poll!(changes.next());
        self.start(&service.name).await?;
        loop {
            let reason = match judge(&self.state(&service.name).await?, service.spec.ros.oneshot) {
                Readiness::Ready => return Ok(()),
                Readiness::Sick(reason) => return Err(self.sick(&service.name, &reason).await),
                Readiness::NotYet(reason) => reason,
            };
            if Instant::now() >= deadline {
                let limit = super::progress::seconds(service.ready_ms());
                let reason = format!("{reason} (after {limit})");
                return Err(self.sick(&service.name, &reason).await);
            }
            let wait = deadline.min(Instant::now() + LOOK_AGAIN);
            if let Ok(None) = timeout_at(wait, changes.next()).await {
                sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Why a service is sick, with what it said last: on a console without a login that is all there is to go by.
    async fn sick(&self, name: &str, reason: &str) -> anyhow::Error {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("1").build();
        let said = self.docker.logs(name, Some(options)).filter_map(|line| ready(line.ok()));
        let said = said.map(|line| line.to_string()).collect::<String>().await;
        let said: String = said.trim().chars().take(LAST_WORDS).collect();
        match said.as_str() {
            "" => anyhow!("{reason}"),
            said => anyhow!("{reason}; it said: {said}"),
        }
    }

    async fn state(&self, name: &str) -> Result<ContainerState> {
        let container = self.inspect(name).await?.ok_or_else(|| anyhow!("{name} was removed"))?;
        Ok(container.state.unwrap_or_default())
    }

    /// One item for each thing that happens to container `name`. What it was does not matter.
    fn changes(&self, name: &str) -> impl futures_util::Stream<Item = ()> + use<> {
        let filters = HashMap::from([("container", vec![name])]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        self.docker.events(Some(options)).map(|_| ())
    }
}

/// A label of a container.
#[must_use]
pub fn label(container: &ContainerInspectResponse, name: &str) -> Option<String> {
    container.config.as_ref()?.labels.as_ref()?.get(name).cloned()
}

/// `None` when the daemon says that there is no such thing.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>> {
    match answer {
        Ok(thing) => Ok(Some(thing)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Success, and the one answer that says "it is so already" (`304 Not Modified`).
fn unless(status: u16, answer: Result<(), Error>) -> Result<()> {
    match answer {
        Err(Error::DockerResponseServerError { status_code, .. }) if status_code == status => {
            Ok(())
        }
        other => Ok(other?),
    }
}

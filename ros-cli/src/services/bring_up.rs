//! Starts the services of the running generation, and says whether the machine is healthy.
//!
//! ```text
//!            ┌──────────────── plan (pure) ◄── definitions ◄── images + configuration ◄─┐
//!            ▼                                                                          │
//!  startable? ─► one task each: make the container if it changed, start, wait until ready
//!            ▲                                │ ready, or sick when its time is over    │
//!            └────────────────────────────────┴── after cloud-init: configuration is read again
//! ```
//!
//! A sick service holds back nobody: what waited for it starts as soon as it is given up. All state is
//! owned by [`BringUp`]; the tasks only answer. Whatever is wrong with the configuration is said and gone
//! around; only a machine without a daemon or without a release cannot be brought up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use cloud_config::settings::Network;
use ros_api::{ServiceSpec, labels};
use tokio::task::JoinSet;

use super::clock::uptime_ms;
use super::configuration::{Configuration, asked_for};
use super::console::reload;
use super::container::Service;
use super::engine::Engine;
use super::plan::Plan;
use super::progress::{complain, say, seconds};
use super::report::{Outcome, ServiceReport, ServicesReport};
use super::roster::{Roster, Running, runs_from_ram};
use super::{cloud_init, registries};
use crate::os::live::swap;
use crate::os::user_checks;

/// How long the daemon may take to answer.
const DAEMON_LIMIT: Duration = Duration::from_secs(60);

/// Services that are asked to take over what came over the network.
const NETWORK: &str = "network";
const CONSOLE: &str = "console";
const NTP: &str = "ntp";

/// One bring-up.
struct BringUp {
    engine: Engine,
    running: Running,
    roster: Roster,
    plan: Plan,
    started: BTreeSet<String>,
    settled: BTreeSet<String>,
    report: ServicesReport,
    /// The network's configuration when it was started.
    network: Network,
}

/// What a task answers: the service's name, and why it is sick if it is.
type Answer = (String, Result<()>);

/// Starts everything. The report says what became of each service.
///
/// # Errors
/// When there is no daemon or no release.
pub async fn bring_up() -> Result<ServicesReport> {
    let start_ms = uptime_ms();
    let engine = Engine::connect_within(DAEMON_LIMIT).await?;
    let running = Running::read()?;
    let report = ServicesReport { generation: running.generation, start_ms, ..Default::default() };
    let (started, settled) = (BTreeSet::new(), BTreeSet::new());
    let mut all = BringUp {
        engine,
        running,
        roster: Roster::default(),
        plan: Plan::default(),
        started,
        settled,
        report,
        network: Network::default(),
    };
    all.read_configuration().await;
    all.remove_strangers().await;
    all.take_up_switch().await;
    all.run().await;
    if all.report.sick_essentials().is_empty() {
        all.report.lost = user_checks::lost_by_boot(&all.engine, all.running.generation).await;
    }
    Ok(all.finish())
}

impl BringUp {
    /// Reads configuration and definitions, plans anew. What was started already stays as it is.
    async fn read_configuration(&mut self) {
        let configuration = Configuration::load();
        configuration.warnings.iter().for_each(|warning| self.warn(warning));
        if let Err(error) = registries::publish(&configuration.settings) {
            self.warn(&format!("registries: {error:#}"));
        }
        let changes = configuration.services();
        self.roster = Roster::read(&self.engine, &self.running, &changes).await;
        for name in asked_for(&changes) {
            if self.roster.is_optional(&name) {
                let why = match runs_from_ram() {
                    true => "and cannot come: a machine that runs from RAM fetches no parts",
                    false => "yet: it is fetched when all else runs",
                };
                self.warn(&format!("{name} is not on this machine {why}"));
            }
        }
        if let Some(source) = cloud_init::network_source(&configuration.settings)
            && let Some(service) = self.roster.services.get(cloud_init::SERVICE)
        {
            // On its first boot a machine knows neither who may log in nor what to run: the console waits. Later it does
            // not, and takes over what is new.
            // So does the clock, which reads its servers when it starts.
            let waiting = if cloud_init::is_news(&source) {
                let mut all = self.planned().between(cloud_init::SERVICE, NETWORK);
                all.extend(self.roster.services.contains_key(NTP).then(|| NTP.to_owned()));
                all
            } else {
                Vec::new()
            };
            let service = cloud_init::network_service(service, waiting);
            self.roster.services.insert(service.name.clone(), service);
        }
        self.plan = self.planned();
        let warnings = [self.roster.warnings.clone(), self.plan.warnings.clone()].concat();
        warnings.iter().for_each(|warning| self.warn(warning));
        self.give_up_missing();
    }

    fn planned(&self) -> Plan {
        let services = self.roster.services.iter();
        let specs: BTreeMap<String, ServiceSpec> =
            services.map(|(name, service)| (name.clone(), service.spec.clone())).collect();
        Plan::of(&specs)
    }

    /// Says it once.
    fn warn(&mut self, warning: &str) {
        if !self.report.warnings.iter().any(|said| said == warning) {
            complain(warning);
            self.report.warnings.push(warning.to_owned());
        }
    }

    /// A service whose image is not here is sick from the start. What is missing has no definition to say
    /// that it does not matter, so it does.
    fn give_up_missing(&mut self) {
        for (name, reason) in self.roster.missing.clone() {
            if self.started.insert(name.clone()) {
                self.report.services.push(ServiceReport::starting(
                    &name,
                    &ServiceSpec::default(),
                    Vec::new(),
                ));
                self.settle(&name, true, Err(anyhow::anyhow!(reason)));
            }
        }
    }

    /// Removes service containers that are nobody's any more.
    async fn remove_strangers(&mut self) {
        let known: BTreeSet<&String> = self.roster.names().collect();
        let containers = match self.engine.services().await {
            Ok(containers) => containers,
            Err(error) => return self.warn(&format!("{error:#}")),
        };
        let strangers = containers.iter().filter_map(|container| {
            let name = container.labels.as_ref()?.get(labels::SERVICE_NAME)?;
            let id = container.id.clone()?;
            (!known.contains(name) && name != cloud_init::NETWORK_SERVICE).then_some(id)
        });
        for id in strangers {
            if let Err(error) = self.engine.remove(&id).await {
                complain(&format!("{error:#}"));
            }
        }
    }

    /// A switch that the power cut short left containers under other names: those set aside are services again, the
    /// others go.
    async fn take_up_switch(&mut self) {
        for service in self.roster.services.values() {
            if let Err(error) = swap::take_up(&self.engine, service).await {
                complain(&format!("{error:#}"));
            }
        }
        if let Err(error) = swap::collect(&self.engine).await {
            self.warn(&format!("{error:#}"));
        }
    }

    /// Runs until every service settled.
    async fn run(&mut self) {
        let mut tasks: JoinSet<Answer> = JoinSet::new();
        loop {
            for name in self.plan.startable(&self.started, &self.settled) {
                self.start(&name, &mut tasks);
            }
            let Some(answer) = tasks.join_next().await else { return };
            match answer {
                Ok((name, outcome)) => self.settled(&name, outcome).await,
                Err(error) => complain(&format!("a service's task ended: {error}")),
            }
        }
    }

    fn start(&mut self, name: &str, tasks: &mut JoinSet<Answer>) {
        let Some(service) = self.roster.services.get(name).cloned() else { return };
        self.started.insert(name.to_owned());
        if name == NETWORK {
            self.network = Configuration::load().settings.ros.network;
        }
        let after = self.plan.waits_for(name).map(str::to_owned).collect();
        self.report.services.push(ServiceReport::starting(name, &service.spec, after));
        let (engine, generation) = (self.engine.clone(), self.running.generation);
        tasks.spawn(async move {
            (service.name.clone(), make_ready(&engine, &service, generation).await)
        });
    }

    async fn settled(&mut self, name: &str, outcome: Result<()>) {
        let essential =
            self.roster.services.get(name).is_some_and(|service| service.spec.ros.essential);
        let ready = outcome.is_ok();
        self.settle(name, essential, outcome);
        if name == cloud_init::SERVICE || name == cloud_init::NETWORK_SERVICE {
            self.read_configuration().await;
            if ready {
                for warning in super::apply::apply(&Configuration::load().settings) {
                    self.warn(&warning);
                }
            }
        }
        if name == cloud_init::NETWORK_SERVICE && ready {
            self.take_over_news().await;
        }
    }

    /// What came over the network may say how the network is to be, and be for services that run already.
    async fn take_over_news(&mut self) {
        let network = Configuration::load().settings.ros.network;
        if network != self.network
            && let Some(service) = self.roster.services.get(NETWORK).cloned()
        {
            say("instance data changes the network: it starts again");
            let stopped = self.engine.stop(NETWORK, service.grace_ms()).await;
            let again = match stopped {
                Ok(()) => self.engine.start_until_ready(&service).await,
                Err(error) => Err(error),
            };
            if let Err(error) = again {
                self.warn(&format!("{error:#}"));
            }
        }
        if self.started.contains(CONSOLE)
            && let Err(error) = reload::ask()
        {
            self.warn(&format!("{error:#}"));
        }
    }

    fn settle(&mut self, name: &str, essential: bool, outcome: Result<()>) {
        self.settled.insert(name.to_owned());
        let Some(entry) = self.report.of(name) else { return };
        let now = uptime_ms();
        entry.end_ms = Some(now);
        entry.essential = essential;
        let took = seconds(now.saturating_sub(entry.start_ms));
        match outcome {
            Ok(()) => {
                entry.outcome = Outcome::Ready;
                say(&format!("{name} ready {took}"));
            }
            Err(error) => {
                entry.outcome = Outcome::Sick;
                entry.note = format!("{error:#}");
                complain(&format!("{name} is sick after {took}: {error:#}"));
            }
        }
    }

    fn write(&self) {
        if let Err(error) = self.report.write() {
            complain(&format!("{error:#}"));
        }
    }

    fn finish(mut self) -> ServicesReport {
        let now = uptime_ms();
        let sick = self.report.sick_essentials();
        self.report.end_ms = now;
        self.report.healthy = sick.is_empty();
        self.write();
        let version = &self.running.release.version;
        let ready =
            self.report.services.iter().filter(|service| service.outcome == Outcome::Ready).count();
        let all = self.report.services.len();
        say(&format!(
            "{version}: {ready} of {all} services ready, {} after the kernel started",
            seconds(now)
        ));
        self.report
    }
}

async fn make_ready(engine: &Engine, service: &Service, generation: u32) -> Result<()> {
    engine.ensure(service, generation).await?;
    engine.start_until_ready(service).await
}

impl ServiceReport {
    fn starting(name: &str, spec: &ServiceSpec, after: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            outcome: Outcome::Starting,
            essential: spec.ros.essential,
            after,
            start_ms: uptime_ms(),
            end_ms: None,
            note: String::new(),
        }
    }
}

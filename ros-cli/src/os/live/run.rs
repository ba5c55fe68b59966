//! `ros os switch-services`: what the container `ros-switch` runs. It is started again when it is killed, and then goes
//! on where the containers say that it was.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_api::generation::Status;
use ros_api::init::InitRequest;
use ros_api::{Generation, Generations, durable, paths};

use super::daemon;
use super::journal::{Journal, Way, boot_id};
use super::steps::{Act, Services, Step, steps};
use super::swap::{self, Swap};
use super::watch::{self, Watch};
use crate::commands::power::request_of_init;
use crate::os::history::{History, Served};
use crate::os::trial::Trial;
use crate::os::user_checks;
use crate::services::configuration::Configuration;
use crate::services::container::Service;
use crate::services::engine::Engine;
use crate::services::roster::{Roster, Running, running_generation};

/// How long the daemon may take to answer: it may have been what ended.
const DAEMON_LIMIT: Duration = Duration::from_secs(60);

/// One switch.
struct Switch {
    engine: Engine,
    generations: Generations,
    journal: Journal,
    from: Running,
    to: Running,
    old: Services,
    new: Services,
    /// It was good before: that it is ready is enough.
    known_good: bool,
    /// The daemon is another one.
    daemon: bool,
    checks: Vec<String>,
}

/// Switches to generation `to`; goes back when it is not healthy. What became of it is in generation and receipt.
/// Started again in another boot than `asked_in`, it does nothing: that boot has brought up what ran before.
///
/// # Errors
/// When it could not be carried to its end, one way or the other: it is to be run again.
pub async fn run(to: u32, asked_in: &str) -> Result<()> {
    if asked_in != boot_id() {
        say("the machine was booted meanwhile: what ran before runs again");
        return Ok(());
    }
    let mut switch = Switch::open(to).await?;
    let sick = match switch.journal.way.clone() {
        Way::Back { reason } => Some(reason),
        Way::Forward => match switch.forward().await {
            Ok(()) => None,
            // That says nothing about the services: it is run again.
            Err(error) if is_daemon_gone(&error) && switch.is_daemon_well() => return Err(error),
            Err(reason) => Some(switch.reason(&reason)),
        },
    };
    match sick {
        None => say(&format!("{} is good", switch.to.release.version)),
        Some(reason) => switch.back(&reason).await?,
    }
    switch.close().await
}

/// Whether the daemon did not answer. What it refuses is an answer.
fn is_daemon_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<bollard::errors::Error>())
        .any(|error| !matches!(error, bollard::errors::Error::DockerResponseServerError { .. }))
}

/// Says it: the container's log is what the caller follows.
fn say(text: &str) {
    eprintln!("{text}");
}

impl Switch {
    async fn open(to: u32) -> Result<Self> {
        let engine = Engine::connect_within(DAEMON_LIMIT).await?;
        let generations = Generations::at(Path::new(paths::GENERATIONS));
        let path = Path::new(paths::SWITCH);
        let present = Journal::read(path)?.filter(|journal| journal.boot_id == boot_id());
        let begun = present.is_some();
        let mut journal = match present {
            Some(journal) => journal,
            None => {
                let from = running_generation().context("no generation runs")?;
                let processes = daemon::running(&engine).await?;
                Journal { from, to, boot_id: boot_id(), way: Way::Forward, processes }
            }
        };
        ensure!(journal.to == to, "a switch to generation {} is not over", journal.to);
        let (from, to) =
            (Running::of(&generations, journal.from)?, Running::of(&generations, journal.to)?);
        let configuration = Configuration::load();
        let changes = configuration.services();
        let checks = user_checks::wanted(&configuration.settings);
        let old = Roster::read(&engine, &from, &changes).await;
        let new = Roster::read(&engine, &to, &changes).await;
        let lost = new.missing.iter().find(|(name, _)| !old.missing.contains_key(*name));
        match lost.map(|(name, why)| format!("{name}: {why}")) {
            Some(reason) if begun => journal.way = Way::Back { reason },
            Some(reason) => anyhow::bail!("{reason}"),
            None => {}
        }
        journal.write(path)?;
        let known_good = generations.get(journal.to)?.status == Status::Good;
        let daemon = from.release.changes_program(&to.release, daemon::NAME);
        let (old, new) = (old.services, new.services);
        Ok(Self { engine, generations, journal, from, to, old, new, known_good, daemon, checks })
    }

    fn steps(&self) -> Vec<Step> {
        steps(&self.old, &self.new)
    }

    async fn forward(&mut self) -> Result<()> {
        let steps = self.steps();
        let untouched = |name: &String| steps.iter().all(|step| step.name != *name);
        let others = self.old.iter().filter(|(name, _)| untouched(name));
        let others = others.map(|(name, service)| (name.clone(), service.clone())).collect();
        let others = watch::ready(&self.engine, others).await?;
        let checks = user_checks::that_hold(&self.engine, &self.checks).await;
        if !self.known_good {
            let generation = self.generations.get(self.journal.to)?;
            self.generations.put(&Generation { status: Status::Trial, ..generation })?;
        }
        self.replace_daemon(&others).await.with_context(|| daemon::NAME)?;
        self.to.publish(&self.generations)?;
        let swap = Swap { engine: &self.engine, generation: self.journal.to };
        let mut replaced = Vec::new();
        for step in &steps {
            let gap_ms = self.forward_one(&swap, step).await?;
            self.note(&step.name, step.act, gap_ms);
            replaced.extend(self.new.get(&step.name).cloned());
        }
        let tried = self.daemon.then_some(self.journal.to);
        let mut watch = Watch::of(&self.engine, replaced, others, checks, tried).await?;
        if !self.known_good {
            say(&format!("watching for {} s", watch.window().as_secs()));
            watch.through(watch.window()).await?;
        }
        watch.last_look().await?;
        let mut trial = Trial::open()?.context("there is no boot loader's environment")?;
        trial.taken(self.journal.to)?;
        if self.daemon { daemon::keep() } else { Ok(()) }
    }

    /// The daemon of the generation that is gone to, and each container found again by it.
    async fn replace_daemon(&mut self, others: &Services) -> Result<()> {
        if !self.daemon {
            let program = self.generations.dir(self.journal.to).join("bin").join(daemon::NAME);
            return Ok(durable::point(Path::new(paths::RUN_DAEMON), &program)?);
        }
        let longest: u64 = self.new.values().map(|new| new.ready_ms() + new.window_ms()).sum();
        let trial = 2 * daemon::LIMIT + Duration::from_millis(longest);
        let gap_ms = daemon::replace(self.journal.to, trial).await?;
        // What was connected to the old one is of no use.
        self.engine = Engine::connect()?;
        daemon::check_found(&self.engine, &self.journal.processes).await?;
        say(&format!("{}: {gap_ms} ms without it, every container found again", daemon::NAME));
        self.note(daemon::NAME, Act::TakeOver, gap_ms);
        watch::until_ready(&self.engine, others, daemon::LIMIT).await
    }

    async fn forward_one(&self, swap: &Swap<'_>, step: &Step) -> Result<u64> {
        let Step { name, act } = step;
        let side = if *act == Act::Stop { &self.old } else { &self.new };
        let service: &Service = side.get(name).context("a step without a service")?;
        let gap_ms = swap.forward(service, *act).await.with_context(|| name.clone())?;
        say(&format!("{name}: {}, {gap_ms} ms without it", act.word()));
        Ok(gap_ms)
    }

    /// Goes back to what ran. Written down first: killed in between, it never goes forward again.
    async fn back(&mut self, reason: &str) -> Result<()> {
        say(&format!("{} is sick, going back: {reason}", self.to.release.version));
        self.journal.way = Way::Back { reason: reason.to_owned() };
        said(self.journal.write(Path::new(paths::SWITCH)));
        if self.daemon {
            daemon::back(self.journal.from).await?;
            self.engine = Engine::connect()?;
        }
        self.from.publish(&self.generations)?;
        let swap = Swap { engine: &self.engine, generation: self.journal.from };
        let mut lost = false;
        for step in self.steps().iter().rev() {
            let was = self.old.get(&step.name);
            if let Err(error) = swap.back(&step.name, was).await {
                lost |= was.is_some_and(|was| was.spec.ros.essential);
                say(&format!("{} does not come back: {error:#}", step.name));
            }
        }
        if let Some(mut trial) = Trial::open()? {
            said(trial.given_up(self.journal.to, self.journal.from, reason));
        }
        if lost {
            say("rebooting into what ran before");
            request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot)?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let installed = self.generations.list()?;
        let running = running_generation().unwrap_or(0);
        said(History::of_machine().settle(&installed, running, &[]));
        Journal::remove(Path::new(paths::SWITCH))?;
        swap::collect(&self.engine).await
    }

    fn is_daemon_well(&self) -> bool {
        !self.daemon || daemon::is_well(self.journal.to).is_ok()
    }

    /// Why it is sick. When the daemon is, what failed because of it is not the reason.
    fn reason(&self, error: &anyhow::Error) -> String {
        match daemon::is_well(self.journal.to) {
            Err(reason) if self.daemon => reason.to_string(),
            _ => format!("{error:#}"),
        }
    }

    /// Adds a step to the receipt. That it cannot be kept changes nothing.
    fn note(&self, name: &str, how: Act, gap_ms: u64) {
        let history = History::of_machine();
        let Some(mut receipt) = history.pending(self.journal.to) else { return };
        add(&mut receipt.services, Served { name: name.to_owned(), how, gap_ms });
        said(history.put(&receipt));
    }
}

/// A service is in a receipt once, with the longest gap: a switch that was cut short finds it replaced already.
fn add(services: &mut Vec<Served>, served: Served) {
    match services.iter_mut().find(|there| there.name == served.name) {
        Some(there) => there.gap_ms = there.gap_ms.max(served.gap_ms),
        None => services.push(served),
    }
}

fn said(outcome: Result<()>) {
    if let Err(error) = outcome {
        say(&format!("{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_gone_says_nothing_about_services() {
        let refused = bollard::errors::Error::DockerResponseServerError {
            status_code: 500,
            message: "no".into(),
        };
        let gone = bollard::errors::Error::IOError {
            err: std::io::Error::from(std::io::ErrorKind::ConnectionRefused),
        };
        assert!(!is_daemon_gone(&anyhow::Error::from(refused).context("start ntp")));
        assert!(is_daemon_gone(&anyhow::Error::from(gone).context("start ntp").context("ntp")));
        assert!(!is_daemon_gone(&anyhow::anyhow!("ended with 1")));
    }

    #[test]
    fn a_service_is_in_a_receipt_once_with_its_longest_gap() {
        let served = |gap_ms| Served { name: "ntp".into(), how: Act::Restart, gap_ms };
        let mut services = vec![];
        for gap_ms in [5, 9, 0] {
            add(&mut services, served(gap_ms));
        }
        assert_eq!(services, [served(9)]);
    }
}

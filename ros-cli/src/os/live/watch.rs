//! The health window: what was replaced is watched closely, what was ready before must stay so.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::daemon;
use super::probe::{self, ended, started};
use super::steps::Services;
use crate::os::user_checks;
use crate::services::container::Service;
use crate::services::engine::Engine;
use crate::services::readiness::{Readiness, judge};

/// How often every service is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// In every how many of these the user's own checks run: they may take what they like.
const CHECKS_EACH: u32 = 5;
/// Failures in a row that make a service sick when its health check does not say.
const RETRIES: u32 = 3;

/// What is watched.
pub struct Watch<'a> {
    engine: &'a Engine,
    /// Those that were replaced, and when their process started.
    replaced: BTreeMap<String, (Service, String)>,
    /// Those that were not, and were ready before.
    others: Services,
    /// The user's own checks.
    checks: Vec<String>,
    /// Generation whose daemon is on trial, if one is.
    tried: Option<u32>,
    failures: Failures,
}

/// Failures in a row, by service.
#[derive(Default)]
struct Failures(BTreeMap<String, u32>);

impl Failures {
    /// Counts what a look at `name` said; an error with the reason when it failed `limit` times in a row.
    fn count(&mut self, name: &str, said: Result<(), String>, limit: u32) -> Result<()> {
        let Err(reason) = said else {
            self.0.remove(name);
            return Ok(());
        };
        let count = self.0.entry(name.to_owned()).or_default();
        *count += 1;
        ensure!(*count < limit, "{name}: {reason}");
        Ok(())
    }
}

impl<'a> Watch<'a> {
    /// Begins to watch `replaced`, which are ready, and `others` and `checks`, which were well before.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn of(
        engine: &'a Engine,
        replaced: Vec<Service>,
        others: Services,
        checks: Vec<String>,
        tried: Option<u32>,
    ) -> Result<Watch<'a>> {
        let mut watched = BTreeMap::new();
        for service in replaced {
            let container = engine.inspect(&service.name).await?.context("it was removed")?;
            watched.insert(service.name.clone(), (service, started(&container)));
        }
        let failures = Failures::default();
        Ok(Self { engine, replaced: watched, others, checks, tried, failures })
    }

    /// The longest window of what was replaced.
    #[must_use]
    pub fn window(&self) -> Duration {
        let longest = self.replaced.values().map(|(service, _)| service.window_ms()).max();
        let services = Duration::from_millis(longest.unwrap_or(0));
        if self.tried.is_some() { services.max(daemon::WINDOW) } else { services }
    }

    /// Watches until the window ends.
    ///
    /// # Errors
    /// Which service is sick, and why; or the daemon does not answer.
    pub async fn through(&mut self, window: Duration) -> Result<()> {
        let end = Instant::now() + window;
        self.failures = Failures::default();
        for looks in (0..).take_while(|_| Instant::now() < end) {
            self.look(looks % CHECKS_EACH == 0).await?;
            sleep(EVERY.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// Looks at everything once more, until each has answered well or is sick.
    ///
    /// # Errors
    /// Which service or check is sick, and why; or the daemon does not answer.
    pub async fn last_look(&mut self) -> Result<()> {
        loop {
            self.look(true).await?;
            if self.failures.0.is_empty() {
                return Ok(());
            }
            sleep(EVERY).await;
        }
    }

    /// Looks at every service, and at the checks: those that failed when they were looked at last, or all.
    async fn look(&mut self, all_checks: bool) -> Result<()> {
        if let Some(generation) = self.tried {
            daemon::is_well(generation)?;
        }
        for (name, (service, since)) in &self.replaced {
            let (said, at_once) = replaced_is_well(self.engine, service, since).await?;
            let stated = service.spec.healthcheck.as_ref().and_then(|check| check.retries);
            let limit = if at_once { 1 } else { stated.unwrap_or(RETRIES).max(1) };
            self.failures.count(name, said, limit)?;
        }
        for (name, service) in &self.others {
            let said = other_is_well(self.engine, service).await?;
            self.failures.count(name, said, RETRIES)?;
        }
        for check in &self.checks {
            if !all_checks && !self.failures.0.contains_key(check) {
                continue;
            }
            let said = user_checks::run(self.engine, check).await;
            self.failures.count(check, said, RETRIES)?;
        }
        Ok(())
    }
}

/// Whether a replaced service is well; and whether there is no doubt about it.
async fn replaced_is_well(
    engine: &Engine,
    service: &Service,
    since: &str,
) -> Result<(Result<(), String>, bool)> {
    let Some(container) = engine.inspect(&service.name).await? else {
        return Ok((Err("its container was removed".into()), true));
    };
    if let Some(reason) = ended(&container) {
        return Ok((Err(reason), true));
    }
    if started(&container) != since {
        let code = engine.last_exit(&service.name, since).await;
        let code = code.map(|code| format!(" with {code}")).unwrap_or_default();
        return Ok((Err(format!("ended{code} and was started again")), true));
    }
    let probed = probe::once(engine, service, &service.name).await;
    Ok((probed.map_err(|error| format!("{error:#}")), false))
}

/// Whether a service that was not replaced is as ready as it was.
async fn other_is_well(engine: &Engine, service: &Service) -> Result<Result<(), String>> {
    let container = engine.inspect(&service.name).await?;
    let state = container.and_then(|container| container.state).unwrap_or_default();
    Ok(match judge(&state, service.spec.ros.oneshot) {
        Readiness::Ready => Ok(()),
        Readiness::NotYet(reason) | Readiness::Sick(reason) => {
            Err(format!("{reason}; it was not replaced, and was ready before"))
        }
    })
}

/// Those of `services` that are ready now.
///
/// # Errors
/// When the daemon does not answer.
pub async fn ready(engine: &Engine, services: Services) -> Result<Services> {
    let mut ready = Services::new();
    for (name, service) in services {
        if other_is_well(engine, &service).await?.is_ok() {
            ready.insert(name, service);
        }
    }
    Ok(ready)
}

/// Waits until each of `services`, which were ready before, is so again.
///
/// # Errors
/// Which one is not within `limit`, and why.
pub async fn until_ready(engine: &Engine, services: &Services, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    for (name, service) in services {
        while let Err(reason) = other_is_well(engine, service).await? {
            ensure!(Instant::now() < end, "{name}: {reason}");
            sleep(EVERY / 5).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_count() {
        let mut failures = Failures::default();
        let mut sick = |ok: bool, limit| {
            let said = if ok { Ok(()) } else { Err("down".into()) };
            failures.count("a", said, limit).err().map(|error| error.to_string())
        };
        for (ok, limit, expected) in [
            (false, 3, None),
            (false, 3, None),
            (true, 3, None),
            (false, 3, None),
            (false, 3, None),
            (false, 3, Some("a: down")),
            (true, 1, None),
            (false, 1, Some("a: down")),
        ] {
            assert_eq!(sick(ok, limit).as_deref(), expected);
        }
    }
}

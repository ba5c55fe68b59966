//! Optional parts of a release, such as the user's engine: a machine has them when its configuration asks for them
//! (`ros service enable docker`).
//!
//! ```text
//!  lock file of the release ─► its optional parts that are asked for among its services ─► lock file of the generation
//! ```
//!
//! So a part comes, and goes, as a change of the OS like any other: planned, fetched, verified, on trial in the running
//! system, and put back when it is sick. Nothing is fetched at boot: what a first configuration asks for comes when all
//! else runs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use ros_api::generation::Status;

use super::automatic::the_way_is_metered;
use super::machine::Machine;
use super::upgrade::{self, How};

/// Parts of the running release that are asked for and not here.
#[must_use]
pub fn missing(machine: &Machine) -> BTreeSet<String> {
    let optional = machine.running.release.optional.keys();
    optional.filter(|name| machine.asked_for.contains(*name)).cloned().collect()
}

/// Whether they are to be fetched without anybody being there: not where they cannot be, failed before, cost, or would come
/// in the way of another change.
#[must_use]
pub fn are_due(machine: &Machine) -> bool {
    let settled = machine.current().is_some_and(|runs| {
        runs.status == Status::Good && machine.default_generation() == Some(runs.number)
    });
    let can = settled && machine.trial().is_none() && machine.check_replaceable().is_ok();
    if missing(machine).is_empty() || !can || the_way_is_metered(&machine.settings.ros.upgrade) {
        return false;
    }
    let Ok(wanted) = machine.as_installed(&machine.running.release) else { return false };
    let failed = machine.installed.iter().any(|generation| {
        matches!(generation.status, Status::Failed { .. })
            && machine.generations.release(generation.number).is_ok_and(|there| there == wanted)
    });
    !failed
}

/// Brings them here and starts them; `automatic` when nobody asked just now.
///
/// # Errors
/// When another generation is to be booted next, they cannot be had, or are sick: the machine is as it was then.
pub async fn bring_in(automatic: bool) -> Result<()> {
    let machine = Machine::read()?;
    let runs = machine.current().context("it is not known what runs here")?;
    if let Some((next, _)) = machine.trial().filter(|(next, _)| *next != runs.number) {
        bail!(
            "generation {next} boots next, on trial: boot it first (`ros reboot`), or call it off (`ros os rollback {}`)",
            runs.version
        );
    }
    let name = runs.image.with_digest(runs.digest).to_string();
    upgrade::upgrade(&name, &How { yes: true, automatic, ..How::default() }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::{machine, release};

    #[test]
    fn what_is_asked_for_and_optional_is_missing() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        machine.running.release.optional = release("v1.0", "b", &[("docker", "d")]).services;
        assert!(missing(&machine).is_empty(), "nobody asks");
        machine.asked_for = BTreeSet::from(["docker".to_owned(), "other".into()]);
        assert_eq!(missing(&machine), BTreeSet::from(["docker".to_owned()]));
        assert!(are_due(&machine));
        let mut another = machine.clone();
        another.env.as_mut().unwrap().set_trial(2);
        assert!(!are_due(&another), "another generation boots next");
        let installed = machine.as_installed(&machine.running.release).unwrap();
        assert!(installed.services.contains_key("docker") && installed.optional.is_empty());
        machine.running.release = installed;
        assert!(missing(&machine).is_empty(), "it is here");
        assert!(!are_due(&machine));
    }
}

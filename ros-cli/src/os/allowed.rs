//! What is refused although it could be done: leaving what is pinned, and going where it failed before. `--force` lifts it.

use anyhow::{Result, bail};
use ros_api::Release;
use ros_api::generation::Status;

use super::history::{History, Receipt, Verdict};
use super::machine::Machine;
use super::upgrade::How;

/// Refuses to leave a pinned version, and to go to one that failed here, unless forced.
///
/// # Errors
/// Says what is in the way and what lifts it.
pub fn check(machine: &Machine, version: &str, how: &How) -> Result<()> {
    if how.force {
        return Ok(());
    }
    let running = machine.version();
    if running != version && machine.pins.versions.contains(running) {
        bail!(
            "this machine is pinned to {running}: `ros os unpin {running}` lets it move, or --force"
        );
    }
    check_failed(machine, version, how)
}

/// Refuses to go back to other images of services than those that are held, unless forced.
///
/// # Errors
/// Says what is in the way and what lifts it.
pub fn check_services(machine: &Machine, release: &Release, how: &How) -> Result<()> {
    let broken = machine.pins.broken_by(release);
    if broken.is_empty() || how.force {
        return Ok(());
    }
    bail!(
        "{} was installed without what is pinned since ({}): `ros os upgrade -i os:{}` goes there with it, --force without it",
        release.version,
        broken.join(", "),
        release.version
    )
}

/// Refuses a version that failed here, unless forced.
///
/// # Errors
/// Says what is in the way and what lifts it.
pub fn check_failed(machine: &Machine, version: &str, how: &How) -> Result<()> {
    match failed_here(machine, version) {
        Some(reason) if !how.force => {
            bail!("{version} failed on this machine before: {reason}: try it again with --force")
        }
        _ => Ok(()),
    }
}

/// Why a version failed here, if it did.
#[must_use]
pub fn failed_here(machine: &Machine, version: &str) -> Option<String> {
    reason_of_failure(machine, version, &History::of_machine().list().unwrap_or_default())
}

/// Why a version failed here. That is remembered when its generation was removed, too. What runs and is good did not fail,
/// whatever became of it with other parts.
fn reason_of_failure(machine: &Machine, version: &str, history: &[Receipt]) -> Option<String> {
    let runs = machine.current();
    if runs.is_some_and(|runs| runs.version == version && runs.status == Status::Good) {
        return None;
    }
    match machine.of_version(version).map(|generation| &generation.status) {
        Some(Status::Failed { reason }) => return Some(reason.clone()),
        Some(_) => return None,
        None => {}
    }
    let last = history.iter().rev().find(|receipt| {
        receipt.to == version && matches!(receipt.verdict, Verdict::Good | Verdict::PutBack { .. })
    })?;
    Some(last.verdict.reason().to_owned()).filter(|reason| !reason.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::history::tests::receipt;
    use crate::os::machine::tests::{machine, release};
    use crate::os::pins::Held;

    fn failed() -> Status {
        Status::Failed { reason: "ntp: ended with 1".into() }
    }

    #[test]
    fn a_pinned_machine_stays_and_a_failed_version_is_refused_unless_forced() {
        let mut machine = machine(&[("v1.0", Status::Good), ("v1.5", failed())]);
        let force = How { force: true, ..How::default() };
        let said = |machine: &Machine, version: &str| {
            check(machine, version, &force).unwrap();
            check(machine, version, &How::default()).map_err(|error| error.to_string()).err()
        };
        assert_eq!(said(&machine, "v1.2"), None);
        let refusal = said(&machine, "v1.5").unwrap();
        assert!(refusal.contains("failed") && refusal.contains("ntp: ended with 1"), "{refusal}");
        machine.pins.versions.insert("v1.2".into());
        assert_eq!(said(&machine, "v1.2"), None, "a pin of another version holds nothing");
        machine.pins.versions.insert("v1.0".into());
        assert!(said(&machine, "v1.2").unwrap().contains("pinned"));
        assert_eq!(said(&machine, "v1.0"), None);
    }

    #[test]
    fn a_failure_is_remembered_without_its_generation() {
        let machine = machine(&[("v1.0", Status::Good)]);
        let mut receipt = Receipt { to: "v1.5".into(), ..receipt(2) };
        let said =
            |receipt: &Receipt| reason_of_failure(&machine, "v1.5", std::slice::from_ref(receipt));
        assert_eq!(said(&receipt), None);
        receipt.verdict = Verdict::PutBack { reason: "ntp".into() };
        assert_eq!(said(&receipt).as_deref(), Some("ntp"));
        receipt.verdict = Verdict::Good;
        assert_eq!(said(&receipt), None);
    }

    #[test]
    fn what_is_held_is_not_left_by_going_back_unless_forced() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        let (old, new) =
            (release("v1.0", "b", &[("ntp", "old")]), release("v1.1", "b", &[("ntp", "new")]));
        let held = Held::of("ntp", &new, &"h/os:v1.1".parse().unwrap()).unwrap();
        machine.pins.services.insert("ntp".into(), held);
        check_services(&machine, &new, &How::default()).unwrap();
        let said = check_services(&machine, &old, &How::default()).unwrap_err().to_string();
        assert!(said.contains("ntp=v1.1") && said.contains("upgrade -i os:v1.0"), "{said}");
        check_services(&machine, &old, &How { force: true, ..How::default() }).unwrap();
    }
}

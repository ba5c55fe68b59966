//! Makes room for an upgrade before anything is fetched, when there is none: older generations go, as few as will do.

use anyhow::Result;
use ros_api::Release;

use super::machine::Machine;
use super::plan::Plan;
use super::{preflight, prune};
use crate::services::engine::Engine;

/// Checks that there is room, and makes it if not. What was read of the machine is read again when something
/// was removed.
///
/// # Errors
/// When there is none even with only those generations that are needed.
pub async fn make(
    machine: Machine,
    plan: &Plan,
    release: &Release,
    engine: &Engine,
) -> Result<Machine> {
    let mut machine = machine;
    let check = |machine: &Machine| preflight::check(plan, release, &machine.generations);
    let most = machine.installed.len();
    for keep in [prune::KEEP, 3, 2].into_iter().filter(|keep| *keep < most) {
        if check(&machine).is_ok() {
            return Ok(machine);
        }
        for gone in prune::prune(&machine, keep, engine).await? {
            eprintln!("removed {} (generation {}) to make room", gone.version, gone.number);
        }
        machine = Machine::read()?;
    }
    check(&machine).map(|()| machine)
}

//! Whether there is room, before anything is fetched.

use anyhow::{Context, Result, bail};
use ros_api::{Generations, Release, paths};

use super::boot_sets::BootSets;
use super::plan::{Plan, size};

/// Refuses an upgrade to `release` for which there is no room.
///
/// # Errors
/// Says where room is short, how much is there and how much is needed.
pub fn check(plan: &Plan, release: &Release, generations: &Generations) -> Result<()> {
    state(plan.state_bytes)?;
    let sets = BootSets::of_machine();
    if sets.verify(&release.boot_set).is_err() {
        sets.check_room(&release.boot_set, generations)?;
    }
    Ok(())
}

/// Refuses what needs more than there is on STATE.
///
/// # Errors
/// Says how much is there and how much is needed.
pub fn state(needed: u64) -> Result<()> {
    let path = paths::STATE;
    let there = rustix::fs::statvfs(path).with_context(|| format!("look at {path}"))?;
    let free = there.f_bavail * there.f_frsize;
    if free < needed {
        bail!(
            "not enough space on {path}: {} free, {} needed: remove images and containers that are not needed",
            size(free),
            size(needed)
        );
    }
    Ok(())
}

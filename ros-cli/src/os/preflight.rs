//! Whether there is room, before anything is fetched.

use anyhow::{Context, Result, bail};
use ros_api::paths;

use super::plan::{Plan, size};

/// Unpacked content is about three times what is fetched, and the blob is there beside it while it is unpacked.
const UNPACKED: u64 = 4;
/// What must be left on STATE.
const RESERVE: u64 = 16 << 20;

/// Refuses an upgrade for which there is no room.
///
/// # Errors
/// Says where room is short, how much is there and how much is needed.
pub fn check(plan: &Plan, boot_set_is_here: bool) -> Result<()> {
    room(paths::STATE, plan.fetch * UNPACKED + RESERVE)?;
    if !boot_set_is_here {
        room(paths::BOOT, plan.boot_bytes)?;
    }
    Ok(())
}

fn room(path: &str, needed: u64) -> Result<()> {
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

//! The switch: which generation the boot loader tries next. One write of its environment block.

use std::path::Path;

use anyhow::{Context, Result};
use ros_api::boot::BootEnv;
use ros_api::generation::Status;
use ros_api::{Generation, Generations, paths};

use super::menu;

/// Puts a generation on trial: it is booted next, three times at most, and what boots now stays the default.
///
/// # Errors
/// When a file cannot be written. Until the last one is, the next boot is the old one.
pub fn to_trial(generations: &Generations, generation: &Generation) -> Result<()> {
    if generation.status != Status::Good {
        generations.put(&Generation { status: Status::Trial, ..generation.clone() })?;
    }
    menu::write(generations)?;
    let path = Path::new(paths::GRUB_ENV);
    let mut env = BootEnv::read(path)?;
    env.set_trial(generation.number);
    env.write(path).context("put the generation on trial")
}

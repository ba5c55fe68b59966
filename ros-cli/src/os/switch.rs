//! The switch: which generation the boot loader tries next. One write of its environment block.

use std::path::Path;

use anyhow::{Context, Result};
use ros_api::boot::BootEnv;
use ros_api::generation::Status;
use ros_api::{Generation, Generations, paths};

use super::menu;

/// Puts a generation on trial: it is booted next, three times at most. What it falls back to is what `runs` now, when
/// that is good, or else what the default was.
///
/// # Errors
/// When a file cannot be written. Until the last one is, the next boot is the old one.
pub fn to_trial(
    generations: &Generations,
    generation: &Generation,
    runs: Option<&Generation>,
) -> Result<()> {
    put_on_trial(generations, generation, |env| try_next(env, generation.number, runs))
}

/// Has a generation be booted once, whatever comes of it; then the default boots again.
///
/// # Errors
/// As [`to_trial`].
pub fn to_try_once(generations: &Generations, generation: &Generation) -> Result<()> {
    put_on_trial(generations, generation, |env| env.set_once(generation.number))
}

fn put_on_trial(
    generations: &Generations,
    generation: &Generation,
    change: impl FnOnce(&mut BootEnv),
) -> Result<()> {
    if generation.status != Status::Good {
        generations.put(&Generation { status: Status::Trial, ..generation.clone() })?;
    }
    let path = Path::new(paths::GRUB_ENV);
    let mut env = BootEnv::read(path)?;
    menu::put(generations, Path::new(paths::GRUB_GENERATIONS), &mut env)?;
    change(&mut env);
    env.write(path).context("put the generation on trial")
}

/// Calls off the trial of generation `tried`, which was not booted yet.
///
/// # Errors
/// When a file cannot be written.
pub fn call_off(generations: &Generations, tried: u32) -> Result<()> {
    let path = Path::new(paths::GRUB_ENV);
    let mut env = BootEnv::read(path)?;
    env.clear_trial();
    env.write(path).context("call the trial off")?;
    let tried = generations.get(tried)?;
    if tried.status == Status::Trial {
        generations.put(&Generation { status: Status::Staged, ..tried })?;
        menu::put(generations, Path::new(paths::GRUB_GENERATIONS), &mut env)?;
        env.write(path).context("write the boot menu")?;
    }
    Ok(())
}

fn try_next(env: &mut BootEnv, number: u32, runs: Option<&Generation>) {
    if let Some(runs) = runs.filter(|runs| runs.status == Status::Good && runs.number != number) {
        env.set_default(runs.number);
    }
    env.set_trial(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn what_runs_and_is_good_comes_back() {
        for (status, default) in [(Status::Good, 1), (Status::Trial, 9)] {
            let machine = machine(&[("v1.0", status), ("v1.1", Status::Staged)]);
            let mut env = BootEnv::default();
            env.set_default(9);
            try_next(&mut env, 2, machine.current());
            assert_eq!((env.default_generation(), env.trial()), (Some(default), Some((2, 3))));
        }
    }
}

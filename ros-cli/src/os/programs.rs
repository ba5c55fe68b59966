//! The programs of a generation, `generations/N/bin/`. One that another generation has is there once: nobody writes to a
//! program that is installed, so generations share it by a hard link.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ros_api::release::PROGRAMS;
use ros_api::{Digest, Generations, Release, durable};

use super::copy::{copy, digest};

/// Fills `bin`, which is made, with the programs of `release` that are in `from`; all of it is on disk then.
///
/// # Errors
/// When one is not what the lock file says, or cannot be written.
pub fn put(generations: &Generations, release: &Release, from: &Path, bin: &Path) -> Result<()> {
    fs::create_dir(bin).with_context(|| format!("create {}", bin.display()))?;
    for name in PROGRAMS {
        let (from, to) = (from.join(name), bin.join(name));
        let expected = release.programs.get(name);
        if expected.is_some_and(|expected| link(generations, name, expected, &to)) {
            continue;
        }
        let found = copy(&from, &to, 0o755)?;
        let expected = *expected.unwrap_or(&found);
        ensure!(
            found == expected,
            "{name} of the release is damaged: expected {expected}, found {found}"
        );
    }
    Ok(durable::sync_parent(&bin.join(PROGRAMS[0]))?)
}

/// Links to the program that an installed generation has, if one has it whole. Copying is as good when it has not.
fn link(generations: &Generations, name: &str, expected: &Digest, to: &Path) -> bool {
    let has_it = |number: u32| -> Option<PathBuf> {
        let release = generations.release(number).ok()?;
        release.programs.get(name).filter(|has| *has == expected)?;
        let path = generations.dir(number).join("bin").join(name);
        let found = digest(&mut File::open(&path).ok()?).ok()?;
        (found == *expected).then_some(path)
    };
    let installed = generations.list().unwrap_or_default();
    let mut there = installed.iter().filter_map(|generation| has_it(generation.number));
    there.any(|path| fs::hard_link(path, to).is_ok())
}

//! The boot menu: one entry for each installed generation, newest first. Written whenever one is added or its
//! status changes; it counts when the boot loader's block is written, in one go with what that says.

use std::path::Path;

use anyhow::{Context, Result};
use ros_api::boot::{self, BootEnv, MenuEntry};
use ros_api::{Generations, paths};

/// Puts the menu of what is installed beside the one at `path` (normally [`ros_api::paths::GRUB_GENERATIONS`]) that
/// counts until `env` is written. A generation whose lock file cannot be read has no entry.
///
/// # Errors
/// When it cannot be written; the old menu counts on then.
pub fn put(generations: &Generations, path: &Path, env: &mut BootEnv) -> Result<()> {
    let text = text(generations)?;
    // Tried on another block: one that could not be written must not be said to count.
    let mut with_menu = env.clone();
    with_menu.put_menu(path, &text).context("write the boot menu")?;
    *env = with_menu;
    Ok(())
}

/// Writes the menu of what is installed on this machine, and lets it count.
///
/// # Errors
/// When it cannot be written; the old menu counts on then.
pub fn update(generations: &Generations) -> Result<()> {
    let block = Path::new(paths::GRUB_ENV);
    let mut env = BootEnv::read(block)?;
    put(generations, Path::new(paths::GRUB_GENERATIONS), &mut env)?;
    env.write(block).context("write the boot menu")
}

fn text(generations: &Generations) -> Result<String> {
    let installed = generations.list()?;
    let with_release = installed
        .iter()
        .rev()
        .filter_map(|generation| Some((generation, generations.release(generation.number).ok()?)));
    let all: Vec<_> = with_release.collect();
    let mut entries = Vec::new();
    for (generation, release) in &all {
        entries.push(MenuEntry {
            number: generation.number,
            version: &generation.version,
            status: generation.status.word(),
            boot_set: &release.boot_set,
            append: &generation.append,
        });
    }
    Ok(boot::menu(&entries))
}

//! The boot menu: one entry for each installed generation, newest first. Written whenever one is added or its
//! status changes.

use std::path::Path;

use anyhow::Result;
use ros_api::boot::{self, MenuEntry};
use ros_api::{Generations, durable};

/// Writes the menu of what is installed to `path`, normally [`ros_api::paths::GRUB_GENERATIONS`]. A generation whose lock file cannot be read has no entry.
///
/// # Errors
/// When it cannot be written; the old menu is whole then.
pub fn write(generations: &Generations, path: &Path) -> Result<()> {
    let text = text(generations)?;
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(durable::write(path, text.as_bytes(), 0o644)?)
}

fn text(generations: &Generations) -> Result<String> {
    let mut text = String::new();
    for generation in generations.list()?.iter().rev() {
        let Ok(release) = generations.release(generation.number) else { continue };
        text += &boot::menu(&[MenuEntry {
            number: generation.number,
            version: &generation.version,
            status: generation.status.word(),
            boot_set: &release.boot_set,
            append: &generation.append,
        }]);
    }
    Ok(text)
}

//! `ros os prune`: removes generations that nobody needs, their boot sets, and images that no other generation has.
//!
//! ```text
//!  N/ ─► .N.gone/ ─► boot menu without it ─► boot sets without it ─► images without it ─► .N.gone/ removed
//! ```
//!
//! Cut anywhere, the next run goes on: a generation is gone with the first rename. Never removed: what runs, what
//! boots, whose daemon runs, what is good or on trial, what is pinned, and the newest, whose number must not come again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bollard::query_parameters::RemoveImageOptionsBuilder;
use ros_api::generation::Pointer;
use ros_api::{Generation, Generations, Release, durable, paths};

use super::boot_sets::BootSets;
use super::machine::Machine;
use super::menu;
use crate::services::engine::Engine;

/// Generations that are kept when nobody says how many.
pub const KEEP: usize = 5;

/// What may go, oldest first, so that `keep` are left: a pure function of what the machine knows.
#[must_use]
pub fn dispensable(machine: &Machine, keep: usize) -> Vec<Generation> {
    let pointed = [Pointer::Current, Pointer::Good].map(|p| machine.generations.pointer(p));
    let mut held: BTreeSet<u32> = pointed.into_iter().flatten().collect();
    held.insert(machine.running.generation);
    held.extend(machine.daemon);
    held.extend(machine.default_generation());
    held.extend(machine.trial().map(|(number, _)| number));
    held.extend(machine.installed.last().map(|newest| newest.number));
    let is_held = |generation: &&Generation| {
        held.contains(&generation.number) || machine.pins.versions.contains(&generation.version)
    };
    let mut surplus = machine.installed.len().saturating_sub(keep.max(1));
    let mut gone = Vec::new();
    for generation in machine.installed.iter().filter(|generation| !is_held(generation)) {
        // A damaged one is of no use to anybody.
        if surplus == 0 && !machine.damaged.contains_key(&generation.number) {
            continue;
        }
        surplus = surplus.saturating_sub(1);
        gone.push(generation.clone());
    }
    gone
}

/// Removes what may go; answers what went.
///
/// # Errors
/// When something cannot be removed; the next run goes on with it.
pub async fn prune(machine: &Machine, keep: usize, engine: &Engine) -> Result<Vec<Generation>> {
    let gone = dispensable(machine, keep);
    let root = Path::new(paths::GENERATIONS);
    let mut images: BTreeSet<String> = BTreeSet::new();
    for generation in &gone {
        if let Ok(release) = machine.generations.release(generation.number) {
            images.extend(names(generation, &release));
        }
    }
    set_aside(&machine.generations, &gone)?;
    menu::update(&machine.generations)?;
    BootSets::of_machine().remove_unused(&machine.generations)?;
    let held = machine.pins.services.values();
    let mut needed: BTreeSet<String> = held.map(|held| held.image.to_string()).collect();
    for generation in machine.generations.list()? {
        if let Ok(release) = machine.generations.release(generation.number) {
            needed.extend(names(&generation, &release));
        }
    }
    for image in images.difference(&needed) {
        let options = RemoveImageOptionsBuilder::default().build();
        if let Err(error) = engine.docker().remove_image(image, Some(options), None).await {
            // A user's container may have it.
            tracing::debug!("{image} stays: {error}");
        }
    }
    remove_gone(root)?;
    Ok(gone)
}

/// From here on they are no generations.
pub fn set_aside(generations: &Generations, gone: &[Generation]) -> Result<()> {
    for generation in gone {
        let dir = generations.dir(generation.number);
        let aside = dir.with_file_name(format!(".{}.gone", generation.number));
        durable::rename(&dir, &aside)?;
    }
    Ok(())
}

/// Every name that a generation's images have here.
fn names(generation: &Generation, release: &Release) -> Vec<String> {
    let own = &generation.image;
    let mut names = vec![own.to_string(), own.with_digest(generation.digest).to_string()];
    let services = release.services.values();
    names.extend(services.map(|service| release.service_reference(own, service).to_string()));
    names
}

fn remove_gone(root: &Path) -> Result<()> {
    let entries = fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".gone")) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ros_api::generation::Status;

    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn what_is_needed_stays_and_the_oldest_go_first() {
        let good = |version| (version, Status::Good);
        let all = ["v1", "v2", "v3", "v4", "v5", "v6", "v7"].map(good);
        let mut machine = machine(&all);
        machine.running.generation = 2;
        if let Some(env) = &mut machine.env {
            env.set_default(4);
            env.set_trial(5);
        }
        machine.pins.versions.insert("v3".into());
        machine.daemon = Some(6);
        for (keep, expected) in
            [(9, vec![]), (7, vec![]), (6, vec![1]), (5, vec![1]), (1, vec![1]), (0, vec![1])]
        {
            let numbers: Vec<u32> =
                dispensable(&machine, keep).iter().map(|generation| generation.number).collect();
            assert_eq!(numbers, expected, "keep {keep}");
        }
        machine.damaged = [1, 4].map(|number| (number, "lost".to_owned())).into();
        let numbers: Vec<u32> = dispensable(&machine, 9).iter().map(|gone| gone.number).collect();
        assert_eq!(numbers, [1], "what boots stays, whatever it is");
    }

    #[test]
    fn what_was_set_aside_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".3.gone", ".4.new", "5"] {
            fs::create_dir_all(dir.path().join(name).join("bin")).unwrap();
        }
        remove_gone(dir.path()).unwrap();
        assert!(!dir.path().join(".3.gone").exists());
        assert!(dir.path().join(".4.new").exists() && dir.path().join("5").exists());
    }
}

//! What a disk is worth after a power cut, looked at from outside, without booting it:
//!
//! - the partition table has its partitions, the boot loader's own sectors are what they were (`table`)
//! - BOOT: its file system holds together, the environment block and the menu are whole (`boot`)
//! - STATE: its journal is replayed as the boot stage does it, and then nothing is left to repair; the store's objects,
//!   layers and images are what their digests say (`state`, `store`)
//! - every generation that can be booted next is whole: menu entry, kernel, initrd, programs, the images of all services
//!
//! The disk itself is not changed.

mod boot;
mod state;
mod store;
pub(super) mod table;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ros_api::generation::Pointer;
use ros_api::{Generation, Generations};

use boot::Boot;
use state::State;
use store::Store;

/// What was found on a whole disk.
pub struct Seen {
    /// Version that boots next.
    pub next: String,
    /// Whether it is on trial.
    pub trial: bool,
    /// Every version that is installed.
    pub installed: Vec<String>,
    /// Bytes of the STATE partition.
    pub state_size: u64,
    state: State,
}

impl Seen {
    /// The content of a file on STATE; none when it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.state.optional(path)
    }
}

/// Looks at the raw disk `disk`; `scratch` is an empty folder. `pristine` is the disk as it was installed.
///
/// # Errors
/// Says what is lost, or which tool could not be run.
pub fn check(disk: &Path, pristine: &Path, scratch: &Path) -> Result<Seen> {
    let table = table::read(disk).context("partition table")?;
    table::same_loader(disk, pristine)?;
    let boot = Boot::read(disk, &table.boot, scratch).context("BOOT")?;
    boot.same_loader(pristine, &scratch.join("pristine")).context("BOOT")?;
    let repaired = boot.repaired(scratch).context("BOOT")?;
    ensure!(boot.env == repaired.env, "BOOT: a repair changes the environment block");
    let state = State::read(disk, &table.state, scratch).context("STATE")?;
    state.documents_are_whole().context("STATE")?;
    let generations = state.generations(&scratch.join("generations")).context("generations")?;
    let store = Store::verify(&state).context("store")?;
    let default = boot.env.default_generation().context("no default generation")?;
    let trial = boot.env.trial().filter(|(_, tries)| *tries > 0).map(|(number, _)| number);
    let pointers = [Pointer::Current, Pointer::Good];
    let mut bootable: BTreeSet<u32> = [Some(default), trial].into_iter().flatten().collect();
    for pointer in pointers {
        let number = generations.pointer(pointer);
        bootable.insert(number.with_context(|| format!("{pointer:?} points nowhere"))?);
    }
    for number in bootable {
        whole(number, &generations, &[&boot, &repaired], &state, &store)
            .with_context(|| format!("generation {number}"))?;
    }
    let next = generations.get(trial.unwrap_or(default))?.version;
    let installed = generations.list()?.into_iter().map(|generation| generation.version).collect();
    Ok(Seen { next, trial: trial.is_some(), installed, state_size: table.state.size, state })
}

/// Whether a generation could be booted.
fn whole(
    number: u32,
    generations: &Generations,
    boots: &[&Boot],
    state: &State,
    store: &Store,
) -> Result<()> {
    let generation = generations.get(number)?;
    let release = generations.release(number)?;
    ensure!(release.boot_set.digest == generation.boot_set, "its boot set is another");
    ensure!(release.version == generation.version, "its version is another");
    for boot in boots {
        boot.has(number, &release.boot_set)?;
    }
    has_programs(&generation, state, store)?;
    for (name, service) in &release.services {
        store.image(&service.digest).with_context(|| format!("service {name}"))?;
    }
    Ok(())
}

/// The programs are those of the release's image.
fn has_programs(generation: &Generation, state: &State, store: &Store) -> Result<()> {
    let image = store.image(&generation.digest).context("its release")?;
    for name in ["ros", "system-docker"] {
        let path = format!("{}/{}/bin/{name}", state::GENERATIONS, generation.number);
        let expected = store.file(image, &format!("ros/bin/{name}"), state)?;
        ensure!(state.read_file(&path)? == expected, "{path} is not what its release has");
    }
    Ok(())
}

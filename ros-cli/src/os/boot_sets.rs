//! The boot sets on the BOOT partition: kernel and initrd, each pair under its own digest, shared by generations.
//!
//! ```text
//!  /boot/sets/<hex>/{vmlinuz,initrd}     counts when a generation has it; whole when both have the right digests
//! ```
//!
//! Made where it is to be: a folder's rename is several writes on FAT, and half of them leave two names for one folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ros_api::release::BootSet;
use ros_api::{Generations, durable, paths};

use super::copy::{copy, digest};
use super::plan::size;

/// What a folder and the unused ends of two files take on FAT, with clusters of up to 32 KiB.
const CLUSTERS: u64 = 4 * (32 << 10);

/// The boot sets.
#[derive(Clone, Debug)]
pub struct BootSets {
    root: PathBuf,
}

impl BootSets {
    /// Those in `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// This machine's.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::at(Path::new(paths::BOOT_SETS))
    }

    fn dir(&self, set: &BootSet) -> PathBuf {
        self.root.join(set.digest.hex())
    }

    /// Whether a boot set is there and what its digests say.
    ///
    /// # Errors
    /// Names the file that is missing or damaged.
    pub fn verify(&self, set: &BootSet) -> Result<()> {
        for (name, expected) in [("vmlinuz", &set.kernel), ("initrd", &set.initrd)] {
            let path = self.dir(set).join(name);
            let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            let found = digest(&mut file).with_context(|| format!("read {}", path.display()))?;
            ensure!(found == *expected, "{} is damaged", path.display());
        }
        Ok(())
    }

    /// Whether a boot set is there, in its size. Nothing is read.
    ///
    /// # Errors
    /// Names the file that is missing or has another size.
    pub fn is_there(&self, set: &BootSet) -> Result<()> {
        for (name, size) in [("vmlinuz", set.kernel_size), ("initrd", set.initrd_size)] {
            let path = self.dir(set).join(name);
            let found = fs::metadata(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(found.len() == size, "{} has another size", path.display());
        }
        Ok(())
    }

    /// Puts the boot set whose files are in `from` there, unless it is there and whole.
    ///
    /// # Errors
    /// When a file is not what its digest says, or there is no room even without what no generation needs.
    pub fn put(&self, set: &BootSet, from: &Path, generations: &Generations) -> Result<()> {
        if self.verify(set).is_ok() {
            return Ok(());
        }
        fs::create_dir_all(&self.root)
            .with_context(|| format!("create {}", self.root.display()))?;
        self.make_room(set, generations)?;
        let dir = self.dir(set);
        remove(&dir)?;
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let filled = fill(&dir, set, from);
        if filled.is_err() {
            // What is no boot set must not take the room of one.
            let _ = remove(&dir);
        }
        filled
    }

    /// Refuses a boot set for which there is no room, even without those that no generation needs.
    ///
    /// # Errors
    /// Says how much there is and how much is needed.
    pub fn check_room(&self, set: &BootSet, generations: &Generations) -> Result<()> {
        let needed = set.kernel_size + set.initrd_size + CLUSTERS;
        let unused = self.unused(generations)?;
        let room = free(&self.root)? + unused.iter().map(|dir| bytes_in(dir)).sum::<u64>();
        if room < needed {
            bail!(
                "not enough space on {}: {} free, {} needed for kernel and initrd",
                paths::BOOT,
                size(room),
                size(needed)
            );
        }
        Ok(())
    }

    fn make_room(&self, set: &BootSet, generations: &Generations) -> Result<()> {
        self.check_room(set, generations)?;
        if free(&self.root)? < set.kernel_size + set.initrd_size + CLUSTERS {
            self.unused(generations)?.iter().try_for_each(|dir| remove(dir))?;
        }
        Ok(())
    }

    /// Removes what no generation needs.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_unused(&self, generations: &Generations) -> Result<()> {
        self.unused(generations)?.iter().try_for_each(|dir| remove(dir))
    }

    /// What no generation needs, what was being made when the power went included.
    fn unused(&self, generations: &Generations) -> Result<Vec<PathBuf>> {
        let needed: BTreeSet<String> =
            generations.list()?.iter().map(|generation| generation.boot_set.hex()).collect();
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", self.root.display()))?,
        };
        let is_unused =
            |entry: &fs::DirEntry| !needed.contains(&*entry.file_name().to_string_lossy());
        Ok(entries.flatten().filter(is_unused).map(|entry| entry.path()).collect())
    }
}

/// Kernel and initrd into `dir`, on disk.
fn fill(dir: &Path, set: &BootSet, from: &Path) -> Result<()> {
    durable::sync_parent(dir)?;
    for (name, expected) in [("vmlinuz", &set.kernel), ("initrd", &set.initrd)] {
        let found = copy(&from.join(name), &dir.join(name), 0o644)?;
        ensure!(
            found == *expected,
            "{name} of the release is damaged: expected {expected}, found {found}"
        );
    }
    durable::sync_parent(&dir.join("vmlinuz"))?;
    durable::sync_parent(dir)?;
    Ok(())
}

/// Bytes free where `path` is, or will be.
fn free(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let there =
        rustix::fs::statvfs(there).with_context(|| format!("look at {}", path.display()))?;
    Ok(there.f_bavail * there.f_frsize)
}

fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    #[test]
    fn no_room_is_said_and_what_nobody_needs_counts_as_room() {
        let dir = tempfile::tempdir().unwrap();
        let (sets, generations) =
            (BootSets::at(dir.path()), Generations::at(&dir.path().join("g")));
        let mut set = release("v1", "b", &[]).boot_set;
        sets.check_room(&set, &generations).unwrap();
        set.kernel_size = u64::MAX >> 1;
        let error = sets.check_room(&set, &generations).unwrap_err().to_string();
        assert!(error.contains("not enough space"), "{error}");
        let old = dir.path().join("old");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("initrd"), "123").unwrap();
        assert_eq!(sets.unused(&generations).unwrap(), std::slice::from_ref(&old));
        assert_eq!(bytes_in(&old), 3);
    }
}

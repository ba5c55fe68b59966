//! The installer that every release carries: runs in a container of the release's own image, and makes a generation of
//! it. A release knows how to install itself; what runs now only starts it.
//!
//! ```text
//!  /ros/boot/{vmlinuz,initrd} ─► /boot/sets/.<hex>.new/ ─ digests right ─► /boot/sets/<hex>/
//!  /ros/{bin,release.yml}     ─► generations/.N.new/ ───── on disk ──────► generations/N/   (staged)
//!                                                                          /boot/grub/generations.cfg
//! ```
//!
//! Each arrow to the right is a rename of what is wholly on disk. Cut anywhere, the next try begins anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ros_api::generation::Status;
use ros_api::release::BootSet;
use ros_api::{Digest, Generation, Generations, Reference, Release, durable, paths};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::asked::now;
use super::menu;

/// What is to be installed.
#[derive(clap::Args, Debug, Clone)]
pub struct Order {
    /// Name that the release was fetched by
    #[arg(long)]
    pub image: Reference,
    /// Digest of its manifest
    #[arg(long)]
    pub digest: Digest,
    /// Kernel arguments to add
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub append: String,
}

/// What the installer prints last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The generation.
    pub generation: u32,
}

/// Where the installer finds and puts things.
struct Places {
    release: PathBuf,
    sets: PathBuf,
    generations: Generations,
}

/// Installs the release whose image this runs in.
///
/// # Errors
/// When a file is not what the lock file says, or cannot be written; nothing that boots has changed then.
pub fn install(order: &Order) -> Result<Installed> {
    let places = Places {
        release: paths::RELEASE_DIR.into(),
        sets: paths::BOOT_SETS.into(),
        generations: Generations::at(Path::new(paths::GENERATIONS)),
    };
    let installed = places.install(order)?;
    menu::write(&places.generations).context("write the boot menu")?;
    Ok(installed)
}

impl Places {
    fn install(&self, order: &Order) -> Result<Installed> {
        let path = self.release.join("release.yml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let release = Release::parse(&text)?;
        self.put_boot_set(&release.boot_set)?;
        let installed = self.generations.list()?;
        let same = |generation: &&Generation| {
            generation.digest == order.digest && generation.append == order.append
        };
        if let Some(generation) = installed.iter().rev().find(same) {
            return Ok(Installed { generation: generation.number });
        }
        self.put_generation(order, &release).map(|generation| Installed { generation })
    }

    fn put_generation(&self, order: &Order, release: &Release) -> Result<u32> {
        let number = self.generations.next_number()?;
        let dir = self.generations.begin(number)?;
        let bin = dir.join("bin");
        fs::create_dir(&bin).with_context(|| format!("create {}", bin.display()))?;
        for name in ["ros", "system-docker"] {
            copy(&self.release.join("bin").join(name), &bin.join(name), 0o755)?;
        }
        copy(&self.release.join("release.yml"), &dir.join("release.yml"), 0o644)?;
        durable::sync_parent(&bin.join("ros"))?;
        self.generations.commit(&Generation {
            number,
            version: release.version.clone(),
            image: order.image.clone(),
            digest: order.digest,
            boot_set: release.boot_set.digest,
            created: now(),
            append: order.append.clone(),
            status: Status::Staged,
        })?;
        Ok(number)
    }

    /// Puts kernel and initrd on the BOOT partition, unless they are there and whole.
    fn put_boot_set(&self, set: &BootSet) -> Result<()> {
        let dir = self.sets.join(set.digest.hex());
        if verify(&dir, set).is_ok() {
            return Ok(());
        }
        fs::create_dir_all(&self.sets)
            .with_context(|| format!("create {}", self.sets.display()))?;
        self.make_room(set)?;
        let building = self.sets.join(format!(".{}.new", set.digest.short()));
        for old in [&building, &dir] {
            remove(old)?;
        }
        fs::create_dir(&building).with_context(|| format!("create {}", building.display()))?;
        for (name, expected) in [("vmlinuz", &set.kernel), ("initrd", &set.initrd)] {
            let found = copy(&self.release.join("boot").join(name), &building.join(name), 0o644)?;
            ensure!(
                found == *expected,
                "{name} of the release is damaged: expected {expected}, found {found}"
            );
        }
        durable::sync_parent(&building.join("vmlinuz"))?;
        durable::rename(&building, &dir)?;
        Ok(())
    }

    /// Removes boot sets that no generation needs, when there is no room for one more.
    fn make_room(&self, set: &BootSet) -> Result<()> {
        let needed = set.kernel_size + set.initrd_size;
        if free(&self.sets)? >= needed {
            return Ok(());
        }
        let wanted: BTreeSet<String> =
            self.generations.list()?.iter().map(|generation| generation.boot_set.hex()).collect();
        for entry in fs::read_dir(&self.sets)
            .with_context(|| format!("read {}", self.sets.display()))?
            .flatten()
        {
            if !wanted.contains(&*entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
        let free = free(&self.sets)?;
        if free < needed {
            bail!("not enough space on {}: {free} bytes free, {needed} needed", paths::BOOT);
        }
        Ok(())
    }
}

fn free(path: &Path) -> Result<u64> {
    let there = rustix::fs::statvfs(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(there.f_bavail * there.f_frsize)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn verify(dir: &Path, set: &BootSet) -> Result<()> {
    for (name, expected) in [("vmlinuz", &set.kernel), ("initrd", &set.initrd)] {
        let path = dir.join(name);
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let found =
            pass(&mut file, &mut io::sink()).with_context(|| format!("read {}", path.display()))?;
        ensure!(found == *expected, "{} is damaged", path.display());
    }
    Ok(())
}

/// Copies a file so that it is on disk; answers its digest.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<Digest> {
    let mut source = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let mut target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let digest =
        pass(&mut source, &mut target).with_context(|| format!("write {}", to.display()))?;
    // FAT has no modes: it refuses some, and keeps none.
    let _ = target.set_permissions(fs::Permissions::from_mode(mode));
    target.sync_all().with_context(|| format!("fsync {}", to.display()))?;
    Ok(digest)
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    fn places(dir: &Path) -> Places {
        let source = dir.join("ros");
        fs::create_dir_all(source.join("boot")).unwrap();
        fs::create_dir_all(source.join("bin")).unwrap();
        for name in ["boot/vmlinuz", "boot/initrd", "bin/ros", "bin/system-docker"] {
            fs::write(source.join(name), "b").unwrap();
        }
        fs::write(source.join("release.yml"), release("v2", "b", &[]).to_yaml()).unwrap();
        Places {
            release: source,
            sets: dir.join("sets"),
            generations: Generations::at(&dir.join("generations")),
        }
    }

    fn order() -> Order {
        Order {
            image: "h:1/os:v2".parse().unwrap(),
            digest: Digest::of(b"m"),
            append: String::new(),
        }
    }

    #[test]
    fn a_release_becomes_a_generation_once() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        assert_eq!(places.install(&order()).unwrap().generation, 1);
        assert_eq!(places.install(&order()).unwrap().generation, 1);
        let other = Order { append: "a=b".into(), ..order() };
        assert_eq!(
            places.install(&other).unwrap().generation,
            2,
            "other kernel arguments, another generation"
        );
        let set = places.sets.join(Digest::of(b"b").hex());
        assert_eq!(fs::read(set.join("vmlinuz")).unwrap(), b"b");
        assert_eq!(places.generations.get(1).unwrap().status, Status::Staged);
    }

    #[test]
    fn a_damaged_kernel_is_refused_and_a_torn_boot_set_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::write(places.release.join("boot/initrd"), "x").unwrap();
        assert!(
            places
                .install(&order())
                .unwrap_err()
                .to_string()
                .contains("initrd of the release is damaged")
        );
        assert!(places.generations.list().unwrap().is_empty());
        fs::write(places.release.join("boot/initrd"), "b").unwrap();
        let set = places.sets.join(Digest::of(b"b").hex());
        fs::create_dir_all(&set).unwrap();
        fs::write(set.join("vmlinuz"), "torn").unwrap();
        places.install(&order()).unwrap();
        assert_eq!(fs::read(set.join("vmlinuz")).unwrap(), b"b");
    }
}

//! The installer that every release carries: runs in a container of the release's own image, and makes a generation of
//! it. A release knows how to install itself; what runs now only starts it.
//!
//! ```text
//!  /ros/boot/{vmlinuz,initrd} ─► /boot/sets/<hex>/ ─ on disk, digests right ─┐
//!  /ros/{bin,release.yml}     ─► generations/.N.new/ ── on disk, renamed ────► generations/N/   (staged)
//!                                                                              the other boot menu, then grubenv
//! ```
//!
//! A boot set counts when a generation has it, a generation when it has its number. Cut anywhere, the next try begins anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::generation::Status;
use ros_api::{Digest, Generation, Generations, Reference, Release, paths};
use serde::{Deserialize, Serialize};

use super::asked::now;
use super::boot_sets::BootSets;
use super::config_check;
use super::copy::copy;
use super::{menu, programs, verify};

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
    sets: BootSets,
    generations: Generations,
}

/// Installs the release whose image this runs in.
///
/// # Errors
/// When a file is not what the lock file says, or cannot be written; nothing that boots has changed then.
pub fn install(order: &Order) -> Result<Installed> {
    let places = Places {
        release: paths::RELEASE_DIR.into(),
        sets: BootSets::of_machine(),
        generations: Generations::at(Path::new(paths::GENERATIONS)),
    };
    config_check::refuse(&places.lock()?)?;
    let installed = places.install(order)?;
    menu::update(&places.generations)?;
    Ok(installed)
}

impl Places {
    fn lock(&self) -> Result<Release> {
        let path = self.release.join("release.yml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Release::parse(&text)?)
    }

    fn install(&self, order: &Order) -> Result<Installed> {
        let release = self.lock()?;
        self.sets.put(&release.boot_set, &self.release.join("boot"), &self.generations)?;
        let installed = self.generations.list()?;
        let same = |generation: &&Generation| {
            generation.digest == order.digest
                && generation.append == order.append
                && self.is_whole(generation.number)
        };
        if let Some(generation) = installed.iter().rev().find(same) {
            return Ok(Installed { generation: generation.number });
        }
        self.put_generation(order, &release).map(|generation| Installed { generation })
    }

    /// Whether nothing of an installed generation is lost or changed; otherwise it is installed anew.
    fn is_whole(&self, number: u32) -> bool {
        let dir = self.generations.dir(number);
        let release = self.generations.usable(number);
        release.is_ok_and(|release| verify::programs(&dir, &release).is_empty())
    }

    fn put_generation(&self, order: &Order, release: &Release) -> Result<u32> {
        let number = self.generations.next_number()?;
        let dir = self.generations.begin(number)?;
        copy(&self.release.join("release.yml"), &dir.join("release.yml"), 0o644)?;
        let (from, bin) = (self.release.join("bin"), dir.join("bin"));
        programs::put(&self.generations, release, &from, &bin)?;
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::os::machine::tests::release;

    #[test]
    fn a_program_that_was_changed_here_is_shared_with_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        places.install(&order()).unwrap();
        fs::write(places.generations.dir(1).join("bin/ros"), "changed").unwrap();
        places.install(&Order { append: "a=b".into(), ..order() }).unwrap();
        assert_eq!(fs::read(places.generations.dir(2).join("bin/ros")).unwrap(), b"b");
    }

    fn places(dir: &Path) -> Places {
        let source = dir.join("ros");
        fs::create_dir_all(source.join("boot")).unwrap();
        fs::create_dir_all(source.join("bin")).unwrap();
        for name in ["boot/vmlinuz", "boot/initrd", "bin/ros", "bin/system-docker"] {
            fs::write(source.join(name), "b").unwrap();
        }
        let mut release = release("v2", "b", &[]);
        release.programs.insert("ros".into(), Digest::of(b"b"));
        fs::write(source.join("release.yml"), release.to_yaml()).unwrap();
        Places {
            release: source,
            sets: BootSets::at(&dir.join("sets")),
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
        let program = |number: u32, name: &str| {
            let path = places.generations.dir(number).join("bin").join(name);
            fs::metadata(path).unwrap().ino()
        };
        assert_eq!(program(1, "ros"), program(2, "ros"), "what is the same is there once");
        // Of this one the lock file does not say what it is.
        assert_ne!(program(1, "system-docker"), program(2, "system-docker"));
        let set = dir.path().join("sets").join(Digest::of(b"b").hex());
        assert_eq!(fs::read(set.join("vmlinuz")).unwrap(), b"b");
        assert_eq!(places.generations.get(1).unwrap().status, Status::Staged);
    }

    #[test]
    fn a_damaged_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::write(places.release.join("bin/ros"), "x").unwrap();
        let error = places.install(&order()).unwrap_err().to_string();
        assert!(error.contains("ros of the release is damaged"), "{error}");
        assert!(places.generations.list().unwrap().is_empty());
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
        let set = dir.path().join("sets").join(Digest::of(b"b").hex());
        assert!(!set.exists(), "what was copied of it is gone again");
        fs::create_dir_all(&set).unwrap();
        fs::write(set.join("vmlinuz"), "torn").unwrap();
        places.install(&order()).unwrap();
        assert_eq!(fs::read(set.join("vmlinuz")).unwrap(), b"b");
    }
}

//! Generations: the releases installed on this machine.
//!
//! ```text
//! /var/lib/ros/generations/
//!   1/ generation.json  release.yml  bin/{ros,system-docker}  conf/ (snapshot of the configuration)
//!   2/ …
//!   current → 1    what the machine runs, or goes to at the next boot that is not a trial
//!   good    → 1    the newest that ran and was healthy
//! ```
//!
//! A generation's folder is complete before it gets its number (built as `.N.new`, then renamed).
//! Pointers are symbolic links, switched by rename.
//!
//! ```text
//!   staged ──► trial ──► good
//!      ▲         └─────► failed(reason) ──(--force)──► trial
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, named};
use crate::release::PROGRAMS;
use crate::{Digest, Reference, Release};

/// What is known of a generation's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Status {
    /// Installed, never booted.
    Staged,
    /// Being tried: the next boots may still put it back.
    Trial,
    /// Ran and reported success.
    Good,
    /// Ran, and did not report success.
    Failed {
        /// What is known of why, for people.
        reason: String,
    },
}

impl Status {
    /// The one word that lists show.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Trial => "trial",
            Self::Good => "good",
            Self::Failed { .. } => "failed",
        }
    }
}

/// `generation.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// From 1 up; never reused.
    pub number: u32,
    /// The release's version (`v1.2`).
    pub version: String,
    /// The name it was installed by.
    pub image: Reference,
    /// Manifest digest of the release image.
    pub digest: Digest,
    /// Boot set it boots with.
    pub boot_set: Digest,
    /// Seconds since the epoch.
    pub created: u64,
    /// Kernel arguments the user added (`--append`).
    #[serde(default)]
    pub append: String,
    /// Health.
    pub status: Status,
}

/// The generations folder.
#[derive(Clone, Debug)]
pub struct Generations {
    root: PathBuf,
}

/// The two pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// What the machine runs.
    Current,
    /// What it goes back to.
    Good,
}

impl Pointer {
    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Good => "good",
        }
    }
}

impl Generations {
    /// The folder at `root`, normally [`crate::paths::GENERATIONS`].
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Folder of generation `number`.
    #[must_use]
    pub fn dir(&self, number: u32) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// All that can be read, by number. An unreadable one is skipped: it must not hide the others.
    ///
    /// # Errors
    /// When the folder itself cannot be read; a folder that is not there is an empty list.
    pub fn list(&self) -> io::Result<Vec<Generation>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| named("read", &self.root, &e))?,
        };
        let mut all: Vec<Generation> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|number| self.get(number).ok())
            .collect();
        all.sort_by_key(|generation| generation.number);
        Ok(all)
    }

    /// Generation `number`.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn get(&self, number: u32) -> io::Result<Generation> {
        let path = self.dir(number).join("generation.json");
        let text = fs::read(&path).map_err(|e| named("read", &path, &e))?;
        serde_json::from_slice(&text).map_err(|e| named("parse", &path, &io::Error::from(e)))
    }

    /// The lock file of generation `number`.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn release(&self, number: u32) -> io::Result<Release> {
        let path = self.dir(number).join("release.yml");
        let text = fs::read_to_string(&path).map_err(|e| named("read", &path, &e))?;
        Release::parse(&text).map_err(|e| named("parse", &path, &io::Error::other(e)))
    }

    /// The lock file of a generation whose programs are there. What a damaged disk took is seen by what it left: that a
    /// file is another is for [`Release::programs`] to say.
    ///
    /// # Errors
    /// When something is missing, empty or no lock file.
    pub fn usable(&self, number: u32) -> io::Result<Release> {
        let release = self.release(number)?;
        for program in PROGRAMS {
            let path = self.dir(number).join("bin").join(program);
            let there = fs::metadata(&path).map_err(|e| named("read", &path, &e))?;
            if !there.is_file() || there.len() == 0 {
                return Err(io::Error::other(format!("{} is empty", path.display())));
            }
        }
        Ok(release)
    }

    /// Rewrites `generation.json`, durably.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn put(&self, generation: &Generation) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(generation)?;
        durable::write(&self.dir(generation.number).join("generation.json"), &text, 0o644)
    }

    /// One more than the highest number ever seen here, unreadable and half-made ones included.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn next_number(&self) -> io::Result<u32> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(1),
            other => other.map_err(|e| named("read", &self.root, &e))?,
        };
        let highest = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        Ok(highest + 1)
    }

    /// A generation under construction: an empty folder `.N.new`; fill it, then [`Self::commit`] it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, number: u32) -> io::Result<PathBuf> {
        let dir = self.root.join(format!(".{number}.new"));
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named("remove", &dir, &e)),
            _ => {}
        }
        fs::create_dir_all(&dir).map_err(|e| named("create", &dir, &e))?;
        Ok(dir)
    }

    /// Gives the folder from [`Self::begin`] its number. `generation.json` is written here; every other
    /// file in it must already be on disk (fsynced).
    ///
    /// # Errors
    /// When it cannot be written or renamed; the generation does not exist then.
    pub fn commit(&self, generation: &Generation) -> io::Result<()> {
        let building = self.root.join(format!(".{}.new", generation.number));
        let text = serde_json::to_vec_pretty(generation)?;
        durable::write(&building.join("generation.json"), &text, 0o644)?;
        durable::rename(&building, &self.dir(generation.number))
    }

    /// Where a pointer points.
    #[must_use]
    pub fn pointer(&self, pointer: Pointer) -> Option<u32> {
        let target = fs::read_link(self.root.join(pointer.name())).ok()?;
        target.to_str()?.parse().ok()
    }

    /// Switches a pointer, by rename.
    ///
    /// # Errors
    /// When it cannot be renamed; it is unchanged then.
    pub fn point(&self, pointer: Pointer, number: u32) -> io::Result<()> {
        durable::point(&self.root.join(pointer.name()), Path::new(&number.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u32) -> Generation {
        Generation {
            number,
            version: "v1.0".into(),
            image: "os:v1.0".parse().unwrap(),
            digest: Digest::of(b"m"),
            boot_set: Digest::of(b"b"),
            created: 0,
            append: String::new(),
            status: Status::Staged,
        }
    }

    #[test]
    fn a_generation_appears_whole_and_one_bad_one_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let all = Generations::at(dir.path());
        assert_eq!(all.next_number().unwrap(), 1);
        all.begin(1).unwrap();
        assert!(all.list().unwrap().is_empty(), "not there before it is committed");
        all.commit(&generation(1)).unwrap();
        fs::create_dir(dir.path().join("2")).unwrap();
        assert_eq!(all.list().unwrap(), [generation(1)]);
        assert_eq!(all.next_number().unwrap(), 3, "an unreadable number is not used again");
        all.point(Pointer::Good, 1).unwrap();
        assert_eq!(all.pointer(Pointer::Good), Some(1));
        assert_eq!(all.pointer(Pointer::Current), None);
    }
}

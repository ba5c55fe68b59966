//! What was applied: the merged configuration as this boot took it over, and a change that is on trial.
//!
//! ```text
//!  /run/ros/applied.json                        the merged configuration, secrets included: root's
//!  /var/lib/ros/conf/cloud-config.yml.good      this machine's own file as it was applied last
//!  /var/lib/ros/generations/N/cloud-config.yml  the same as it was when generation N was last healthy
//!  /var/lib/ros/conf/confirm.json               {"boot": …, "deadline_ms": …} while a change is on trial
//!  /run/ros/apply.lock                          held while something is applied, there and back
//!
//!  apply --confirm ─► trial ─┬─ confirm in time ─► good := own file
//!                            ├─ deadline ────────► own file := good, applied again
//!                            └─ reboot ──────────► own file := good, before services read it
//! ```
//!
//! Whoever removes `confirm.json` decides: the file is there for one of them only.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cloud_config::{Layer, Node, document, edit, layers};
use ros_api::{Generations, durable, paths};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::clock::uptime_ms;

/// The merged configuration as it was applied.
const SNAPSHOT: &str = "/run/ros/applied.json";

/// Held while something is applied.
const LOCK: &str = "/run/ros/apply.lock";

/// Waits until nobody applies anything. What goes back must not meet a change that is still being applied: the service that
/// both restart would be left to chance, and what counts as applied too.
///
/// # Errors
/// When there is no such lock.
pub fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("open {LOCK}: are you root?"))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {LOCK}"))?;
    Ok(file)
}

/// The same, but `limit` at most; none then, or where there is no such lock. An application that hangs must not keep a machine
/// that is cut off from going back.
#[must_use]
pub fn lock_within(limit: Duration) -> Option<File> {
    locked_within(Path::new(LOCK), limit)
}

/// The lock `path`; none when somebody has it longer than `limit`.
#[must_use]
pub fn locked_within(path: &Path, limit: Duration) -> Option<File> {
    let file = File::create(path).ok()?;
    let end = Instant::now() + limit;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > end {
            return None;
        }
        sleep(Duration::from_millis(200));
    }
    Some(file)
}

/// Keeps what was applied.
///
/// # Errors
/// When it cannot be written.
pub fn remember(tree: &Node) -> Result<()> {
    let text = serde_json::to_vec(&tree.to_json()).context("encode the configuration")?;
    Ok(durable::write(Path::new(SNAPSHOT), &text, 0o600)?)
}

/// What was applied last in this boot.
#[must_use]
pub fn last() -> Option<Node> {
    let text = fs::read_to_string(SNAPSHOT).ok()?;
    document::parse(&text, Layer::User, SNAPSHOT).ok()
}

/// The file that generation `number` was healthy with.
#[must_use]
pub fn of_generation(number: u32) -> PathBuf {
    Generations::at(Path::new(paths::GENERATIONS)).dir(number).join("cloud-config.yml")
}

/// Keeps the good file with the generation that runs: whoever goes back to that can go back to this.
///
/// # Errors
/// When it cannot be read or written.
pub fn keep_with_generation(number: u32) -> Result<()> {
    keep(&layers::good(Path::new(paths::CLOUD_CONFIG)), &of_generation(number))
}

fn keep(good: &Path, kept: &Path) -> Result<()> {
    let text = edit::read(good).with_context(|| format!("read {}", good.display()))?;
    if kept.parent().is_some_and(Path::is_dir) && edit::read(kept)? != text {
        durable::write(kept, text.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// A change on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Boot that it was begun in.
    pub boot: String,
    /// When it ends, in milliseconds since the kernel started.
    pub deadline_ms: u64,
}

/// Where a trial and the files that it is about are; injectable.
#[derive(Clone, Debug)]
pub struct Trials {
    user: PathBuf,
    file: PathBuf,
}

impl Trials {
    /// Those of this machine.
    #[must_use]
    pub fn machine() -> Self {
        Self::at(Path::new(paths::CLOUD_CONFIG))
    }

    fn at(user: &Path) -> Self {
        Self { user: user.to_owned(), file: user.with_file_name("confirm.json") }
    }

    /// Begins one that ends in `seconds`.
    ///
    /// # Errors
    /// When nothing good was kept to go back to, or it cannot be written down.
    pub fn begin(&self, seconds: u64) -> Result<()> {
        let good = layers::good(&self.user);
        if !good.exists() {
            // A machine whose own file was empty so far goes back to an empty one.
            durable::write(&good, b"#cloud-config\n", 0o600)?;
        }
        let trial = Trial { boot: boot_id(), deadline_ms: uptime_ms() + seconds * 1000 };
        Ok(durable::write(&self.file, &serde_json::to_vec(&trial)?, 0o600)?)
    }

    /// The one that goes on.
    #[must_use]
    pub fn current(&self) -> Option<Trial> {
        serde_json::from_slice(&fs::read(&self.file).ok()?).ok()
    }

    /// Ends it; answers whether there was one, to one caller only.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn end(&self) -> io::Result<bool> {
        match fs::remove_file(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(durable::named("remove", &self.file, &e)),
            Ok(()) => Ok(true),
        }
    }

    /// Puts the good file back.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn go_back(&self) -> Result<()> {
        let good = layers::good(&self.user);
        let text = fs::read(&good).with_context(|| format!("read {}", good.display()))?;
        Ok(durable::write(&self.user, &text, 0o600)?)
    }

    /// At boot: a trial that a boot cut off goes back. Answers whether it did.
    ///
    /// # Errors
    /// When it cannot go back.
    pub fn go_back_from_earlier_boot(&self) -> Result<bool> {
        let cut_off =
            self.file.exists() && self.current().is_none_or(|trial| trial.boot != boot_id());
        if !cut_off || !self.end()? {
            return Ok(false);
        }
        self.go_back()?;
        Ok(true)
    }
}

/// random(4): made anew at each boot.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_good_file_is_kept_with_a_generation_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (good, kept) = (dir.path().join("good"), dir.path().join("1/cloud-config.yml"));
        fs::write(&good, "hostname: a\n").unwrap();
        keep(&good, &kept).unwrap();
        assert!(!kept.exists(), "there is no such generation");
        fs::create_dir(dir.path().join("1")).unwrap();
        keep(&good, &kept).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "hostname: a\n");
    }

    #[test]
    fn a_trial_ends_once_and_a_boot_that_cuts_it_off_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("cloud-config.yml");
        let trials = Trials::at(&user);
        fs::write(&user, "hostname: good\n").unwrap();
        layers::remember_good(&user).unwrap();
        fs::write(&user, "hostname: tried\n").unwrap();
        trials.begin(60).unwrap();
        assert!(trials.current().is_some_and(|trial| trial.deadline_ms >= 60_000));
        assert!(!trials.go_back_from_earlier_boot().unwrap(), "it is this boot's");
        assert!(trials.end().unwrap() && !trials.end().unwrap());

        let earlier = Trial { boot: "other".into(), deadline_ms: 1 };
        fs::write(&trials.file, serde_json::to_vec(&earlier).unwrap()).unwrap();
        assert!(trials.go_back_from_earlier_boot().unwrap());
        assert_eq!(fs::read_to_string(&user).unwrap(), "hostname: good\n");
        assert!(!trials.go_back_from_earlier_boot().unwrap());
        fs::write(&trials.file, "torn").unwrap();
        assert!(trials.go_back_from_earlier_boot().unwrap(), "a torn file is no reason to stay");
    }
}

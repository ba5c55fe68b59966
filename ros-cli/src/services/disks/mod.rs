//! `disk_setup` and `fs_setup`: partition tables, then file systems, on disks that are for data. It is done on the host,
//! before `mounts`, at every boot: what is there already stays as it is, so that doing it again changes nothing.
//!
//! ```text
//!  disk_setup    blank? ─ yes ─► table (GPT)         overwrite, and not yet for this instance? ─► the same as blank
//!     │            └─ no ──► left as it is           mounted, swapped to, part of something? ──► an error, always
//!  fs_setup      the same for each file system
//! ```
//!
//! Blank is what begins and ends with a MiB of zeros. `overwrite` counts once for each instance and wording; that is
//! written down before anything is.

pub mod blank;
mod filesystem;
mod partition;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cloud_config::Settings;
use cloud_config::instance::instance_id;
use ros_api::{Digest, durable, paths};

use self::blank::Device;

/// Makes what is not there yet; what went wrong is answered, and the rest is done all the same.
#[must_use]
pub fn apply(settings: &Settings) -> Vec<String> {
    let once = Once::of_machine();
    let mut wrong = Vec::new();
    for (name, wanted) in &settings.disk_setup {
        let device = settings.device(name);
        let outcome = partition::apply(&device, wanted, &once);
        wrong.extend(outcome.err().map(|error| format!("disk_setup: {device}: {error:#}")));
    }
    for wanted in &settings.fs_setup {
        let device = settings.device(&wanted.device);
        let outcome = filesystem::apply(&device, wanted, &once);
        wrong.extend(outcome.err().map(|error| format!("fs_setup: {device}: {error:#}")));
    }
    wrong
}

/// Whether a device may be written to: it is blank, or may be overwritten, this once. In use is an error.
fn may_write(device: &Device, overwrite: bool, what: &str, once: &Once) -> Result<bool> {
    let blank = device.is_blank()?;
    if !blank && (!overwrite || once.was(what)) {
        return Ok(false);
    }
    let user = device.user()?;
    ensure!(user.is_none(), "it is in use: {}", user.unwrap_or_default());
    if !blank {
        once.remember(what)?;
    }
    Ok(true)
}

/// What was overwritten, each once for each instance.
struct Once {
    dir: std::path::PathBuf,
    instance: String,
}

impl Once {
    fn of_machine() -> Self {
        let instance = instance_id(Path::new(paths::INSTANCE)).unwrap_or_else(|| "none".into());
        // Not with the instance: its folder is the datasource's, and emptied for another one.
        Self { dir: Path::new(paths::ROS).join("overwritten"), instance }
    }

    fn file(&self, what: &str) -> std::path::PathBuf {
        self.dir.join(Digest::of(format!("{} {what}", self.instance).as_bytes()).short())
    }

    fn was(&self, what: &str) -> bool {
        self.file(what).exists()
    }

    fn remember(&self, what: &str) -> Result<()> {
        let dir = &self.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(durable::write(&self.file(what), what.as_bytes(), 0o600)?)
    }
}

/// A program of the host: the initrd has `mke2fs` and busybox.
fn run(words: &[&str]) -> Result<()> {
    let busybox = Path::new("/bin/busybox").exists() && !Path::new(words[0]).is_absolute();
    let mut command = std::process::Command::new(if busybox { "/bin/busybox" } else { words[0] });
    command.args(&words[usize::from(!busybox)..]);
    let ended = command.output().with_context(|| format!("run {}", words[0]))?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {}", words[0], why.trim());
    Ok(())
}

//! Scripts by how often they run: those of user data (MIME types `text/x-shellscript-per-boot`, `-per-once`,
//! `-per-instance`), and those that a file in cloud-init's own folders is (`/var/lib/cloud/scripts/per-boot/…`).
//!
//! ```text
//!  per-once      once on this machine: its digest is kept in /var/lib/ros/once
//!  per-boot      once in each boot, however often the console starts: a stamp in /run
//!  per-instance  with runcmd, see `run`
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cloud_config::instance::{script_command, scripts};
use cloud_config::userdata::Frequency;
use ros_api::{Digest, paths};

use super::files;

/// Where programs that know cloud-init put scripts.
const OWN: &str = "/var/lib/cloud/scripts";
/// What ran once on this machine.
const ONCE: &str = "/var/lib/ros/once";
/// That the scripts of this boot ran.
const BOOT: &str = "/run/ros/scripts-per-boot";

/// Where scripts are copied to, to be run.
const RUN: &str = "/run";

/// Where all of it is; injectable.
#[derive(Clone, Debug)]
pub struct Places {
    instance: PathBuf,
    own: PathBuf,
    once: PathBuf,
    boot: PathBuf,
    run: PathBuf,
}

impl Places {
    /// This machine's.
    #[must_use]
    pub fn of_machine() -> Self {
        Self {
            instance: paths::INSTANCE.into(),
            own: OWN.into(),
            once: ONCE.into(),
            boot: BOOT.into(),
            run: RUN.into(),
        }
    }

    /// Scripts that run so often, the machine's own first.
    fn of(&self, often: Frequency) -> Vec<PathBuf> {
        let folder = match often {
            Frequency::Instance => "per-instance",
            Frequency::Boot => "per-boot",
            Frequency::Once => "per-once",
        };
        let mut all = executables(&self.own.join(folder));
        all.extend(scripts(&self.instance, often));
        all
    }

    /// The commands that run once for each instance.
    #[must_use]
    pub fn of_instance(&self) -> Vec<Vec<String>> {
        self.of(Frequency::Instance)
            .iter()
            .map(|script| script_command(script, &self.run))
            .collect()
    }

    /// Whether [`Self::run`] has something to do.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.boot.exists()
            && [Frequency::Once, Frequency::Boot].iter().any(|often| !self.of(*often).is_empty())
    }

    /// Runs what is to run once, and what is to run in this boot; how many failed is answered.
    ///
    /// # Errors
    /// When it cannot be written down that they ran, or the log cannot be opened.
    pub fn run(&self, log: &Path) -> Result<usize> {
        let mut failed = 0;
        for script in self.of(Frequency::Once) {
            let content = fs::read(&script).unwrap_or_default();
            let stamp = self.once.join(Digest::of(&content).short());
            if !stamp.exists() {
                // Before it runs: one that ends the machine must not do so for ever.
                files::stamp(&stamp, &script.display().to_string())?;
                failed += files::run(&[script_command(&script, &self.run)], log)?;
            }
        }
        files::stamp(&self.boot, "run")?;
        let commands: Vec<_> = self
            .of(Frequency::Boot)
            .iter()
            .map(|script| script_command(script, &self.run))
            .collect();
        Ok(failed + files::run(&commands, log)?)
    }
}

/// Files that may be run, in name order.
fn executables(dir: &Path) -> Vec<PathBuf> {
    let may_run = |path: &PathBuf| {
        let meta = fs::metadata(path);
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o100 != 0)
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(may_run).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(places: &Places, folder: &str, name: &str, mode: u32) {
        let dir = places.own.join(folder);
        fs::create_dir_all(&dir).unwrap();
        let (file, ran) = (dir.join(name), places.run.join("ran"));
        fs::write(&file, format!("#!/bin/sh\necho {name} >> {}\n", ran.display())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn each_runs_as_often_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut places = Places {
            instance: at("i"),
            own: at("own"),
            once: at("once"),
            boot: at("boot-1"),
            run: at(""),
        };
        assert!(!places.is_due());
        script(&places, "per-boot", "boot", 0o700);
        script(&places, "per-once", "once", 0o700);
        script(&places, "per-once", "no-program", 0o600);
        script(&places, "per-instance", "instance", 0o700);
        assert!(places.is_due());
        assert_eq!(places.run(&at("log")).unwrap(), 0);
        assert!(!places.is_due(), "a console that starts again runs nothing again");
        places.boot = at("boot-2");
        assert!(places.is_due(), "another boot");
        assert_eq!(places.run(&at("log")).unwrap(), 0);
        assert_eq!(fs::read_to_string(at("ran")).unwrap(), "once\nboot\nboot\n");
        assert_eq!(places.of_instance().len(), 1, "with runcmd");
    }
}

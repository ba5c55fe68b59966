//! `/var/lib/ros/switch.json`: the switch that is not over. Written before the first service is touched, removed when
//! the verdict is on disk.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::generation::Status;
use ros_api::{Generation, Generations, durable, paths};
use serde::{Deserialize, Serialize};

use super::daemon::Processes;

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Generation that ran.
    pub from: u32,
    /// Generation that is to run.
    pub to: u32,
    /// The boot that it belongs to: after another boot it is over.
    pub boot_id: String,
    /// Where it goes.
    pub way: Way,
    /// What ran before the daemon was replaced.
    #[serde(default)]
    pub processes: Processes,
}

/// Which way a switch goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the new generation.
    Forward,
    /// To the old one; never forward again.
    Back {
        /// Why.
        reason: String,
    },
}

impl Journal {
    /// Reads it; none when no switch is under way.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.with_context(|| format!("read {}", path.display()))?;
                let journal = serde_json::from_slice(&text);
                journal.map(Some).with_context(|| format!("parse {}", path.display()))
            }
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(durable::write(path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }

    /// The switch is over.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(durable::sync_parent(path)?),
        }
    }
}

/// A switch of an earlier boot is over: the machine booted what ran before. Nothing is known against where it went,
/// unless it was on its way back.
///
/// # Errors
/// When a file cannot be read or written.
pub fn forget_earlier(generations: &Generations) -> Result<()> {
    let path = Path::new(paths::SWITCH);
    let Some(journal) = Journal::read(path)?.filter(|journal| journal.boot_id != boot_id()) else {
        return Ok(());
    };
    forget(generations, &journal)?;
    Journal::remove(path)
}

fn forget(generations: &Generations, journal: &Journal) -> Result<()> {
    let generation = generations.get(journal.to)?;
    let status = match (&generation.status, &journal.way) {
        (Status::Trial | Status::Good, Way::Back { reason }) => {
            Status::Failed { reason: reason.clone() }
        }
        (Status::Trial, Way::Forward) => Status::Staged,
        _ => return Ok(()),
    };
    Ok(generations.put(&Generation { status, ..generation })?)
}

/// This boot's.
#[must_use]
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn what_was_cut_short_is_as_if_never_tried_unless_it_was_sick() {
        let reason = || "ntp: ended with 1".to_owned();
        let back = || Way::Back { reason: reason() };
        let failed = Status::Failed { reason: reason() };
        let table = [
            (Status::Trial, Way::Forward, Status::Staged),
            (Status::Good, Way::Forward, Status::Good),
            (Status::Trial, back(), failed.clone()),
            (Status::Good, back(), failed.clone()),
            (Status::Staged, Way::Forward, Status::Staged),
        ];
        for (status, way, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            let generations = Generations::at(dir.path());
            generations.begin(2).unwrap();
            let generation = Generation {
                number: 2,
                ..machine(&[("v1", Status::Good), ("v2", status)]).installed[1].clone()
            };
            generations.commit(&generation).unwrap();
            forget(
                &generations,
                &Journal {
                    from: 1,
                    to: 2,
                    boot_id: String::new(),
                    way,
                    processes: Processes::new(),
                },
            )
            .unwrap();
            assert_eq!(generations.get(2).unwrap().status, expected);
        }
    }

    #[test]
    fn the_decision_to_go_back_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switch.json");
        assert_eq!(Journal::read(&path).unwrap(), None);
        let way = Way::Back { reason: "ntp: ended with 1".into() };
        let processes = Processes::from([("a".into(), 7)]);
        let journal = Journal { from: 1, to: 2, boot_id: boot_id(), way, processes };
        journal.write(&path).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), Some(journal));
        Journal::remove(&path).unwrap();
        Journal::remove(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert!(Journal::read(&path).is_err());
    }
}

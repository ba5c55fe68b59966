//! `/var/lib/ros/pins.json`: the versions that are held. A machine that runs a pinned version does not move, and a
//! pinned version is never removed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::durable;
use serde::{Deserialize, Serialize};

/// The pins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pins {
    /// Releases.
    pub versions: BTreeSet<String>,
}

impl Pins {
    /// Reads the file; none is no pins.
    ///
    /// # Errors
    /// When it is there and cannot be read: a pin must not be lost silently.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                serde_json::from_slice(&text.with_context(|| format!("read {}", path.display()))?)
                    .with_context(|| format!("parse {}", path.display()))
            }
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(durable::write(path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_kept_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins.json");
        assert_eq!(Pins::read(&path).unwrap(), Pins::default());
        let pins = Pins { versions: BTreeSet::from(["v1.1".into()]) };
        pins.write(&path).unwrap();
        assert_eq!(Pins::read(&path).unwrap(), pins);
        std::fs::write(&path, "{").unwrap();
        assert!(Pins::read(&path).is_err());
    }
}

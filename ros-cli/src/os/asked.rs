//! `/var/lib/ros/log/asked.json`: which release was asked for last, to be compared with the one that runs.

use std::path::Path;

use anyhow::Result;
use ros_api::{Digest, durable, paths};
use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The command's word: `upgrade`, `rollback`.
    pub by: String,
    /// The release's version.
    pub version: String,
    /// The release image's manifest.
    pub digest: Digest,
    /// The generation that it became.
    pub generation: u32,
    /// Seconds since the epoch.
    pub time: u64,
}

fn path() -> std::path::PathBuf {
    Path::new(paths::ROS).join("log/asked.json")
}

impl Asked {
    /// The latest; none when nothing was ever asked for, or it cannot be read.
    #[must_use]
    pub fn read() -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path()).ok()?).ok()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        let path = path();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(durable::write(&path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }
}

/// Seconds since the epoch.
#[must_use]
pub fn now() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

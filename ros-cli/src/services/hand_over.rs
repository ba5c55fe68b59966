//! How a service is handed over to its new container: both see one file, `/run/ros/hand-over/<name>`.
//!
//! ```text
//!  switch:  wanted ─────────────────────────► SIGUSR1 to the old
//!  new:           └─► set up ─► prepared ─┘                        ┌─► listens, ready
//!  old:                                        closes what it listens on ─► removes the file ─► last session ends
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ros_api::paths;
use tokio::time::{Instant, sleep};

/// A new container is to take over.
pub const WANTED: &str = "wanted\n";
/// It is set up, and waits for the old to let go.
pub const PREPARED: &str = "prepared\n";

/// How long the old may take to let go; then the new begins all the same.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the file is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The file of service `name`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(paths::HAND_OVER).join(name)
}

/// In the new container: when it is to take over, says that it is prepared and waits for the old to let go.
///
/// # Errors
/// When the file cannot be written.
pub async fn take(file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    fs::write(file, PREPARED).with_context(|| format!("write {}", file.display()))?;
    let end = Instant::now() + LIMIT;
    while file.exists() && Instant::now() < end {
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// In the old container: it has let go.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn give(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_new_begins_when_the_old_has_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("console");
        take(&file).await.unwrap();
        assert!(!file.exists(), "at a boot there is nobody to take over from");
        fs::write(&file, WANTED).unwrap();
        let taken = tokio::spawn({
            let file = file.clone();
            async move { take(&file).await }
        });
        while fs::read_to_string(&file).unwrap() != PREPARED {
            tokio::task::yield_now().await;
        }
        assert!(!taken.is_finished());
        give(&file).unwrap();
        taken.await.unwrap().unwrap();
        give(&file).unwrap();
    }
}

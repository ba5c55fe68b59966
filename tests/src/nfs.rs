//! Debian's nfs-ganesha on the loopback: NFS 4 as another machine would serve it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::artifacts;
use crate::registry::serving;

/// How long it may take: the first time it is fetched.
const START: Duration = Duration::from_secs(180);

/// A running server; dropped, it ends.
#[derive(Debug)]
pub struct NfsServer {
    child: Child,
}

impl NfsServer {
    /// Serves `folder` as `/export` at `port`; `work` is for its log and its own files.
    ///
    /// # Errors
    /// When it cannot be fetched or started.
    pub fn start(folder: &Path, port: u16, work: &Path) -> Result<Self> {
        fs::create_dir_all(work)?;
        let log = File::create(work.join("log"))?;
        let mut command = Command::new(artifacts::checkout().join("scripts/nfs-server"));
        command.arg(folder).arg(port.to_string()).arg(work).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: serving(command, port, START)? })
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

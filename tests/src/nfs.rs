//! Debian's nfs-ganesha on the loopback: NFS 4 as another machine would serve it.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::artifacts;

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
        let log = work.join("log");
        let out = File::create(&log)?;
        let mut command = Command::new(artifacts::checkout().join("scripts/nfs-server"));
        command.arg(folder).arg(port.to_string()).arg(work).stdin(Stdio::null());
        let child = command.stdout(out.try_clone()?).stderr(out).spawn().context("nfs-server")?;
        let mut server = Self { child };
        let end = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(&log)?);
            ensure!(Instant::now() < end, "no answer at {port}: {}", fs::read_to_string(&log)?);
            sleep(Duration::from_millis(100));
        }
        Ok(server)
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

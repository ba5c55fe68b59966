//! Debian's docker-registry on the loopback.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What our images have as a manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// How long it may take to answer.
pub const START: Duration = Duration::from_secs(20);

/// A running registry; dropped, it ends.
#[derive(Debug)]
pub struct Registry {
    /// Port on the loopback.
    pub port: u16,
    child: Child,
}

impl Registry {
    /// Serves the folder `storage` at `port`; logs beside it.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(storage: &Path, port: u16) -> Result<Self> {
        let child = serving(Self::command(storage, port)?, port, START)?;
        Ok(Self { port, child })
    }

    /// The command, with its configuration written.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn command(storage: &Path, port: u16) -> Result<Command> {
        fs::create_dir_all(storage)?;
        let config = storage.with_extension("yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let log = File::create(storage.with_extension("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// The manifest of an image.
    ///
    /// # Errors
    /// When there is none.
    pub fn manifest(&self, repository: &str, tag: &str) -> Result<String> {
        let accept = format!("Accept: {MANIFEST}\r\n");
        let (status, body) = self.ask("GET", repository, tag, &accept, "")?;
        ensure!(status.contains(" 200 "), "{repository}:{tag}: {status}");
        Ok(body)
    }

    /// Puts a manifest there, whatever is in it.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &str) -> Result<()> {
        let kind = format!("Content-Type: {MANIFEST}\r\n");
        let (status, body) = self.ask("PUT", repository, tag, &kind, manifest)?;
        ensure!(status.contains(" 201 "), "{repository}:{tag}: {status}: {body}");
        Ok(())
    }

    /// One request of HTTP/1.0: the answer ends with the connection. Status line and body.
    fn ask(
        &self,
        method: &str,
        repository: &str,
        tag: &str,
        head: &str,
        body: &str,
    ) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            stream,
            "{method} /v2/{repository}/manifests/{tag} HTTP/1.0\r\nHost: localhost\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    }

    /// Ends it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `command` and waits until it answers at `port` of the loopback.
///
/// # Errors
/// When it cannot be started, ends, or does not answer within `limit`.
pub fn serving(mut command: Command, port: u16, limit: Duration) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let end = Instant::now() + limit;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended ({status}): see its log");
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} does not answer at port {port}: see its log");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(child)
}

/// A port on the loopback that nobody listens on now.
///
/// # Errors
/// When the loopback has none.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

//! The unmodified docker CLI (and docker-compose) on this machine, over a tunnel to a guest's socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ros_tests::guest::{COMMAND, Ran, output_within};

use crate::site::Site;

/// The tunnel; dropped, it is closed.
pub struct Docker {
    socket: PathBuf,
    tunnel: Child,
}

impl Docker {
    /// Opens the tunnel and loads `busybox:test`.
    pub fn connect(site: &Site) -> Result<Self> {
        let socket = site.dir.join("docker.sock");
        // That of an earlier tunnel: ssh leaves it when it is killed.
        let _ = std::fs::remove_file(&socket);
        let mut ssh = site.guest.ssh();
        ssh.args(["-N", "-L"]).arg(format!(
            "{}:{}",
            socket.display(),
            ros_api::paths::SYSTEM_DOCKER_SOCKET
        ));
        let tunnel = ssh.stdin(Stdio::null()).spawn().context("start the tunnel")?;
        let docker = Self { socket, tunnel };
        let archive = site.dir.join("busybox.tar");
        crate::boot::busybox_archive(&archive)?;
        docker.answers(Duration::from_secs(30))?;
        docker.ok(&["load", "-q", "-i", archive.to_str().context("path")?])?;
        Ok(docker)
    }

    /// Waits until the daemon answers.
    pub fn answers(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let ran = self.run(&["version", "--format", "{{.Server.Version}}"])?;
            if ran.status == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "no answer within {limit:?}: {}", ran.stderr);
            // A refused connection answers at once: without a pause this would be a busy loop.
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A command of the CLI.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        self.program("docker", args)
    }

    /// One that must succeed; returns its output, trimmed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let ran = self.run(args)?;
        ensure!(
            ran.status == 0,
            "docker {args:?} ended with {}:\n{}{}",
            ran.status,
            ran.stdout,
            ran.stderr
        );
        Ok(ran.stdout.trim().to_owned())
    }

    /// docker-compose with the file `file`, which must succeed.
    pub fn compose(&self, file: &Path, args: &[&str]) -> Result<String> {
        let file = file.to_str().context("path")?;
        let all: Vec<&str> = ["-f", file].iter().chain(args).copied().collect();
        let ran = self.program("docker-compose", &all)?;
        ensure!(ran.status == 0, "docker-compose {args:?}:\n{}{}", ran.stdout, ran.stderr);
        Ok(ran.stdout)
    }

    fn program(&self, name: &str, args: &[&str]) -> Result<Ran> {
        let host = format!("unix://{}", self.socket.display());
        let mut command = Command::new(name);
        command.env("DOCKER_HOST", host).args(args);
        Ok(Ran::from(output_within(command, COMMAND)?))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.tunnel.kill();
        let _ = self.tunnel.wait();
    }
}

//! A server over TLS on the host, with a certificate of its own for the address that machines know the host by.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use ros_tests::artifacts::run;
use ros_tests::registry::free_port;

/// Serves `/config.yml`; dropped, it ends.
pub struct Server {
    pub port: u16,
    /// PEM.
    pub certificate: String,
    child: Child,
}

impl Server {
    /// Starts one in the folder `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("config.yml"), "#cloud-config\nhostname: by-tls\n")?;
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        make.args([
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=host",
            "-keyout",
            "key",
            "-out",
            "certificate",
        ]);
        make.args([
            "-addext",
            "subjectAltName=IP:10.0.2.2",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        run(make.current_dir(dir))?;
        let certificate = std::fs::read_to_string(dir.join("certificate"))?;
        let port = free_port()?;
        let mut serve = Command::new("openssl");
        serve.args([
            "s_server",
            "-quiet",
            "-WWW",
            "-cert",
            "certificate",
            "-key",
            "key",
            "-accept",
        ]);
        serve.arg(format!("127.0.0.1:{port}")).current_dir(dir).stdin(Stdio::null());
        let child =
            serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start openssl")?;
        Ok(Self { port, certificate, child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A certificate authority of a test's own, by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const EXTENSIONS: &str = "
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:registry.test
";

pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Its key, RSA, and its certificate, in the folder `dir` that is made.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("openssl.cnf"), EXTENSIONS).unwrap();
        let new = Self { dir: dir.to_owned() };
        new.request("ca", &["-extensions", "authority", "-newkey", "rsa:2048"]);
        new
    }

    /// A server's certificate for 127.0.0.1 and registry.test, `server.pem`, and `server.key`.
    pub fn sign_server(&self) {
        let signer = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        let kind = ["-extensions", "server", "-newkey", "rsa:2048"];
        self.request("server", &[signer, kind].concat());
    }

    fn request(&self, name: &str, more: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(&self.dir).stderr(Stdio::null());
        // A name of its own: an authority that is not the signer must not be taken for it.
        let folder = self.dir.file_name().unwrap().to_string_lossy();
        openssl.args(["req", "-x509", "-nodes", "-days", "30", "-config", "openssl.cnf"]);
        openssl.args(["-subj", &format!("/CN={name} of {folder}")]).args(more);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
        assert!(openssl.status().unwrap().success(), "{openssl:?}");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Lines of a registry's configuration.
    pub fn tls(&self) -> String {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        format!("  tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
    }
}

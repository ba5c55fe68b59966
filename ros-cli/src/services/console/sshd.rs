//! OpenSSH: host keys that outlive the console's image, and a configuration that takes keys only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_api::durable;

/// Kinds of host keys. RSA is left out: making one takes seconds at each first boot.
const KINDS: [&str; 2] = ["ed25519", "ecdsa"];
/// A kind that is not made, and counts when the configuration has one.
const GIVEN: &str = "rsa";

/// What the configuration says of sshd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Port.
    pub port: u16,
    /// Addresses; all when empty.
    pub listen: Vec<String>,
    /// The machine's own user, who may log in.
    pub user: String,
    /// Others who may.
    pub others: Vec<String>,
    /// Whether passwords are taken.
    pub passwords: bool,
}

/// Makes the host keys in `dir` that are not there yet.
///
/// # Errors
/// When one cannot be made.
pub fn host_keys(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("chmod {}", dir.display()))?;
    KINDS.iter().try_for_each(|kind| host_key(dir, kind))
}

/// Takes over host keys that the configuration has, `ed25519_private` and so on. Both halves are needed.
///
/// # Errors
/// When one cannot be written.
pub fn given_host_keys(
    dir: &Path,
    keys: &std::collections::BTreeMap<String, String>,
) -> Result<()> {
    for kind in KINDS.into_iter().chain([GIVEN]) {
        let half = |name: &str| keys.get(&format!("{kind}_{name}"));
        let (Some(private), Some(public)) = (half("private"), half("public")) else { continue };
        let path = dir.join(format!("ssh_host_{kind}_key"));
        durable::write(
            &path.with_extension("pub"),
            format!("{}\n", public.trim()).as_bytes(),
            0o644,
        )?;
        durable::write(&path, format!("{}\n", private.trim()).as_bytes(), 0o600)?;
        let path = dir.join(format!("ssh_host_{kind}_key-cert.pub"));
        match half("certificate") {
            Some(text) => durable::write(&path, format!("{}\n", text.trim()).as_bytes(), 0o644)?,
            // One of an earlier key is none of this.
            None => drop(fs::remove_file(&path)),
        }
    }
    Ok(())
}

/// A key gets its name only when both halves are on disk.
fn host_key(dir: &Path, kind: &str) -> Result<()> {
    let key = dir.join(format!("ssh_host_{kind}_key"));
    let public = dir.join(format!("ssh_host_{kind}_key.pub"));
    if key.exists() && public.exists() {
        return Ok(());
    }
    let (new, new_public) =
        (dir.join(format!(".{kind}.new")), dir.join(format!(".{kind}.new.pub")));
    for old in [&new, &new_public] {
        let _ = fs::remove_file(old);
    }
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", "ros", "-f"])
        .arg(&new)
        .output()
        .context("run ssh-keygen")?;
    ensure!(
        made.status.success(),
        "ssh-keygen -t {kind}: {}",
        String::from_utf8_lossy(&made.stderr).trim()
    );
    for (from, to) in [(&new_public, &public), (&new, &key)] {
        fs::File::open(from)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("fsync {}", from.display()))?;
        durable::rename(from, to)?;
    }
    Ok(())
}

/// `sshd_config`.
#[must_use]
pub fn config(daemon: &Daemon, keys: &Path) -> String {
    let mut text =
        String::from("# Written by ros from the configuration at each start: changes are lost.\n");
    let mut line = |key: &str, value: &str| text.push_str(&format!("{key} {value}\n"));
    line("Port", &daemon.port.to_string());
    daemon.listen.iter().for_each(|address| line("ListenAddress", address));
    for (kind, given) in KINDS.map(|kind| (kind, false)).into_iter().chain([(GIVEN, true)]) {
        let key = keys.join(format!("ssh_host_{kind}_key"));
        if given && !key.exists() {
            continue;
        }
        line("HostKey", &key.display().to_string());
        let certificate = keys.join(format!("ssh_host_{kind}_key-cert.pub"));
        if certificate.exists() {
            line("HostCertificate", &certificate.display().to_string());
        }
    }
    let users: Vec<&str> =
        std::iter::once(&daemon.user).chain(&daemon.others).map(String::as_str).collect();
    line("AllowUsers", &users.join(" "));
    line("PasswordAuthentication", if daemon.passwords { "yes" } else { "no" });
    line("PermitRootLogin", if daemon.user == "root" { "prohibit-password" } else { "no" });
    for (key, value) in [
        ("KbdInteractiveAuthentication", "no"),
        ("UsePAM", "no"),
        ("UseDNS", "no"),
        ("X11Forwarding", "no"),
        ("PrintMotd", "yes"),
        ("AcceptEnv", "LANG LC_*"),
        ("Subsystem", "sftp internal-sftp"),
    ] {
        line(key, value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_only_and_one_user() {
        let daemon = Daemon {
            port: 2022,
            listen: vec!["10.0.0.1".into()],
            user: "ros".into(),
            others: vec!["ann".into()],
            passwords: false,
        };
        let text = config(&daemon, Path::new("/k"));
        for line in [
            "Port 2022\nListenAddress 10.0.0.1\nHostKey /k/ssh_host_ed25519_key\n",
            "AllowUsers ros ann\nPasswordAuthentication no\nPermitRootLogin no\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let root = config(
            &Daemon { user: "root".into(), others: Vec::new(), passwords: true, ..daemon },
            Path::new("/k"),
        );
        assert!(root.contains(
            "AllowUsers root\nPasswordAuthentication yes\nPermitRootLogin prohibit-password\n"
        ));
    }

    #[test]
    fn what_is_given_is_what_sshd_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |words: &[(&str, &str)]| {
            let pairs = words.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            given_host_keys(dir.path(), &pairs.collect()).unwrap();
            let text = config(&Daemon::default(), dir.path());
            text.matches("HostKey ").count() * 10 + text.matches("HostCertificate ").count()
        };
        assert_eq!(told(&[]), 20);
        assert_eq!(told(&[("rsa_private", "x")]), 20, "half a key is none");
        let whole = [("rsa_private", "x"), ("rsa_public", "y"), ("rsa_certificate", "z")];
        assert_eq!(told(&whole), 31);
        assert_eq!(told(&whole[..2]), 30, "the certificate is gone");
    }

    #[test]
    fn keys_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        host_keys(dir.path()).unwrap();
        let key = dir.path().join("ssh_host_ed25519_key");
        let first = fs::read(&key).unwrap();
        host_keys(dir.path()).unwrap();
        assert_eq!(fs::read(&key).unwrap(), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no temporary file is left");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

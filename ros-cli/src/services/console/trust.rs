//! `ca_certs` and the environment of logins: files that the console's programs read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cloud_config::settings::CaCerts;
use ros_api::durable;

/// The one file that TLS libraries read.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// First line of what is ours in it: all that follows.
const MARK: &str = "# from the configuration";

/// Has the console trust the configured certificates.
///
/// # Errors
/// When one is no certificate, or the bundle cannot be written.
pub fn certificates(root: &Path, wanted: &CaCerts) -> Result<()> {
    let path = root.join(BUNDLE);
    let kept = root.join(format!("{BUNDLE}.image"));
    for text in &wanted.trusted {
        let whole = text.contains("-----BEGIN CERTIFICATE-----")
            && text.contains("-----END CERTIFICATE-----");
        ensure!(whole, "ca_certs.trusted: not a certificate in PEM");
    }
    let old = fs::read_to_string(&path).unwrap_or_default();
    if !kept.exists() && wanted.remove_defaults {
        durable::write(&kept, without_ours(&old).as_bytes(), 0o644)?;
    }
    let base = match fs::read_to_string(&kept) {
        Ok(image) => image,
        Err(_) => without_ours(&old).to_owned(),
    };
    let new = bundle(if wanted.remove_defaults { "" } else { &base }, &wanted.trusted);
    if new != old {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        durable::write(&path, new.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn without_ours(text: &str) -> &str {
    text.find(MARK).map_or(text, |at| &text[..at])
}

fn bundle(base: &str, trusted: &[String]) -> String {
    if trusted.is_empty() {
        return base.to_owned();
    }
    let ours: String = trusted.iter().map(|text| format!("{}\n", text.trim())).collect();
    format!("{base}{MARK}\n{ours}")
}

/// Environment of logins, for shells and for whoever reads `/etc/environment`.
///
/// # Errors
/// When a file cannot be written.
pub fn environment(root: &Path, variables: &[(String, String)]) -> Result<()> {
    let sound = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let named: Vec<&(String, String)> =
        variables.iter().filter(|(name, value)| sound(name) && !value.contains('\n')).collect();
    let shell: String = named
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
        .collect();
    let plain: String = named.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let dir = root.join("etc/profile.d");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    durable::write(&dir.join("ros-environment.sh"), shell.as_bytes(), 0o644)?;
    durable::write(&root.join("etc/environment"), plain.as_bytes(), 0o644)?;
    ensure!(
        named.len() == variables.len(),
        "environment: a name or value that no variable can have is left out"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn the_images_certificates_come_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(BUNDLE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "IMAGE\n").unwrap();
        let wanted = |trusted: &[&str], remove_defaults| CaCerts {
            trusted: trusted.iter().map(|&text| text.into()).collect(),
            remove_defaults,
        };
        let ours = format!("{MARK}\n{CERTIFICATE}");
        let table = [
            (wanted(&[CERTIFICATE], false), format!("IMAGE\n{ours}")),
            (wanted(&[CERTIFICATE], true), ours.clone()),
            (wanted(&[], true), String::new()),
            (wanted(&[], false), "IMAGE\n".to_owned()),
        ];
        for (wanted, expected) in table {
            certificates(root.path(), &wanted).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{wanted:?}");
        }
        assert!(certificates(root.path(), &wanted(&["x"], false)).is_err());
    }

    #[test]
    fn values_are_quoted() {
        let root = tempfile::tempdir().unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        environment(root.path(), &[pair("A", "it's $x")]).unwrap();
        let shell =
            fs::read_to_string(root.path().join("etc/profile.d/ros-environment.sh")).unwrap();
        assert_eq!(shell, "export A='it'\\''s $x'\n");
        assert!(environment(root.path(), &[pair("A=B", "x"), pair("C", "y")]).is_err());
        assert_eq!(fs::read_to_string(root.path().join("etc/environment")).unwrap(), "C=y\n");
    }
}

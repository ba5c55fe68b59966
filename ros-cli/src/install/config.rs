//! The configuration that a new machine gets: taken as it is or not at all, with everything that is wrong with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cloud_config::redact::without_credentials;
use cloud_config::settings::UserEntry;
use cloud_config::{Loaded, Settings, Sources, load};
use ros_api::{Release, durable, paths};

use crate::commands::config::accept;
use crate::services::cloud_init::url;
use crate::services::console::users;

/// A valid one.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is from, for people.
    pub name: String,
    text: String,
}

impl Config {
    /// Reads and checks it.
    ///
    /// # Errors
    /// When it cannot be had. What is wrong with it is said before.
    pub async fn read(from: &str) -> Result<Self> {
        let (name, bytes) = if from.starts_with("http://") || from.starts_with("https://") {
            let name = without_credentials(from).to_string();
            // Somebody waits for the answer: less patience than at a boot.
            let there = url::ask(&url::Request { pauses: 2, ..url::Request::get(from) }).await?;
            (name.clone(), there.with_context(|| format!("fetch {name}: it is not there (404)"))?)
        } else {
            (from.to_owned(), fs::read(from).with_context(|| format!("read {from}"))?)
        };
        let text = String::from_utf8(bytes).with_context(|| format!("{name} is no text"))?;
        accept(&text, &name)?;
        Ok(Self { name, text })
    }
}

/// Where the installer finds the configuration.
fn folder() -> PathBuf {
    paths::INSTALL.into()
}

/// Puts it where the installer finds it; what an earlier try left there goes.
///
/// # Errors
/// When it cannot be written.
pub fn put(config: Option<&Config>) -> Result<()> {
    clear()?;
    let dir = folder();
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let Some(Config { text, .. }) = config else { return Ok(()) };
    Ok(durable::write(&dir.join(paths::INSTALL_CONFIG), text.as_bytes(), 0o600)?)
}

/// Removes it.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn clear() -> Result<()> {
    match fs::remove_dir_all(folder()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", paths::INSTALL))
        }
        _ => Ok(()),
    }
}

/// What the new machine will read, as far as it is known here: the release's defaults, what was [`put`], its kernel's
/// arguments. Instance data may come to that.
#[must_use]
pub fn of_new_machine(release: &Release, append: &str) -> Loaded {
    let defaults = serde_yaml::to_string(&release.defaults).unwrap_or_default();
    let nowhere = || Path::new("/nonexistent").to_owned();
    load(&Sources {
        release: (!release.defaults.is_null()).then(|| ("release.yml".into(), defaults)),
        oem: nowhere(),
        fragments: folder(),
        instance: nowhere(),
        user: nowhere(),
        cmdline: format!("{} {append}", release.boot_set.cmdline),
    })
}

/// Whether anybody can log in to a machine with these settings.
#[must_use]
pub fn lets_somebody_in(settings: &Settings) -> bool {
    let has_key = |entry: &UserEntry| match entry {
        UserEntry::Name(_) => false,
        UserEntry::User(user) => !user.ssh_authorized_keys.is_empty(),
    };
    let random = settings.chpasswd.users.iter().any(|user| user.kind == "RANDOM");
    !settings.ssh_authorized_keys.is_empty()
        || settings.users.0.iter().any(has_key)
        || !users::passwords(settings, "ros").is_empty()
        || settings.allows("autologin") && !settings.ros.autologin.is_empty()
        || random
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("c.yml");
        fs::write(&user, format!("#cloud-config\n{yaml}")).unwrap();
        let nowhere = || dir.path().join("nothing");
        load(&Sources {
            release: None,
            oem: nowhere(),
            fragments: nowhere(),
            instance: nowhere(),
            user,
            cmdline: String::new(),
        })
        .settings
    }

    #[test]
    fn a_key_or_a_password_lets_somebody_in() {
        for (yaml, expected) in [
            ("hostname: a\n", false),
            ("ssh_authorized_keys: [ssh-ed25519 AAAA]\n", true),
            ("users: [{name: a, ssh_authorized_keys: [ssh-ed25519 AAAA]}]\n", true),
            ("users: [{name: a}]\n", false),
            ("users: [{name: a, plain_text_passwd: x}]\n", false),
            ("users: [{name: a, plain_text_passwd: x, lock_passwd: false}]\n", true),
            ("rancher: {password: x}\n", true),
            ("rancher: {password: x, disable: [password]}\n", false),
            ("ros: {autologin: [tty1]}\n", true),
        ] {
            assert_eq!(lets_somebody_in(&settings(yaml)), expected, "{yaml}");
        }
    }
}

//! `ros config set`, `unset`, `merge`, `edit`: changes to this machine's own file.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, ensure};
use cloud_config::redact::redact;
use cloud_config::schema::DOCUMENT;
use cloud_config::{Layer, edit};
use ros_api::{durable, paths};
use similar::TextDiff;

use super::input;
use super::validate::accept;
use crate::services::configuration::Configuration;
use crate::services::listing::print;
use crate::services::registries;

/// `ros config set`.
pub fn set(key: &str, value: &str) -> Result<ExitCode> {
    edit::set(Path::new(paths::CLOUD_CONFIG), key, value).map_err(named)?;
    apply_now(key)?;
    Ok(ExitCode::SUCCESS)
}

/// `ros config unset`.
pub fn unset(key: &str) -> Result<ExitCode> {
    if !edit::unset(Path::new(paths::CLOUD_CONFIG), key).map_err(named)? {
        eprintln!("{key} was not set");
    }
    apply_now(key)?;
    Ok(ExitCode::SUCCESS)
}

/// What counts without `ros config apply`: the daemon reads how registries are reached before each pull.
fn apply_now(key: &str) -> Result<()> {
    let key = key.strip_prefix("rancher").or_else(|| key.strip_prefix("ros"));
    let near = |key: &str| [".registr", ".network"].iter().any(|own| key.starts_with(own));
    let of_registries = key.is_some_and(|key| key.is_empty() || near(key));
    if of_registries && Path::new(paths::RUN_ROS).is_dir() {
        registries::publish(&Configuration::load().settings)?;
    }
    Ok(())
}

pub(super) fn named(error: edit::EditError) -> anyhow::Error {
    match &error {
        edit::EditError::Io(io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
            anyhow!("{error}: the configuration is root's: use sudo")
        }
        _ => error.into(),
    }
}

/// `ros config merge`.
pub fn merge(file: Option<&Path>, dry_run: bool) -> Result<ExitCode> {
    let (text, name) = input(file)?;
    let node = accept(&text, &name)?;
    let edited = edit::merge(Path::new(paths::CLOUD_CONFIG), node, dry_run).map_err(named)?;
    if dry_run {
        print(&unified(&shown(&edited.before)?, &shown(&edited.after)?))?;
    } else {
        apply_now("ros")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A document as it may be shown.
fn shown(text: &str) -> Result<String> {
    let node = cloud_config::document::parse(text, Layer::User, paths::CLOUD_CONFIG)
        .map_err(|wrong| anyhow!("{}", wrong.line()))?;
    Ok(edit::text_of(&redact(node, DOCUMENT))?)
}

/// The difference of two texts as `diff -u` shows it.
fn unified(before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header("cloud-config.yml", "cloud-config.yml, merged")
        .to_string()
}

/// `ros config edit`: the editor works on a copy, which takes the file's place when it is right.
pub fn edit() -> Result<ExitCode> {
    let file = Path::new(paths::CLOUD_CONFIG);
    let before = edit::read(file).with_context(|| format!("read {}", file.display()))?;
    let copy = file.with_file_name(format!(".edit-{}.yml", std::process::id()));
    let start = if before.is_empty() { "#cloud-config\n" } else { &before };
    durable::write(&copy, start.as_bytes(), 0o600)?;
    let edited = edited(&copy);
    let outcome = edited.and_then(|text| {
        if text == start {
            eprintln!("nothing was changed");
            return Ok(ExitCode::SUCCESS);
        }
        accept(&text, &copy.display().to_string())?;
        edit::replace(file, &before, &text).map_err(named)?;
        Ok(ExitCode::SUCCESS)
    });
    match &outcome {
        Ok(_) => {
            std::fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?
        }
        Err(_) => eprintln!("what was edited is in {}", copy.display()),
    }
    outcome
}

fn edited(copy: &Path) -> Result<String> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.unwrap_or_else(|| "nano".into());
    let ended = Command::new("/bin/sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(copy)
        .status()
        .with_context(|| format!("run {editor}"))?;
    ensure!(ended.success(), "{editor} ended with {ended}");
    edit::read(copy).with_context(|| format!("read {}", copy.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_no_secret() {
        let text = |port: u16| format!("ros: {{password: SECRET, ssh: {{port: {port}}}}}\n");
        let shown = unified(&shown(&text(22)).unwrap(), &shown(&text(23)).unwrap());
        assert!(shown.contains("-    port: 22\n+    port: 23\n"), "{shown}");
        assert!(!shown.contains("SECRET"));
    }
}

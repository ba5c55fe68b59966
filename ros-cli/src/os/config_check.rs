//! Whether a release can live with the configuration that this machine has now. The release itself says so: its own
//! installer looks, with its own schema, before it changes anything. What was wrong before it came is not its business.

use anyhow::{Result, bail};
use cloud_config::{Diagnostic, Loaded, Severity, Sources, load};
use ros_api::Release;

/// Environment of the installer: what is wrong already, one a line.
pub const KNOWN: &str = "ROS_CONFIG_KNOWN";
/// Environment of the installer: install all the same.
pub const FORCE: &str = "ROS_CONFIG_FORCE";

/// Errors in the configuration, for the installer of another release to know.
#[must_use]
pub fn known() -> String {
    errors(&load(&Sources::machine())).join("\n")
}

/// What the installer of `release` does first.
///
/// # Errors
/// With everything that the release does not take and that was right before.
pub fn refuse(release: &Release) -> Result<()> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if !variable(FORCE).is_empty() {
        return Ok(());
    }
    check(release, &load(&Sources::machine()), &variable(KNOWN))
}

fn check(release: &Release, present: &Loaded, known: &str) -> Result<()> {
    let mut wrong = errors(present);
    wrong.retain(|line| !known.lines().any(|known| known == line));
    wrong.extend(removed(release, present));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} does not take this machine's configuration: {}: change it (`ros config edit`), or --force",
        release.version,
        wrong.join("; ")
    )
}

/// Keys that are set here and that `release` no longer reads, each with the place, and what to do instead.
#[must_use]
pub fn removed(release: &Release, present: &Loaded) -> Vec<String> {
    let set = release.config_removed.iter().filter_map(|(key, instead)| {
        let node = present.tree.at(key)?;
        Some(format!("{}: {key} is no longer read: {instead}", node.origin))
    });
    set.collect()
}

fn errors(present: &Loaded) -> Vec<String> {
    let is_error = |found: &&Diagnostic| found.severity == Severity::Error;
    present.diagnostics.iter().filter(is_error).map(Diagnostic::line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    fn present(text: &str) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("cloud-config.yml");
        std::fs::write(&user, text).unwrap();
        let nowhere = || dir.path().join("nothing");
        load(&Sources {
            release: None,
            oem: nowhere(),
            fragments: nowhere(),
            instance: nowhere(),
            user,
            cmdline: String::new(),
        })
    }

    #[test]
    fn what_a_release_no_longer_reads_and_what_is_newly_wrong_stop_it() {
        let mut new = release("v2", "b", &[]);
        let present = present("#cloud-config\nhostname: a\nros: {upgrade: {policy: never}}\n");
        let wrong = check(&new, &present, "").unwrap_err().to_string();
        assert!(wrong.contains("v2 does not take") && wrong.contains("policy"), "{wrong}");
        let known = errors(&present).join("\n");
        assert!(!known.is_empty());
        check(&new, &present, &known).unwrap();
        new.config_removed.insert("hostname".into(), "write fqdn".into());
        new.config_removed.insert("ros.debug".into(), "it is not set here".into());
        let wrong = check(&new, &present, &known).unwrap_err().to_string();
        assert!(wrong.contains("cloud-config.yml:2:"), "{wrong}");
        assert!(wrong.contains("hostname is no longer read: write fqdn"), "{wrong}");
        assert!(!wrong.contains("ros.debug"), "{wrong}");
    }
}

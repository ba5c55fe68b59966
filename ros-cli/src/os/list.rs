//! `ros os list`: every version there is, here or in the registry, newest first.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ros_api::generation::Status;
use ros_api::{Generation, Reference};
use serde::Serialize;

use super::machine::Machine;
use super::{daemon, releases, version};

/// One version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its version.
    pub version: String,
    /// The name to upgrade to it by.
    pub image: String,
    /// `local`, `remote`, `both`.
    #[serde(rename = "where")]
    pub place: String,
    /// `staged`, `trial`, `good`, `failed`; `-` when it was never here.
    pub state: String,
    /// Why it failed.
    pub reason: String,
    /// Its newest generation.
    pub generation: Option<u32>,
    /// It runs now.
    pub running: bool,
    /// It is held.
    pub pinned: bool,
    /// It boots next, but for a trial.
    pub default: bool,
}

impl Entry {
    /// Marks for people.
    #[must_use]
    pub fn notes(&self) -> String {
        let marks = [(self.running, "running"), (self.default, "default"), (self.pinned, "pinned")];
        let words: Vec<&str> = marks.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        match (words.join(", "), self.reason.as_str()) {
            (words, "") => words,
            (words, reason) if words.is_empty() => reason.to_owned(),
            (words, reason) => format!("{words}; {reason}"),
        }
    }
}

/// What the registry or the releases file has.
///
/// # Errors
/// When it cannot be reached.
pub async fn remote(machine: &Machine) -> Result<Vec<Reference>> {
    match releases_file(machine) {
        Some(url) => releases::read(url).await?.references(),
        None => tags(machine).await,
    }
}

/// What a machine may go to by itself: the `current` of its releases file when there is one, or all that there is.
///
/// # Errors
/// When it cannot be reached.
pub async fn offered(machine: &Machine) -> Result<Vec<Reference>> {
    match releases_file(machine) {
        Some(url) => {
            let releases = releases::read(url).await?;
            match &releases.current {
                Some(current) => Ok(vec![machine.reference(current)?]),
                None => releases.references(),
            }
        }
        None => tags(machine).await,
    }
}

/// What a machine should run that was told no version: the `current` of its releases file, or the newest version in
/// the registry that is no pre-release.
///
/// # Errors
/// When neither can be reached, or there is none.
pub async fn suggested(machine: &Machine) -> Result<Reference> {
    if let Some(url) = releases_file(machine)
        && let Some(current) = &releases::read(url).await?.current
    {
        return machine.reference(current);
    }
    let there = remote(machine).await?;
    newest(&there).cloned().context(
        "there is no version but pre-releases: name one with --image; `ros os list` shows them",
    )
}

fn newest(there: &[Reference]) -> Option<&Reference> {
    let tagged = there.iter().filter_map(|reference| Some((reference.tag.as_deref()?, reference)));
    tagged
        .filter(|(tag, _)| version::is_release(tag))
        .max_by(|(a, _), (b, _)| version::compare(a, b))
        .map(|(_, reference)| reference)
}

fn releases_file(machine: &Machine) -> Option<&str> {
    let upgrade = &machine.settings.ros.upgrade;
    upgrade.url.as_deref().filter(|_| upgrade.repository().is_none())
}

async fn tags(machine: &Machine) -> Result<Vec<Reference>> {
    let repository = machine.repository()?;
    let tags = daemon::tags(&repository).await?;
    let releases = tags.iter().filter(|tag| !is_beside(tag));
    Ok(releases.map(|tag| repository.with_tag(tag)).collect())
}

/// Whether a tag names what lies beside an image: `sha256-<hex>.sig`, `.att`, `.sbom`.
fn is_beside(tag: &str) -> bool {
    let named = tag.strip_prefix("sha256-").and_then(|rest| rest.split('.').next());
    named.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The list: what is `remote` united with what is installed.
#[must_use]
pub fn entries(machine: &Machine, remote: &[Reference]) -> Vec<Entry> {
    let mut all: BTreeMap<String, Entry> = BTreeMap::new();
    for reference in remote {
        let Some(tag) = &reference.tag else { continue };
        let entry = Entry {
            version: tag.clone(),
            image: reference.to_string(),
            place: "remote".into(),
            state: "-".into(),
            ..Entry::default()
        };
        all.insert(tag.clone(), entry);
    }
    for generation in &machine.installed {
        let entry = all.entry(generation.version.clone()).or_insert_with(|| Entry {
            version: generation.version.clone(),
            image: generation.image.to_string(),
            place: "local".into(),
            ..Entry::default()
        });
        describe(entry, generation, machine);
    }
    for entry in all.values_mut() {
        entry.pinned = machine.pins.versions.contains(&entry.version);
    }
    let mut list: Vec<Entry> = all.into_values().collect();
    list.sort_by(|a, b| version::compare(&b.version, &a.version));
    list
}

/// Later generations of a version say more than earlier ones, but what runs says most.
fn describe(entry: &mut Entry, generation: &Generation, machine: &Machine) {
    if entry.place == "remote" {
        entry.place = "both".into();
    }
    entry.default |= machine.default_generation() == Some(generation.number);
    if entry.running {
        return;
    }
    entry.running = generation.number == machine.running.generation;
    entry.generation = Some(generation.number);
    generation.status.word().clone_into(&mut entry.state);
    entry.reason = match (&generation.status, machine.damaged.get(&generation.number)) {
        (Status::Failed { reason }, _) => reason.clone(),
        (_, Some(_)) => "damaged: see `ros os verify`".into(),
        _ => String::new(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn a_pre_release_is_for_who_names_it() {
        let there = |tags: &[&str]| -> Vec<Reference> {
            tags.iter().map(|tag| format!("h:1/os:{tag}").parse().unwrap()).collect()
        };
        let all = there(&["v1.9", "v1.10", "v2.0-rc1", "latest", "v1.11-sick"]);
        assert_eq!(newest(&all).unwrap().tag.as_deref(), Some("v1.10"));
        assert_eq!(newest(&there(&["v2.0-rc1", "latest"])), None);
    }

    #[test]
    fn a_signature_is_no_version() {
        let digest = ros_api::Digest::of(b"m").hex();
        assert!(
            is_beside(&format!("sha256-{digest}.sig")) && is_beside(&format!("sha256-{digest}"))
        );
        assert!(!is_beside("sha256-v1") && !is_beside("v1.2"));
    }

    #[test]
    fn local_and_remote_are_united_newest_first() {
        let mut machine =
            machine(&[("v1.0", Status::Good), ("v1.2", Status::Failed { reason: "ntp".into() })]);
        machine.pins.versions.insert("v1.0".into());
        let remote: Vec<Reference> =
            ["v1.1", "v1.10", "v1.2"].map(|tag| format!("h:1/os:{tag}").parse().unwrap()).to_vec();
        let list = entries(&machine, &remote);
        let shown: Vec<(&str, &str, &str)> = list
            .iter()
            .map(|entry| (entry.version.as_str(), entry.place.as_str(), entry.state.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("v1.10", "remote", "-"),
                ("v1.2", "both", "failed"),
                ("v1.1", "remote", "-"),
                ("v1.0", "local", "good")
            ]
        );
        assert!(list[3].running && list[3].pinned && list[3].default);
        assert_eq!(list[1].notes(), "ntp");
    }
}

//! The Debian packages of a release, from the labels that its images have beside their bills of materials: what changes is
//! known before anything is fetched.

use std::collections::{BTreeMap, BTreeSet};

use ros_api::{Digest, Reference, Release, labels};

use super::daemon::Remote;
use crate::services::engine::Engine;

/// Versions by name: two images of a release may be of different days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages(BTreeMap<String, BTreeSet<String>>);

impl Packages {
    fn add(&mut self, label: &str) {
        for (name, version) in label.split(' ').filter_map(|word| word.split_once('=')) {
            self.0.entry(name.to_owned()).or_default().insert(version.to_owned());
        }
    }
}

/// Those of the release `image`, whose manifest is `digest`; what is not here is among `own` and `remotes`. None when one
/// of its images does not say, or is gone.
pub async fn of_release(
    engine: &Engine,
    release: &Release,
    (image, digest): (&Reference, Digest),
    own: Option<&Remote>,
    remotes: &[(Reference, Remote)],
) -> Option<Packages> {
    let mut all = Packages::default();
    let names = [image.with_digest(digest).to_string(), image.to_string()];
    all.add(&label(engine, own, &names).await?);
    for service in release.services.values() {
        let reference = release.service_reference(image, service);
        let remote = remotes.iter().find(|(there, _)| *there == reference);
        let names = [reference.to_string(), service.digest.to_string()];
        all.add(&label(engine, remote.map(|(_, remote)| remote), &names).await?);
    }
    Some(all)
}

async fn label(engine: &Engine, remote: Option<&Remote>, names: &[String]) -> Option<String> {
    if let Some(remote) = remote {
        return remote.label(labels::PACKAGES);
    }
    let (_, image) = engine.image(names).await.ok()?;
    image.config?.labels?.remove(labels::PACKAGES)
}

/// What changes from `old` to `new`, by name: `chrony 4.6-1 -> 4.7-1`, `+ acl 2.3-2`, `- acl 2.3-2`.
#[must_use]
pub fn changes(old: &Packages, new: &Packages) -> Vec<String> {
    let names: BTreeSet<&String> = old.0.keys().chain(new.0.keys()).collect();
    let versions = |all: &Packages, name: &String| {
        let versions = all.0.get(name)?.iter().map(String::as_str);
        Some(versions.collect::<Vec<_>>().join(", "))
    };
    let change = |name: &String| match (versions(old, name), versions(new, name)) {
        (Some(before), Some(after)) if before != after => {
            Some(format!("{name} {before} -> {after}"))
        }
        (None, Some(after)) => Some(format!("+ {name} {after}")),
        (Some(before), None) => Some(format!("- {name} {before}")),
        _ => None,
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(labels: &[&str]) -> Packages {
        let mut packages = Packages::default();
        labels.iter().for_each(|label| packages.add(label));
        packages
    }

    #[test]
    fn what_comes_goes_and_changes_is_named() {
        let old = packages(&["acl=2.3-2 chrony=1:4.6-1 libc6=2.41-1", "libc6=2.41-1"]);
        let new = packages(&["chrony=1:4.7-1 libc6=2.41-1", "libc6=2.41-2 zlib1g=1.3"]);
        let expected = [
            "- acl 2.3-2",
            "chrony 1:4.6-1 -> 1:4.7-1",
            "libc6 2.41-1 -> 2.41-1, 2.41-2",
            "+ zlib1g 1.3",
        ];
        assert_eq!(changes(&old, &new), expected);
        assert!(changes(&old, &old).is_empty());
    }
}

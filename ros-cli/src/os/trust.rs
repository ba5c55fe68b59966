//! Whom this machine trusts for releases: the configuration's keys and policy, and what it remembers of releases
//! that were signed. [`super::signature`] says whether one signature counts.
//!
//! ```text
//! /var/lib/ros/trust.json   { floor: newest version that was good here, signed: { manifest digest: who signed it } }
//! ```
//!
//! Services need no signatures of their own: the release's lock file has each by its digest, and they are fetched,
//! looked up and started by that.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cloud_config::settings::{SignaturePolicy, Signatures};
use ros_api::generation::Status;
use ros_api::{Digest, Reference, durable, paths};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::signature::{self, Asked, Attached, Key, Signed, Untrusted};
use super::source::Source;
use super::upgrade::How;
use super::version;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trust {
    /// The newest version that was good here: nothing older is fetched where signatures are required.
    pub floor: Option<String>,
    /// Who signed what was fetched here.
    pub signed: BTreeMap<Digest, Signed>,
}

fn path() -> PathBuf {
    Path::new(paths::ROS).join("trust.json")
}

impl Trust {
    /// What this machine remembers.
    ///
    /// # Errors
    /// When the file is there and cannot be read: a floor must not be lost silently.
    pub fn of_machine() -> Result<Self> {
        Self::read(&path())
    }

    fn read(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                serde_json::from_slice(&text.with_context(|| format!("read {}", path.display()))?)
                    .with_context(|| format!("parse {}", path.display()))
            }
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        Ok(durable::write(path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }

    /// Raises the floor to what was good on `machine`.
    fn raise(&mut self, machine: &Machine) {
        let good = machine.installed.iter().filter(|generation| generation.status == Status::Good);
        let all = good.map(|generation| generation.version.clone()).chain(self.floor.take());
        self.floor = all.max_by(|a, b| version::compare(a, b));
    }

    fn check_floor(&self, asked: &str) -> Result<(), Untrusted> {
        match &self.floor {
            Some(floor) if version::compare(asked, floor).is_lt() => {
                Err(Untrusted::Older { version: asked.into(), floor: floor.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A release that is asked for, and what lies beside it.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    /// Its name.
    pub image: &'a Reference,
    /// Its manifest.
    pub digest: Digest,
    /// Its version.
    pub version: &'a str,
    /// Its signatures.
    pub attached: &'a [Attached],
}

/// What the configuration wants of signatures on `image`; nothing when nobody looks.
fn wanted<'a>(machine: &'a Machine, image: &Reference) -> Option<(&'a str, &'a Signatures)> {
    let found = machine.settings.ros.upgrade.signatures_for(&image.name());
    found.filter(|(_, wanted)| wanted.policy != SignaturePolicy::Off)
}

/// Who signed a release that is asked for, as far as the configuration wants to know.
///
/// # Errors
/// When it is not trusted, or its registry cannot be reached.
pub async fn signer(
    machine: &Machine,
    source: &Source,
    image: &Reference,
    digest: Digest,
    version: &str,
    how: &How,
) -> Result<Option<Signed>> {
    if wanted(machine, image).is_none() {
        return Ok(None);
    }
    let attached = source.signatures(image, digest).await?;
    check(machine, &Candidate { image, digest, version, attached: &attached }, how.allow_downgrade)
}

/// Whether `candidate` is trusted; who signed it. What is only wished for is said and passes.
///
/// # Errors
/// Where signatures are required and none counts, or an older release is asked for without `allow_downgrade`.
fn check(
    machine: &Machine,
    candidate: &Candidate<'_>,
    allow_downgrade: bool,
) -> Result<Option<Signed>> {
    let Some((scope, wanted)) = wanted(machine, candidate.image) else { return Ok(None) };
    let signed = keys(scope, &wanted.keys).and_then(|keys| {
        let asked = Asked {
            image: candidate.image,
            digest: candidate.digest,
            signed_as: wanted.signed_as.as_deref(),
        };
        signature::verify(&asked, &keys, candidate.attached)
    });
    if wanted.policy == SignaturePolicy::Warn {
        return Ok(signed.map_err(|why| eprintln!("not trusted, and only warned of: {why}")).ok());
    }
    let signed = signed?;
    let mut trust = Trust::of_machine()?;
    trust.raise(machine);
    if !allow_downgrade {
        trust.check_floor(candidate.version)?;
    }
    Ok(Some(signed))
}

/// Remembers who signed a release that is being installed, and the floor of now.
///
/// # Errors
/// When it cannot be written.
pub fn remember(machine: &Machine, digest: Digest, signed: &Signed) -> Result<()> {
    let path = path();
    let mut trust = Trust::read(&path)?;
    trust.raise(machine);
    let installed = |digest: &Digest| machine.installed.iter().any(|there| there.digest == *digest);
    trust.signed.retain(|digest, _| installed(digest));
    trust.signed.insert(digest, signed.clone());
    trust.write(&path)
}

fn keys(scope: &str, configured: &[String]) -> Result<Vec<Key>, Untrusted> {
    if configured.is_empty() {
        return Err(Untrusted::NoKey { scope: scope.into() });
    }
    let mut keys = Vec::new();
    for (index, text) in configured.iter().enumerate() {
        let read = if text.starts_with('/') {
            std::fs::read_to_string(text).map_err(|error| format!("read {text}: {error}"))
        } else {
            Ok(text.clone())
        };
        let parsed = read.and_then(|text| Key::parse_all(&text));
        let bad = |why| Untrusted::BadKey { scope: scope.into(), number: index + 1, why };
        keys.extend(parsed.map_err(bad)?);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    const PUBLIC: &str = include_str!("fixtures/skopeo-1.18.pub");

    #[test]
    fn the_floor_is_the_newest_that_was_good() {
        let failed = Status::Failed { reason: "ntp".into() };
        let mut trust = Trust { floor: Some("v1.1".into()), ..Trust::default() };
        trust.raise(&machine(&[("v1.0", Status::Good), ("v1.2", Status::Good), ("v1.3", failed)]));
        assert_eq!(trust.floor.as_deref(), Some("v1.2"));
        // Generations go, the floor stays.
        trust.raise(&machine(&[("v1.0", Status::Good)]));
        assert_eq!(trust.floor.as_deref(), Some("v1.2"));
        for (asked, allowed) in
            [("v1.2", true), ("v1.10", true), ("v1.1", false), ("v1.2-rc1", false)]
        {
            assert_eq!(trust.check_floor(asked).is_ok(), allowed, "{asked}");
        }
        let said = trust.check_floor("v1.1").unwrap_err().to_string();
        assert!(said.contains("older than v1.2") && said.contains("--allow-downgrade"), "{said}");
        assert!(Trust::default().check_floor("v0").is_ok());
    }

    #[test]
    fn what_is_remembered_is_kept_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.json");
        assert_eq!(Trust::read(&path).unwrap(), Trust::default());
        let signed = Signed { key: Digest::of(b"k"), name: "h/os:v1".into() };
        let trust = Trust {
            floor: Some("v1".into()),
            signed: BTreeMap::from([(Digest::of(b"m"), signed)]),
        };
        trust.write(&path).unwrap();
        assert_eq!(Trust::read(&path).unwrap(), trust);
        std::fs::write(&path, "{").unwrap();
        assert!(Trust::read(&path).is_err());
    }

    #[test]
    fn the_policy_decides_what_an_unsigned_release_is() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        let image: Reference = "h:1/os:v1.1".parse().unwrap();
        let candidate =
            Candidate { image: &image, digest: Digest::of(b"m"), version: "v1.1", attached: &[] };
        assert_eq!(check(&machine, &candidate, false).unwrap(), None, "nothing is configured");
        let mut said = |policy, keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let entry = Signatures { policy, keys, signed_as: None };
            machine.settings.ros.upgrade.signatures.insert("h:1".into(), entry);
            check(&machine, &candidate, false).map_err(|error| error.to_string())
        };
        assert_eq!(said(SignaturePolicy::Off, &[]), Ok(None));
        assert_eq!(said(SignaturePolicy::Warn, &[]), Ok(None));
        for (keys, word) in [
            (&[PUBLIC][..], "h:1/os:v1.1 is not signed"),
            (&[], "no key is configured"),
            (&[PUBLIC, "x"], "key 2 of ros.upgrade.signatures.h:1"),
            (&["/nonexistent.pub"], "read /nonexistent.pub"),
        ] {
            let error = said(SignaturePolicy::Required, keys).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn keys_come_from_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pub");
        std::fs::write(&path, PUBLIC).unwrap();
        let all = keys("h", &[PUBLIC.to_owned(), path.display().to_string()]).unwrap();
        assert_eq!(all[0], all[1]);
    }
}

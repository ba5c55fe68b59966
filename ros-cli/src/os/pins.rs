//! `/var/lib/ros/pins.json`: what is held. A machine that runs a pinned version does not move, and a pinned version is
//! never removed. A pinned service keeps its image while the rest of the release moves on.
//!
//! ```text
//!  lock file of the release ─► with each pinned service's digest ─► lock file of the generation
//! ```
//!
//! A generation's lock file says what boots, pins and all: a boot reads nothing else, and going back to an older
//! generation goes back to its services.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ros_api::release::ServiceImage;
use ros_api::{Generation, Generations, Reference, Release, durable};
use serde::{Deserialize, Serialize};

use super::programs;

/// The pins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pins {
    /// Releases.
    pub versions: BTreeSet<String>,
    /// Services.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Held>,
}

/// A service that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The release that it is held at.
    pub version: String,
    /// Its image there, by digest.
    pub image: Reference,
    /// The same, as that release's lock file has it.
    pub service: ServiceImage,
}

impl Held {
    /// The service `name` as `release` has it, which is known here as `image`.
    ///
    /// # Errors
    /// When the release has no such service.
    pub fn of(name: &str, release: &Release, image: &Reference) -> Result<Self> {
        let service = release.part(name).with_context(|| {
            let all = release.services.keys().chain(release.optional.keys());
            let all: Vec<&str> = all.map(String::as_str).collect();
            format!("{} has no service {name}: it has {}", release.version, all.join(", "))
        })?;
        let image = release.service_reference(image, service);
        Ok(Self { version: release.version.clone(), image, service: service.clone() })
    }
}

impl Pins {
    /// Reads the file; none is no pins.
    ///
    /// # Errors
    /// When it is there and cannot be read: a pin must not be lost silently.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                serde_json::from_slice(&text.with_context(|| format!("read {}", path.display()))?)
                    .with_context(|| format!("parse {}", path.display()))
            }
        }
    }

    /// `release` as it is installed here: with what is held.
    ///
    /// # Errors
    /// When a held service is none of the release's.
    pub fn applied(&self, release: &Release) -> Result<Release> {
        let mut release = release.clone();
        for (name, held) in &self.services {
            match release.services.get_mut(name) {
                Some(service) => service.clone_from(&held.service),
                None => bail!(
                    "{name} is pinned to {}, and {} has no {name}: `ros os unpin {name}` lets it go",
                    held.version,
                    release.version
                ),
            }
        }
        Ok(release)
    }

    /// What `release` does not have as it is held: services, each with the version that it is held at.
    #[must_use]
    pub fn broken_by(&self, release: &Release) -> Vec<String> {
        let differs = |(name, held): &(&String, &Held)| {
            release.services.get(*name).map(|there| there.digest) != Some(held.service.digest)
        };
        let broken = self.services.iter().filter(differs);
        broken.map(|(name, held)| format!("{name}={}", held.version)).collect()
    }

    /// Everything that is held, as `pin` takes it.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let services = self.services.iter().map(|(name, held)| format!("{name}={}", held.version));
        self.versions.iter().cloned().chain(services).collect()
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(durable::write(path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }
}

/// The generation of the same release as `number` whose lock file is `wanted`: itself, another that is there, or a new
/// one. One that `before` does not have was installed just now, and is changed in place.
///
/// # Errors
/// When a file cannot be read or written.
pub fn generation_with(
    generations: &Generations,
    number: u32,
    wanted: &Release,
    before: &[Generation],
) -> Result<u32> {
    let of = generations.get(number)?;
    if generations.release(number)? == *wanted {
        return Ok(number);
    }
    let text = wanted.to_yaml();
    if !before.iter().any(|there| there.number == number) {
        let path = generations.dir(number).join("release.yml");
        durable::write(&path, text.as_bytes(), 0o644)?;
        return Ok(number);
    }
    let same = |there: &&Generation| {
        (there.digest, &there.append) == (of.digest, &of.append)
            && generations.release(there.number).is_ok_and(|release| release == *wanted)
    };
    if let Some(there) = generations.list()?.iter().rev().find(same) {
        return Ok(there.number);
    }
    copied(generations, &of, wanted)
}

/// Another generation of the same release, with another lock file.
fn copied(generations: &Generations, of: &Generation, wanted: &Release) -> Result<u32> {
    let number = generations.next_number()?;
    let (from, dir) = (generations.dir(of.number).join("bin"), generations.begin(number)?);
    programs::put(generations, wanted, &from, &dir.join("bin"))?;
    let text = wanted.to_yaml();
    durable::write(&dir.join("release.yml"), text.as_bytes(), 0o644)?;
    let status = ros_api::generation::Status::Staged;
    generations.commit(&Generation {
        number,
        status,
        created: super::asked::now(),
        ..of.clone()
    })?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::os::machine::tests::{machine, release};
    use ros_api::Digest;
    use ros_api::generation::Status;

    fn held(version: &str, content: &str) -> Held {
        let release = release(version, "b", &[("console", content)]);
        Held::of("console", &release, &"h/os:v1".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_held_service_keeps_its_image_and_what_is_not_there_is_a_conflict() {
        let mut pins = Pins::default();
        pins.services.insert("console".into(), held("v1.1", "old"));
        let new = release("v1.2", "b", &[("console", "new"), ("ntp", "new")]);
        let applied = pins.applied(&new).unwrap();
        assert_eq!(applied.services["console"], held("v1.1", "old").service);
        assert_eq!(applied.services["ntp"], new.services["ntp"]);
        assert_eq!(pins.broken_by(&new), ["console=v1.1"]);
        assert!(pins.broken_by(&applied).is_empty());
        let without = release("v2", "b", &[("ntp", "new")]);
        let said = pins.applied(&without).unwrap_err().to_string();
        assert!(said.contains("v2 has no console") && said.contains("unpin console"), "{said}");
        let said = Held::of("udev", &new, &"h/os:v1".parse().unwrap()).unwrap_err().to_string();
        assert!(said.contains("no service udev: it has console, ntp"), "{said}");
        assert_eq!(pins.words(), ["console=v1.1"]);
    }

    #[test]
    fn a_generation_with_other_pins_is_another_generation() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::at(dir.path());
        let programs = [("ros", "r"), ("system-docker", "d")];
        let release = |content| Release {
            programs: programs
                .map(|(name, text)| (name.into(), Digest::of(text.as_bytes())))
                .into(),
            ..release("v1", "b", &[("console", content)])
        };
        let (plain, wanted) = (release("new"), release("old"));
        let installed = machine(&[("v1", Status::Good)]).installed;
        let folder = generations.begin(1).unwrap();
        fs::create_dir(folder.join("bin")).unwrap();
        for (name, text) in programs {
            fs::write(folder.join("bin").join(name), text).unwrap();
        }
        fs::write(folder.join("release.yml"), plain.to_yaml()).unwrap();
        generations.commit(&installed[0]).unwrap();
        let with = |release: &Release, before: &[Generation]| {
            generation_with(&generations, 1, release, before).unwrap()
        };
        assert_eq!(with(&plain, &installed), 1);
        assert_eq!(with(&wanted, &installed), 2, "what may run or be gone back to stays as it is");
        assert_eq!(with(&wanted, &installed), 2, "once");
        assert_eq!(generations.release(1).unwrap(), plain);
        assert_eq!(generations.release(2).unwrap(), wanted);
        assert_eq!(generations.get(2).unwrap().status, Status::Staged);
        assert_eq!(fs::read(generations.dir(2).join("bin/ros")).unwrap(), b"r");
        assert_eq!(with(&wanted, &[]), 1, "one that was installed just now");
        assert_eq!(generations.release(1).unwrap(), wanted);
    }

    #[test]
    fn pins_are_kept_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins.json");
        assert_eq!(Pins::read(&path).unwrap(), Pins::default());
        let services = BTreeMap::from([("console".to_owned(), held("v1.1", "old"))]);
        let pins = Pins { versions: BTreeSet::from(["v1.1".into()]), services };
        pins.write(&path).unwrap();
        assert_eq!(Pins::read(&path).unwrap(), pins);
        std::fs::write(&path, "{").unwrap();
        assert!(Pins::read(&path).is_err());
    }
}

//! What is known of this machine when the OS is to be replaced: what runs, what is installed, what boots next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cloud_config::Settings;
use ros_api::boot::BootEnv;
use ros_api::generation::{Pointer, Status};
use ros_api::init::DaemonReport;
use ros_api::{Generation, Generations, Reference, Release, paths};

use super::boot_sets::BootSets;
use super::pins::Pins;
use crate::services::configuration::{self, Configuration};
use crate::services::roster::{self, Running};

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What runs.
    pub running: Running,
    /// Where generations are.
    pub generations: Generations,
    /// Those that are installed, by number.
    pub installed: Vec<Generation>,
    /// What the disk lost of these: they cannot run.
    pub damaged: BTreeMap<u32, String>,
    /// The generation whose daemon runs: its program is needed for every container that starts.
    pub daemon: Option<u32>,
    /// The boot loader's environment; none on a machine without a BOOT partition.
    pub env: Option<BootEnv>,
    /// What is held.
    pub pins: Pins,
    /// Services that the configuration asks for by name.
    pub asked_for: BTreeSet<String>,
    /// The configuration.
    pub settings: Settings,
}

impl Machine {
    /// Reads all of it.
    ///
    /// # Errors
    /// When there is no release to run, or a file is there and cannot be read.
    pub fn read() -> Result<Self> {
        let running = Running::read().context("this is no machine that runs ros")?;
        let generations = Generations::at(Path::new(paths::GENERATIONS));
        let installed = generations.list().context("list the generations")?;
        let env = match BootEnv::read(Path::new(paths::GRUB_ENV)) {
            Ok(env) => Some(env),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let sets = env.is_some().then(BootSets::of_machine);
        let lost = |number: u32| match (generations.usable(number), &sets) {
            (Err(e), _) => Some(e.to_string()),
            (Ok(release), Some(sets)) => {
                Some(format!("{:#}", sets.is_there(&release.boot_set).err()?))
            }
            (Ok(_), None) => None,
        };
        let damaged = installed.iter().map(|generation| generation.number);
        let damaged = damaged.filter_map(|number| Some((number, lost(number)?))).collect();
        let pins = Pins::read(Path::new(paths::PINS))?;
        let configuration = Configuration::load();
        let asked_for = configuration::asked_for(&configuration.services());
        let settings = configuration.settings;
        let daemon = DaemonReport::read().and_then(|report| report.generation);
        Ok(Self {
            running,
            generations,
            installed,
            damaged,
            daemon,
            env,
            pins,
            asked_for,
            settings,
        })
    }

    /// The lock file of `release` as it is installed here: with the optional parts that are asked for, and with what is
    /// held.
    ///
    /// # Errors
    /// When a held service is none of the release's.
    pub fn as_installed(&self, release: &Release) -> Result<Release> {
        self.pins.applied(&release.clone().with_parts(&self.asked_for))
    }

    /// The generation that runs.
    #[must_use]
    pub fn current(&self) -> Option<&Generation> {
        self.installed.iter().find(|generation| generation.number == self.running.generation)
    }

    /// The version that runs.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.running.release.version
    }

    /// The newest installed generation of a version; a damaged one when there is no other.
    #[must_use]
    pub fn of_version(&self, version: &str) -> Option<&Generation> {
        let of_it = |generation: &&Generation| generation.version == version;
        let all = || self.installed.iter().rev().filter(of_it);
        all().find(|generation| !self.damaged.contains_key(&generation.number)).or(all().next())
    }

    /// The generation that boots when no trial is on.
    #[must_use]
    pub fn default_generation(&self) -> Option<u32> {
        let from_pointer = || self.generations.pointer(Pointer::Current);
        self.env.as_ref().and_then(BootEnv::default_generation).or_else(from_pointer)
    }

    /// The generation on trial, and the tries it has left.
    #[must_use]
    pub fn trial(&self) -> Option<(u32, u32)> {
        self.env.as_ref().and_then(BootEnv::trial)
    }

    /// The newest good generation that does not run, or the one so many steps back from there.
    #[must_use]
    pub fn back(&self, steps: usize) -> Option<&Generation> {
        let good = |generation: &&Generation| {
            generation.status == Status::Good
                && generation.number != self.running.generation
                && !self.damaged.contains_key(&generation.number)
        };
        self.installed.iter().rev().filter(good).nth(steps.checked_sub(1)?)
    }

    /// The repository of releases: the configured one, or where the running release came from.
    ///
    /// # Errors
    /// When neither names one.
    pub fn repository(&self) -> Result<Reference> {
        let configured = self.settings.ros.upgrade.repository();
        let repository: Reference = match configured {
            Some(text) => {
                text.parse().with_context(|| format!("ros.upgrade.repository: {text:?}"))?
            }
            None => self.running.os.clone(),
        };
        if repository.registry.is_none() {
            bail!("no registry is configured: `ros config set ros.upgrade.repository REGISTRY/os`");
        }
        Ok(Reference { tag: None, digest: None, ..repository })
    }

    /// What a user's word for a release means: `v1.2`, `os:v1.2`, or a whole name.
    ///
    /// # Errors
    /// When it is no name, or needs a registry and there is none.
    pub fn reference(&self, text: &str) -> Result<Reference> {
        let short = !text.contains(['/', ':', '@']);
        if short {
            return Ok(self.repository()?.with_tag(text));
        }
        let asked: Reference = text.parse()?;
        if asked.tag.is_none() && asked.digest.is_none() {
            bail!("{text} names no version: write {text}:VERSION");
        }
        if asked.registry.is_some() {
            return Ok(asked);
        }
        let sibling = self.repository()?.sibling(&asked.repository);
        Ok(Reference { tag: asked.tag, digest: asked.digest, ..sibling })
    }

    /// Refuses a machine whose OS cannot be replaced on disk.
    ///
    /// # Errors
    /// When it lives in RAM, or has no BOOT partition.
    pub fn check_replaceable(&self) -> Result<()> {
        if roster::runs_from_ram() {
            bail!("this machine runs from RAM: replace its medium to replace its OS");
        }
        if self.env.is_none() {
            bail!(
                "there is no boot loader's environment at {}: is the BOOT partition mounted?",
                paths::GRUB_ENV
            );
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use ros_api::release::{BootSet, Minimum, ServiceImage};
    use ros_api::{Digest, Release};

    use super::*;

    /// A release whose services are named with the content that they have.
    pub fn release(version: &str, boot: &str, services: &[(&str, &str)]) -> Release {
        let digest = Digest::of(boot.as_bytes());
        let service = |content: &str| ServiceImage {
            image: "os-x".into(),
            digest: Digest::of(content.as_bytes()),
            size: 10,
        };
        Release {
            format: 1,
            version: version.into(),
            kernel: "6".into(),
            config_schema: 1,
            config_keys: Default::default(),
            config_removed: BTreeMap::new(),
            minimum: Minimum::default(),
            boot_set: BootSet {
                digest,
                kernel: digest,
                kernel_size: 5,
                initrd: digest,
                initrd_size: 5,
                cmdline: String::new(),
                without_init: Some(Digest::of(b"initrd without /init")),
            },
            programs: BTreeMap::from([("ros".into(), Digest::of(b"ros"))]),
            services: services
                .iter()
                .map(|(name, content)| ((*name).to_owned(), service(content)))
                .collect::<BTreeMap<_, _>>(),
            optional: BTreeMap::new(),
            defaults: serde_yaml::Value::Null,
        }
    }

    /// A machine that runs its first generation.
    pub fn machine(installed: &[(&str, Status)]) -> Machine {
        let generation = |(index, (version, status)): (usize, &(&str, Status))| Generation {
            number: u32::try_from(index).unwrap() + 1,
            version: (*version).into(),
            image: format!("h:1/os:{version}").parse().unwrap(),
            digest: Digest::of(version.as_bytes()),
            boot_set: Digest::of(b"b"),
            created: 0,
            append: String::new(),
            status: status.clone(),
        };
        let mut env = BootEnv::default();
        env.set_default(1);
        Machine {
            running: Running {
                generation: 1,
                release: release(installed[0].0, "b", &[]),
                os: "h:1/os:v1.0".parse().unwrap(),
            },
            generations: Generations::at(Path::new("/nonexistent")),
            installed: installed.iter().enumerate().map(generation).collect(),
            damaged: BTreeMap::new(),
            daemon: Some(1),
            env: Some(env),
            pins: Pins::default(),
            asked_for: BTreeSet::new(),
            settings: Settings::default(),
        }
    }

    #[test]
    fn words_for_a_release() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        for (word, name) in [
            ("v1.2", "h:1/os:v1.2"),
            ("os:v1.2", "h:1/os:v1.2"),
            ("other:v1", "h:1/other:v1"),
            ("g.example/a/os:v9", "g.example/a/os:v9"),
        ] {
            assert_eq!(machine.reference(word).unwrap().to_string(), name);
        }
        assert!(machine.reference("g.example/os").is_err());
        machine.running.os = "os:v1.0".parse().unwrap();
        let error = machine.reference("os:v1.2").unwrap_err().to_string();
        assert!(error.contains("ros.upgrade.repository"), "{error}");
    }
}

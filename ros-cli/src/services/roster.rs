//! Which services this machine has: those of the running release, as the configuration changes them, and
//! those that the configuration brings along. Images are looked up on this machine only: nothing is fetched.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use bollard::models::ImageInspect;
use ros_api::boot::{BootReport, Mode};
use ros_api::{Generations, Reference, Release, durable, labels, paths};
use serde_json::Value;

use super::container::{self, Service};
use super::definition::Definition;
use super::engine::Engine;

/// What the machine runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Number of the generation; 0 when the boot stage knows of none.
    pub generation: u32,
    /// Its lock file.
    pub release: Release,
    /// The name its release image was installed by.
    pub os: Reference,
}

impl Running {
    /// Reads what the boot stage left in `/run/ros`.
    ///
    /// # Errors
    /// When there is no release to run.
    pub fn read() -> Result<Self> {
        let text = std::fs::read_to_string(paths::RUN_RELEASE)
            .with_context(|| format!("read {}", paths::RUN_RELEASE))?;
        let release = Release::parse(&text)?;
        let generation = running_generation().unwrap_or(0);
        let installed = Generations::at(Path::new(paths::GENERATIONS)).get(generation);
        let fallback =
            || Reference { registry: None, repository: "os".into(), tag: None, digest: None };
        let os = installed.map_or_else(|_| fallback(), |installed| installed.image);
        Ok(Self { generation, release, os })
    }

    /// A generation that is installed, as if it ran.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn of(generations: &Generations, number: u32) -> Result<Self> {
        let release = generations.release(number)?;
        Ok(Self { generation: number, release, os: generations.get(number)?.image })
    }

    /// Has it be the one that runs, for whoever reads `/run/ros` from now on. Done again it changes nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn publish(&self, generations: &Generations) -> Result<()> {
        let text = self.release.to_yaml();
        durable::write(Path::new(paths::RUN_RELEASE), text.as_bytes(), 0o644)?;
        let programs = generations.dir(self.generation).join("bin");
        Ok(durable::point(Path::new(paths::RUN_BIN), &programs)?)
    }
}

/// The generation that runs: the one whose programs are linked. It was booted, or switched to since.
#[must_use]
pub fn running_generation() -> Option<u32> {
    let programs = std::fs::read_link(paths::RUN_BIN).ok()?;
    let linked = programs.parent()?.file_name()?.to_str()?.parse().ok();
    linked.or_else(|| boot_report()?.generation)
}

/// What the boot stage did, if it left a report.
#[must_use]
pub fn boot_report() -> Option<BootReport> {
    serde_json::from_slice(&std::fs::read(paths::BOOT_REPORT).ok()?).ok()
}

/// Whether the machine runs from RAM, so that its OS cannot be replaced on disk.
#[must_use]
pub fn runs_from_ram() -> bool {
    boot_report().is_some_and(|report| report.mode != Mode::Disk)
}

/// The services of a machine.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Those that can run.
    pub services: BTreeMap<String, Service>,
    /// Those that cannot, and why.
    pub missing: BTreeMap<String, String>,
    /// Those that are switched off.
    pub disabled: Vec<String>,
    /// Those that the release has for who asks for them, and that are not on this machine.
    pub optional: Vec<String>,
    /// What was wrong with the definitions, for people.
    pub warnings: Vec<String>,
}

/// What is known of an image.
struct Known {
    name: String,
    content: String,
    label: Option<String>,
}

impl Roster {
    /// The services of `running`, under the configuration's `changes` (`ros.services`).
    pub async fn read(
        engine: &Engine,
        running: &Running,
        changes: &BTreeMap<String, Value>,
    ) -> Self {
        let mut roster = Self::default();
        for (name, service) in &running.release.services {
            let reference = running.release.service_reference(&running.os, service);
            let names = [
                reference.to_string(),
                format!("{}@{}", service.image, service.digest),
                service.digest.to_string(),
            ];
            let content = Some(service.digest.to_string());
            match known(engine, &names, content).await {
                Ok(image) => roster.add(&running.release, name, image, changes.get(name)),
                Err(error) => {
                    roster.missing.insert(name.clone(), format!("{error:#}"));
                }
            }
        }
        let optional = &running.release.optional;
        for name in optional.keys().filter(|name| !brings_own_image(changes.get(*name))) {
            roster.optional.push(name.clone());
        }
        for (name, change) in changes {
            if !running.release.services.contains_key(name) && !roster.is_optional(name) {
                roster.bring_along(engine, &running.release, name, change).await;
            }
        }
        roster
    }

    fn add(&mut self, release: &Release, name: &str, image: Known, change: Option<&Value>) {
        let definition = Definition::of(name, image.label.as_deref(), change);
        self.warnings.extend(definition.warnings);
        if !definition.enabled {
            self.disabled.push(name.to_owned());
            return;
        }
        let service = Service {
            name: name.to_owned(),
            image: image.name,
            content: container::content(image.content, &definition.spec, release),
            spec: definition.spec,
        };
        self.services.insert(name.to_owned(), service);
    }

    /// A service of the configuration's own needs an `image` that is here already.
    async fn bring_along(
        &mut self,
        engine: &Engine,
        release: &Release,
        name: &str,
        change: &Value,
    ) {
        let definition = Definition::of(name, None, Some(change));
        if !definition.enabled {
            self.disabled.push(name.to_owned());
            return;
        }
        let Some(image) = definition.image else {
            self.warnings
                .push(format!("services.{name} is not in this release and names no image"));
            return;
        };
        match known(engine, &[image], None).await {
            Ok(image) => self.add(release, name, image, Some(change)),
            Err(error) => {
                self.missing.insert(name.to_owned(), format!("{error:#}"));
            }
        }
    }

    /// The names of all, running or not.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.services.keys().chain(self.missing.keys()).chain(&self.disabled).chain(&self.optional)
    }

    /// Whether `name` is a part that is not on this machine.
    #[must_use]
    pub fn is_optional(&self, name: &str) -> bool {
        self.optional.iter().any(|optional| optional == name)
    }
}

fn brings_own_image(change: Option<&Value>) -> bool {
    change.is_some_and(|change| change["image"].is_string())
}

async fn known(engine: &Engine, names: &[String], content: Option<String>) -> Result<Known> {
    let (name, image) = engine.image(names).await?;
    let content = content.or_else(|| image.id.clone()).unwrap_or_default();
    Ok(Known { name, content, label: service_label(&image) })
}

fn service_label(image: &ImageInspect) -> Option<String> {
    image.config.as_ref()?.labels.as_ref()?.get(labels::SERVICE).cloned()
}

//! `ros os diff A B`: what differs between two releases, each installed here or in its registry.

use anyhow::Result;
use ros_api::{Digest, Reference, Release};

use super::daemon::{self, Remote};
use super::history::History;
use super::live::steps::{self, Services};
use super::machine::Machine;
use super::packages::{self, Packages};
use super::plan::{Class, Plan};
use super::source::Source;
use super::upgrade::missing_services;
use super::{definitions, rights};
use crate::services::engine::Engine;

/// A release, and what is not here of it.
struct Side {
    release: Release,
    image: Reference,
    digest: Digest,
    own: Option<Remote>,
    missing: Vec<(Reference, Remote)>,
    services: Services,
    packages: Option<Packages>,
}

/// What differs, as an upgrade from `a` to `b` would plan it; what is to be fetched is counted for this machine.
///
/// # Errors
/// When one is neither installed nor in its registry.
pub async fn diff(machine: &Machine, a: &str, b: &str) -> Result<Plan> {
    let engine = Engine::connect()?;
    let (a, b) = (side(machine, &engine, a).await?, side(machine, &engine, b).await?);
    let images: Vec<&Remote> =
        b.own.iter().chain(b.missing.iter().map(|(_, remote)| remote)).collect();
    let mut plan = Plan::of(&a.release, &b.release, &b.image, b.digest, &images);
    plan.steps = steps::steps(&a.services, &b.services);
    plan.rights = rights::changes(&a.services, &b.services);
    let at_boot = steps::needs_boot(&a.services, &b.services);
    plan.boot = match plan.class {
        Class::Reboot => Some("kernel or initrd change".into()),
        _ => at_boot.first().map(|name| format!("{name} runs only at a boot")),
    };
    plan.packages =
        a.packages.as_ref().zip(b.packages.as_ref()).map(|(a, b)| packages::changes(a, b));
    plan.expect(&History::of_machine().list().unwrap_or_default());
    Ok(plan)
}

async fn side(machine: &Machine, engine: &Engine, version: &str) -> Result<Side> {
    let installed = version.strip_prefix("os:").unwrap_or(version);
    let (release, image, digest, own) = match machine.of_version(installed) {
        Some(generation) => {
            let release = machine.generations.release(generation.number)?;
            (release, generation.image.clone(), generation.digest, None)
        }
        None => {
            let image = machine.reference(version)?;
            let remote = daemon::remote(&image).await?;
            (remote.release(&image)?, image, remote.digest, Some(remote))
        }
    };
    let missing = missing_services(engine, &Source::Registry, &release, &image).await?;
    let services = definitions::of_release(engine, &release, &image, &missing).await?;
    let packages =
        packages::of_release(engine, &release, (&image, digest), own.as_ref(), &missing).await;
    Ok(Side { release, image, digest, own, missing, services, packages })
}

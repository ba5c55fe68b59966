//! The services of a release that is not installed: from the labels of images that are here, and of those that are
//! still in the registry. So a plan knows how each service would be replaced before anything is fetched.

use anyhow::Result;
use ros_api::{Reference, Release, labels};

use super::daemon::Remote;
use super::live::steps::Services;
use super::machine::Machine;
use crate::services::configuration::Configuration;
use crate::services::container::{Service, content};
use crate::services::definition::Definition;
use crate::services::engine::Engine;
use crate::services::roster::Roster;

/// The services that run now, and those of `release`, under this machine's configuration.
///
/// # Errors
/// When the daemon fails.
pub async fn of_both(
    engine: &Engine,
    machine: &Machine,
    release: &Release,
    image: &Reference,
    remotes: &[(Reference, Remote)],
) -> Result<(Services, Services)> {
    let changes = Configuration::load().services();
    let old = Roster::read(engine, &machine.running, &changes).await.services;
    let mut new = of_release(engine, release, image, remotes).await?;
    // What the configuration brings along is the same with any release.
    let own = old.iter().filter(|(name, _)| {
        !machine.running.release.services.contains_key(*name)
            && !release.services.contains_key(*name)
    });
    new.extend(own.map(|(name, service)| (name.clone(), service.clone())));
    Ok((old, new))
}

/// The services of `release` that are not switched off here.
///
/// # Errors
/// When the daemon fails, or an image is neither here nor among `remotes`.
pub async fn of_release(
    engine: &Engine,
    release: &Release,
    image: &Reference,
    remotes: &[(Reference, Remote)],
) -> Result<Services> {
    let changes = Configuration::load().services();
    let mut services = Services::new();
    for (name, service) in &release.services {
        let reference = release.service_reference(image, service);
        let remote = remotes.iter().find(|(there, _)| *there == reference);
        let label = match remote {
            Some((_, remote)) => remote.label(labels::SERVICE),
            None => here(engine, &reference, service.digest).await?,
        };
        let definition = Definition::of(name, label.as_deref(), changes.get(name));
        if definition.enabled {
            let service = Service {
                name: name.clone(),
                image: reference.to_string(),
                content: content(service.digest.to_string(), &definition.spec, release),
                spec: definition.spec,
            };
            services.insert(name.clone(), service);
        }
    }
    Ok(services)
}

async fn here(
    engine: &Engine,
    reference: &Reference,
    digest: ros_api::Digest,
) -> Result<Option<String>> {
    let (_, image) = engine.image(&[reference.to_string(), digest.to_string()]).await?;
    let labels = image.config.and_then(|config| config.labels);
    Ok(labels.and_then(|labels| labels.get(labels::SERVICE).cloned()))
}

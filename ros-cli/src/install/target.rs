//! Which release is installed: the one that runs, whose content is on this machine, or one that has to be had first, with
//! all the checks that an upgrade to it makes.

use anyhow::{Context, Result, bail};
use ros_api::{Digest, Reference, Release, labels};

use super::Order;
use crate::os::daemon::Remote;
use crate::os::machine::Machine;
use crate::os::plan::Plan;
use crate::os::source::Source;
use crate::os::upgrade::{How, missing_services};
use crate::os::{preflight, trust};
use crate::services::engine::Engine;

/// What unpacked content has of its layers.
const UNPACKED: u64 = 3;

/// A release, before its services were looked for. No remote: it is here.
struct Found {
    source: Source,
    image: Reference,
    digest: Digest,
    release: Release,
    remote: Option<Remote>,
}

impl Found {
    async fn complete(self, machine: &Machine, engine: &Engine) -> Result<Target> {
        let Self { source, image, digest, release, remote } = self;
        let services = missing_services(engine, &source, &release, &image).await?;
        let of_services = services.iter().map(|(_, remote)| remote);
        let missing: Vec<&Remote> = remote.iter().chain(of_services).collect();
        let plan = Plan::of(&machine.running.release, &release, &image, digest, &missing);
        let here = remote.is_none();
        Ok(Target { image, digest, release, source, services, plan, here })
    }
}

/// The release, and what of it is not here.
pub struct Target {
    /// Its name.
    pub image: Reference,
    /// Its manifest.
    pub digest: Digest,
    /// Its lock file.
    pub release: Release,
    source: Source,
    services: Vec<(Reference, Remote)>,
    plan: Plan,
    /// The release image itself is here.
    here: bool,
}

impl Target {
    /// Finds what `order` asks for.
    ///
    /// # Errors
    /// When it is not to be had, or not trusted.
    pub async fn find(machine: &Machine, engine: &Engine, order: &Order) -> Result<Self> {
        match &order.image {
            Some(asked) => Self::asked(machine, engine, asked, order).await,
            None => Self::running(machine, engine).await,
        }
    }

    async fn asked(machine: &Machine, engine: &Engine, asked: &str, order: &Order) -> Result<Self> {
        let (source, image) = Source::of(machine, engine, asked).await?;
        let remote = source.remote(&image).await?;
        let (digest, release) = (remote.digest, remote.release(&image)?);
        let how = How { allow_downgrade: order.allow_downgrade, ..How::default() };
        let signed =
            trust::signer(machine, &source, &image, digest, &release.version, &how).await?;
        let found = Found { source, image, digest, release, remote: Some(remote) };
        let mut target = found.complete(machine, engine).await?;
        target.plan.signed = signed;
        target.plan.file = target.source.file();
        Ok(target)
    }

    async fn running(machine: &Machine, engine: &Engine) -> Result<Self> {
        let runs = machine.current();
        let runs = runs.context("it is not known what runs here: name a release with -i")?;
        let name = runs.image.with_digest(runs.digest);
        let there = engine.image(&[name.to_string(), runs.digest.to_string()]).await;
        let (_, image) =
            there.with_context(|| format!("{} is not here: name it with -i", runs.image))?;
        let lock = image.config.and_then(|config| config.labels?.remove(labels::RELEASE_LOCK));
        let Some(lock) = lock else { bail!("{} is no release of ros", runs.image) };
        let found = Found {
            source: Source::Registry,
            image: runs.image.clone(),
            digest: runs.digest,
            release: Release::parse(&lock)?,
            remote: None,
        };
        found.complete(machine, engine).await
    }

    /// Bytes to be fetched.
    #[must_use]
    pub fn fetch_bytes(&self) -> u64 {
        self.plan.fetch
    }

    /// The file that it comes from.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.plan.file.as_deref()
    }

    /// Bytes of its images, unpacked; an estimate as far as they are not here.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn content(&self, engine: &Engine) -> Result<u64> {
        let names = self.release.services.values().map(|service| service.digest.to_string());
        let mut bytes = self.plan.layers * UNPACKED;
        for name in names.chain([self.digest.to_string()]) {
            let there = engine.image(&[name]).await.ok();
            let size = there.and_then(|(_, image)| u64::try_from(image.size?).ok());
            bytes += size.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Brings here what is not.
    ///
    /// # Errors
    /// When there is no room for it, or it cannot be had.
    pub async fn fetch(&self, machine: &Machine, engine: &Engine) -> Result<()> {
        if self.here && self.services.is_empty() {
            return Ok(());
        }
        preflight::state(self.plan.state_bytes)?;
        self.source.fetch(engine, &self.plan, &self.services).await?;
        if let Some(signed) = &self.plan.signed {
            trust::remember(machine, self.digest, signed)?;
        }
        Ok(())
    }
}

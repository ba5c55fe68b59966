//! Pulling: only what is missing, three layers at a time, resumed where it broke off, checked while it is
//! written, and known under its name only when all of it is here.
//!
//! A blob comes into `ingest/<hex>.partial`, locked by whoever writes it: a second pull of the same layer waits and then
//! finds the layer. Where it can be, only parts of it come, into `ingest/<hex>.pieces.partial`: see `way`.

mod layer;
mod partial;
mod pieces;
mod stream;
mod way;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream as futures};
use ros_api::{Digest, Reference};

use crate::manifest::{Config, Descriptor};
use crate::registry::{Endpoint, Registries, RemoteImage, locate};
use crate::{Error, ImageId, Result, Store};
use layer::Layer;
use stream::blocking;
pub(crate) use way::Way;
use way::{By, Decided};

/// Layers fetched at the same time.
const PARALLEL: usize = 3;

/// What a pull does, in Docker's terms. Layers are named by the digest of their compressed blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// The registry has it.
    Resolved {
        /// What the name points to.
        digest: Digest,
        /// Number of layers.
        layers: usize,
    },
    /// The layer is here already.
    Exists {
        /// The layer.
        layer: Digest,
    },
    /// It is being fetched.
    Downloading {
        /// The layer.
        layer: Digest,
        /// Bytes here.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It has been fetched and is what it should be.
    Downloaded {
        /// The layer.
        layer: Digest,
    },
    /// It is being unpacked.
    Extracting {
        /// The layer.
        layer: Digest,
        /// Compressed bytes read.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// It is complete.
    Complete {
        /// The layer.
        layer: Digest,
    },
}

/// A finished pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: ImageId,
    /// What the name points to in the registry.
    pub digest: Digest,
    /// Bytes of config and layers that were fetched.
    pub fetched: u64,
}

/// What a pull would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullPlan {
    /// The image in its registry.
    pub image: RemoteImage,
    /// The image's ID.
    pub id: ImageId,
    /// Labels of its config.
    pub labels: BTreeMap<String, String>,
    /// Layers that are not here.
    pub missing: Vec<Missing>,
    /// Bytes of config and layers that would be fetched. The (small) config is fetched by planning itself, and so are
    /// layers' skeletons, which are kept: they count with the pull.
    pub fetch: u64,
}

/// A layer that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Digest of its blob.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// Bytes that are fetched for it.
    pub fetch: u64,
    /// Bytes that the store takes for it at most, while it comes in.
    pub room: u64,
}

type Progress = Arc<dyn Fn(PullEvent) + Send + Sync>;

impl Store {
    /// Says what [`Store::pull`] would fetch.
    ///
    /// # Errors
    /// As [`crate::manifest_of`].
    pub async fn plan_pull(
        &self,
        reference: &Reference,
        registries: &Registries,
    ) -> Result<PullPlan> {
        let (endpoint, image) = locate(reference, registries).await?;
        let (config, _, fetched) = self.config_of(&endpoint, reference, &image).await?;
        let pairs = config.layers(&reference.to_string(), &image.manifest)?;
        let progress: Progress = Arc::new(|_| ());
        let mut wanted: Vec<Layer<'_>> = Vec::new();
        for (blob, diff_id) in pairs {
            if !self.has_layer(diff_id)
                && wanted.iter().all(|known| known.blob.digest != blob.digest)
            {
                wanted.push(self.layer(&endpoint, (blob, diff_id), &progress));
            }
        }
        let decided = decide(&wanted, By::Plan).await?;
        let one = |(layer, decided): (&Layer<'_>, Decided)| Missing {
            digest: layer.blob.digest,
            size: layer.blob.size,
            fetch: decided.left,
            room: decided.room,
        };
        let missing: Vec<Missing> = wanted.iter().zip(decided).map(one).collect();
        let fetch = missing.iter().map(|layer| layer.fetch).sum::<u64>() + fetched;
        let labels = config.labels();
        Ok(PullPlan { id: image.manifest.config.digest, image, labels, missing, fetch })
    }

    fn layer<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        (blob, diff_id): (&'a Descriptor, &'a Digest),
        progress: &'a Progress,
    ) -> Layer<'a> {
        Layer { store: self, endpoint, blob, diff_id, progress }
    }

    /// Fetches an image and names it `reference`, and `name@digest`. Dropping the future ends it; what was
    /// fetched stays for the next try.
    ///
    /// # Errors
    /// As [`crate::manifest_of`], and all that a hostile or broken image gives. Nothing is named then.
    pub async fn pull(
        &self,
        reference: &Reference,
        registries: &Registries,
        progress: impl Fn(PullEvent) + Send + Sync + 'static,
    ) -> Result<Pulled> {
        let progress: Progress = Arc::new(progress);
        let store = self.clone();
        // No garbage is collected until the image has its record.
        let lock = blocking(move || store.lock_shared()).await?;
        let (endpoint, image) = locate(reference, registries).await?;
        let (config, config_bytes, config_size) =
            self.config_of(&endpoint, reference, &image).await?;
        let name = reference.to_string();
        let pairs = config.layers(&name, &image.manifest)?;
        progress(PullEvent::Resolved { digest: image.digest, layers: pairs.len() });
        let layers: Vec<Layer<'_>> =
            pairs.into_iter().map(|pair| self.layer(&endpoint, pair, &progress)).collect();
        let decided = decide(&layers, By::Pull).await?;
        let looked: u64 = decided.iter().map(|one| one.fetched).sum();
        // Collected first: a stream over a closure is not provably Send.
        let all: Vec<_> =
            layers.iter().zip(&decided).map(|(layer, one)| layer.bring(&one.way)).collect();
        let all = futures::iter(all).buffer_unordered(PARALLEL);
        let fetched =
            all.try_fold(config_size + looked, |sum, bytes| async move { Ok(sum + bytes) }).await?;

        let (store, reference, digest) = (self.clone(), reference.clone(), image.digest);
        let id = image.manifest.config.digest;
        blocking(move || {
            let _lock = lock;
            store.write_blob(&config_bytes)?;
            let manifest = store.write_blob(&image.manifest_bytes)?;
            let pinned = reference.with_digest(digest);
            let names =
                if reference.digest.is_some() { vec![pinned] } else { vec![reference, pinned] };
            store.add_image(id, manifest, &names)
        })
        .await?;
        Ok(Pulled { id, digest, fetched })
    }

    /// Fetches one layer of an image again; the image's config is here.
    pub(crate) async fn fetch_layer(
        &self,
        reference: &Reference,
        registries: &Registries,
        wanted: &Digest,
    ) -> Result<()> {
        let (endpoint, image) = locate(reference, registries).await?;
        let (config, _, _) = self.config_of(&endpoint, reference, &image).await?;
        let name = reference.to_string();
        let pairs = config.layers(&name, &image.manifest)?;
        let found = pairs.into_iter().find(|(_, diff_id)| *diff_id == wanted);
        let (blob, diff_id) = found.ok_or_else(|| Error::NotFound { reference: name.clone() })?;
        let progress: Progress = Arc::new(|_| ());
        // What is here of it may be what is damaged.
        let layer = self.layer(&endpoint, (blob, diff_id), &progress);
        layer.bring(&Way::Whole).await.map(|_| ())
    }

    /// The config, from here or from the registry, and how much of it was fetched.
    async fn config_of(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        image: &RemoteImage,
    ) -> Result<(Config, Vec<u8>, u64)> {
        let wanted = &image.manifest.config;
        let (text, fetched) = match self.read_blob(&wanted.digest) {
            Ok(text) => (text, 0),
            Err(_) => {
                let text = endpoint.config(&wanted.digest, wanted.size).await?;
                let size = text.len() as u64;
                (text, size)
            }
        };
        Ok((Config::parse(&reference.to_string(), &text)?, text, fetched))
    }
}

/// How each layer comes here, in their order; decided for all before one comes in, since it brings files that others want too.
async fn decide(layers: &[Layer<'_>], by: By) -> Result<Vec<Decided>> {
    let all: Vec<_> = layers.iter().map(|layer| layer.decide(by)).collect();
    futures::iter(all).buffered(PARALLEL).try_collect().await
}

/// An error with what it comes from.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

//! Pushing: what the registry lacks, layers gzipped as they go; the manifest last, so that a name there never points to less.
//!
//! The store keeps layers unpacked. Where the registry has those that the image came with, it is given the same manifest, so
//! that the digest stays. Otherwise layers are compressed anew, always to the same bytes: the second push finds them there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use flate2::{Compression, GzBuilder};
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::errors::OciDistributionError;
use ros_api::{Digest, Reference};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;

use crate::manifest::{Descriptor, Document, Manifest};
use crate::registry::{Endpoint, Registries, home};
use crate::store::remove_all;
use crate::{Error, ImageId, ImageRecord, Result, Store};

const GZIPPED: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Bytes read of a layer at a time.
const CHUNK: usize = 1 << 20;

/// What a push does. Layers are named by their diff ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// It is being compressed.
    Preparing {
        /// The layer.
        layer: Digest,
    },
    /// The repository has it.
    Exists {
        /// The layer.
        layer: Digest,
    },
    /// The repository has it now from another one of the same registry.
    Mounted {
        /// The layer.
        layer: Digest,
        /// The other repository.
        from: String,
    },
    /// It is on its way.
    Pushing {
        /// The layer.
        layer: Digest,
        /// Bytes sent.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The registry has it now.
    Pushed {
        /// The layer.
        layer: Digest,
    },
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: u64,
}

impl Store {
    /// Gives the image `id` to the registry of `reference`, under its tag. It has the name `name@digest` then, too.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::Network`], and what reading a damaged layer gives.
    pub async fn push(
        &self,
        id: &ImageId,
        reference: &Reference,
        registries: &Registries,
        progress: impl Fn(PushEvent) + Send + Sync + Clone + 'static,
    ) -> Result<Pushed> {
        let endpoint = home(reference, registries)?;
        endpoint.may_push().await?;
        let image = self.image(id)?;
        let sources = sources(&image, reference, registries);
        for manifest in image.manifests() {
            let came =
                self.push_as_it_came(&image, manifest, &sources, &endpoint, &progress).await?;
            if let Some(text) = came {
                return self.push_named(id, text, reference, &endpoint).await;
            }
        }
        let config = self.config_bytes(id)?;
        let mut manifest = Manifest::plain((*id, config.len() as u64), std::iter::empty());
        for diff_id in image.layers {
            manifest.layers.push(self.push_layer(diff_id, &endpoint, &progress).await?);
        }
        endpoint.push_bytes(id, config).await?;
        let text = serde_json::to_vec(&manifest).map_err(Error::on("encode", self.root()))?;
        self.push_named(id, text, reference, &endpoint).await
    }

    /// The manifest's text, once the repository has all that it names; none when the registry lacks a layer.
    async fn push_as_it_came(
        &self,
        image: &ImageRecord,
        manifest: &Digest,
        sources: &BTreeSet<String>,
        endpoint: &Endpoint,
        progress: &(impl Fn(PushEvent) + Send + Sync + Clone + 'static),
    ) -> Result<Option<Vec<u8>>> {
        // Without it the layers do as well: a push needs no more than these.
        let Ok(text) = self.read_blob(manifest) else { return Ok(None) };
        let Document::Manifest(manifest) = Document::parse(&image.id.to_string(), &text)? else {
            return Ok(None);
        };
        if manifest.layers.len() != image.layers.len() {
            return Ok(None);
        }
        let mut events = Vec::new();
        for (blob, &layer) in manifest.layers.iter().zip(&image.layers) {
            let event = match endpoint.has(&blob.digest).await? {
                true => Some(PushEvent::Exists { layer }),
                false => mounted(endpoint, sources, &blob.digest)
                    .await
                    .map(|from| PushEvent::Mounted { layer, from }),
            };
            let Some(event) = event else { return Ok(None) };
            events.push(event);
        }
        events.into_iter().for_each(progress);
        if !endpoint.has(&image.id).await? {
            endpoint.push_bytes(&image.id, self.config_bytes(&image.id)?).await?;
        }
        Ok(Some(text))
    }

    /// The last step: the name, there and here.
    async fn push_named(
        &self,
        id: &ImageId,
        text: Vec<u8>,
        reference: &Reference,
        endpoint: &Endpoint,
    ) -> Result<Pushed> {
        let pushed = Pushed { digest: Digest::of(&text), size: text.len() as u64 };
        endpoint.push_manifest(reference, text).await?;
        self.tag(id, &reference.with_digest(pushed.digest))?;
        Ok(pushed)
    }

    async fn push_layer(
        &self,
        diff_id: Digest,
        endpoint: &Endpoint,
        progress: &(impl Fn(PushEvent) + Send + Sync + Clone + 'static),
    ) -> Result<Descriptor> {
        progress(PushEvent::Preparing { layer: diff_id });
        let store = self.clone();
        let packed = spawn_blocking(move || store.packed(&diff_id)).await;
        let packed =
            packed.map_err(|e| Error::io("compress", self.root(), io::Error::other(e)))??;
        let (digest, total) = (packed.digest, packed.size);
        if endpoint.has(&digest).await? {
            progress(PushEvent::Exists { layer: diff_id });
        } else {
            let file = tokio::fs::File::open(&packed.path).await;
            let file = file.map_err(Error::on("open", &packed.path))?;
            let tell = progress.clone();
            let mut done = 0;
            let chunks = chunks(file).inspect_ok(move |chunk| {
                done += chunk.len() as u64;
                tell(PushEvent::Pushing { layer: diff_id, done, total });
            });
            endpoint.push_stream(&digest, total, chunks).await?;
            progress(PushEvent::Pushed { layer: diff_id });
        }
        Ok(Descriptor {
            media_type: GZIPPED.to_owned(),
            digest,
            size: total,
            annotations: std::collections::BTreeMap::new(),
            platform: None,
        })
    }

    fn packed(&self, diff_id: &Digest) -> Result<Packed> {
        let _lock = self.lock_shared()?;
        let path = self.ingest_path("push");
        let file = File::create_new(&path).map_err(Error::on("create", &path))?;
        let mut packed = Packed { path: path.clone(), digest: *diff_id, size: 0 };
        let out = Counting { file, hash: Sha256::new(), size: 0 };
        // No time, no name: the same layer is the same bytes.
        let mut gzip = GzBuilder::new().mtime(0).write(out, Compression::default());
        self.export_layer(diff_id, &mut gzip)?;
        let mut out = gzip.finish().map_err(Error::on("write", &path))?;
        out.flush().map_err(Error::on("write", &path))?;
        packed.digest = Digest::from_bytes(out.hash.finalize().into());
        packed.size = out.size;
        Ok(packed)
    }
}

/// Other repositories of the same registry that had the image.
fn sources(
    image: &ImageRecord,
    reference: &Reference,
    registries: &Registries,
) -> BTreeSet<String> {
    let host =
        |name: &Reference| name.registry.clone().or_else(|| registries.default_registry.clone());
    let beside = |name: &&Reference| {
        host(name) == host(reference) && name.repository != reference.repository
    };
    image.references.iter().filter(beside).map(|name| name.repository.clone()).collect()
}

/// The repository that a blob could be taken from. A registry need not do that, nor say why it does not.
async fn mounted(endpoint: &Endpoint, sources: &BTreeSet<String>, blob: &Digest) -> Option<String> {
    for source in sources {
        match endpoint.mount(blob, source).await {
            Ok(()) => return Some(source.clone()),
            Err(error) => tracing::debug!(%error, source, "not mounted"),
        }
    }
    None
}

/// A compressed layer in `ingest`, gone when it is dropped.
struct Packed {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl Drop for Packed {
    fn drop(&mut self) {
        // What stays is cleared when the store is opened.
        let _ = remove_all(&self.path);
    }
}

struct Counting {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn chunks(
    file: tokio::fs::File,
) -> impl futures_util::Stream<Item = std::result::Result<bytes::Bytes, OciDistributionError>> {
    stream::unfold(file, |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(chunk.into()), file)),
            Err(error) => Some((Err(OciDistributionError::IoError(error)), file)),
        }
    })
    .boxed()
}

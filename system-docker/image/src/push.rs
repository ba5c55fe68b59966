//! Pushing: what the registry lacks, layers gzipped as they go; the manifest last, so that a name there never points to less.
//!
//! The store keeps layers unpacked. A push compresses them anew, always to the same bytes: the second push finds them there.

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

use crate::manifest::{Descriptor, Manifest};
use crate::registry::{Endpoint, Registries, home};
use crate::store::remove_all;
use crate::{Error, ImageId, Result, Store};

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
    /// The registry has it.
    Exists {
        /// The layer.
        layer: Digest,
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
    /// Gives the image `id` to the registry of `reference`, under its tag.
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
        let config = self.config_bytes(id)?;
        let mut manifest = Manifest::plain((*id, config.len() as u64), std::iter::empty());
        for diff_id in image.layers {
            manifest.layers.push(self.push_layer(diff_id, &endpoint, &progress).await?);
        }
        endpoint.push_bytes(id, config).await?;
        let text = serde_json::to_vec(&manifest).map_err(Error::on("encode", self.root()))?;
        let pushed = Pushed { digest: Digest::of(&text), size: text.len() as u64 };
        endpoint.push_manifest(reference, text, &manifest.media_type).await?;
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

//! Pulling: only what is missing, three layers at a time, resumed where it broke off, checked while it is
//! written, and known under its name only when all of it is here.
//!
//! A blob comes into `ingest/<hex>.partial`, locked by whoever writes it: a second pull of the same layer
//! waits and then finds the layer.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use ros_api::{Digest, Reference};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::manifest::{Config, Descriptor};
use crate::registry::{Endpoint, Registries, RemoteImage, locate};
use crate::{Error, ImageId, Result, Store};

/// Layers fetched at the same time.
const PARALLEL: usize = 3;
/// Times a blob is tried again without a byte more having come.
const RETRIES: u32 = 4;
/// Progress is told about that often, in bytes.
const STEP: u64 = 512 << 10;

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
    /// Layers that are not here, each with the bytes that are still to come.
    pub missing: Vec<Descriptor>,
    /// Bytes of config and layers that would be fetched. The (small) config is fetched by planning itself.
    pub fetch: u64,
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
        let mut missing: Vec<Descriptor> = Vec::new();
        for (layer, diff_id) in pairs {
            if !self.has_layer(diff_id) && missing.iter().all(|known| known.digest != layer.digest)
            {
                let size = layer.size - self.partial(layer);
                missing.push(Descriptor { size, ..layer.clone() });
            }
        }
        let fetch = missing.iter().map(|layer| layer.size).sum::<u64>() + fetched;
        let labels = config.labels();
        Ok(PullPlan { id: image.manifest.config.digest, image, labels, missing, fetch })
    }

    /// Bytes of a blob that an earlier pull has fetched.
    fn partial(&self, blob: &Descriptor) -> u64 {
        let length = fs::metadata(partial_path(self, &blob.digest)).map_or(0, |there| there.len());
        // A longer one is begun anew.
        if length > blob.size { 0 } else { length }
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
        let layers: Vec<Layer<'_>> = pairs
            .into_iter()
            .map(|(blob, diff_id)| Layer {
                store: self,
                endpoint: &endpoint,
                blob,
                diff_id,
                progress: &progress,
            })
            .collect();
        // Collected first: a stream over a closure is not provably Send.
        let all: Vec<_> = layers.iter().map(Layer::bring).collect();
        let all = stream::iter(all).buffer_unordered(PARALLEL);
        let fetched =
            all.try_fold(config_size, |sum, bytes| async move { Ok(sum + bytes) }).await?;

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
        let layer = Layer { store: self, endpoint: &endpoint, blob, diff_id, progress: &progress };
        layer.bring().await.map(|_| ())
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

/// One layer of a pull.
struct Layer<'a> {
    store: &'a Store,
    endpoint: &'a Endpoint,
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    progress: &'a Progress,
}

impl Layer<'_> {
    /// Makes the layer be here; how many bytes were fetched for it.
    async fn bring(&self) -> Result<u64> {
        let layer = self.blob.digest;
        if self.store.has_layer(self.diff_id) {
            (self.progress)(PullEvent::Exists { layer });
            return Ok(0);
        }
        let (store, diff_id, size) = (self.store.clone(), *self.diff_id, self.blob.size);
        let opened = blocking(move || Partial::open(&store, &layer, size, &diff_id)).await?;
        let Some(partial) = opened else {
            (self.progress)(PullEvent::Exists { layer });
            return Ok(0);
        };
        let (partial, fetched) = self.download(partial).await?;
        (self.progress)(PullEvent::Downloaded { layer });
        self.extract(partial).await?;
        (self.progress)(PullEvent::Complete { layer });
        Ok(fetched)
    }

    async fn download(&self, mut partial: Partial) -> Result<(Partial, u64)> {
        let (mut tries, mut fetched) = (0, 0);
        while partial.length < self.blob.size {
            let before = partial.length;
            let failed;
            (partial, failed) = self.continue_download(partial).await?;
            fetched += partial.length.saturating_sub(before);
            let Some(error) = failed else { break };
            tries = if partial.length > before { 1 } else { tries + 1 };
            if tries > RETRIES || !matches!(error, Error::Network { .. }) {
                return Err(error);
            }
            tracing::info!(error = %error, layer = %self.blob.digest, "fetching again");
            tokio::time::sleep(Duration::from_millis(250 << tries)).await;
        }
        let expected = self.blob.digest;
        blocking(move || partial.check(&expected)).await.map(|partial| (partial, fetched))
    }

    /// Fetches on from where the partial blob ends; the error that ended it early, if any.
    async fn continue_download(&self, partial: Partial) -> Result<(Partial, Option<Error>)> {
        let incoming = match self.endpoint.blob(&self.blob.digest, partial.length).await {
            Ok(incoming) => incoming,
            Err(error) => return Ok((partial, Some(error))),
        };
        let (sender, mut receiver) = mpsc::channel(16);
        let restart = !incoming.resumed;
        let offset = if restart { 0 } else { partial.length };
        let writer = spawn_blocking(move || {
            let mut partial = partial;
            if restart {
                partial.clear()?;
            }
            let mut done = Ok(());
            while let Some(chunk) = receiver.blocking_recv() {
                let chunk: Vec<u8> = chunk;
                done = partial.append(&chunk);
                if done.is_err() {
                    break;
                }
            }
            done.map(|()| partial)
        });
        let mut stream = incoming.stream;
        let (layer, total) = (self.blob.digest, self.blob.size);
        let (mut done, mut told, mut failed) = (offset, offset, None);
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => {
                    done += chunk.len() as u64;
                    if done >= told + STEP {
                        told = done;
                        (self.progress)(PullEvent::Downloading { layer, done, total });
                    }
                    if sender.send(chunk.to_vec()).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    failed = Some(self.endpoint.failed(error.into()));
                    break;
                }
            }
        }
        drop(sender);
        let partial = joined(writer.await)?;
        Ok((partial, failed))
    }

    async fn extract(&self, partial: Partial) -> Result<()> {
        let (store, progress) = (self.store.clone(), Arc::clone(self.progress));
        let (layer, total, diff_id) = (self.blob.digest, self.blob.size, *self.diff_id);
        blocking(move || {
            let mut partial = partial;
            partial.rewind()?;
            let mut told = 0;
            let mut tell = |done: u64| {
                if done >= told + STEP {
                    told = done;
                    progress(PullEvent::Extracting { layer, done, total });
                }
            };
            let imported = store.import_layer(&mut partial.file, total, Some(&diff_id), &mut tell);
            // Also when it was refused: it will not become better.
            if !matches!(imported, Err(Error::NoSpace { .. } | Error::Io { .. })) {
                partial.remove()?;
            }
            imported.map(|_| ())
        })
        .await
    }
}

/// A blob that is being fetched; nobody else writes to it.
struct Partial {
    file: File,
    path: PathBuf,
    hash: Sha256,
    length: u64,
    /// What it must not grow beyond.
    size: u64,
}

impl Partial {
    /// Waits until nobody fetches it; none when the layer is here then.
    fn open(store: &Store, blob: &Digest, size: u64, diff_id: &Digest) -> Result<Option<Self>> {
        let path = partial_path(store, blob);
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).map_err(Error::on("open", &path))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(Error::on("lock", &path))?;
            if store.has_layer(diff_id) {
                let _ = fs::remove_file(&path);
                return Ok(None);
            }
            let mine = file.metadata().map_err(Error::on("stat", &path))?.ino();
            // Whoever had it before may have removed it.
            if fs::metadata(&path).is_ok_and(|there| there.ino() == mine) {
                let mut partial = Self { file, path, hash: Sha256::new(), length: 0, size };
                partial.take_up()?;
                return Ok(Some(partial));
            }
        }
    }

    /// Hashes what is there already.
    fn take_up(&mut self) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = self.file.read(&mut buffer).map_err(Error::on("read", &self.path))?;
            if got == 0 {
                break;
            }
            self.hash.update(&buffer[..got]);
            self.length += got as u64;
        }
        if self.length > self.size { self.clear() } else { Ok(()) }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.length > self.size {
            let why = format!("a layer is longer than its {} bytes", self.size);
            self.clear()?;
            return Err(Error::BadManifest { reference: self.path.display().to_string(), why });
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::on("write", &self.path))
    }

    fn clear(&mut self) -> Result<()> {
        self.rewind()?;
        self.file.set_len(0).map_err(Error::on("truncate", &self.path))?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    fn rewind(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::on("seek", &self.path))?;
        Ok(())
    }

    /// Whether it is the blob; what is not goes.
    fn check(self, expected: &Digest) -> Result<Self> {
        let found = Digest::from_bytes(self.hash.clone().finalize().into());
        if found == *expected {
            return Ok(self);
        }
        self.remove()?;
        Err(Error::DigestMismatch { what: "layer".into(), expected: *expected, found })
    }

    fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::on("remove", &self.path))
    }
}

fn partial_path(store: &Store, blob: &Digest) -> PathBuf {
    store.path("ingest").join(format!("{}.partial", blob.hex()))
}

/// Runs disk work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(done: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| {
        let source = io::Error::other(error);
        Err(Error::Io { verb: "finish work on", path: PathBuf::from("the store"), source })
    })
}

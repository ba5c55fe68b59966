//! Where a release comes from: its registry, or a file beside the machine. Plan, checks and installation are the same.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bollard::query_parameters::{ImportImageOptions, ListImagesOptions};
use futures_util::{TryStreamExt, stream};
use hyper::body::Bytes;
use ros_api::{Digest, Reference, Release, labels};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::archive::{Archive, is_path};
use super::daemon::{self, Layer, Remote};
use super::fetch::Fetch;
use super::machine::Machine;
use super::plan::Plan;
use super::signature::Attached;
use crate::services::engine::Engine;

/// Bytes that are sent to the daemon at once.
const CHUNK: usize = 256 << 10;

/// Where it comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Its registry, by way of the daemon.
    Registry,
    /// A file, and the layers that are on this machine already.
    Archive(Arc<Archive>, BTreeSet<Digest>),
}

impl Source {
    /// What a user's word for a release means: where it comes from, and the name that it has here.
    ///
    /// # Errors
    /// When it is no name and no archive of a release.
    pub async fn of(machine: &Machine, engine: &Engine, asked: &str) -> Result<(Self, Reference)> {
        if !is_path(asked) {
            return Ok((Self::Registry, machine.reference(asked)?));
        }
        let archive = Archive::open(Path::new(asked))?;
        let (_, image) = archive.release()?;
        let lock = image.labels.get(labels::RELEASE_LOCK).context("no release")?;
        let version = Release::parse(lock)?.version;
        // Siblings of what the machine gets from its registry: what is here already counts.
        let name = machine.repository().unwrap_or_else(|_| Reference {
            registry: None,
            repository: "os".into(),
            tag: None,
            digest: None,
        });
        let present = layers_here(engine).await?;
        Ok((Self::Archive(Arc::new(archive), present), name.with_tag(&version)))
    }

    /// What `name` is there, and what of it is not here.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn remote(&self, name: &Reference) -> Result<Remote> {
        let Self::Archive(archive, present) = self else { return daemon::remote(name).await };
        let digest = match name.digest {
            Some(digest) => digest,
            None => archive.release()?.0,
        };
        let image = archive.image(&digest).with_context(|| format!("look up {name}"))?;
        let missing = image.layers.iter().filter(|(_, diff_id)| !present.contains(diff_id));
        let missing = missing.map(|(layer, _)| Layer::whole(layer.digest, layer.size));
        Ok(Remote::new(digest, image.labels.clone(), missing.collect()))
    }

    /// The signatures that lie beside the manifest `digest` of an image.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub async fn signatures(&self, name: &Reference, digest: Digest) -> Result<Vec<Attached>> {
        match self {
            Self::Registry => daemon::signatures(name, digest).await,
            Self::Archive(archive, _) => Ok(archive.signatures.clone()),
        }
    }

    /// The file, when it is one.
    #[must_use]
    pub fn file(&self) -> Option<String> {
        match self {
            Self::Registry => None,
            Self::Archive(archive, _) => Some(archive.path().display().to_string()),
        }
    }

    /// Brings the release and `services` here; answers how many bytes came over the network, when that is known.
    ///
    /// # Errors
    /// When something cannot be had; what came of it stays for the next try.
    pub async fn fetch(
        &self,
        engine: &Engine,
        plan: &Plan,
        services: &[(Reference, Remote)],
    ) -> Result<Option<u64>> {
        let pinned = plan.image.with_digest(plan.digest);
        let mut fetch = Fetch::new(engine);
        match self {
            Self::Registry => {
                fetch.image(&pinned).await?;
                for (name, _) in services {
                    fetch.image(name).await?;
                }
            }
            Self::Archive(archive, present) => {
                let services = services.iter().map(|(name, there)| (name.clone(), there.digest));
                let images = std::iter::once((pinned.clone(), plan.digest)).chain(services);
                load(engine, archive, images.collect(), present.clone()).await?;
            }
        }
        fetch.tag(&pinned, &plan.image).await?;
        Ok(fetch.bytes())
    }
}

/// The layers of every image that is on this machine, by the digests of what is in them.
async fn layers_here(engine: &Engine) -> Result<BTreeSet<Digest>> {
    let docker = engine.docker();
    let images = docker.list_images(None::<ListImagesOptions>).await.context("list the images")?;
    let mut layers = BTreeSet::new();
    for image in images {
        let image = docker.inspect_image(&image.id).await.context("inspect an image")?;
        let of_image = image.root_fs.and_then(|root| root.layers).unwrap_or_default();
        layers.extend(of_image.iter().filter_map(|layer| layer.parse::<Digest>().ok()));
    }
    Ok(layers)
}

/// Has the daemon load `images` of an archive; it holds everything against its digest.
async fn load(
    engine: &Engine,
    archive: &Arc<Archive>,
    images: Vec<(Reference, Digest)>,
    present: BTreeSet<Digest>,
) -> Result<()> {
    let (to, from) = mpsc::channel(4);
    let archive = Arc::clone(archive);
    let sending = spawn_blocking(move || {
        let failed = to.clone();
        let to = io::BufWriter::with_capacity(CHUNK, Outgoing(to));
        archive.send(&images, &present, to).inspect_err(|_| {
            // An end that is none: the daemon must not take what came for all of it.
            let _ = failed.blocking_send(Err(io::Error::other("the archive cannot be read")));
        })
    });
    let chunks = stream::unfold(from, |mut from: mpsc::Receiver<io::Result<Bytes>>| async move {
        Some((from.recv().await?, from))
    });
    let docker = engine.docker();
    let loaded = docker.import_image_stream(ImportImageOptions::default(), chunks, None);
    let loaded = loaded.try_collect::<Vec<_>>().await;
    let sent = sending.await.context("send the archive")?;
    match (loaded, sent) {
        (Ok(_), sent) => sent,
        // That the daemon no longer listens is what its refusal looks like from here.
        (Err(refused), Err(cut)) if is_broken_pipe(&cut) => {
            Err(refused).context("load the archive")
        }
        (Err(_), Err(unreadable)) => Err(unreadable),
        (Err(refused), Ok(())) => Err(refused).context("load the archive"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A request's body, written by a thread that blocks.
struct Outgoing(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

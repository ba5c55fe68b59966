//! OCI images as files: one pool of blobs for everything that is built, and image layouts whose blobs are
//! hard links into it (OCI image specification: `image-layout.md`, `manifest.md`, `config.md`).
//!
//! ```text
//! <out>/blobs/sha256/<hex>                      the pool
//! <out>/releases/<version>/oci/oci-layout
//!                             /index.json       every image, named by org.opencontainers.image.ref.name
//!                             /blobs/sha256/…   links into the pool
//! ```
//!
//! Invariant: same tree, same bytes. Layers are zstd (`…layer.v1.tar+zstd`), as `frames` makes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::{Digest, durable, skeleton};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::EPOCH_TEXT;
use crate::frames::{self, Archive};
use crate::tree::Tree;

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Compression for what is compressed once and fetched often.
pub const BEST: i32 = 19;
/// That of layers: a development build's stay on this host, and are made in a tenth of the time.
pub const LAYERS: i32 = if cfg!(debug_assertions) { 12 } else { BEST };
/// Compression for what is compressed already.
pub const LITTLE: i32 = 3;

/// Says what a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// More, such as its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A layer: its blob, and the digest of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Descriptor,
    /// Digest of the archive itself.
    pub diff_id: Digest,
}

/// What a container of an image runs.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Program.
    pub entrypoint: Vec<String>,
    /// Arguments.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Every blob, manifest last.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().map(|layer| &layer.blob).chain([&self.config, &self.manifest])
    }

    /// Compressed size in bytes: manifest, config and layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }
}

/// The manifest as it is written; `layers` in it are plain descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST`].
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// `index.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX`].
    pub media_type: String,
    /// Every image.
    pub manifests: Vec<Descriptor>,
}

/// The pool of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
    packed: PathBuf,
}

impl Blobs {
    /// The pool below `out`; compressed layers are remembered below `cache`.
    #[must_use]
    pub fn at(out: &Path, cache: &Path) -> Self {
        Self { dir: out.join("blobs/sha256"), packed: cache.join("layers") }
    }

    /// Where a blob is.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whether all blobs of an image are there.
    #[must_use]
    pub fn has(&self, image: &Image) -> bool {
        image.blobs().all(|blob| self.path(&blob.digest).exists())
    }

    fn put(&self, media_type: &str, content: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(content);
        let path = self.path(&digest);
        if !path.exists() {
            fs::create_dir_all(&self.dir)
                .with_context(|| format!("create {}", self.dir.display()))?;
            durable::write(&path, content, 0o644)?;
        }
        Ok(Descriptor {
            media_type: media_type.into(),
            digest,
            size: content.len() as u64,
            annotations: BTreeMap::new(),
        })
    }

    /// Packs `tree` as a layer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn layer(&self, tree: &Tree, level: i32) -> Result<Layer> {
        let archive = Archive::of(tree)?;
        let diff_id = Digest::of(&archive.bytes);
        let name = format!("{}.{}-{level}", diff_id.hex(), frames::FORMAT);
        let remembered = self.packed.join(name);
        let packed = match fs::read(&remembered) {
            Ok(packed) => packed,
            Err(_) => {
                let packed = archive.pack(level).context("compress a layer")?;
                fs::create_dir_all(&self.packed)
                    .with_context(|| format!("create {}", self.packed.display()))?;
                durable::write(&remembered, &packed, 0o644)?;
                packed
            }
        };
        let mut blob = self.put(LAYER, &packed)?;
        if let Some(place) = frames::place(&packed).context("read a layer")? {
            blob.annotations.insert(skeleton::ANNOTATION.into(), place.to_string());
        }
        Ok(Layer { blob, diff_id })
    }

    /// Makes an image of layers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn image(&self, layers: Vec<Layer>, run: &Run) -> Result<Image> {
        let environment: Vec<String> =
            run.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let history: Vec<_> = layers
            .iter()
            .map(|_| json!({"created": EPOCH_TEXT, "created_by": "os-images"}))
            .collect();
        let config = json!({
            "created": EPOCH_TEXT,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": environment,
                "Entrypoint": run.entrypoint,
                "Cmd": run.command,
                "WorkingDir": "/",
                "Labels": run.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = self.put(CONFIG, &serde_json::to_vec(&config)?)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.into(),
            config: config.clone(),
            layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
        };
        let manifest = self.put(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        Ok(Image { manifest, config, layers })
    }

    /// Makes the layout `dir` with these images, by name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn layout(&self, dir: &Path, images: &BTreeMap<String, Image>) -> Result<()> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", dir.display()));
            }
            _ => {}
        }
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        for blob in images.values().flat_map(Image::blobs) {
            link(&self.path(&blob.digest), &blobs.join(blob.digest.hex()))?;
        }
        durable::write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        let named = images.iter().map(|(name, image)| (name.clone(), image.manifest.clone()));
        Index::write(dir, named.collect())
    }
}

impl Index {
    /// Reads `index.json` of the layout `dir`: names and manifests.
    ///
    /// # Errors
    /// When it is not there or not one.
    pub fn read(dir: &Path) -> Result<Vec<(String, Descriptor)>> {
        let path = dir.join("index.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let index: Self =
            serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
        let named = index.manifests.into_iter().filter_map(|mut manifest| {
            let name = manifest.annotations.remove(REF_NAME)?;
            Some((name, manifest))
        });
        Ok(named.collect())
    }

    /// Replaces `index.json` of the layout `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(dir: &Path, images: Vec<(String, Descriptor)>) -> Result<()> {
        let named = images.into_iter().map(|(name, manifest)| {
            let annotations = BTreeMap::from([(REF_NAME.to_owned(), name)]);
            Descriptor { annotations, ..manifest }
        });
        let index =
            Self { schema_version: 2, media_type: INDEX.into(), manifests: named.collect() };
        Ok(durable::write(&dir.join("index.json"), &serde_json::to_vec(&index)?, 0o644)?)
    }
}

/// A blob of the layout `dir`.
///
/// # Errors
/// When it cannot be read.
pub fn blob(dir: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let path = dir.join("blobs/sha256").join(digest.hex());
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// A second name for a file: a hard link, or a copy where that cannot be. One that is there stays.
///
/// # Errors
/// When neither can be made.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::copy(from, to)
            .map(drop)
            .with_context(|| format!("copy {} to {}", from.display(), to.display())),
    }
}

//! The store's folder: what is where, which versions are read, and who may change what when.
//!
//! ```text
//! /var/lib/system-docker/
//!   store.json                   {"version":1,"features":{"compatible":[],"read_only":[],"incompatible":[]}}
//!   lock                         flock: shared while content comes in, exclusive while garbage is collected
//!   references.lock              flock: exclusive while references.json or images/ change
//!   references.json              {"os-ntp:v1.2": "sha256:<config>", "h:5000/os@sha256:<manifest>": …}
//!   images/<config hex>.json     one record an image, see `image`
//!   blobs/sha256/<hex>           manifests and configs, byte for byte
//!   objects/<2 hex>/<62 hex>     one file per (content, mode, owner, mtime, xattrs), see `object`
//!   layers/<diff ID hex>/        complete or not there, see `layer`
//!     tree/                      a lower directory for overlayfs; its files are hard links to objects
//!     layer.json  tarsplit  entries  [kept/]
//!   ingest/                      half-done: `<hex>.partial` blobs, layers being built, archives being read
//! ```
//!
//! Everything is written in `ingest`, made durable, and renamed into place; what has a final name is whole.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ros_api::{Digest, durable};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::pull::Way;
use crate::{Error, Result};

/// Version of the format above; a store with a newer one is refused.
const VERSION: u32 = 1;
/// Features of a store that this code knows. None so far.
const KNOWN: &[&str] = &[];

/// `store.json`.
#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
    #[serde(default)]
    features: Features,
}

/// Feature flags, as ext4 has them.
#[derive(Default, Serialize, Deserialize)]
struct Features {
    /// May be ignored.
    #[serde(default)]
    compatible: Vec<String>,
    /// Must be known to write.
    #[serde(default)]
    read_only: Vec<String>,
    /// Must be known to read.
    #[serde(default)]
    incompatible: Vec<String>,
}

/// Bounds on what an archive may unpack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unpacked bytes of one layer, whatever it declares.
    pub layer_bytes: u64,
    /// Unpacked bytes that are never too much.
    pub free_bytes: u64,
    /// Beyond `free_bytes`: so many times the compressed size, and no more.
    pub ratio: u64,
    /// Entries of one layer.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 64 << 30, free_bytes: 1 << 30, ratio: 100, entries: 4_000_000 }
    }
}

impl Limits {
    /// How far a layer of `compressed` bytes may grow.
    pub(crate) fn unpacked(&self, compressed: u64) -> u64 {
        self.free_bytes.max(compressed.saturating_mul(self.ratio)).min(self.layer_bytes)
    }
}

/// The image store. Cheap to clone; any number of clones and processes may use one folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
    /// Layers found right by this process, see [`crate::entries`]. A lock, because clones work on several threads.
    seals: Arc<Mutex<HashMap<Digest, u128>>>,
    /// How planning decided that layers come here, by their blobs, see `pull::way`. A lock for the same reason.
    ways: Arc<Mutex<HashMap<Digest, Way>>>,
}

/// Holds a lock of the store until dropped.
#[derive(Clone, Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "closing the file ends the lock")] Arc<File>);

impl Store {
    /// Opens the store at `root`, making it when there is none, and clears what a crash left half-done.
    ///
    /// # Errors
    /// [`Error::NewerStore`] when a newer ros wrote it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self {
            root: root.into(),
            limits: Limits::default(),
            seals: Arc::default(),
            ways: Arc::default(),
        };
        for folder in ["blobs/sha256", "objects", "layers", "images", "ingest"] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).map_err(Error::on("create", &path))?;
        }
        store.check_format()?;
        if let Some(_alone) = store.try_lock_exclusive()? {
            store.clear_ingest()?;
        }
        Ok(store)
    }

    /// The same store with other bounds for hostile layers.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn seals(&self) -> MutexGuard<'_, HashMap<Digest, u128>> {
        self.seals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ways(&self) -> MutexGuard<'_, HashMap<Digest, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn image_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    /// A name in `ingest` that nobody else has.
    pub(crate) fn ingest_path(&self, what: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.root.join("ingest").join(format!("{what}-{}-{number}", std::process::id()))
    }

    /// Writes a manifest or config under its digest.
    pub(crate) fn write_blob(&self, content: &[u8]) -> Result<Digest> {
        let digest = Digest::of(content);
        let path = self.blob_path(&digest);
        if fs::read(&path).is_ok_and(|there| there == content) {
            return Ok(digest);
        }
        {
            // Its own temporary name: two writers of one blob must not share a half-written file.
            let temp = self.ingest_path("blob");
            durable::write(&temp, content, 0o644).map_err(Error::on("write", &temp))?;
            durable::rename(&temp, &path).map_err(Error::on("write", &path))?;
        }
        Ok(digest)
    }

    /// Reads a manifest or config and checks it against its digest.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let content = fs::read(&path).map_err(Error::on("read", &path))?;
        let found = Digest::of(&content);
        if found != *digest {
            let what = path.display().to_string();
            return Err(Error::DigestMismatch { what, expected: *digest, found });
        }
        Ok(content)
    }

    /// Taken while content comes in: no garbage is collected meanwhile.
    pub(crate) fn lock_shared(&self) -> Result<Lock> {
        self.lock("lock", FlockOperation::LockShared)
    }

    /// Taken to collect garbage; none when content is coming in.
    pub(crate) fn try_lock_exclusive(&self) -> Result<Option<Lock>> {
        match self.lock("lock", FlockOperation::NonBlockingLockExclusive) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    /// Taken while names and records change.
    pub(crate) fn lock_references(&self) -> Result<Lock> {
        self.lock("references.lock", FlockOperation::LockExclusive)
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> Result<Lock> {
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::on("open", &path))?;
        rustix::fs::flock(&file, operation).map_err(Error::on("lock", &path))?;
        Ok(Lock(Arc::new(file)))
    }

    fn check_format(&self) -> Result<()> {
        let path = self.root.join("store.json");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.write_format(&path),
            other => other.map_err(Error::on("read", &path))?,
        };
        let damaged =
            |e: serde_json::Error| Error::Damaged { path: path.clone(), why: e.to_string() };
        let format: Format = serde_json::from_slice(&text).map_err(damaged)?;
        let newer = |needs: String| Error::NewerStore { path: self.root.clone(), needs };
        if format.version > VERSION {
            return Err(newer(format!("version {}", format.version)));
        }
        let needed = format.features.incompatible.into_iter().chain(format.features.read_only);
        match needed.into_iter().find(|feature| !KNOWN.contains(&feature.as_str())) {
            Some(feature) => Err(newer(format!("feature {feature:?}"))),
            None => Ok(()),
        }
    }

    fn write_format(&self, path: &Path) -> Result<()> {
        let format = Format { version: VERSION, features: Features::default() };
        let text = serde_json::to_vec(&format).map_err(Error::on("encode", path))?;
        durable::write(path, &text, 0o644).map_err(Error::on("write", path))
    }

    /// Removes what was being built; partial blobs stay, to be resumed.
    fn clear_ingest(&self) -> Result<()> {
        let ingest = self.root.join("ingest");
        for entry in fs::read_dir(&ingest).map_err(Error::on("read", &ingest))? {
            let path = entry.map_err(Error::on("read", &ingest))?.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                continue;
            }
            remove_all(&path)?;
        }
        Ok(())
    }
}

/// Removes a file or a folder with all that is in it; nothing there is fine.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        let table = [
            r#"{"version":2}"#,
            r#"{"version":1,"features":{"incompatible":["erofs"]}}"#,
            r#"{"version":1,"features":{"read_only":["erofs"]}}"#,
        ];
        for text in table {
            fs::write(dir.path().join("store.json"), text).unwrap();
            assert!(matches!(Store::open(dir.path()), Err(Error::NewerStore { .. })), "{text}");
        }
        let compatible = r#"{"version":1,"features":{"compatible":["news"]}}"#;
        fs::write(dir.path().join("store.json"), compatible).unwrap();
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn half_done_things_go_and_partial_blobs_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::create_dir_all(store.path("ingest/layer-1-1/tree/a")).unwrap();
        fs::write(store.path("ingest/ab.partial"), b"half").unwrap();
        let busy = store.lock_shared().unwrap();
        Store::open(dir.path()).unwrap();
        assert!(store.path("ingest/layer-1-1").exists(), "somebody is at work");
        drop(busy);
        Store::open(dir.path()).unwrap();
        assert!(!store.path("ingest/layer-1-1").exists());
        assert!(store.path("ingest/ab.partial").exists());
    }
}

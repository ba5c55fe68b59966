//! A blob on its way in, whole and from its beginning: `ingest/<hex>.partial`, locked by whoever writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ros_api::Digest;
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::stream::Sink;
use crate::manifest::Descriptor;
use crate::{Error, Result, Store};

/// A blob that is being fetched; nobody else writes to it.
pub(super) struct Partial {
    pub file: File,
    path: PathBuf,
    hash: Sha256,
    pub length: u64,
    /// What it must not grow beyond.
    size: u64,
}

impl Partial {
    /// Waits until nobody fetches it; none when the layer is here then.
    pub fn open(store: &Store, blob: &Descriptor, diff_id: &Digest) -> Result<Option<Self>> {
        let path = path(store, &blob.digest);
        let file = locked(&path, FlockOperation::LockExclusive)?;
        if store.has_layer(diff_id) {
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        let mut partial = Self { file, path, hash: Sha256::new(), length: 0, size: blob.size };
        partial.take_up()?;
        Ok(Some(partial))
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

    pub fn clear(&mut self) -> Result<()> {
        self.rewind()?;
        self.file.set_len(0).map_err(Error::on("truncate", &self.path))?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    pub fn rewind(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::on("seek", &self.path))?;
        Ok(())
    }

    /// Whether it is the blob; what is not goes.
    pub fn check(self, expected: &Digest) -> Result<Self> {
        let found = Digest::from_bytes(self.hash.clone().finalize().into());
        if found == *expected {
            return Ok(self);
        }
        self.remove()?;
        Err(Error::DigestMismatch { what: "layer".into(), expected: *expected, found })
    }

    pub fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::on("remove", &self.path))
    }
}

impl Sink for Partial {
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
}

/// Bytes of a blob that an earlier pull has fetched.
pub(super) fn fetched(store: &Store, blob: &Descriptor) -> u64 {
    let length = fs::metadata(path(store, &blob.digest)).map_or(0, |there| there.len());
    // A longer one is begun anew.
    if length > blob.size { 0 } else { length }
}

fn path(store: &Store, blob: &Digest) -> PathBuf {
    store.path("ingest").join(format!("{}.partial", blob.hex()))
}

/// Opens a file, makes it where there is none, and locks it.
pub(super) fn locked(path: &Path, how: FlockOperation) -> Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::on("open", path))?;
        rustix::fs::flock(&file, how).map_err(Error::on("lock", path))?;
        let mine = file.metadata().map_err(Error::on("stat", path))?.ino();
        // Whoever had it before may have removed it.
        if fs::metadata(path).is_ok_and(|there| there.ino() == mine) {
            return Ok(file);
        }
    }
}

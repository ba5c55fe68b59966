//! The object pool: one inode per (content, mode, owner, mtime, extended attributes), which every layer's
//! tree links to. An object's name is the SHA-256 over exactly that, so equal files of different layers and
//! versions are one file on disk and in the page cache.
//!
//! Only content that is on disk for sure is in the pool: objects are made in `ingest`, synced with the
//! layer that brings them, and renamed here then. An object with one link belongs to nobody (`collect`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ros_api::Digest;
use ros_api::object::{Meta, key};
use sha2::{Digest as _, Sha256};

use crate::Store;
use crate::layer::tree::{copy_file, set_file_meta};

/// Files up to this size are hashed in memory, and not written when the pool has them.
pub(crate) const IN_MEMORY: u64 = 1 << 20;

/// Where an object is.
pub(crate) fn path(store: &Store, key: &Digest) -> PathBuf {
    let hex = key.hex();
    store.path("objects").join(&hex[..2]).join(&hex[2..])
}

/// The objects that one layer brings or uses, until it is complete.
pub(crate) struct Fresh<'a> {
    store: &'a Store,
    /// New objects, on the same file system as the pool.
    folder: PathBuf,
    new: HashSet<Digest>,
    /// The digest of each one's content.
    used: BTreeMap<Digest, Digest>,
}

impl<'a> Fresh<'a> {
    /// `folder` is made, and must be in the store.
    pub fn create(store: &'a Store, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self { store, folder, new: HashSet::new(), used: BTreeMap::new() })
    }

    /// Takes in a file of `size` bytes, which is not 0; its name in the pool.
    pub fn add(
        &mut self,
        content: &mut impl Read,
        size: u64,
        meta: &Meta,
    ) -> Result<Digest, AddError> {
        let body = if size <= IN_MEMORY {
            self.read_small(content, size)?
        } else {
            self.read_large(content)?
        };
        let key = key(&body.digest, meta);
        self.used.insert(key, body.digest);
        if self.new.contains(&key) || self.in_pool(&key, &body, meta) {
            return self.drop_body(&body).map(|()| key).map_err(AddError::Write);
        }
        self.write(&key, body, meta).map_err(AddError::Write)?;
        self.new.insert(key);
        Ok(key)
    }

    /// A path to link `key` from.
    pub fn source(&self, key: &Digest) -> PathBuf {
        if self.new.contains(key) { self.new_path(key) } else { path(self.store, key) }
    }

    /// Another copy takes the place of an object that has all the links it can have.
    pub fn renew(&mut self, key: &Digest) -> io::Result<PathBuf> {
        let from = File::open(self.source(key))?;
        let folder = File::open(&self.folder)?;
        let temp = self.folder.join("copy");
        copy_file(&from, &folder, c"copy")?;
        fs::rename(temp, self.new_path(key))?;
        self.new.insert(*key);
        Ok(self.new_path(key))
    }

    /// Moves the new objects, which are on disk by now, into the pool. An object that the tree no longer
    /// has (a later entry replaced it) but `tarsplit` needs is linked from `kept`. Answers the contents' digests by inode.
    pub fn publish(self, kept: &Path) -> io::Result<HashMap<u64, Digest>> {
        for key in &self.new {
            let to = path(self.store, key);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::rename(self.new_path(key), to)?;
        }
        let mut contents = HashMap::new();
        for (key, content) in &self.used {
            let object = path(self.store, key);
            let meta = fs::metadata(&object)?;
            contents.insert(meta.ino(), *content);
            if meta.nlink() == 1 {
                fs::create_dir_all(kept)?;
                fs::hard_link(&object, kept.join(key.hex()))?;
            }
        }
        fs::remove_dir(&self.folder)?;
        Ok(contents)
    }

    /// Paths of the new objects.
    pub fn new_paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.new.iter().map(|key| self.new_path(key))
    }

    fn new_path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.hex())
    }

    /// Whether the pool has this very file: one that was damaged on disk is replaced, not used again.
    fn in_pool(&self, key: &Digest, body: &Body, wanted: &Meta) -> bool {
        let Ok(pooled) = File::open(path(self.store, key)) else { return false };
        let owned = pooled.metadata().is_ok_and(|meta| {
            (meta.mode() & 0o7777, meta.uid(), meta.gid()) == (wanted.mode, wanted.uid, wanted.gid)
        });
        owned
            && match &body.at {
                At::Memory(bytes) => same(pooled, &bytes[..]),
                At::File(_, temp) => File::open(temp).is_ok_and(|here| same(pooled, here)),
            }
    }

    fn read_small(&self, content: &mut impl Read, size: u64) -> Result<Body, AddError> {
        let mut bytes = Vec::with_capacity(size as usize);
        content.read_to_end(&mut bytes).map_err(AddError::Read)?;
        Ok(Body { digest: Digest::of(&bytes), at: At::Memory(bytes) })
    }

    fn read_large(&self, content: &mut impl Read) -> Result<Body, AddError> {
        let temp = self.folder.join("body");
        let mut file = File::create(&temp).map_err(AddError::Write)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = content.read(&mut buffer).map_err(AddError::Read)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            file.write_all(&buffer[..got]).map_err(AddError::Write)?;
        }
        Ok(Body { digest: Digest::from_bytes(hash.finalize().into()), at: At::File(file, temp) })
    }

    fn write(&self, key: &Digest, body: Body, meta: &Meta) -> io::Result<()> {
        let to = self.new_path(key);
        match body.at {
            At::File(file, temp) => {
                set_file_meta(&file, meta)?;
                fs::rename(temp, to)
            }
            At::Memory(bytes) => {
                let mut file = File::create_new(&to)?;
                file.write_all(&bytes)?;
                set_file_meta(&file, meta)
            }
        }
    }

    fn drop_body(&self, body: &Body) -> io::Result<()> {
        match &body.at {
            At::File(_, temp) => fs::remove_file(temp),
            At::Memory(_) => Ok(()),
        }
    }
}

/// Whether both give the same bytes to their ends.
fn same(a: impl Read, b: impl Read) -> bool {
    let mut a = BufReader::with_capacity(64 << 10, a);
    let mut b = BufReader::with_capacity(64 << 10, b);
    loop {
        let (Ok(left), Ok(right)) = (a.fill_buf(), b.fill_buf()) else { return false };
        let length = left.len().min(right.len());
        if length == 0 {
            return left.len() == right.len();
        }
        if left[..length] != right[..length] {
            return false;
        }
        a.consume(length);
        b.consume(length);
    }
}

struct Body {
    digest: Digest,
    at: At,
}

enum At {
    Memory(Vec<u8>),
    File(File, PathBuf),
}

/// Which side failed: the archive, or the disk.
pub(crate) enum AddError {
    Read(io::Error),
    Write(io::Error),
}

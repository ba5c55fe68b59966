//! Layers: a compressed tar stream of unknown intent becomes `layers/<diff ID>/`, wholly or not at all.
//!
//! ```text
//!  stream ─► gzip | zstd | plain ─► bounded ─► SHA-256 = diff ID? ─► archive ─┬► tree/     (tree, object)
//!                                                                             └► tarsplit
//!  then: sync · new objects into the pool · [fs-verity] · entries · layer.json · sync · rename
//! ```

pub(crate) mod archive;
pub(crate) mod blank;
pub(crate) mod changes;
pub(crate) mod rebuild;
mod tarsplit;
pub(crate) mod tree;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use ros_api::{Digest, durable};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::object::{AddError, Fresh};
use crate::store::{Lock, remove_all};
use crate::{Error, Result, Store, entries};
use archive::{Archive, Entry, Kind};
use tree::{Marker, Node, Tree, TreePath};

/// `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// SHA-256 of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Length of that stream in bytes.
    pub tar_size: u64,
    /// Sum of the files' lengths in bytes.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
}

impl Store {
    /// Whether the layer is here.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).exists()
    }

    /// The layer's tree, a lower directory for overlayfs.
    #[must_use]
    pub fn layer_tree(&self, diff_id: &Digest) -> PathBuf {
        self.layer_path(diff_id).join("tree")
    }

    /// What is known of a layer.
    ///
    /// # Errors
    /// When it is not here.
    pub fn layer_facts(&self, diff_id: &Digest) -> Result<LayerFacts> {
        let path = self.layer_path(diff_id).join("layer.json");
        let text = fs::read(&path).map_err(Error::on("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| Error::Damaged { path, why: e.to_string() })
    }

    /// Unpacks a layer. `compressed` is the stream's length; `expected` its diff ID, if known: another
    /// content is refused then. `progress` is told how many bytes of the stream have been read.
    ///
    /// # Errors
    /// Nothing of a refused layer is visible.
    pub fn import_layer(
        &self,
        stream: impl Read,
        compressed: u64,
        expected: Option<&Digest>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Digest> {
        let lock = self.lock_shared()?;
        if let Some(diff_id) = expected.filter(|diff_id| self.has_layer(diff_id)) {
            return Ok(*diff_id);
        }
        let temp = self.ingest_path("layer");
        let name = expected.map_or_else(|| "(unnamed)".to_owned(), Digest::short);
        let stream = Counted { input: stream, count: 0, progress };
        let import = Import { store: self, temp: temp.clone(), name };
        let done = import.run(stream, compressed, expected, &lock);
        if done.is_err() {
            let _ = remove_all(&temp);
        }
        done
    }
}

/// One layer on its way in.
struct Import<'a> {
    store: &'a Store,
    temp: PathBuf,
    name: String,
}

impl Import<'_> {
    fn run(
        &self,
        stream: impl Read,
        compressed: u64,
        expected: Option<&Digest>,
        _: &Lock,
    ) -> Result<Digest> {
        fs::create_dir(&self.temp).map_err(self.on("create"))?;
        let mut fresh =
            Fresh::create(self.store, self.temp.join("new")).map_err(self.on("create"))?;
        let facts = self.unpack(stream, compressed, &mut fresh)?;
        if let Some(expected) = expected.filter(|expected| **expected != facts.diff_id) {
            let what = format!("layer {}", self.name);
            return Err(Error::DigestMismatch { what, expected: *expected, found: facts.diff_id });
        }
        self.publish(fresh, &facts)?;
        Ok(facts.diff_id)
    }

    fn unpack(
        &self,
        stream: impl Read,
        compressed: u64,
        fresh: &mut Fresh<'_>,
    ) -> Result<LayerFacts> {
        let limit = self.store.limits().unpacked(compressed);
        let plain = decompressed(BufReader::with_capacity(256 << 10, stream))
            .map_err(|e| self.unreadable(e))?;
        let mut plain = Plain { input: plain, hash: Sha256::new(), count: 0, limit };
        let mut split =
            tarsplit::Writer::create(&self.temp.join("tarsplit")).map_err(self.on("create"))?;
        let mut tree = Tree::create(&self.temp.join("tree")).map_err(self.on("create"))?;
        let mut archive = Archive::new(&mut plain);
        let (mut entries, mut size) = (0, 0);
        while let Some(entry) = archive.next(&mut split).map_err(|e| self.unreadable(e))? {
            entries += 1;
            size += entry.size;
            if entries > self.store.limits().entries {
                return Err(self.refused("it has too many entries"));
            }
            self.entry(&entry, &mut archive, &mut split, &mut tree, fresh)?;
        }
        tree.finish().map_err(self.on("set times in"))?;
        split.finish().map_err(self.on("write"))?;
        let diff_id = Digest::from_bytes(plain.hash.finalize().into());
        Ok(LayerFacts { diff_id, tar_size: plain.count, size, entries })
    }

    fn entry<R: Read>(
        &self,
        entry: &Entry,
        archive: &mut Archive<R>,
        split: &mut tarsplit::Writer,
        tree: &mut Tree,
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        let shown = String::from_utf8_lossy(&entry.path).into_owned();
        let hostile = |why: &str| self.refused(&format!("{shown}: {why}"));
        let failed = |e: io::Error| self.entry_failed(&shown, e);
        let path = TreePath::parse(&entry.path).map_err(hostile)?;
        match path.marker().map_err(hostile)? {
            Marker::None => {}
            Marker::Skip => return Ok(()),
            Marker::Opaque(folder) => return tree.opaque(&folder).map_err(failed),
            Marker::Whiteout(hidden) => return tree.whiteout(&hidden).map_err(failed),
        }
        let node = match entry.kind {
            Kind::Other => return Ok(()),
            Kind::File if entry.size == 0 => {
                return tree.empty_file(&path, &entry.meta).map_err(failed);
            }
            Kind::File => return self.file(entry, &path, archive, split, tree, fresh),
            Kind::HardLink => {
                let target = TreePath::parse(&entry.link).map_err(hostile)?;
                return tree.hard_link(&target, &path).map_err(failed);
            }
            Kind::Directory => Node::Directory,
            Kind::Symlink => Node::Symlink(&entry.link),
            Kind::Fifo => Node::Fifo,
            Kind::Char => Node::Device(FileType::CharacterDevice, entry.device),
            Kind::Block => Node::Device(FileType::BlockDevice, entry.device),
        };
        tree.node(&path, &node, &entry.meta).map_err(failed)
    }

    fn file<R: Read>(
        &self,
        entry: &Entry,
        path: &TreePath,
        archive: &mut Archive<R>,
        split: &mut tarsplit::Writer,
        tree: &mut Tree,
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        let added = fresh.add(&mut archive.content(), entry.size, &entry.meta);
        let key = added.map_err(|e| match e {
            AddError::Read(e) => self.unreadable(e),
            AddError::Write(e) => Error::io("write", &self.temp, e),
        })?;
        split.object(&key, entry.size).map_err(self.on("write"))?;
        let linked = match tree.link_file(&fresh.source(&key), path) {
            Err(e) if e.kind() == io::ErrorKind::TooManyLinks => {
                let again = fresh.renew(&key).map_err(self.on("copy an object in"))?;
                tree.link_file(&again, path)
            }
            other => other,
        };
        linked.map_err(|e| self.entry_failed(&String::from_utf8_lossy(&entry.path), e))
    }

    /// Makes it durable, then visible.
    fn publish(&self, fresh: Fresh<'_>, facts: &LayerFacts) -> Result<()> {
        self.sync()?;
        entries::enable_verity(fresh.new_paths());
        let contents = fresh.publish(&self.temp.join("kept")).map_err(self.on("add objects of"))?;
        entries::record(&self.temp, &contents)?;
        let text = serde_json::to_vec(facts).map_err(self.on("encode"))?;
        fs::write(self.temp.join("layer.json"), text).map_err(self.on("write"))?;
        self.sync()?;
        let to = self.store.layer_path(&facts.diff_id);
        match durable::rename(&self.temp, &to) {
            // Somebody else brought the same layer meanwhile: theirs is as good.
            Err(_) if self.store.has_layer(&facts.diff_id) => remove_all(&self.temp),
            other => other.map_err(Error::on("rename onto", &to)),
        }
    }

    fn sync(&self) -> Result<()> {
        let folder = File::open(&self.temp).map_err(self.on("open"))?;
        rustix::fs::syncfs(&folder).map_err(self.on("sync"))
    }

    fn on<E: Into<io::Error>>(&self, verb: &'static str) -> impl FnOnce(E) -> Error {
        Error::on(verb, &self.temp)
    }

    fn refused(&self, why: &str) -> Error {
        Error::BadLayer { layer: self.name.clone(), why: why.to_owned() }
    }

    /// The stream (or what reads it) failed: the archive's fault, unless the disk is full.
    fn unreadable(&self, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::StorageFull => Error::NoSpace { path: self.temp.clone() },
            io::ErrorKind::UnexpectedEof => self.refused("it ends too early"),
            _ => self.refused(&e.to_string()),
        }
    }

    /// An entry could not be made: the disk is full, or it asks for what cannot be.
    fn entry_failed(&self, shown: &str, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { path: self.temp.clone() }
            }
            _ => self.refused(&format!("{shown}: {e}")),
        }
    }
}

/// The stream as it was before gzip or zstd: by its first bytes, not by what a media type says.
///
/// # Errors
/// When the stream cannot be read.
pub fn decompressed<'a, R: BufRead + 'a>(mut stream: R) -> io::Result<Box<dyn Read + 'a>> {
    let head = stream.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(stream))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(stream)?)
    } else {
        Box::new(stream)
    })
}

/// The uncompressed stream: hashed, counted, bounded.
struct Plain<R> {
    input: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.count += got as u64;
        if self.count > self.limit {
            return Err(io::Error::other(format!("it unpacks to more than {} bytes", self.limit)));
        }
        Ok(got)
    }
}

/// The compressed stream: counted for progress.
struct Counted<'a, R> {
    input: R,
    count: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.count += got as u64;
        (self.progress)(self.count);
        Ok(got)
    }
}

//! Images from archives and folders: OCI layouts
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>) and what `docker save` writes.
//!
//! An archive's files are put into numbered files first and found by name in a table: no name in it ever
//! becomes a path.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use ros_api::{Digest, Reference};
use serde::Deserialize;

use crate::image::familiar;
use crate::layer::archive::{Archive, Kind, Skeleton};
use crate::layer::decompressed;
use crate::manifest::{Config, Descriptor, Document, Index, Manifest};
use crate::store::remove_all;
use crate::{Error, ImageId, Result, Store};

/// JSON files of an archive are bounded.
const MAX_JSON: u64 = 16 << 20;
/// Files of an archive are bounded: an image has some hundred.
const MAX_FILES: usize = 100_000;
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// What loading does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// A layer is being unpacked.
    Extracting {
        /// Its diff ID.
        layer: Digest,
        /// Bytes read.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An image is complete.
    Loaded(Loaded),
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub id: ImageId,
    /// The names it came with.
    pub references: Vec<Reference>,
}

impl Store {
    /// Loads every image of a `docker save` archive or of an OCI layout in a tar, compressed or not.
    ///
    /// # Errors
    /// [`Error::BadArchive`] and all that a hostile layer gives; images before the bad one stay.
    pub fn load(
        &self,
        archive: impl Read,
        mut progress: impl FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>> {
        let _lock = self.lock_shared()?;
        let temp = self.ingest_path("load");
        fs::create_dir(&temp).map_err(Error::on("create", &temp))?;
        let loaded = Source::unpack(archive, &temp).and_then(|source| {
            let load = Load { store: self, source, progress: &mut progress };
            load.run()
        });
        let removed = remove_all(&temp);
        loaded.and_then(|loaded| removed.map(|()| loaded))
    }

    /// Loads every image of the OCI layout in the folder `layout`. Names are taken from the annotation
    /// `org.opencontainers.image.ref.name` when it is more than a tag.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_layout(
        &self,
        layout: &Path,
        mut progress: impl FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>> {
        let _lock = self.lock_shared()?;
        let source = Source::Folder(layout.to_owned());
        Load { store: self, source, progress: &mut progress }.run()
    }
}

/// Where files are read from.
enum Source {
    Folder(PathBuf),
    Archive { files: BTreeMap<String, PathBuf>, links: BTreeMap<String, String> },
}

/// Bytes between the files of an archive are not kept.
struct Ignored;

impl Skeleton for Ignored {
    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn bad(why: impl Into<String>) -> Error {
    Error::BadArchive { why: why.into() }
}

impl Source {
    fn unpack(archive: impl Read, folder: &Path) -> Result<Self> {
        let unreadable = |e: io::Error| bad(e.to_string());
        let plain =
            decompressed(BufReader::with_capacity(256 << 10, archive)).map_err(unreadable)?;
        let mut archive = Archive::new(plain);
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        while let Some(entry) = archive.next(&mut Ignored).map_err(unreadable)? {
            if files.len() + links.len() > MAX_FILES {
                return Err(bad("too many files"));
            }
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            match entry.kind {
                Kind::File => {
                    let path = folder.join(files.len().to_string());
                    let mut file = File::create(&path).map_err(Error::on("create", &path))?;
                    io::copy(&mut archive.content(), &mut file)
                        .map_err(Error::on("write", &path))?;
                    files.insert(normal("", &name), path);
                }
                Kind::Symlink | Kind::HardLink => {
                    let relative = entry.kind == Kind::Symlink;
                    let base =
                        name.rsplit_once('/').filter(|_| relative).map_or("", |(base, _)| base);
                    links.insert(
                        normal("", &name),
                        normal(base, &String::from_utf8_lossy(&entry.link)),
                    );
                }
                _ => {}
            }
        }
        Ok(Self::Archive { files, links })
    }

    fn open(&self, name: &str) -> Result<File> {
        let path = match self {
            Self::Folder(folder) => folder.join(name),
            Self::Archive { files, links } => {
                let name = normal("", name);
                let name = links.get(&name).unwrap_or(&name);
                files.get(name).cloned().ok_or_else(|| bad(format!("{name} is missing")))?
            }
        };
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => bad(format!("{name} is missing")),
            _ => Error::io("open", &path, e),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let file = self.open(name)?;
        file.take(MAX_JSON).read_to_end(&mut text).map_err(|e| bad(format!("{name}: {e}")))?;
        Ok(text)
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = blob(digest);
        let text = self.read(&name)?;
        let found = Digest::of(&text);
        if found != *digest {
            return Err(Error::DigestMismatch { what: name, expected: *digest, found });
        }
        Ok(text)
    }
}

/// One load. Nothing of it is named before it is complete.
struct Load<'a> {
    store: &'a Store,
    source: Source,
    progress: &'a mut dyn FnMut(LoadEvent),
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Load<'_> {
    fn run(mut self) -> Result<Vec<Loaded>> {
        // An archive of a recent Docker is both; its manifest.json has the whole names.
        if matches!(self.source, Source::Archive { .. }) && self.source.has("manifest.json") {
            let images: Vec<DockerImage> =
                parse("manifest.json", &self.source.read("manifest.json")?)?;
            return images.iter().map(|image| self.docker(image)).collect();
        }
        let index: Index = parse("index.json", &self.source.read("index.json")?)?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for entry in &index.manifests {
            let Some(image) = self.layout(entry)? else { continue };
            match loaded.iter_mut().find(|known| known.id == image.id) {
                Some(known) => known.references.extend(image.references),
                None => loaded.push(image),
            }
        }
        Ok(loaded)
    }

    /// One entry of an index; none when it is not an image but the signatures of one.
    fn layout(&mut self, entry: &Descriptor) -> Result<Option<Loaded>> {
        let shown = entry.digest.to_string();
        let (mut digest, mut text) = (entry.digest, self.source.read_blob(&entry.digest)?);
        let manifest = loop {
            match Document::parse(&shown, &text)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => {
                    let inner = index.select(&shown)?.digest;
                    if inner == digest {
                        return Err(bad("an index of itself"));
                    }
                    (digest, text) = (inner, self.source.read_blob(&inner)?);
                }
            }
        };
        if manifest.is_signatures() {
            return Ok(None);
        }
        manifest.check(&shown)?;
        let config_text = self.source.read_blob(&manifest.config.digest)?;
        let config = Config::parse(&shown, &config_text)?;
        for (layer, diff_id) in config.layers(&shown, &manifest)? {
            self.layer(&blob(&layer.digest), diff_id)?;
        }
        self.complete(&config_text, &text, name_of(entry).into_iter().collect()).map(Some)
    }

    fn docker(&mut self, image: &DockerImage) -> Result<Loaded> {
        let config_text = self.source.read(&image.config)?;
        let config = Config::parse(&image.config, &config_text)?;
        if config.diff_ids().len() != image.layers.len() {
            return Err(bad(format!("{}: layers and diff IDs are not as many", image.config)));
        }
        for (name, diff_id) in image.layers.iter().zip(config.diff_ids()) {
            self.layer(name, diff_id)?;
        }
        let manifest = self.store.plain_manifest(&config_text)?;
        let tags = image.repo_tags.iter().flatten();
        let references = tags.map(|tag| Ok(familiar(tag).parse()?)).collect::<Result<_>>()?;
        self.complete(&config_text, &manifest, references)
    }

    fn layer(&mut self, name: &str, diff_id: &Digest) -> Result<()> {
        if self.store.has_layer(diff_id) {
            return Ok(());
        }
        let file = self.source.open(name)?;
        let total = file.metadata().map_err(|e| bad(format!("{name}: {e}")))?.len();
        let progress = &mut self.progress;
        let mut tell = |done| progress(LoadEvent::Extracting { layer: *diff_id, done, total });
        self.store.import_layer(file, total, Some(diff_id), &mut tell).map(|_| ())
    }

    fn complete(
        &mut self,
        config: &[u8],
        manifest: &[u8],
        references: Vec<Reference>,
    ) -> Result<Loaded> {
        let id = self.store.write_blob(config)?;
        let manifest = self.store.write_blob(manifest)?;
        self.store.add_image(id, manifest, &references)?;
        let loaded = Loaded { id, references };
        (self.progress)(LoadEvent::Loaded(loaded.clone()));
        Ok(loaded)
    }
}

impl Store {
    /// The manifest of an image as uncompressed layers; they are here.
    pub(crate) fn plain_manifest(&self, config_text: &[u8]) -> Result<Vec<u8>> {
        let id = Digest::of(config_text);
        let config = Config::parse(&id.to_string(), config_text)?;
        let mut layers = Vec::new();
        for diff_id in config.diff_ids() {
            layers.push((*diff_id, self.layer_facts(diff_id)?.tar_size));
        }
        let manifest = Manifest::plain((id, config_text.len() as u64), layers.into_iter());
        serde_json::to_vec(&manifest).map_err(|e| bad(e.to_string()))
    }
}

/// A name that is only a tag names nothing here.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let named = NAMES.iter().filter_map(|key| entry.annotations.get(*key));
    let whole = |name: &&String| name.contains([':', '/', '@']);
    named.filter(whole).find_map(|name| familiar(name).parse().ok())
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| bad(format!("{name}: {e}")))
}

/// `base/name` without `.`, `..` and double slashes: a key of the table, never a path.
fn normal(base: &str, name: &str) -> String {
    let mut parts = Vec::new();
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

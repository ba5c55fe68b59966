//! Images: which there are, by which names, and what belongs to them. An image's ID is its config's digest.
//!
//! A record is written after all that it refers to; a name after the record that it points to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use ros_api::{Digest, Reference, durable};
use serde::{Deserialize, Serialize};

use crate::manifest::{Config, Manifest};
use crate::{Error, Result, Store};

/// An image's ID: its config's digest.
pub type ImageId = Digest;

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the config.
    pub id: ImageId,
    /// Digest of the manifest it came with last.
    pub manifest: Digest,
    /// Digests of others that it came with before: the same layers compressed otherwise make another manifest of the same
    /// image, and a generation that is installed names it by the one that it knew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub earlier: BTreeSet<Digest>,
    /// `name:tag` and `name@digest`, sorted. Kept apart from the record's file.
    #[serde(skip)]
    pub references: Vec<Reference>,
    /// When the image was built, in seconds since the epoch; 0 when it does not say.
    pub created: i64,
    /// Unpacked size in bytes, of all its layers.
    pub size: u64,
    /// `Labels` of its config.
    pub labels: BTreeMap<String, String>,
    /// Diff IDs, lowest layer first.
    pub layers: Vec<Digest>,
}

impl ImageRecord {
    /// Every manifest that it came with, the last one first.
    pub fn manifests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.manifest).chain(&self.earlier)
    }

    /// Whether it came with this manifest.
    #[must_use]
    pub fn came_as(&self, manifest: &Digest) -> bool {
        self.manifests().any(|its| its == manifest)
    }

    /// The names with a tag.
    pub fn tags(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().filter(|reference| reference.digest.is_none())
    }

    /// The names with a digest.
    pub fn digests(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().filter(|reference| reference.digest.is_some())
    }
}

/// What [`Store::remove`] did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name went.
    Untagged(Reference),
    /// The image went.
    Deleted(ImageId),
}

pub(crate) type Names = BTreeMap<Reference, ImageId>;

impl Store {
    /// Every image, by age (newest first) and ID. An unreadable record is left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        let names = self.names()?;
        let folder = self.path("images");
        let mut images = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::on("read", &folder))? {
            let path = entry.map_err(Error::on("read", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_record(&path) {
                Ok(record) => images.push(named(record, &names)),
                Err(error) => tracing::warn!(%error, "image record left out"),
            }
        }
        images.sort_by(|a, b| (b.created, a.id).cmp(&(a.created, b.id)));
        Ok(images)
    }

    /// One image by ID.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn image(&self, id: &ImageId) -> Result<ImageRecord> {
        match read_record(&self.image_path(id)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { reference: id.to_string() })
            }
            other => Ok(named(other?, &self.names()?)),
        }
    }

    /// The image that a name (`os-ntp:v1.2`, `os-ntp` = `os-ntp:latest`, `name@sha256:…`), an ID
    /// (`sha256:…` or hex), a manifest digest or the beginning of an ID means. Names go before beginnings.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn resolve(&self, text: &str) -> Result<ImageId> {
        let names = self.names()?;
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(id) = names.get(&tagged(&reference))
        {
            return Ok(*id);
        }
        let not_found = || Error::NotFound { reference: text.to_owned() };
        let images = self.images()?;
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(digest) = reference.digest
        {
            // By the manifest's digest: the content is the same whatever it was called when it came.
            let by_manifest = images.iter().find(|image| image.came_as(&digest));
            return by_manifest.map(|image| image.id).ok_or_else(not_found);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let hex = hex.to_ascii_lowercase();
        let whole = |digest: &Digest| hex.len() == 64 && digest.hex() == hex;
        let begins =
            |image: &&ImageRecord| image.id.hex().starts_with(&hex) || image.manifests().any(whole);
        let mut found = images.iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(image), None) => Ok(image.id),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(Error::Ambiguous { prefix: text.to_owned() }),
        }
    }

    /// The image's config.
    ///
    /// # Errors
    /// When it is not here, or is not one.
    pub fn config(&self, id: &ImageId) -> Result<ImageConfiguration> {
        parse_json(id, &self.config_bytes(id)?)
    }

    /// The config as it came: Docker's own keys (`Healthcheck`, `Shell`, `OnBuild`) are in it.
    ///
    /// # Errors
    /// When it is not here.
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>> {
        self.read_blob(id)
    }

    /// The manifest that the image came with.
    ///
    /// # Errors
    /// When it is not here.
    pub fn manifest(&self, id: &ImageId) -> Result<Manifest> {
        parse_json(id, &self.read_blob(&self.image(id)?.manifest)?)
    }

    /// Folders for overlayfs's `lowerdir`, topmost first. Each has been held against what came in.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a layer is missing, or is not what it was.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        let layers = self.image(id)?.layers;
        for diff_id in layers.iter().filter(|diff_id| self.has_layer(diff_id)) {
            self.verify_layer(diff_id)?;
        }
        self.lower_dirs_unread(id)
    }

    /// As [`Self::lower_dirs`], without a look at what is in them: for what a boot must not wait for.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a layer is missing.
    pub fn lower_dirs_unread(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        let layers = self.image(id)?.layers;
        let config = Config::parse(&id.to_string(), &self.read_blob(id)?)?;
        if config.diff_ids() != layers {
            let why = "its layers are not those of its config".into();
            return Err(Error::Damaged { path: self.image_path(id), why });
        }
        let tree = |diff_id: &Digest| {
            if !self.has_layer(diff_id) {
                let why = "the layer is missing".into();
                return Err(Error::Damaged { path: self.layer_path(diff_id), why });
            }
            Ok(self.layer_tree(diff_id))
        };
        layers.iter().rev().map(tree).collect()
    }

    /// Gives an image a name; the name leaves whatever had it. Without tag and digest it means `:latest`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image.
    pub fn tag(&self, id: &ImageId, reference: &Reference) -> Result<()> {
        let _lock = self.lock_references()?;
        self.image(id)?;
        let mut names = self.names()?;
        names.insert(tagged(reference), *id);
        self.write_names(&names)
    }

    /// Takes a name away; the image stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing has it.
    pub fn untag(&self, reference: &Reference) -> Result<()> {
        let _lock = self.lock_references()?;
        let mut names = self.names()?;
        match names.remove(&tagged(reference)) {
            Some(_) => self.write_names(&names),
            None => Err(Error::NotFound { reference: reference.to_string() }),
        }
    }

    /// Removes an image, or only the name that was given when it has others. `in_use` says what uses an
    /// image, if anything: that refuses its removal, not the removal of one of several names. With `force`
    /// an ID with several names goes, and what `in_use` says does not count. Content goes with
    /// [`Store::collect_garbage`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InUse`], [`Error::Referenced`].
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        in_use: impl Fn(&ImageId) -> Option<String>,
    ) -> Result<Vec<Removed>> {
        let id = self.resolve(text)?;
        let _lock = self.lock_references()?;
        let mut names = self.names()?;
        let record = named(read_record(&self.image_path(&id))?, &names);
        let asked = text
            .parse::<Reference>()
            .ok()
            .map(|r| tagged(&r))
            .filter(|r| names.get(r) == Some(&id));
        if let Some(asked) = &asked
            && !is_last(asked, &record)
        {
            names.remove(asked);
            self.write_names(&names)?;
            return Ok(vec![Removed::Untagged(asked.clone())]);
        }
        if let Some(by) = in_use(&id).filter(|_| !force) {
            return Err(Error::InUse { image: text.to_owned(), by });
        }
        let tags: Vec<String> = record.tags().map(ToString::to_string).collect();
        if asked.is_none() && !force && tags.len() > 1 {
            return Err(Error::Referenced { image: text.to_owned(), names: tags.join(", ") });
        }
        names.retain(|_, of| *of != id);
        self.write_names(&names)?;
        let path = self.image_path(&id);
        fs::remove_file(&path).map_err(Error::on("remove", &path))?;
        durable::sync_parent(&path).map_err(Error::on("sync", &path))?;
        let untagged = record.references.into_iter().map(Removed::Untagged);
        Ok(untagged.chain([Removed::Deleted(id)]).collect())
    }

    /// Makes a complete image known, under `references`. Config, manifest and layers are here already.
    pub(crate) fn add_image(
        &self,
        id: ImageId,
        manifest: Digest,
        references: &[Reference],
    ) -> Result<()> {
        let config = Config::parse(&id.to_string(), &self.read_blob(&id)?)?;
        let mut size = 0;
        for diff_id in config.diff_ids() {
            size += self.layer_facts(diff_id)?.size;
        }
        let mut record = ImageRecord {
            id,
            manifest,
            earlier: BTreeSet::new(),
            references: Vec::new(),
            created: config.created(),
            size,
            layers: config.diff_ids().to_vec(),
            labels: config.labels(),
        };
        let _lock = self.lock_references()?;
        let path = self.image_path(&id);
        if let Ok(before) = read_record(&path) {
            record.earlier = before.manifests().filter(|its| **its != manifest).copied().collect();
        }
        let text = serde_json::to_vec(&record).map_err(Error::on("encode", &path))?;
        durable::write(&path, &text, 0o644).map_err(Error::on("write", &path))?;
        let mut names = self.names()?;
        names.extend(references.iter().map(|reference| (tagged(reference), id)));
        self.write_names(&names)
    }

    pub(crate) fn names(&self) -> Result<Names> {
        let path = self.path("references.json");
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Names::new()),
            other => {
                let text = other.map_err(Error::on("read", &path))?;
                serde_json::from_slice(&text)
                    .map_err(|e| Error::Damaged { path, why: e.to_string() })
            }
        }
    }

    fn write_names(&self, names: &Names) -> Result<()> {
        let path = self.path("references.json");
        let text = serde_json::to_vec_pretty(names).map_err(Error::on("encode", &path))?;
        durable::write(&path, &text, 0o644).map_err(Error::on("write", &path))
    }
}

/// The short form of a name that Docker's tools write out: `docker.io/library/busybox` is `busybox`.
#[must_use]
pub fn familiar(name: &str) -> &str {
    let path = name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/"));
    path.map_or(name, |path| path.strip_prefix("library/").unwrap_or(path))
}

/// A name as it is stored: with a digest, the tag beside it says nothing; with neither, it is `:latest`.
pub(crate) fn tagged(reference: &Reference) -> Reference {
    match (&reference.tag, reference.digest) {
        (_, Some(digest)) => reference.with_digest(digest),
        (Some(_), None) => reference.clone(),
        (None, None) => reference.with_tag("latest"),
    }
}

/// Whether without `asked` no name that a person would use is left.
fn is_last(asked: &Reference, record: &ImageRecord) -> bool {
    let others: Vec<&Reference> = record.references.iter().filter(|name| *name != asked).collect();
    // The digest that a tag came with goes when the last tag goes.
    others.is_empty() || (asked.digest.is_none() && others.iter().all(|name| name.digest.is_some()))
}

fn named(mut record: ImageRecord, names: &Names) -> ImageRecord {
    let of_it = names.iter().filter(|(_, id)| **id == record.id);
    record.references = of_it.map(|(reference, _)| reference.clone()).collect();
    record
}

fn read_record(path: &std::path::Path) -> Result<ImageRecord> {
    let text = fs::read(path).map_err(Error::on("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::Damaged { path: path.to_owned(), why: e.to_string() })
}

fn parse_json<T: serde::de::DeserializeOwned>(id: &ImageId, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|e| Error::BadManifest { reference: id.to_string(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_need_not_be_named() {
        for (name, short) in [
            ("docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/a/b", "a/b"),
            ("10.0.2.2:5000/os:v1", "10.0.2.2:5000/os:v1"),
        ] {
            assert_eq!(familiar(name), short);
        }
    }
}

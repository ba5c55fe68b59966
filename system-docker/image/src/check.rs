//! Every object of the store held against its digest; and what can be done where one is damaged.
//!
//! Names → records → configs and manifests → layers: tree (see [`crate::entries`]) and archive, whose objects
//! are read to the last byte. What is damaged is fetched again, made again from what is whole, or removed when nothing
//! refers to it; each of it is said, and what cannot be repaired stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use ros_api::{Digest, Reference};

use crate::entries::Depth;
use crate::manifest::{Config, Manifest};
use crate::registry::{Registries, locate};
use crate::store::remove_all;
use crate::{Error, ImageId, ImageRecord, Result, Store};

/// What can be damaged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A manifest or config.
    Blob(Digest),
    /// An image's record, by the name of its file.
    Image(String),
    /// A layer, by its diff ID.
    Layer(Digest),
    /// A name.
    Name(Reference),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {}", digest.hex()),
            Self::Image(name) => write!(f, "image record {name}"),
            Self::Layer(digest) => write!(f, "layer {}", digest.hex()),
            Self::Name(name) => write!(f, "name {name}"),
        }
    }
}

/// One object that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub what: What,
    /// What is wrong with it, with the path.
    pub why: String,
    /// Images that need it.
    pub images: BTreeSet<ImageId>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names looked at.
    pub names: usize,
    /// Image records.
    pub images: usize,
    /// Manifests and configs.
    pub blobs: usize,
    /// Layers.
    pub layers: usize,
    /// Objects in the pool: each belongs to a layer, or to nobody and is garbage.
    pub objects: usize,
    /// Damaged ones, in the order in which they are repaired.
    pub damages: Vec<Damage>,
}

/// Who needs what.
#[derive(Default)]
struct Needs {
    blobs: BTreeMap<Digest, BTreeSet<ImageId>>,
    layers: BTreeMap<Digest, BTreeSet<ImageId>>,
}

impl Store {
    /// Reads all of the store. Nothing is changed, and no garbage is collected meanwhile.
    ///
    /// # Errors
    /// When the store itself cannot be read; what is damaged in it is no error but in the report.
    pub fn check(&self) -> Result<Report> {
        let _lock = self.lock_shared()?;
        let mut report = Report::default();
        let needs = self.check_records(&mut report)?;
        self.check_blobs(&needs, &mut report)?;
        self.check_layers(&needs, &mut report)?;
        self.check_names(&mut report)?;
        for folder in listed(&self.path("objects"))? {
            report.objects += listed(&self.path("objects").join(folder))?.len();
        }
        report.damages.sort_by(|a, b| a.what.cmp(&b.what));
        Ok(report)
    }

    fn check_records(&self, report: &mut Report) -> Result<Needs> {
        let mut needs = Needs::default();
        for name in listed(&self.path("images"))? {
            report.images += 1;
            match self.check_record(&name) {
                Ok(record) => {
                    for blob in record.manifests().chain([&record.id]) {
                        needs.blobs.entry(*blob).or_default().insert(record.id);
                    }
                    for layer in record.layers {
                        needs.layers.entry(layer).or_default().insert(record.id);
                    }
                }
                Err(error) => report.found(What::Image(name), &error, BTreeSet::new()),
            }
        }
        Ok(needs)
    }

    /// The record in the file `name`; its layers have to be those of its config, if that can be read.
    fn check_record(&self, name: &str) -> Result<ImageRecord> {
        let path = self.path("images").join(name);
        let damaged = |why: &str| Error::Damaged { path: path.clone(), why: why.to_owned() };
        let id = image_of(name).ok_or_else(|| damaged("its name is not an image's ID"))?;
        let record = self.image(&id)?;
        if record.id != id {
            return Err(damaged("it is another image's record"));
        }
        match self.read_blob(&id).and_then(|text| Config::parse(name, &text)) {
            Ok(config) if config.diff_ids() != record.layers => {
                Err(damaged("its layers are not those of its config"))
            }
            _ => Ok(record),
        }
    }

    fn check_blobs(&self, needs: &Needs, report: &mut Report) -> Result<()> {
        let mut all: BTreeSet<Digest> = needs.blobs.keys().copied().collect();
        let there = listed(&self.path("blobs/sha256"))?;
        all.extend(there.iter().filter_map(|hex| digest_of(hex)));
        for digest in all {
            report.blobs += 1;
            if let Err(error) = self.read_blob(&digest) {
                let images = needs.blobs.get(&digest).cloned().unwrap_or_default();
                report.found(What::Blob(digest), &error, images);
            }
        }
        Ok(())
    }

    fn check_layers(&self, needs: &Needs, report: &mut Report) -> Result<()> {
        let mut all: BTreeSet<Digest> = needs.layers.keys().copied().collect();
        let there = listed(&self.path("layers"))?;
        all.extend(there.iter().filter_map(|hex| digest_of(hex)));
        for diff_id in all {
            report.layers += 1;
            if let Err(error) = self.check_layer(&diff_id) {
                let images = needs.layers.get(&diff_id).cloned().unwrap_or_default();
                report.found(What::Layer(diff_id), &error, images);
            }
        }
        Ok(())
    }

    fn check_layer(&self, diff_id: &Digest) -> Result<()> {
        let path = self.layer_path(diff_id);
        if !path.exists() {
            return Err(Error::Damaged { path, why: "it is missing".into() });
        }
        if self.layer_facts(diff_id)?.diff_id != *diff_id {
            let why = "layer.json is another layer's".into();
            return Err(Error::Damaged { path, why });
        }
        self.verify_entries(diff_id, Depth::Every)?;
        self.export_layer(diff_id, &mut io::sink())
    }

    fn check_names(&self, report: &mut Report) -> Result<()> {
        for (name, id) in self.names()? {
            report.names += 1;
            if !self.image_path(&id).exists() {
                let error = Error::NotFound { reference: id.to_string() };
                report.found(What::Name(name), &error, BTreeSet::new());
            }
        }
        Ok(())
    }

    /// Repairs one damage, and says how. `in_use` says what runs from an image: a layer is not replaced under it.
    ///
    /// # Errors
    /// Why it is not repaired; the damaged object is where it was then.
    pub async fn repair(
        &self,
        damage: &Damage,
        registries: &Registries,
        in_use: impl Fn(&ImageId) -> Option<String>,
    ) -> Result<String> {
        let _lock = self.lock_shared()?;
        let users = damage.images.iter().find_map(|id| Some((id, in_use(id)?)));
        match (&damage.what, users) {
            (What::Layer(_), Some((id, by))) => Err(Error::InUse { image: id.to_string(), by }),
            (What::Layer(diff_id), None) => {
                self.repair_layer(diff_id, &damage.images, registries).await
            }
            (What::Blob(digest), _) => self.repair_blob(digest, &damage.images, registries).await,
            (What::Image(name), _) => self.repair_record(name),
            (What::Name(name), _) => {
                self.untag(name)?;
                Ok("taken away: there is no such image".into())
            }
        }
    }

    async fn repair_layer(
        &self,
        diff_id: &Digest,
        images: &BTreeSet<ImageId>,
        registries: &Registries,
    ) -> Result<String> {
        let path = self.layer_path(diff_id);
        let aside = self.ingest_path("damaged");
        let moved = path.exists();
        if moved {
            fs::rename(&path, &aside).map_err(Error::on("rename", &path))?;
        }
        if images.is_empty() {
            remove_all(&aside)?;
            return Ok("removed: no image has it".into());
        }
        let fetched = self.fetch(images, async |reference| {
            self.fetch_layer(reference, registries, diff_id).await
        });
        match fetched.await {
            Ok(from) => {
                remove_all(&aside)?;
                Ok(format!("fetched again from {from}"))
            }
            Err(error) => {
                if moved {
                    fs::rename(&aside, &path).map_err(Error::on("rename back to", &path))?;
                }
                Err(error)
            }
        }
    }

    async fn repair_blob(
        &self,
        digest: &Digest,
        images: &BTreeSet<ImageId>,
        registries: &Registries,
    ) -> Result<String> {
        if images.is_empty() {
            remove_all(&self.blob_path(digest))?;
            return Ok("removed: no image has it".into());
        }
        let from = self.fetch(images, async |reference| {
            let (endpoint, image) = locate(reference, registries).await?;
            let text = match image.manifest_digest == *digest {
                true => image.manifest_bytes,
                false => endpoint.config(digest, image.manifest.config.size).await?,
            };
            self.write_blob(&text).map(|_| ())
        });
        Ok(format!("fetched again from {}", from.await?))
    }

    /// Does `work` with the names of `images` until it succeeds with one; that one.
    async fn fetch(
        &self,
        images: &BTreeSet<ImageId>,
        work: impl AsyncFn(&Reference) -> Result<()>,
    ) -> Result<String> {
        let mut failed = None;
        for id in images {
            let record = self.image(id)?;
            let all = record
                .references
                .iter()
                .flat_map(|name| record.manifests().map(|manifest| name.with_digest(*manifest)));
            for pinned in all {
                match work(&pinned).await {
                    Ok(()) => return Ok(pinned.to_string()),
                    Err(error) => failed = Some(error),
                }
            }
        }
        let reference = images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(failed.unwrap_or(Error::NotFound { reference }))
    }

    /// Makes a record anew of the manifest and config, which are known by their digests.
    fn repair_record(&self, name: &str) -> Result<String> {
        let path = self.path("images").join(name);
        let Some(id) = image_of(name) else {
            remove_all(&path)?;
            return Ok("removed: its name is not an image's ID".into());
        };
        let manifests = self.manifests_with(&id)?;
        let config = Config::parse(name, &self.read_blob(&id)?)?;
        if let Some(missing) = config.diff_ids().iter().find(|diff_id| !self.has_layer(diff_id)) {
            let why = "the layer is missing, and so the image's record is not made again".into();
            return Err(Error::Damaged { path: self.layer_path(missing), why });
        }
        manifests.iter().try_for_each(|manifest| self.add_image(id, *manifest, &[]))?;
        Ok("made again from its manifest and config".into())
    }

    fn manifests_with(&self, config: &ImageId) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        for hex in listed(&self.path("blobs/sha256"))? {
            let digest = digest_of(&hex);
            let text = digest.and_then(|digest| self.read_blob(&digest).ok());
            let manifest = text.and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
            if let (Some(digest), Some(manifest)) = (digest, manifest)
                && manifest.config.digest == *config
            {
                all.push(digest);
            }
        }
        if all.is_empty() {
            return Err(Error::NotFound { reference: format!("a manifest of image {config}") });
        }
        Ok(all)
    }
}

impl Report {
    fn found(&mut self, what: What, error: &Error, images: BTreeSet<ImageId>) {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        self.damages.push(Damage { what, why, images });
    }
}

fn digest_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

fn image_of(file: &str) -> Option<ImageId> {
    digest_of(file.strip_suffix(".json")?)
}

/// Names in a folder, without those that are being written.
fn listed(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::on("read", folder))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: io::Result<Vec<String>> = names.collect();
    let mut names = names.map_err(Error::on("read", folder))?;
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    Ok(names)
}

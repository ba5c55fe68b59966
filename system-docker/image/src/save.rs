//! Images into an archive that is a `docker save` archive and an OCI layout at once, as Docker writes it
//! since version 25. Layers are the very tar streams that came in; the same images give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ros_api::{Digest, Reference};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::image::tagged;
use crate::{Error, ImageId, Result, Store};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

impl Store {
    /// Writes the images that `names` mean (see [`Store::resolve`]) to `to`. A name with a tag is in the
    /// archive; an image that was given by its ID has no name there.
    ///
    /// # Errors
    /// When an image is not here, or its content is damaged; what was written is worth nothing then.
    pub fn save(&self, names: &[String], to: impl Write) -> Result<()> {
        let _lock = self.lock_shared()?;
        let mut images: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
        for name in names {
            let id = self.resolve(name)?;
            let tags = images.entry(id).or_default();
            let reference = name.parse::<Reference>().ok().map(|reference| tagged(&reference));
            tags.extend(reference.filter(|tag| tag.digest.is_none() && self.is_named(tag, &id)));
        }
        let mut archive = Writer { to, store: self };
        archive.run(&images)
    }

    fn is_named(&self, tag: &Reference, id: &ImageId) -> bool {
        self.image(id).is_ok_and(|record| record.references.contains(tag))
    }
}

struct Writer<'a, W> {
    to: W,
    store: &'a Store,
}

impl<W: Write> Writer<'_, W> {
    fn run(&mut self, images: &BTreeMap<ImageId, Vec<Reference>>) -> Result<()> {
        let (mut index, mut docker) = (Vec::new(), Vec::new());
        let (mut blobs, mut layers) = (BTreeMap::new(), BTreeMap::new());
        for (id, tags) in images {
            let config = self.store.config_bytes(id)?;
            let manifest = self.store.plain_manifest(&config)?;
            let digest = Digest::of(&manifest);
            let diff_ids = self.store.image(id)?.layers;
            index.extend(index_entries(&digest, manifest.len(), tags));
            docker.push(json!({
                "Config": blob(id),
                "RepoTags": tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "Layers": diff_ids.iter().map(blob).collect::<Vec<_>>(),
            }));
            blobs.extend([(*id, config), (digest, manifest)]);
            for diff_id in diff_ids {
                layers.insert(diff_id, self.store.layer_facts(&diff_id)?.tar_size);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index});
        self.folder("blobs/")?;
        self.folder("blobs/sha256/")?;
        for (digest, content) in &blobs {
            self.file(&blob(digest), content)?;
        }
        for (diff_id, size) in &layers {
            self.layer(diff_id, *size)?;
        }
        self.file("index.json", index.to_string().as_bytes())?;
        self.file("manifest.json", Value::from(docker).to_string().as_bytes())?;
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.write(&[0; 1024])?;
        self.to.flush().map_err(failed)
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        self.header(name, EntryType::Directory, 0o755, 0)
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.header(name, EntryType::Regular, 0o644, content.len() as u64)?;
        self.write(content)?;
        self.pad(content.len() as u64)
    }

    fn layer(&mut self, diff_id: &Digest, size: u64) -> Result<()> {
        self.header(&blob(diff_id), EntryType::Regular, 0o644, size)?;
        self.store.export_layer(diff_id, &mut self.to)?;
        self.pad(size)
    }

    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name).map_err(failed)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let zeros = [0; 512];
        self.write(&zeros[..(size.wrapping_neg() % 512) as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(failed)
    }
}

fn failed(e: io::Error) -> Error {
    Error::io("write", Path::new("the archive"), e)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An entry for each tag, or one without a name.
fn index_entries(digest: &Digest, size: usize, tags: &[Reference]) -> Vec<Value> {
    let plain = json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size});
    let named = |tag: &Reference| {
        let mut entry = plain.clone();
        entry["annotations"] = json!({
            "io.containerd.image.name": tag,
            "org.opencontainers.image.ref.name": tag.tag,
        });
        entry
    };
    if tags.is_empty() { vec![plain] } else { tags.iter().map(named).collect() }
}

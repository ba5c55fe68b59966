//! A release in a file: an OCI layout, as a folder or as a tar, with the release, the images of its services and the
//! signatures (`os-images archive` makes one; OCI image specification, `image-layout.md`).
//!
//! ```text
//! index.json ─► manifests, each by its digest ─► config (labels, diff IDs) and layers
//!                  └─ layers of type …simplesigning…: signatures of the release
//! ```
//!
//! Nothing is trusted for its name: what is read is held against its digest here, what is sent against it by the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ros_api::{Digest, Reference, labels};
use serde::{Deserialize, Serialize};

use super::signature::Attached;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Manifests, configs and signatures are small.
const MAX_JSON: u64 = 16 << 20;

/// Points to content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<Inner>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// An image in an archive.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: Descriptor,
    config: Descriptor,
    /// Its config's labels.
    pub labels: BTreeMap<String, String>,
    /// Its layers, each with the digest of what is in it.
    pub layers: Vec<(Descriptor, Digest)>,
}

/// Where a file of the archive is.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    size: u64,
}

#[derive(Debug)]
enum Source {
    Folder,
    Tar(BTreeMap<String, Place>),
}

/// An archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    source: Source,
    /// Its images by their manifests' digests.
    pub images: BTreeMap<Digest, Image>,
    /// The signatures in it.
    pub signatures: Vec<Attached>,
}

/// Whether a user's word for a release is a file.
#[must_use]
pub fn is_path(text: &str) -> bool {
    text.starts_with(['/', '.']) || (text.ends_with(".tar") && Path::new(text).exists())
}

impl Archive {
    /// Reads what is in it; the layers stay where they are.
    ///
    /// # Errors
    /// When it cannot be read, is no OCI layout, or something in it is not what its digest says.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        let meta = path.metadata().with_context(|| format!("open {}", place()))?;
        let source = if meta.is_dir() { Source::Folder } else { Source::Tar(scan(path)?) };
        let (path, images) = (path.to_owned(), BTreeMap::new());
        let mut archive = Self { path, source, images, signatures: Vec::new() };
        archive.read_index().with_context(|| format!("read {}", place()))?;
        Ok(archive)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one release in it.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn release(&self) -> Result<(Digest, &Image)> {
        let is_release = |(_, image): &(_, &Image)| image.labels.contains_key(labels::RELEASE_LOCK);
        let mut all = self.images.iter().filter(is_release);
        match (all.next(), all.next()) {
            (Some((digest, image)), None) => Ok((*digest, image)),
            (None, _) => bail!("there is no release of ros in {}", self.path.display()),
            _ => bail!("there are several releases in {}: expected one", self.path.display()),
        }
    }

    /// Writes `images`, each to be known by its name, as an archive without the layers in `present`.
    ///
    /// # Errors
    /// When something is not in the archive or cannot be written.
    pub fn send(
        &self,
        images: &[(Reference, Digest)],
        present: &BTreeSet<Digest>,
        to: impl Write,
    ) -> Result<()> {
        let mut tar = tar::Builder::new(to);
        let mut sent = BTreeSet::new();
        let mut manifests = Vec::new();
        for (name, digest) in images {
            let image = self.image(digest)?;
            let annotations = BTreeMap::from([(REF_NAME.to_owned(), name.to_string())]);
            manifests.push(Descriptor { annotations, ..image.manifest.clone() });
            let layers = image.layers.iter().filter(|(_, diff_id)| !present.contains(diff_id));
            let layers = layers.map(|(layer, _)| layer);
            for part in [&image.manifest, &image.config].into_iter().chain(layers) {
                if sent.insert(part.digest) {
                    self.append(&mut tar, part)?;
                }
            }
        }
        let index = serde_json::to_vec(&Index { schema_version: 2, manifests })?;
        tar.append_data(&mut header(index.len() as u64), "index.json", &index[..])?;
        tar.into_inner()?.flush().context("send an archive")
    }

    /// An image by its manifest.
    ///
    /// # Errors
    /// When it is not in the archive.
    pub fn image(&self, digest: &Digest) -> Result<&Image> {
        let image = self.images.get(digest);
        image.with_context(|| format!("image {digest} is not in {}", self.path.display()))
    }

    fn append(&self, tar: &mut tar::Builder<impl Write>, part: &Descriptor) -> Result<()> {
        let name = blob(&part.digest);
        let (file, size) = self.file(&name)?;
        tar.append_data(&mut header(size), &name, file).with_context(|| format!("read {name}"))
    }

    fn read_index(&mut self) -> Result<()> {
        let index: Index = parse("index.json", &self.text("index.json").context(
            "it is no OCI layout (an archive of `docker save` has no digests that a release could be held against)",
        )?)?;
        for entry in index.manifests {
            let text = self.checked(&entry.digest)?;
            let manifest: Manifest = parse("a manifest", &text)?;
            let is_signature = |layer: &&Descriptor| layer.media_type == PAYLOAD;
            if manifest.layers.iter().any(|layer| is_signature(&layer)) {
                for layer in manifest.layers.iter().filter(is_signature) {
                    let Some(signature) = layer.annotations.get(SIGNATURE).cloned() else {
                        continue;
                    };
                    let payload = self.checked(&layer.digest)?;
                    self.signatures.push(Attached { payload, signature });
                }
                continue;
            }
            let image = self.read_image(entry, manifest)?;
            self.images.insert(image.manifest.digest, image);
        }
        Ok(())
    }

    fn read_image(&self, entry: Descriptor, manifest: Manifest) -> Result<Image> {
        let config: Config = parse("a config", &self.checked(&manifest.config.digest)?)?;
        let diff_ids = config.rootfs.diff_ids;
        ensure!(
            diff_ids.len() == manifest.layers.len(),
            "{}: layers and diff IDs are not as many",
            entry.digest
        );
        Ok(Image {
            manifest: entry,
            config: manifest.config,
            labels: config.config.and_then(|inner| inner.labels).unwrap_or_default(),
            layers: manifest.layers.into_iter().zip(diff_ids).collect(),
        })
    }

    /// A small blob, held against its digest.
    fn checked(&self, digest: &Digest) -> Result<Vec<u8>> {
        let text = self.text(&blob(digest))?;
        let found = Digest::of(&text);
        ensure!(found == *digest, "damaged: expected {digest}, found {found}");
        Ok(text)
    }

    fn text(&self, name: &str) -> Result<Vec<u8>> {
        let (file, _) = self.file(name)?;
        let mut text = Vec::new();
        file.take(MAX_JSON).read_to_end(&mut text).with_context(|| format!("read {name}"))?;
        Ok(text)
    }

    /// One file, from its first byte to its last.
    fn file(&self, name: &str) -> Result<(std::io::Take<File>, u64)> {
        let (path, place) = match &self.source {
            Source::Folder => (self.path.join(name), None),
            Source::Tar(files) => {
                let place = files.get(name).with_context(|| format!("{name} is missing"))?;
                (self.path.clone(), Some(*place))
            }
        };
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let place = match place {
            Some(place) => place,
            None => Place { offset: 0, size: file.metadata()?.len() },
        };
        file.seek(SeekFrom::Start(place.offset))?;
        Ok((file.take(place.size), place.size))
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    // A field that is empty is none, for a strict reader.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Where each file of a tar is.
fn scan(path: &Path) -> Result<BTreeMap<String, Place>> {
    let not_one =
        || format!("{} is no tar archive that is not compressed: unpack it once", path.display());
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut files = BTreeMap::new();
    for entry in archive.entries_with_seek().with_context(not_one)? {
        let entry = entry.with_context(not_one)?;
        let name = entry.path().with_context(not_one)?;
        let name = name.to_string_lossy().trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() {
            files.insert(name, Place { offset: entry.raw_file_position(), size: entry.size() });
        }
    }
    Ok(files)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).with_context(|| format!("parse {name}"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    /// A folder with a layout: a release, one service with a layer, and a signature.
    pub fn layout(dir: &Path) -> (Digest, Digest) {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let put = |content: &[u8]| {
            let digest = Digest::of(content);
            std::fs::write(dir.join(blob(&digest)), content).unwrap();
            let size = content.len() as u64;
            Descriptor { media_type: String::new(), digest, size, annotations: BTreeMap::new() }
        };
        let json = |value: serde_json::Value| put(value.to_string().as_bytes());
        let image = |label: Option<(&str, String)>, content: &[u8]| {
            let labels: BTreeMap<&str, String> = label.into_iter().collect();
            let diff_id = Digest::of(&[content, b" unpacked"].concat());
            let config = json(serde_json::json!({
                "config": {"Labels": labels}, "rootfs": {"diff_ids": [diff_id]},
            }));
            let layer = put(content);
            json(serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}))
        };
        let service = image(None, b"ntp layer");
        let lock = release("v2", "b", &[("ntp", "x")]).to_yaml();
        let os = image(Some((labels::RELEASE_LOCK, lock)), b"os layer");
        let mut payload = put(b"statement");
        payload.media_type = PAYLOAD.into();
        payload.annotations = BTreeMap::from([(SIGNATURE.to_owned(), "c2ln".to_owned())]);
        let config = json(serde_json::json!({}));
        let beside = json(serde_json::json!({"config": config, "layers": [payload]}));
        let manifests = vec![os.clone(), service.clone(), beside];
        let index = Index { schema_version: 2, manifests };
        std::fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        (os.digest, service.digest)
    }

    fn tarred(dir: &Path, to: &Path) {
        let mut tar = tar::Builder::new(File::create(to).unwrap());
        tar.append_dir_all(".", dir).unwrap();
        tar.finish().unwrap();
    }

    #[test]
    fn folder_and_tar_are_read_alike_and_only_what_is_missing_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("layout");
        let (os, service) = layout(&folder);
        let file = dir.path().join("os.oci.tar");
        tarred(&folder, &file);
        for path in [&folder, &file] {
            let archive = Archive::open(path).unwrap();
            assert_eq!(archive.release().unwrap().0, os);
            assert_eq!(archive.signatures[0].payload, b"statement");
            let names: Vec<(Reference, Digest)> = [("h/os", os), ("h/os-ntp", service)]
                .map(|(name, digest)| (name.parse().unwrap(), digest))
                .to_vec();
            let present = BTreeSet::from([archive.image(&service).unwrap().layers[0].1]);
            let mut sent = Vec::new();
            archive.send(&names, &present, &mut sent).unwrap();
            let other = dir.path().join("sent.tar");
            std::fs::write(&other, &sent).unwrap();
            let files = scan(&other).unwrap();
            assert!(files.contains_key(&blob(&Digest::of(b"os layer"))));
            assert!(!files.contains_key(&blob(&Digest::of(b"ntp layer"))), "it is here already");
            assert!(files.contains_key(&blob(&service)) && files.contains_key("index.json"));
            assert_eq!(Archive::open(&other).unwrap().release().unwrap().0, os);
            for entry in tar::Archive::new(&sent[..]).entries().unwrap() {
                let entry = entry.unwrap();
                let header = entry.header();
                let all = [header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()];
                assert_eq!(all, [0; 3], "a strict reader wants every field");
            }
        }
    }

    #[test]
    fn what_is_damaged_or_no_layout_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("layout");
        let (os, _) = layout(&folder);
        let says = |path: &Path| format!("{:#}", Archive::open(path).unwrap_err());
        std::fs::write(folder.join(blob(&os)), "{}").unwrap();
        assert!(says(&folder).contains("damaged"), "{}", says(&folder));
        std::fs::remove_file(folder.join("index.json")).unwrap();
        assert!(says(&folder).contains("no OCI layout"), "{}", says(&folder));
        assert!(says(&dir.path().join("nothing")).contains("open"));
        let packed = dir.path().join("packed.tar.gz");
        std::fs::write(&packed, [0x1f; 2000]).unwrap();
        assert!(says(&packed).contains("unpack it"), "{}", says(&packed));
    }

    #[test]
    fn a_word_is_a_file_when_it_looks_like_one() {
        for (word, expected) in [
            ("/media/usb/os-v1.2.oci.tar", true),
            ("./os", true),
            ("os:v1.2", false),
            ("h.example/os:v1.2", false),
            ("nothing.tar", false),
        ] {
            assert_eq!(is_path(word), expected, "{word}");
        }
    }
}

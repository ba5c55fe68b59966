//! The image store, checked against its digests: every object by its name, every layer's files by their objects, every
//! image by its layers, manifest and config. The format is drawn in `ros-image`; it is read here once more, by other code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use ros_api::Digest;
use serde::Deserialize;

use super::state::{Meta, State};

/// As [`ros_api::paths::STORE`], on the partition.
const STORE: &str = "/lib/system-docker";

/// An image's record.
#[derive(Deserialize)]
pub struct Image {
    id: Digest,
    manifest: Digest,
    #[serde(default)]
    earlier: BTreeSet<Digest>,
    layers: Vec<Digest>,
}

/// The images, by the digest of their manifest; all of them whole.
pub struct Store {
    images: BTreeMap<Digest, Image>,
}

impl Store {
    /// Checks everything in the store.
    pub fn verify(state: &State) -> Result<Self> {
        let format = state.read_file(&format!("{STORE}/store.json"))?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&format).context("store.json")?;
        let objects = objects(state)?;
        let mut layers = BTreeSet::new();
        for (hex, _) in state.names(&format!("{STORE}/layers"))? {
            layer(state, &hex, &objects).with_context(|| format!("layer {hex}"))?;
            layers.insert(hex);
        }
        let mut images = BTreeMap::new();
        for (name, _) in state.names(&format!("{STORE}/images"))? {
            if name.starts_with('.') {
                continue;
            }
            let image = image(state, &name, &layers).with_context(|| format!("image {name}"))?;
            images.insert(image.manifest, image);
        }
        names(state, &images)?;
        Ok(Self { images })
    }

    /// The image with this manifest.
    pub fn image(&self, manifest: &Digest) -> Result<&Image> {
        let earlier = || self.images.values().find(|image| image.earlier.contains(manifest));
        self.images
            .get(manifest)
            .or_else(earlier)
            .with_context(|| format!("image {manifest} is not there"))
    }

    /// A file of an image.
    pub fn file(&self, image: &Image, path: &str, state: &State) -> Result<Vec<u8>> {
        for layer in image.layers.iter().rev() {
            let path = format!("{STORE}/layers/{}/tree/{path}", layer.hex());
            if let Some(content) = state.optional(&path)? {
                return Ok(content);
            }
        }
        bail!("image {} has no /{path}", image.manifest)
    }
}

/// The pool's names; each object is what its name says.
fn objects(state: &State) -> Result<BTreeSet<Digest>> {
    let mut keys = BTreeSet::new();
    for (folder, _) in state.names(&format!("{STORE}/objects"))? {
        for (rest, _) in state.names(&format!("{STORE}/objects/{folder}"))? {
            let path = format!("{STORE}/objects/{folder}/{rest}");
            let expected: Digest =
                format!("sha256:{folder}{rest}").parse().context(path.clone())?;
            ensure!(key_of(state, &path)? == expected, "object {path} is damaged");
            keys.insert(expected);
        }
    }
    Ok(keys)
}

fn key_of(state: &State, path: &str) -> Result<Digest> {
    Ok(key(&Digest::of(&state.read_file(path)?), &state.meta(path)?))
}

/// An object's name: SHA-256 over content, mode, owner and time. Our images have no extended attributes.
fn key(content: &Digest, meta: &Meta) -> Digest {
    let mut text = b"ros-object-1\0".to_vec();
    text.extend(content.bytes());
    for number in [meta.mode, meta.uid, meta.gid, meta.mtime.1] {
        text.extend(number.to_le_bytes());
    }
    text.extend(meta.mtime.0.to_le_bytes());
    Digest::of(&text)
}

/// A layer's facts can be read, and each of its files is an object.
fn layer(state: &State, hex: &str, objects: &BTreeSet<Digest>) -> Result<()> {
    #[derive(Deserialize)]
    struct Facts {
        diff_id: Digest,
    }
    let root = format!("{STORE}/layers/{hex}");
    let facts: Facts = serde_json::from_slice(&state.read_file(&format!("{root}/layer.json"))?)?;
    ensure!(facts.diff_id.hex() == hex, "layer.json is another's");
    ensure!(!state.read_file(&format!("{root}/tarsplit"))?.is_empty(), "tarsplit is empty");
    for path in state.files(&format!("{root}/tree"))? {
        let content = state.read_file(&path)?;
        let known = content.is_empty()
            || objects.contains(&key(&Digest::of(&content), &state.meta(&path)?));
        ensure!(known, "{path} is no object");
    }
    for path in recorded(state, &root)? {
        ensure!(state.optional(&path)?.is_some(), "{path} is missing");
    }
    Ok(())
}

/// The files with content that `entries` lists.
fn recorded(state: &State, root: &str) -> Result<Vec<String>> {
    let text = String::from_utf8(state.read_file(&format!("{root}/entries"))?)?;
    ensure!(text.ends_with('\0'), "entries is torn");
    let heads = text.split('\0').step_by(2).filter(|head| !head.is_empty());
    let path = |head: &str| {
        let path = head.splitn(5, ' ').nth(4).context("entries has a line without a path")?;
        Ok(format!("{root}/tree/{path}"))
    };
    heads.filter(|head| !head.starts_with('-')).map(path).collect()
}

/// A record can be read, its blobs are what their names say, its layers are there.
fn image(state: &State, name: &str, layers: &BTreeSet<String>) -> Result<Image> {
    let text = state.read_file(&format!("{STORE}/images/{name}"))?;
    let image: Image = serde_json::from_slice(&text).context("its record")?;
    for digest in image.earlier.iter().chain([&image.id, &image.manifest]) {
        let content = state.read_file(&format!("{STORE}/blobs/sha256/{}", digest.hex()))?;
        ensure!(Digest::of(&content) == *digest, "blob {digest} is damaged");
    }
    for layer in &image.layers {
        ensure!(layers.contains(&layer.hex()), "layer {layer} is missing");
    }
    Ok(image)
}

/// Every name means an image that is there.
fn names(state: &State, images: &BTreeMap<Digest, Image>) -> Result<()> {
    let text = state.read_file(&format!("{STORE}/references.json"))?;
    let names: BTreeMap<String, Digest> = serde_json::from_slice(&text).context("references")?;
    for (name, id) in &names {
        let there = images.values().any(|image| image.id == *id);
        ensure!(there, "{name} means an image that is not there");
    }
    Ok(())
}

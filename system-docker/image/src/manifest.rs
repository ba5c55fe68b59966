//! Manifests, indexes and configs, OCI's and Docker's (schema 2): the part that the store acts on. Bytes
//! are kept as they came, since their digest is their name.

use std::collections::BTreeMap;

use ros_api::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Media types of manifests and indexes that are asked for.
pub(crate) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Points to content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an index's entry runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or Docker's.
    #[serde(default)]
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// Compressed layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index (manifest list).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    pub manifests: Vec<Descriptor>,
}

/// Either of both.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    pub fn parse(reference: &str, text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(rename = "schemaVersion", default)]
            version: u32,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let bad = |why: String| Error::BadManifest { reference: reference.to_owned(), why };
        let wrong = |e: serde_json::Error| bad(e.to_string());
        let shape: Shape = serde_json::from_slice(text).map_err(wrong)?;
        if shape.version == 1 {
            return Err(bad("Docker's old schema 1".into()));
        }
        Ok(match shape.manifests {
            Some(_) => Self::Index(serde_json::from_slice(text).map_err(wrong)?),
            None => Self::Manifest(serde_json::from_slice(text).map_err(wrong)?),
        })
    }
}

impl Index {
    /// The entry for this machine; an index with one entry that names no platform means that one.
    pub fn select(&self, reference: &str) -> Result<&Descriptor> {
        let here = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
        let fits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(here);
        match (self.manifests.iter().find(fits), &self.manifests[..]) {
            (Some(entry), _) => Ok(entry),
            (None, [entry]) if entry.platform.is_none() => Ok(entry),
            (None, _) => Err(Error::Platform { reference: reference.to_owned() }),
        }
    }
}

impl Manifest {
    /// Refuses what is not an image of layers: a Helm chart has the same manifest.
    pub(crate) fn check(&self, reference: &str) -> Result<()> {
        match self.layers.iter().find(|layer| !layer.media_type.contains("tar")) {
            Some(layer) if !layer.media_type.is_empty() => Err(Error::BadManifest {
                reference: reference.to_owned(),
                why: format!("a layer of type {:?}", layer.media_type),
            }),
            _ => Ok(()),
        }
    }

    /// A manifest of uncompressed layers: the same input gives the same bytes.
    pub(crate) fn plain(
        config: (Digest, u64),
        layers: impl Iterator<Item = (Digest, u64)>,
    ) -> Self {
        let descriptor = |media_type: &str, (digest, size): (Digest, u64)| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
        };
        Self {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: descriptor(OCI_CONFIG, config),
            layers: layers.map(|layer| descriptor(OCI_LAYER, layer)).collect(),
        }
    }
}

/// What the store reads of a config.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Inner>,
    rootfs: RootFs,
}

#[derive(Clone, Debug, Deserialize)]
struct Inner {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl Config {
    pub fn parse(reference: &str, text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|e| Error::BadManifest {
            reference: reference.to_owned(),
            why: format!("config: {e}"),
        })
    }

    /// Lowest layer first.
    pub fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default()
    }

    pub fn created(&self) -> i64 {
        let created = self
            .created
            .as_deref()
            .and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        created.map_or(0, |time| time.timestamp())
    }

    /// Pairs a manifest's layers with their diff IDs.
    pub fn layers<'a>(
        &'a self,
        reference: &str,
        of: &'a Manifest,
    ) -> Result<Vec<(&'a Descriptor, &'a Digest)>> {
        let (layers, diff_ids) = (&of.layers, self.diff_ids());
        if layers.len() != diff_ids.len() {
            let why = format!("{} layers, but {} diff IDs", layers.len(), diff_ids.len());
            return Err(Error::BadManifest { reference: reference.to_owned(), why });
        }
        Ok(layers.iter().zip(diff_ids).collect())
    }
}

//! Registries: which hosts stand behind a name, how they are spoken to, and what they have.
//! Protocol: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>, by `oci-client`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use oci_client::client::{BlobResponse, LayerDescriptor, SizedStream};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference as Name, RegistryOperation};
use ros_api::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::manifest::{ACCEPTED, Document, Manifest, OCI_MANIFEST};
use crate::transport::{Proxies, client, is_loopback, untrusted};
use crate::{Error, Result};

/// A config is a few kilobytes; a larger one than this is none.
const MAX_CONFIG: u64 = 8 << 20;
/// Tags asked for at once.
const PAGE: usize = 1000;

/// How to reach registries: a part of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registries {
    /// Registry that a short name such as `os:v1.2` means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_registry: Option<String>,
    /// `host[:port]` → what is special about it. Mirrors are looked up here too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistryOptions>,
    /// The proxies between here and every registry.
    #[serde(flatten)]
    pub proxies: Proxies,
}

/// What is special about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryOptions {
    /// `host[:port]`, asked in this order before the registry itself; `http://host` is plain HTTP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// No TLS. Loopback addresses need none anyway.
    pub plain_http: bool,
    /// Credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// File with PEM certificates to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// An image as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteImage {
    /// Digest of what the name points to: an index, or the manifest itself.
    pub digest: Digest,
    /// Media type of what the name points to, as it says itself; may be empty.
    pub media_type: String,
    /// Length in bytes of what the name points to.
    pub size: u64,
    /// Digest of the manifest for this machine.
    pub manifest_digest: Digest,
    /// The manifest for this machine: config and layers with digests and sizes.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
}

impl RemoteImage {
    /// Compressed bytes of config and layers together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + self.manifest.config.size
    }
}

/// What `reference` is in its registry; nothing is stored. Config and layer sizes are in the manifest.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Network`], [`Error::Platform`]…
pub async fn manifest_of(reference: &Reference, registries: &Registries) -> Result<RemoteImage> {
    Ok(locate(reference, registries).await?.1)
}

/// Tags of the repository that `reference` names.
///
/// # Errors
/// As [`manifest_of`].
pub async fn list_tags(reference: &Reference, registries: &Registries) -> Result<Vec<String>> {
    let mut failed = None;
    for endpoint in endpoints(reference, registries)? {
        match endpoint.list_tags().await {
            Ok(tags) => return Ok(tags),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| Error::NotFound { reference: reference.to_string() }))
}

/// Finds the image at the first host that has it.
pub(crate) async fn locate(
    reference: &Reference,
    registries: &Registries,
) -> Result<(Endpoint, RemoteImage)> {
    let mut failed = None;
    for endpoint in endpoints(reference, registries)? {
        match endpoint.image(reference).await {
            Ok(image) => return Ok((endpoint, image)),
            Err(error) => {
                tracing::debug!(%error, registry = endpoint.host, "not from here");
                failed = Some(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::NotFound { reference: reference.to_string() }))
}

/// One repository at one host.
pub(crate) struct Endpoint {
    host: String,
    repository: String,
    /// The image as it was asked, for errors.
    asked: String,
    client: Client,
    auth: RegistryAuth,
    /// It answered a range with the whole blob.
    ignores_ranges: AtomicBool,
}

/// A blob on its way.
pub(crate) struct Incoming {
    /// Whether it begins at the offset that was asked for, or at the blob's first byte.
    pub resumed: bool,
    pub stream: SizedStream,
}

/// The registry that a name means itself: mirrors are only read.
pub(crate) fn home(reference: &Reference, registries: &Registries) -> Result<Endpoint> {
    let all = endpoints(reference, registries)?;
    let last = all.into_iter().last();
    last.ok_or_else(|| Error::NoRegistry { reference: reference.to_string() })
}

/// The hosts for a name, mirrors first.
pub(crate) fn endpoints(reference: &Reference, registries: &Registries) -> Result<Vec<Endpoint>> {
    let host = reference.registry.as_ref().or(registries.default_registry.as_ref());
    let host = host.ok_or_else(|| Error::NoRegistry { reference: reference.to_string() })?;
    let mirrors =
        registries.registries.get(host).map(|options| &options.mirrors[..]).unwrap_or_default();
    // Docker Hub's own images have a folder that nobody writes; its mirrors know them by it.
    let library = host == "docker.io" && !reference.repository.contains('/');
    let repository = match library {
        true => format!("library/{}", reference.repository),
        false => reference.repository.clone(),
    };
    let hosts = mirrors.iter().chain([host]);
    hosts.map(|host| Endpoint::new(host, reference, repository.clone(), registries)).collect()
}

impl Endpoint {
    fn new(
        host: &str,
        reference: &Reference,
        repository: String,
        registries: &Registries,
    ) -> Result<Self> {
        let (plain, host) = match (host.strip_prefix("http://"), host.strip_prefix("https://")) {
            (Some(host), _) => (Some(true), host),
            (None, Some(host)) => (Some(false), host),
            (None, None) => (None, host),
        };
        let host = host.trim_end_matches('/').to_owned();
        let options = registries.registries.get(&host).cloned().unwrap_or_default();
        let unsaid = options.plain_http || (is_loopback(&host) && options.ca.is_none());
        let client = client(&host, plain.unwrap_or(unsaid), &options, &registries.proxies)?;
        let auth = match (options.username, options.password) {
            (Some(username), password) => {
                RegistryAuth::Basic(username, password.unwrap_or_default())
            }
            (None, Some(token)) => RegistryAuth::Bearer(token),
            (None, None) => RegistryAuth::Anonymous,
        };
        let ignores_ranges = AtomicBool::new(false);
        Ok(Self { host, repository, asked: reference.to_string(), client, auth, ignores_ranges })
    }

    async fn image(&self, reference: &Reference) -> Result<RemoteImage> {
        let (digest, text) =
            self.document(&self.name(reference), reference.digest.as_ref()).await?;
        let (media_type, size) = (media_type(&text), text.len() as u64);
        let (manifest_digest, manifest_bytes) = match Document::parse(&self.asked, &text)? {
            Document::Manifest(_) => (digest, text),
            Document::Index(index) => {
                let entry = index.select(&self.asked)?;
                self.document(&self.digest_name(&entry.digest), Some(&entry.digest)).await?
            }
        };
        let manifest = match Document::parse(&self.asked, &manifest_bytes)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => return Err(Error::Platform { reference: self.asked.clone() }),
        };
        manifest.check(&self.asked)?;
        Ok(RemoteImage { digest, media_type, size, manifest_digest, manifest, manifest_bytes })
    }

    /// A manifest or index, with its digest checked.
    pub(crate) async fn document(
        &self,
        name: &Name,
        expected: Option<&Digest>,
    ) -> Result<(Digest, Vec<u8>)> {
        let (text, _) = self
            .client
            .pull_manifest_raw(name, &self.auth, ACCEPTED)
            .await
            .map_err(|error| self.failed(error))?;
        let found = Digest::of(&text);
        match expected {
            Some(expected) if *expected != found => {
                let what = format!("manifest of {}", self.asked);
                Err(Error::DigestMismatch { what, expected: *expected, found })
            }
            _ => Ok((found, text.to_vec())),
        }
    }

    /// A small blob, checked.
    pub async fn config(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let what = format!("config of {}", self.asked);
        if size > MAX_CONFIG {
            let why = format!("a config of {size} bytes");
            return Err(Error::BadManifest { reference: self.asked.clone(), why });
        }
        let mut incoming = self.blob(digest, 0).await?.stream;
        let mut text = Vec::new();
        while let Some(chunk) = incoming.next().await {
            text.extend_from_slice(&chunk.map_err(|error| self.failed(error.into()))?);
            if text.len() as u64 > MAX_CONFIG {
                break;
            }
        }
        let found = Digest::of(&text);
        if found != *digest {
            return Err(Error::DigestMismatch { what, expected: *digest, found });
        }
        Ok(text)
    }

    /// Begins to fetch a blob from `offset` on. What comes is *not* checked here.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Result<Incoming> {
        let (name, digest) = (self.digest_name(digest), digest.to_string());
        let layer = LayerDescriptor { digest: &digest, urls: &None };
        let response = self.client.pull_blob_stream_partial(&name, &layer, offset, None).await;
        match response.map_err(|error| self.failed(error))? {
            BlobResponse::Full(stream) => Ok(Incoming { resumed: false, stream }),
            BlobResponse::Partial(stream) => Ok(Incoming { resumed: true, stream }),
        }
    }

    /// Whether it has answered a range with the whole blob.
    pub fn ignores_ranges(&self) -> bool {
        self.ignores_ranges.load(Ordering::Relaxed)
    }

    /// Begins to fetch a part of a blob. What comes is *not* checked here; there may be more or less of it.
    pub async fn range(&self, digest: &Digest, range: &Range<u64>) -> Result<SizedStream> {
        let (name, digest) = (self.digest_name(digest), digest.to_string());
        let layer = LayerDescriptor { digest: &digest, urls: &None };
        let (offset, length) = (range.start, Some(range.end - range.start));
        let response = self.client.pull_blob_stream_partial(&name, &layer, offset, length).await;
        match response.map_err(|error| self.failed(error))? {
            BlobResponse::Partial(stream) => Ok(stream),
            BlobResponse::Full(_) => {
                self.ignores_ranges.store(true, Ordering::Relaxed);
                Err(self.odd("it answers a range with the whole blob"))
            }
        }
    }

    /// The registry did what the protocol does not have.
    pub fn odd(&self, why: &str) -> Error {
        let source = OciDistributionError::SpecViolationError(why.to_owned());
        Error::Network { registry: self.host.clone(), source }
    }

    async fn list_tags(&self) -> Result<Vec<String>> {
        let name = Name::with_tag(self.host.clone(), self.repository.clone(), "latest".to_owned());
        let mut tags: Vec<String> = Vec::new();
        loop {
            let last = tags.last().cloned();
            let page = self.client.list_tags(&name, &self.auth, Some(PAGE), last.as_deref()).await;
            let page = page.map_err(|error| self.failed(error))?.tags;
            // A registry that does not know pages gives everything, again and again.
            let full = page.len() == PAGE && page.last() != last.as_ref();
            tags.extend(page);
            if !full {
                tags.dedup();
                return Ok(tags);
            }
        }
    }

    /// Asks for the right to push.
    pub async fn may_push(&self) -> Result<()> {
        let name = Name::with_tag(self.host.clone(), self.repository.clone(), "latest".to_owned());
        let asked = self.client.auth(&name, &self.auth, RegistryOperation::Push).await;
        asked.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Whether a blob is there.
    pub async fn has(&self, digest: &Digest) -> Result<bool> {
        let exists = self.client.blob_exists(&self.digest_name(digest), &digest.to_string()).await;
        exists.map_err(|error| self.failed(error))
    }

    /// Has a blob of another repository of this registry appear in this one, without a byte of it being sent.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<()> {
        let from = Name::with_digest(self.host.clone(), from.to_owned(), digest.to_string());
        let (name, digest) = (self.digest_name(digest), digest.to_string());
        let mounted = self.client.mount_blob(&name, &from, &digest).await;
        mounted.map_err(|error| self.failed(error))
    }

    /// Sends a small blob.
    pub async fn push_bytes(&self, digest: &Digest, content: Vec<u8>) -> Result<()> {
        let (name, digest) = (self.digest_name(digest), digest.to_string());
        self.client
            .push_blob(&name, content, &digest)
            .await
            .map(|_| ())
            .map_err(|error| self.failed(error))
    }

    /// Sends a blob of `size` bytes.
    pub async fn push_stream(
        &self,
        digest: &Digest,
        size: u64,
        chunks: impl futures_util::Stream<
            Item = std::result::Result<bytes::Bytes, OciDistributionError>,
        > + Send
        + 'static,
    ) -> Result<()> {
        let (name, digest) = (self.digest_name(digest), digest.to_string());
        let sent = self.client.push_blob_stream(&name, chunks, &digest, Some(size));
        sent.await.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Puts a manifest under the tag of `reference`.
    pub async fn push_manifest(&self, reference: &Reference, text: Vec<u8>) -> Result<()> {
        let said = media_type(&text);
        let media_type = if said.is_empty() { OCI_MANIFEST } else { &said };
        let kind = http::HeaderValue::from_str(media_type).map_err(|e| Error::BadManifest {
            reference: self.asked.clone(),
            why: e.to_string(),
        })?;
        let sent = self.client.push_manifest_raw(&self.name(reference), text, kind).await;
        sent.map(|_| ()).map_err(|error| self.failed(error))
    }

    pub(crate) fn name(&self, reference: &Reference) -> Name {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Name::with_digest(host, repository, digest.to_string()),
            (None, Some(tag)) => Name::with_tag(host, repository, tag.clone()),
            (None, None) => Name::with_tag(host, repository, "latest".to_owned()),
        }
    }

    fn digest_name(&self, digest: &Digest) -> Name {
        Name::with_digest(self.host.clone(), self.repository.clone(), digest.to_string())
    }

    pub(crate) fn failed(&self, error: OciDistributionError) -> Error {
        use OciDistributionError as E;
        use OciErrorCode as Code;
        let unknown = [Code::ManifestUnknown, Code::NameUnknown, Code::NotFound, Code::BlobUnknown];
        let denied = [Code::Unauthorized, Code::Denied];
        let has = |envelope: &oci_client::errors::OciEnvelope, codes: &[Code]| {
            envelope.errors.iter().any(|error| codes.contains(&error.code))
        };
        let not_found = || Error::NotFound { reference: self.asked.clone() };
        let unauthorized =
            || Error::Unauthorized { registry: self.host.clone(), reference: self.asked.clone() };
        match &error {
            E::RegistryError { envelope, .. } if has(envelope, &unknown) => not_found(),
            E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => not_found(),
            E::RegistryError { envelope, .. } if has(envelope, &denied) => unauthorized(),
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => unauthorized(),
            E::ServerError { code: 401 | 403, .. } => unauthorized(),
            E::RequestError(error)
                if error.status().is_some_and(|status| matches!(status.as_u16(), 401 | 403)) =>
            {
                unauthorized()
            }
            E::DigestError(oci_client::errors::DigestError::VerificationError {
                expected,
                actual,
            }) => match (expected.parse(), actual.parse()) {
                (Ok(expected), Ok(found)) => {
                    Error::DigestMismatch { what: self.asked.clone(), expected, found }
                }
                _ => Error::Network { registry: self.host.clone(), source: error },
            },
            _ if untrusted(&error) => {
                Error::Certificate { registry: self.host.clone(), source: error }
            }
            _ => Error::Network { registry: self.host.clone(), source: error },
        }
    }
}

fn media_type(text: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: String,
    }
    serde_json::from_slice::<Typed>(text).map(|typed| typed.media_type).unwrap_or_default()
}

//! What the daemon says about images in registries. It alone talks to them: mirrors, credentials and certificates
//! are its business.
//!
//! `GET /distribution/{name}/json` is Docker's; the keys `Labels`, `Missing`, `Fetch` and the endpoints `…/tags` and
//! `…/signatures` are system-docker's additions, and so is the number of bytes in the last line of a pull, which no Docker client library
//! knows. Hence this small one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use bollard::models::CreateImageInfo;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use ros_api::{Digest, Reference, Release, labels, paths};
use serde::Deserialize;
use tokio::net::UnixStream;

use super::signature::Attached;
use crate::services::engine::HOST_VARIABLE;

/// An image in its registry.
#[derive(Clone, Debug)]
pub struct Remote {
    /// What the name points to now.
    pub digest: Digest,
    /// Its config's labels.
    labels: BTreeMap<String, String>,
    /// Layers that are not on this machine.
    pub missing: Vec<Layer>,
    /// Bytes that a pull would fetch.
    pub fetch: u64,
}

/// A layer that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes that are fetched for it.
    pub size: u64,
    /// Bytes of the blob; none from a daemon that knows whole layers only.
    #[serde(default)]
    blob: Option<u64>,
    /// Bytes that the store takes for it at most, while it comes in.
    #[serde(default)]
    room: Option<u64>,
}

/// Unpacked content is about three times its blob, and the blob is there beside it while it is unpacked.
const UNPACKED: u64 = 4;

impl Layer {
    /// One that is fetched as a whole.
    #[must_use]
    pub fn whole(digest: Digest, size: u64) -> Self {
        Self { digest, size, blob: None, room: None }
    }

    /// Bytes of the blob.
    #[must_use]
    pub fn blob(&self) -> u64 {
        self.blob.unwrap_or(self.size)
    }

    /// Bytes that the store takes for it at most, while it comes in.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.room.unwrap_or_else(|| self.size.saturating_mul(UNPACKED))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Distribution {
    descriptor: Descriptor,
    labels: BTreeMap<String, String>,
    missing: Vec<Layer>,
    fetch: u64,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tags {
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Signatures {
    signatures: Vec<Beside>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Beside {
    payload: String,
    signature: String,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Remote {
    /// An image of which `missing` is not here.
    #[must_use]
    pub fn new(digest: Digest, labels: BTreeMap<String, String>, missing: Vec<Layer>) -> Self {
        let fetch = missing.iter().map(|layer| layer.size).sum();
        Self { digest, labels, missing, fetch }
    }

    /// One of its labels.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<String> {
        self.labels.get(name).cloned()
    }

    /// The lock file of a release image.
    ///
    /// # Errors
    /// When the image is no release, or one of a newer format.
    pub fn release(&self, name: &Reference) -> Result<Release> {
        let lock = self.labels.get(labels::RELEASE_LOCK);
        let lock = lock.with_context(|| {
            format!("{name} is no release of ros: it has no label {}", labels::RELEASE_LOCK)
        })?;
        Ok(Release::parse(lock)?)
    }
}

/// What `name` is in its registry, and what of it is not here.
///
/// # Errors
/// When the registry cannot be reached or has no such image.
pub async fn remote(name: &Reference) -> Result<Remote> {
    let text = get(&format!("/distribution/{name}/json"))
        .await
        .with_context(|| format!("look up {name}"))?;
    let answer: Distribution = serde_json::from_slice(&text).context("read the daemon's answer")?;
    let Distribution { descriptor, labels, missing, fetch } = answer;
    Ok(Remote { digest: descriptor.digest, labels, missing, fetch })
}

/// The tags of a repository.
///
/// # Errors
/// When the registry cannot be reached.
pub async fn tags(repository: &Reference) -> Result<Vec<String>> {
    let text = get(&format!("/distribution/{}/tags", repository.name())).await;
    let text = text.with_context(|| format!("list the versions in {repository}"))?;
    let answer: Tags = serde_json::from_slice(&text).context("read the daemon's answer")?;
    Ok(answer.tags)
}

/// The signatures that lie beside the manifest `digest` of an image. Nothing of them was verified.
///
/// # Errors
/// When the registry cannot be reached.
pub async fn signatures(name: &Reference, digest: Digest) -> Result<Vec<Attached>> {
    let name = name.with_digest(digest);
    let text = get(&format!("/distribution/{name}/signatures")).await;
    let text = text.with_context(|| format!("look for signatures of {name}"))?;
    let answer: Signatures = serde_json::from_slice(&text).context("read the daemon's answer")?;
    let engine = base64::engine::general_purpose::STANDARD;
    let one = |Beside { payload, signature }| {
        let payload = engine.decode(payload).context("read the daemon's answer")?;
        Ok(Attached { payload, signature })
    };
    answer.signatures.into_iter().map(one).collect()
}

/// One line of a pull's progress, as Docker's API has it; `aux.fetched` is system-docker's.
#[derive(Debug, Deserialize)]
pub struct PullLine {
    /// What, and how far.
    #[serde(flatten)]
    pub step: CreateImageInfo,
    /// More, in the last line.
    #[serde(default)]
    aux: Option<Aux>,
}

#[derive(Debug, Deserialize)]
struct Aux {
    fetched: Option<u64>,
}

/// Has the daemon fetch an image; `each` line is told. Answers how many bytes were fetched, when the daemon said so.
///
/// # Errors
/// When it cannot be fetched; what came of it stays for the next try.
pub async fn pull(name: &Reference, mut each: impl FnMut(&PullLine)) -> Result<Option<u64>> {
    let mut answer = ask("POST", &format!("/images/create?fromImage={name}")).await?;
    let (mut text, mut fetched) = (Vec::new(), None);
    while let Some(frame) = answer.frame().await {
        let frame = frame.context(
            "the daemon ended while it answered: it is started again, and the same command goes on",
        )?;
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Ok(line) = serde_json::from_slice::<PullLine>(&line) else { continue };
            if let Some(error) = line.step.error_detail.as_ref().and_then(|e| e.message.as_ref()) {
                bail!("{error}");
            }
            fetched = line.aux.as_ref().and_then(|aux| aux.fetched).or(fetched);
            each(&line);
        }
    }
    Ok(fetched)
}

async fn get(path: &str) -> Result<Bytes> {
    Ok(ask("GET", path).await?.collect().await?.to_bytes())
}

/// Asks the daemon; a refusal is an error with what it says.
async fn ask(method: &str, path: &str) -> Result<Incoming> {
    let host = std::env::var(HOST_VARIABLE).unwrap_or_else(|_| paths::SYSTEM_DOCKER_SOCKET.into());
    let socket = host.strip_prefix("unix://").unwrap_or(&host);
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("connect to {socket}: does system-docker run, and may you use it?")
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "system-docker")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body();
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Refusal>(&body.collect().await?.to_bytes()) {
        Ok(refusal) => Err(anyhow!("{}", refusal.message)),
        Err(_) => bail!("system-docker answered {status}"),
    }
}

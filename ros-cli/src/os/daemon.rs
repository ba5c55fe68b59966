//! What the daemon says about images in registries. It alone talks to them: mirrors, credentials and certificates
//! are its business.
//!
//! `GET /distribution/{name}/json` is Docker's; the keys `Labels`, `Missing`, `Fetch` and the endpoint `…/tags` are
//! system-docker's additions, which no Docker client library knows. Hence this small one.

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use ros_api::{Digest, Reference, Release, labels, paths};
use serde::Deserialize;
use tokio::net::UnixStream;

use crate::services::engine::HOST_VARIABLE;

/// An image in its registry.
#[derive(Clone, Debug)]
pub struct Remote {
    /// What the name points to now.
    pub digest: Digest,
    /// Its config's labels.
    labels: std::collections::BTreeMap<String, String>,
    /// Layers that are not on this machine.
    pub missing: Vec<Layer>,
    /// Bytes that a pull would fetch.
    pub fetch: u64,
}

/// A compressed layer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Distribution {
    descriptor: Descriptor,
    labels: std::collections::BTreeMap<String, String>,
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
struct Refusal {
    message: String,
}

impl Remote {
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

async fn get(path: &str) -> Result<Bytes> {
    let host = std::env::var(HOST_VARIABLE).unwrap_or_else(|_| paths::SYSTEM_DOCKER_SOCKET.into());
    let socket = host.strip_prefix("unix://").unwrap_or(&host);
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("connect to {socket}: does system-docker run, and may you use it?")
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let request =
        hyper::Request::get(path).header("host", "system-docker").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    driving.abort();
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => Err(anyhow!("{}", refusal.message)),
        Err(_) => bail!("system-docker answered {status}"),
    }
}

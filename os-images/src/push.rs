//! Copies releases from their layouts into a registry (OCI distribution specification). What the registry has
//! is not sent; a blob that another repository has got in the same run is mounted from there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ros_api::Digest;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::build::Site;
use crate::oci::{Descriptor, Index, Manifest, blob};

/// A registry, and which repository has which blob.
struct Registry {
    agent: Agent,
    base: String,
    placed: BTreeMap<Digest, String>,
    sent: u64,
}

/// Copies the built releases `versions`.
///
/// # Errors
/// When a release is not built, or the registry refuses something.
pub fn push(site: &Site, versions: &[String], address: &str) -> Result<()> {
    let agent = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(120)))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let mut registry =
        Registry { agent, base: format!("http://{address}/v2"), placed: BTreeMap::new(), sent: 0 };
    for version in versions {
        let layout = site.release(version).join("oci");
        for (name, manifest) in
            Index::read(&layout).with_context(|| format!("release {version} is not built"))?
        {
            let Some((repository, tag)) = name.split_once(':') else { bail!("{name} has no tag") };
            registry
                .image(&layout, repository, tag, &manifest)
                .with_context(|| format!("push {name} to {address}"))?;
        }
        eprintln!("push {version}: done, {} kB sent so far", registry.sent / 1000);
    }
    Ok(())
}

impl Registry {
    fn image(
        &mut self,
        layout: &Path,
        repository: &str,
        tag: &str,
        manifest: &Descriptor,
    ) -> Result<()> {
        let there = format!("{}/{repository}/manifests/{tag}", self.base);
        let head = self
            .agent
            .head(&there)
            .header("Accept", &manifest.media_type)
            .call()
            .context("ask the registry")?;
        let found =
            head.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let text = blob(layout, &manifest.digest)?;
        let parsed: Manifest = serde_json::from_slice(&text).context("read the manifest")?;
        if head.status() == StatusCode::OK && found == Some(manifest.digest.to_string().as_str()) {
            parsed
                .layers
                .iter()
                .for_each(|layer| drop(self.placed.insert(layer.digest, repository.to_owned())));
            return Ok(());
        }
        for part in parsed.layers.iter().chain([&parsed.config]) {
            self.blob(layout, repository, part)?;
        }
        let put =
            self.agent.put(&there).header("Content-Type", &manifest.media_type).send(&text[..]);
        expect(put.context("send the manifest")?, &[StatusCode::CREATED])?;
        Ok(())
    }

    fn blob(&mut self, layout: &Path, repository: &str, part: &Descriptor) -> Result<()> {
        let digest = part.digest;
        let there = format!("{}/{repository}/blobs", self.base);
        let head =
            self.agent.head(format!("{there}/{digest}")).call().context("ask the registry")?;
        if head.status() != StatusCode::OK {
            let mut start = format!("{there}/uploads/");
            if let Some(other) = self.placed.get(&digest) {
                start.push_str(&format!("?mount={digest}&from={other}"));
            }
            let begun = self.agent.post(&start).send_empty().context("begin an upload")?;
            let begun = expect(begun, &[StatusCode::CREATED, StatusCode::ACCEPTED])?;
            if begun.status() == StatusCode::ACCEPTED {
                self.upload(layout, &begun, part)?;
            }
        }
        self.placed.insert(digest, repository.to_owned());
        Ok(())
    }

    fn upload(&mut self, layout: &Path, begun: &Response<Body>, part: &Descriptor) -> Result<()> {
        let location = begun.headers().get("location").and_then(|value| value.to_str().ok());
        let location = location.context("the registry does not say where to upload")?;
        let location = if location.starts_with('/') {
            format!("{}{location}", self.base.trim_end_matches("/v2"))
        } else {
            location.to_owned()
        };
        let join = if location.contains('?') { '&' } else { '?' };
        let content = blob(layout, &part.digest)?;
        let put = self
            .agent
            .put(format!("{location}{join}digest={}", part.digest))
            .header("Content-Type", "application/octet-stream")
            .send(&content[..]);
        expect(put.context("send a blob")?, &[StatusCode::CREATED])?;
        self.sent += part.size;
        Ok(())
    }
}

fn expect(mut response: Response<Body>, wanted: &[StatusCode]) -> Result<Response<Body>> {
    let status = response.status();
    if wanted.contains(&status) {
        return Ok(response);
    }
    let said = response.body_mut().read_to_string().unwrap_or_default();
    bail!("the registry answered {status}: {}", said.trim())
}

//! Clouds that answer with folders of texts: EC2, and those that took it as their model.

use anyhow::{Context, Result};
use cloud_config::instance::InstanceData;
use reqwest::Method;
use serde_json::json;

use super::{Cloud, optional};
use crate::services::cloud_init::url::{Request, ask};

/// Seconds that a token lives.
const TOKEN_SECONDS: &str = "300";

/// Where a cloud's tokens are, and in which headers they go: EC2's IMDSv2, and Alibaba's hardened mode.
fn token_headers(cloud: Cloud) -> Option<(&'static str, &'static str)> {
    match cloud {
        Cloud::Ec2 => Some(("X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds")),
        Cloud::Aliyun => {
            Some(("X-aliyun-ecs-metadata-token", "X-aliyun-ecs-metadata-token-ttl-seconds"))
        }
        _ => None,
    }
}

/// A token; a service that is older has none, and is asked without.
async fn token(base: &str, lifetime: &str) -> Option<String> {
    let url = format!("{base}/latest/api/token");
    let request = Request { method: Method::PUT, ..Request::get(&url) };
    let request = request.header(lifetime, TOKEN_SECONDS);
    let answer = ask(&request).await.ok().flatten()?;
    let token = String::from_utf8(answer).ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// One machine's folders.
struct Folders<'a> {
    base: &'a str,
    header: Option<(&'static str, String)>,
}

impl Folders<'_> {
    fn request(&self, path: &str) -> Request {
        let request = Request::get(&format!("{}/latest/{path}", self.base));
        match &self.header {
            Some((name, token)) => request.header(name, token),
            None => request,
        }
    }

    async fn text(&self, path: &str) -> Result<Option<String>> {
        let answer = ask(&self.request(path)).await?;
        Ok(answer.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Lines `0=name` (EC2) or `name/` (Alibaba), each a folder, or the keys themselves (CloudStack).
    async fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for line in self.text("meta-data/public-keys/").await?.unwrap_or_default().lines() {
            if line.contains(' ') {
                keys.push(line.to_owned());
                continue;
            }
            let folder = line.split_once('=').map_or(line, |(at, _)| at).trim_end_matches('/');
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !folder.is_empty() && folder.chars().all(sound) {
                let path = format!("meta-data/public-keys/{folder}/openssh-key");
                keys.extend(self.text(&path).await?);
            }
        }
        Ok(keys)
    }
}

/// Asks the service.
pub async fn fetch(cloud: Cloud, base: &str) -> Result<InstanceData> {
    let header = match token_headers(cloud) {
        Some((name, lifetime)) => token(base, lifetime).await.map(|token| (name, token)),
        None => None,
    };
    let folders = Folders { base, header };
    let text = async |path: &str| folders.text(path).await;
    let id = text("meta-data/instance-id").await?.context("the service has no instance-id")?;
    let name = match text("meta-data/local-hostname").await? {
        Some(name) => Some(name),
        None => text("meta-data/hostname").await?,
    };
    // Alibaba and CloudStack have theirs elsewhere.
    let zone = match text("meta-data/placement/availability-zone").await? {
        Some(zone) => Some(zone),
        None if cloud == Cloud::Aliyun => text("meta-data/zone-id").await?,
        None => text("meta-data/availability-zone").await?,
    };
    let region = match text("meta-data/placement/region").await? {
        None if cloud == Cloud::Aliyun => text("meta-data/region-id").await?,
        region => region,
    };
    let meta = json!({
        "instance-id": id, "local-hostname": name, "public-keys": folders.keys().await?,
        "availability-zone": zone, "region": region,
    });
    let user_data = optional(folders.request("user-data")).await?;
    Ok(InstanceData::from_meta(cloud.name(), &meta, user_data))
}

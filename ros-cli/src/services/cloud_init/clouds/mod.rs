//! Clouds' metadata services: what each is asked, and how its answer becomes instance data.
//!
//! | cloud | its own documentation calls it | where |
//! |---|---|---|
//! | ec2, aliyun, exoscale, cloudstack | "instance metadata", folders of texts; a token first where there are tokens | [`folders`] |
//! | gce | "VM metadata", JSON with `Metadata-Flavor: Google` | [`documents`] |
//! | digitalocean, vultr | one JSON document | [`documents`] |
//! | hetzner | one YAML document, and user data | [`documents`] |
//! | openstack | "Metadata service", as on a config-drive | [`documents`] |
//! | packet | Equinix Metal: one JSON document, and user data | [`documents`] |
//! | azure | "Instance Metadata Service", the provisioning volume, readiness to the wire server | [`azure`] |
//! | scaleway | "instance metadata", JSON; user data to privileged ports only | [`scaleway`] |

pub mod azure;
mod documents;
mod folders;
mod scaleway;

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use cloud_config::instance::InstanceData;
use serde_json::Value;

use super::url::{Request, ask};
use crate::services::network::hook::DHCP_SERVER;

/// Clouds' own address for this.
const LINK_LOCAL: &str = "http://169.254.169.254";

/// A cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    Ec2,
    Gce,
    Azure,
    DigitalOcean,
    Hetzner,
    OpenStack,
    Vultr,
    Aliyun,
    Exoscale,
    ApacheCloudStack,
    Packet,
    Scaleway,
}

impl Cloud {
    const ALL: [(&str, Self); 14] = [
        ("ec2", Self::Ec2),
        ("gce", Self::Gce),
        ("azure", Self::Azure),
        ("digitalocean", Self::DigitalOcean),
        ("hetzner", Self::Hetzner),
        ("openstack", Self::OpenStack),
        ("vultr", Self::Vultr),
        ("aliyun", Self::Aliyun),
        ("exoscale", Self::Exoscale),
        ("cloudstack", Self::ApacheCloudStack),
        ("packet", Self::Packet),
        ("scaleway", Self::Scaleway),
        ("equinix", Self::Packet),
        ("do", Self::DigitalOcean),
    ];

    /// By its name in `ros.cloud_init.datasources`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, cloud)| *cloud)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, cloud)| *cloud == self).map_or("cloud", |(name, _)| *name)
    }

    fn base(self) -> Result<String> {
        Ok(match self {
            Self::Gce => "http://metadata.google.internal".into(),
            Self::Aliyun => "http://100.100.100.200".into(),
            Self::Packet => "https://metadata.platformequinix.com".into(),
            Self::Scaleway => "http://169.254.42.42".into(),
            Self::ApacheCloudStack => virtual_router(Path::new(DHCP_SERVER))?,
            _ => LINK_LOCAL.into(),
        })
    }

    /// Asks the cloud.
    ///
    /// # Errors
    /// When its service does not answer, or not as documented.
    pub async fn fetch(self) -> Result<InstanceData> {
        match self {
            Self::Azure => azure::fetch().await,
            cloud => cloud.fetch_from(&cloud.base()?).await,
        }
    }

    async fn fetch_from(self, base: &str) -> Result<InstanceData> {
        match self {
            Self::Ec2 | Self::Aliyun | Self::Exoscale | Self::ApacheCloudStack => {
                folders::fetch(self, base).await
            }
            Self::Gce => documents::gce(base).await,
            Self::Azure => Ok(azure::metadata(base).await?.instance("")),
            Self::DigitalOcean => documents::digitalocean(base).await,
            Self::Hetzner => documents::hetzner(base).await,
            Self::OpenStack => documents::openstack(base).await,
            Self::Vultr => documents::vultr(base).await,
            Self::Packet => documents::packet(base).await,
            Self::Scaleway => scaleway::fetch(base).await,
        }
    }
}

/// CloudStack's service is the machine that gave the address.
fn virtual_router(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let server: std::net::IpAddr =
        text.trim().parse().context("no DHCP server gave this machine an address")?;
    Ok(format!("http://{server}"))
}

async fn bytes(request: Request) -> Result<Vec<u8>> {
    let shown = request.url.clone();
    ask(&request).await?.with_context(|| format!("{shown}: not found"))
}

async fn json_of(request: Request) -> Result<Value> {
    let shown = request.url.clone();
    serde_json::from_slice(&bytes(request).await?).with_context(|| format!("{shown}: not JSON"))
}

/// User data; none is no error.
async fn optional(request: Request) -> Result<Vec<u8>> {
    Ok(ask(&request).await?.unwrap_or_default())
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    let packed: String = text.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(packed).context("user data is not base64")
}

#[cfg(test)]
mod tests;

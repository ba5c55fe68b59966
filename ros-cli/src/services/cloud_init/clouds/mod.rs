//! Clouds' metadata services: what each is asked, and how its answer becomes instance data.
//!
//! | cloud | its own documentation calls it |
//! |---|---|
//! | ec2, aliyun, exoscale | "instance metadata", folders of texts; ec2 with a token first (IMDSv2) |
//! | gce | "VM metadata", JSON with `Metadata-Flavor: Google` |
//! | azure | "Instance Metadata Service", JSON with `Metadata: true`; readiness to the wire server |
//! | digitalocean, vultr | one JSON document |
//! | hetzner | one YAML document, and user data |
//! | openstack | "Metadata service", as on a config-drive |
//! | packet | Equinix Metal: one JSON document, and user data |

use anyhow::{Context, Result};
use base64::Engine as _;
use cloud_config::instance::InstanceData;
use cloud_config::{Layer, document};
use reqwest::Method;
use serde_json::{Value, json};

use super::url::{Request, ask};

/// Seconds that EC2's token lives.
const TOKEN_SECONDS: &str = "300";
/// Azure's wire server.
const WIRE_SERVER: &str = "http://168.63.129.16";

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
    Packet,
}

impl Cloud {
    const ALL: [(&str, Self); 12] = [
        ("ec2", Self::Ec2),
        ("gce", Self::Gce),
        ("azure", Self::Azure),
        ("digitalocean", Self::DigitalOcean),
        ("hetzner", Self::Hetzner),
        ("openstack", Self::OpenStack),
        ("vultr", Self::Vultr),
        ("aliyun", Self::Aliyun),
        ("exoscale", Self::Exoscale),
        ("packet", Self::Packet),
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

    fn base(self) -> &'static str {
        match self {
            Self::Gce => "http://metadata.google.internal",
            Self::Aliyun => "http://100.100.100.200",
            Self::Packet => "https://metadata.platformequinix.com",
            _ => "http://169.254.169.254",
        }
    }

    /// Asks the cloud.
    ///
    /// # Errors
    /// When its service does not answer, or not as documented.
    pub async fn fetch(self) -> Result<InstanceData> {
        let data = self.fetch_from(self.base()).await?;
        if self == Self::Azure {
            // The platform stops a machine that never says so; it is asked again at the next boot.
            if let Err(error) = report_ready(WIRE_SERVER).await {
                eprintln!("azure: report ready: {error:#}");
            }
        }
        Ok(data)
    }

    async fn fetch_from(self, base: &str) -> Result<InstanceData> {
        match self {
            Self::Ec2 => {
                let token = token(base).await;
                folders(self, base, token.as_deref()).await
            }
            Self::Aliyun | Self::Exoscale => folders(self, base, None).await,
            Self::Gce => gce(base).await,
            Self::Azure => azure(base).await,
            Self::DigitalOcean => digitalocean(base).await,
            Self::Hetzner => hetzner(base).await,
            Self::OpenStack => openstack(base).await,
            Self::Vultr => vultr(base).await,
            Self::Packet => packet(base).await,
        }
    }
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

/// IMDSv2; a service that is older has none, and is asked without.
async fn token(base: &str) -> Option<String> {
    let request = Request {
        method: Method::PUT,
        pauses: 2,
        ..Request::get(&format!("{base}/latest/api/token"))
    }
    .header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
    let answer = ask(&request).await.ok().flatten()?;
    String::from_utf8(answer)
        .ok()
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
}

async fn folders(cloud: Cloud, base: &str, token: Option<&str>) -> Result<InstanceData> {
    let request = |path: &str| {
        let request = Request::get(&format!("{base}/latest/{path}"));
        match token {
            Some(token) => request.header("X-aws-ec2-metadata-token", token),
            None => request,
        }
    };
    let text = async |path: &str| -> Result<Option<String>> {
        let answer = ask(&request(path)).await?;
        Ok(answer.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    };
    let id = text("meta-data/instance-id").await?.context("the service has no instance-id")?;
    let mut keys = Vec::new();
    // Lines `0=name`, or the keys themselves (CloudStack).
    for line in text("meta-data/public-keys/").await?.unwrap_or_default().lines() {
        match line.split_once('=').and_then(|(at, _)| at.parse::<u16>().ok()) {
            Some(at) => {
                keys.extend(text(&format!("meta-data/public-keys/{at}/openssh-key")).await?)
            }
            None if line.contains(' ') => keys.push(line.to_owned()),
            None => {}
        }
    }
    let meta = json!({
        "instance-id": id,
        "local-hostname": text("meta-data/local-hostname").await?.or(text("meta-data/hostname").await?),
        "public-keys": keys,
        "availability-zone": text("meta-data/placement/availability-zone").await?,
        "region": text("meta-data/placement/region").await?,
    });
    let user_data = optional(request("user-data")).await?;
    Ok(InstanceData::from_meta(cloud.name(), &meta, user_data))
}

async fn gce(base: &str) -> Result<InstanceData> {
    let url = format!("{base}/computeMetadata/v1/?recursive=true");
    let all = json_of(Request::get(&url).header("Metadata-Flavor", "Google")).await?;
    let (instance, project) = (&all["instance"], &all["project"]);
    let own = &instance["attributes"];
    // Lines `user:ssh-ed25519 AAAA…`; a machine may keep the project's out.
    let lines = |value: &Value| {
        value.as_str().unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut keys = lines(&own["ssh-keys"]);
    if own["block-project-ssh-keys"].as_str() != Some("true") {
        keys.extend(lines(&project["attributes"]["ssh-keys"]));
    }
    let keys: Vec<&str> =
        keys.iter().filter_map(|line| line.split_once(':').map(|(_, key)| key.trim())).collect();
    let zone = instance["zone"].as_str().and_then(|zone| zone.rsplit('/').next());
    let meta = json!({
        "instance-id": instance["id"].to_string(), "local-hostname": instance["hostname"], "public-keys": keys,
        "availability-zone": zone, "region": zone.and_then(|zone| zone.rsplit_once('-')).map(|(region, _)| region),
    });
    let text = own["user-data"].as_str().unwrap_or_default();
    let user_data = match own["user-data-encoding"].as_str() {
        Some("base64") => unbase64(text)?,
        _ => text.as_bytes().to_vec(),
    };
    Ok(InstanceData::from_meta("gce", &meta, user_data))
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    let packed: String = text.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(packed).context("user data is not base64")
}

async fn azure(base: &str) -> Result<InstanceData> {
    let url = format!("{base}/metadata/instance?api-version=2021-08-01");
    let all = json_of(Request::get(&url).header("Metadata", "true")).await?;
    let compute = &all["compute"];
    let keys: Vec<&Value> =
        compute["publicKeys"].as_array().into_iter().flatten().map(|key| &key["keyData"]).collect();
    let name = compute["osProfile"]["computerName"].as_str().or(compute["name"].as_str());
    let meta = json!({
        "instance-id": compute["vmId"], "local-hostname": name, "public-keys": keys,
        "region": compute["location"], "availability-zone": compute["zone"],
    });
    let user_data = unbase64(compute["userData"].as_str().unwrap_or_default())?;
    Ok(InstanceData::from_meta("azure", &meta, user_data))
}

/// Tells the wire server that the machine is ready, for the incarnation that it names.
async fn report_ready(base: &str) -> Result<()> {
    let ask_wire =
        |request: Request| Request { pauses: 3, ..request }.header("x-ms-version", "2012-11-30");
    let goal = bytes(ask_wire(Request::get(&format!("{base}/machine/?comp=goalstate")))).await?;
    let goal = String::from_utf8_lossy(&goal).into_owned();
    let of = |name: &str| {
        let (_, rest) = goal.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim().to_owned())
    };
    let named = |name: &str| of(name).with_context(|| format!("the goal state has no {name}"));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health><GoalStateIncarnation>{}</GoalStateIncarnation><Container>\
         <ContainerId>{}</ContainerId><RoleInstanceList><Role><InstanceId>{}</InstanceId><Health><State>Ready</State>\
         </Health></Role></RoleInstanceList></Container></Health>",
        named("Incarnation")?,
        named("ContainerId")?,
        named("InstanceId")?,
    );
    let request = Request {
        method: Method::POST,
        body,
        ..Request::get(&format!("{base}/machine?comp=health"))
    };
    ask(&ask_wire(request).header("Content-Type", "text/xml; charset=utf-8")).await.map(|_| ())
}

async fn digitalocean(base: &str) -> Result<InstanceData> {
    let all = json_of(Request::get(&format!("{base}/metadata/v1.json"))).await?;
    let meta = json!({
        "instance-id": all["droplet_id"].to_string(), "local-hostname": all["hostname"],
        "public-keys": all["public_keys"], "region": all["region"],
    });
    let user_data = all["user_data"].as_str().unwrap_or_default().as_bytes().to_vec();
    let network = digitalocean_network(&all);
    Ok(InstanceData::from_meta("digitalocean", &meta, user_data).with_network(network))
}

/// Droplets have no DHCP: their addresses are in the document.
fn digitalocean_network(all: &Value) -> String {
    let mut config = Vec::new();
    let servers = &all["dns"]["nameservers"];
    for (kind, at) in [("public", 0), ("private", 1)] {
        for (index, item) in all["interfaces"][kind].as_array().into_iter().flatten().enumerate() {
            let mut subnets = Vec::new();
            for (family, gateway) in
                [("ipv4", kind == "public"), ("anchor_ipv4", false), ("ipv6", kind == "public")]
            {
                let subnet = &item[family];
                let Some(address) = subnet["ip_address"].as_str() else { continue };
                let mut entry =
                    json!({ "type": "static", "address": address, "netmask": subnet["netmask"] });
                if let Some(prefix) = subnet["cidr"].as_u64() {
                    entry["address"] = json!(format!("{address}/{prefix}"));
                }
                if gateway {
                    entry["gateway"] = subnet["gateway"].clone();
                }
                subnets.push(entry);
            }
            config.push(json!({
                "type": "physical", "name": format!("eth{}", at + index), "mac_address": item["mac"], "subnets": subnets,
            }));
        }
    }
    if config.is_empty() {
        return String::new();
    }
    config.push(json!({ "type": "nameserver", "address": servers }));
    json!({ "version": 1, "config": config }).to_string()
}

async fn hetzner(base: &str) -> Result<InstanceData> {
    let text = bytes(Request::get(&format!("{base}/hetzner/v1/metadata"))).await?;
    let all = document::parse(&String::from_utf8_lossy(&text), Layer::Instance, "metadata")
        .map_err(|wrong| anyhow::anyhow!("{}", wrong.line()))?
        .to_json();
    let meta = json!({
        "instance-id": all["instance-id"].to_string().trim_matches('"'), "local-hostname": all["hostname"],
        "public-keys": all["public-keys"], "region": all["region"], "availability-zone": all["availability-zone"],
    });
    let user_data = optional(Request::get(&format!("{base}/hetzner/v1/userdata"))).await?;
    let network =
        all.get("network-config").filter(|network| network.is_object()).map(Value::to_string);
    Ok(InstanceData::from_meta("hetzner", &meta, user_data)
        .with_network(network.unwrap_or_default()))
}

async fn openstack(base: &str) -> Result<InstanceData> {
    let of = |name: &str| Request::get(&format!("{base}/openstack/latest/{name}"));
    let meta = bytes(of("meta_data.json")).await?;
    let user_data = optional(of("user_data")).await?;
    let network = String::from_utf8_lossy(&optional(of("network_data.json")).await?).into_owned();
    InstanceData::from_openstack(&meta, user_data, network, "openstack")
        .context("meta_data.json is not JSON")
}

async fn vultr(base: &str) -> Result<InstanceData> {
    let all =
        json_of(Request::get(&format!("{base}/v1.json")).header("Metadata-Token", "cloudinit"))
            .await?;
    let id =
        all["instance-v2-id"].as_str().or(all["instanceid"].as_str()).context("no instance id")?;
    let meta = json!({
        "instance-id": id, "local-hostname": all["hostname"], "public-keys": all["public-keys"],
        "region": all["region"]["regioncode"],
    });
    let user_data = optional(Request::get(&format!("{base}/latest/user-data"))).await?;
    Ok(InstanceData::from_meta("vultr", &meta, user_data))
}

async fn packet(base: &str) -> Result<InstanceData> {
    let all = json_of(Request::get(&format!("{base}/metadata"))).await?;
    let meta = json!({
        "instance-id": all["id"], "local-hostname": all["hostname"], "public-keys": all["ssh_keys"],
        "region": all["metro"], "availability-zone": all["facility"],
    });
    let user_data = optional(Request::get(&format!("{base}/userdata"))).await?;
    Ok(InstanceData::from_meta("packet", &meta, user_data))
}

#[cfg(test)]
mod tests;

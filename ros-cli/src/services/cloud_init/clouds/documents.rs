//! Clouds that answer with one document: GCE, DigitalOcean, Hetzner, OpenStack, Vultr, Equinix Metal.

use anyhow::{Context, Result};
use cloud_config::instance::{InstanceData, vendors_part};
use cloud_config::{Layer, document};
use serde_json::{Value, json};

use super::{bytes, json_of, optional, unbase64};
use crate::services::cloud_init::url::Request;

pub async fn gce(base: &str) -> Result<InstanceData> {
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

pub async fn digitalocean(base: &str) -> Result<InstanceData> {
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

pub async fn hetzner(base: &str) -> Result<InstanceData> {
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

pub async fn openstack(base: &str) -> Result<InstanceData> {
    let of = |name: &str| Request::get(&format!("{base}/openstack/latest/{name}"));
    let meta = bytes(of("meta_data.json")).await?;
    let user_data = optional(of("user_data")).await?;
    let network = String::from_utf8_lossy(&optional(of("network_data.json")).await?).into_owned();
    let vendor_data = vendors_part(&optional(of("vendor_data.json")).await?);
    let data = InstanceData::from_openstack(&meta, user_data, network, "openstack")
        .context("meta_data.json is not JSON")?;
    Ok(InstanceData { vendor_data, ..data })
}

pub async fn vultr(base: &str) -> Result<InstanceData> {
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

pub async fn packet(base: &str) -> Result<InstanceData> {
    let all = json_of(Request::get(&format!("{base}/metadata"))).await?;
    let meta = json!({
        "instance-id": all["id"], "local-hostname": all["hostname"], "public-keys": all["ssh_keys"],
        "region": all["metro"], "availability-zone": all["facility"],
    });
    let user_data = optional(Request::get(&format!("{base}/userdata"))).await?;
    Ok(InstanceData::from_meta("packet", &meta, user_data))
}

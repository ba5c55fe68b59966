//! Instance data: what a datasource gave at first boot, kept under `/var/lib/ros/instance`.
//!
//! ```text
//! instance-id   user-data   meta-data   network-config   datasource      as they came, user-data unpacked
//! ```
//!
//! Formats: cloud-init's NoCloud (`user-data`, `meta-data`, `network-config`) and OpenStack's config-drive
//! (`openstack/latest/{user_data,meta_data.json,network_data.json}`).

use std::fs;
use std::io;
use std::path::Path;

use ros_api::durable;
use serde_json::{Value as Json, json};

use crate::diagnostic::Diagnostic;
use crate::document;
use crate::settings::gunzip;
use crate::tree::{Layer, Node, Origin, Value, merge};

/// What a datasource gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceData {
    /// Changes when the machine becomes another one.
    pub instance_id: String,
    /// `nocloud`, `configdrive`, `url`, `file`.
    pub datasource: String,
    /// User data as it came.
    pub user_data: Vec<u8>,
    /// Metadata: `local-hostname`, `public-keys`; JSON or YAML.
    pub meta_data: String,
    /// Network configuration, version 1 or 2; empty when there is none.
    pub network_config: String,
}

impl InstanceData {
    /// From a mounted NoCloud volume or a folder like one; `None` when it is not one.
    #[must_use]
    pub fn from_nocloud(dir: &Path) -> Option<Self> {
        let user_data = fs::read(dir.join("user-data")).ok()?;
        let meta_data = fs::read_to_string(dir.join("meta-data")).unwrap_or_default();
        let network_config = fs::read_to_string(dir.join("network-config")).unwrap_or_default();
        Some(Self {
            datasource: "nocloud".into(),
            ..Self::new(user_data, meta_data, network_config)
        })
    }

    /// From a mounted config-drive; `None` when it is not one.
    #[must_use]
    pub fn from_config_drive(dir: &Path) -> Option<Self> {
        let latest = dir.join("openstack/latest");
        let meta: Json =
            serde_json::from_slice(&fs::read(latest.join("meta_data.json")).ok()?).ok()?;
        let keys: Vec<&Json> =
            meta["public_keys"].as_object().into_iter().flat_map(|keys| keys.values()).collect();
        let name = meta["hostname"].as_str().or(meta["name"].as_str()).unwrap_or_default();
        let own =
            json!({ "instance-id": meta["uuid"], "local-hostname": name, "public-keys": keys });
        let user_data = fs::read(latest.join("user_data")).unwrap_or_default();
        let network = fs::read_to_string(latest.join("network_data.json")).unwrap_or_default();
        Some(Self {
            datasource: "configdrive".into(),
            ..Self::new(user_data, own.to_string(), network)
        })
    }

    /// From user data alone (a URL's body, a file): its own digest is the instance id.
    #[must_use]
    pub fn from_user_data(user_data: Vec<u8>, datasource: &str) -> Self {
        Self {
            datasource: datasource.to_owned(),
            ..Self::new(user_data, String::new(), String::new())
        }
    }

    fn new(user_data: Vec<u8>, meta_data: String, network_config: String) -> Self {
        let named = metadata(&meta_data)["instance-id"].as_str().map(str::to_owned);
        let instance_id = named.unwrap_or_else(|| ros_api::Digest::of(&user_data).short());
        Self { instance_id, datasource: String::new(), user_data, meta_data, network_config }
    }

    /// Keeps it in `dir`. User data is unpacked; `instance-id` is written last, so that a torn write is fetched
    /// again. Answers whether it is another instance than before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> io::Result<bool> {
        fs::create_dir_all(dir)?;
        let stamp = dir.join("instance-id");
        let changed = fs::read_to_string(&stamp).is_ok_and(|old| old != self.instance_id);
        let user_data = if self.user_data.starts_with(&[0x1f, 0x8b]) {
            gunzip(&self.user_data)?
        } else {
            self.user_data.clone()
        };
        durable::write(&dir.join("user-data"), &user_data, 0o600)?;
        durable::write(&dir.join("meta-data"), self.meta_data.as_bytes(), 0o600)?;
        durable::write(&dir.join("network-config"), self.network_config.as_bytes(), 0o600)?;
        durable::write(&dir.join("datasource"), self.datasource.as_bytes(), 0o600)?;
        if changed {
            match fs::remove_dir_all(dir.join("sem")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        durable::write(&stamp, self.instance_id.as_bytes(), 0o600)?;
        Ok(changed)
    }
}

/// The instance's id, if its data was kept.
#[must_use]
pub fn instance_id(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join("instance-id")).ok()
}

/// The user data as a cloud-config text: a document as it is, a script as a `runcmd` of its own.
pub(crate) fn user_data(dir: &Path, found: &mut Vec<Diagnostic>) -> Option<String> {
    let path = dir.join("user-data");
    let bytes = fs::read(&path).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first == "#cloud-config" || text.trim().is_empty() {
        return Some(text);
    }
    if first.starts_with("#!") {
        let script = json!({ "runcmd": [["/bin/sh", "-c", script_runner(&path)]] });
        return Some(script.to_string());
    }
    let origin =
        Origin { layer: Layer::Instance, file: path.display().to_string(), line: 1, column: 1 };
    let message =
        format!("user data begins with {first:?}: expected #cloud-config or a script (#!)");
    found.push(Diagnostic::error(origin, message).hint("put #cloud-config on the first line"));
    None
}

fn script_runner(path: &Path) -> String {
    let path = path.display();
    format!("cp {path} /run/user-script && chmod 700 /run/user-script && exec /run/user-script")
}

/// Host name (if nobody set one), ssh keys (added) and network (if nobody set one) from the metadata.
pub(crate) fn add_metadata(dir: &Path, tree: &mut Node) {
    let file = dir.join("meta-data");
    let origin =
        Origin { layer: Layer::Instance, file: file.display().to_string(), line: 0, column: 0 };
    let meta = metadata(&fs::read_to_string(&file).unwrap_or_default());
    let name = meta["local-hostname"]
        .as_str()
        .or(meta["hostname"].as_str())
        .filter(|name| !name.is_empty());
    if let (Some(name), None) = (name, tree.get("hostname")) {
        tree.put("hostname", Node::text(name, &origin));
    }
    let keys: Vec<Node> =
        keys(&meta["public-keys"]).iter().map(|key| Node::text(key, &origin)).collect();
    if !keys.is_empty() {
        let mut above = Node::map(&origin);
        above.put("ssh_authorized_keys", Node { value: Value::List(keys), origin: origin.clone() });
        *tree = merge(std::mem::replace(tree, Node::map(&origin)), above);
    }
    if tree.at("ros.network.interfaces").is_none() {
        if let Some(network) = network(&dir.join("network-config")) {
            let mut above = Node::map(&origin);
            above.put("ros.network", network);
            *tree = merge(std::mem::replace(tree, Node::map(&origin)), above);
        }
    }
}

/// Metadata is YAML, which JSON is too.
fn metadata(text: &str) -> Json {
    document::parse(text, Layer::Instance, "meta-data").map_or(Json::Null, |node| node.to_json())
}

/// A list of keys, or EC2's map of name to key.
fn keys(value: &Json) -> Vec<String> {
    let texts = |values: Vec<&Json>| {
        values.into_iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    match value {
        Json::Array(items) => texts(items.iter().collect()),
        Json::Object(map) => texts(map.values().collect()),
        Json::String(key) => key.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// `network-config` of version 1 or 2 (plain interfaces), as `ros.network`.
fn network(path: &Path) -> Option<Node> {
    let text = fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty())?;
    let parsed =
        document::parse(&text, Layer::Instance, &path.display().to_string()).ok()?.to_json();
    let parsed = parsed.get("network").cloned().unwrap_or(parsed);
    let own = match parsed["version"].as_i64() {
        Some(1) => version_1(&parsed),
        Some(2) => version_2(&parsed),
        _ => return None,
    };
    document::parse(&own.to_string(), Layer::Instance, &path.display().to_string()).ok()
}

fn version_1(config: &Json) -> Json {
    let mut interfaces = serde_json::Map::new();
    let mut dns = json!({ "nameservers": [], "search": [] });
    for item in config["config"].as_array().into_iter().flatten() {
        if item["type"] == "nameserver" {
            dns["nameservers"] = listed(&item["address"]);
            dns["search"] = listed(&item["search"]);
        }
        let (Some("physical"), Some(name)) = (item["type"].as_str(), item["name"].as_str()) else {
            continue;
        };
        let subnets: Vec<&Json> = item["subnets"].as_array().into_iter().flatten().collect();
        let kind = |subnet: &&Json, word: &str| {
            subnet["type"].as_str().is_some_and(|t| t.starts_with(word))
        };
        let fixed: Vec<&&Json> = subnets.iter().filter(|subnet| kind(subnet, "static")).collect();
        let addresses: Vec<Json> = fixed.iter().map(|subnet| address(subnet)).collect();
        let gateway = fixed.iter().find_map(|subnet| subnet["gateway"].as_str());
        let dhcp = subnets.iter().any(|subnet| kind(subnet, "dhcp"));
        let mut entry = json!({ "addresses": addresses, "dhcp": dhcp });
        put_gateway(&mut entry, gateway);
        put_match(&mut entry, &item["mac_address"]);
        interfaces.insert(name.to_owned(), entry);
    }
    json!({ "interfaces": interfaces, "dns": dns })
}

/// `address` with the prefix length of `netmask` where it has none.
fn address(subnet: &Json) -> Json {
    let text = subnet["address"].as_str().unwrap_or_default();
    let mask = subnet["netmask"].as_str().and_then(|mask| mask.parse::<std::net::Ipv4Addr>().ok());
    match mask {
        Some(mask) if !text.contains('/') => {
            json!(format!("{text}/{}", u32::from(mask).count_ones()))
        }
        _ => json!(text),
    }
}

fn version_2(config: &Json) -> Json {
    let mut interfaces = serde_json::Map::new();
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for (name, item) in config["ethernets"].as_object().into_iter().flatten() {
        let mut entry = json!({ "addresses": listed(&item["addresses"]) });
        for (theirs, ours) in [("dhcp4", "dhcp"), ("dhcp6", "dhcp6"), ("mtu", "mtu")] {
            if !item[theirs].is_null() {
                entry[ours] = item[theirs].clone();
            }
        }
        for key in ["gateway4", "gateway6"] {
            put_gateway(&mut entry, item[key].as_str());
        }
        for route in item["routes"].as_array().into_iter().flatten() {
            if matches!(route["to"].as_str(), Some("default" | "0.0.0.0/0" | "::/0")) {
                put_gateway(&mut entry, route["via"].as_str());
            }
        }
        put_match(&mut entry, &item["match"]["macaddress"]);
        servers.extend(
            listed(&item["nameservers"]["addresses"]).as_array().cloned().unwrap_or_default(),
        );
        search
            .extend(listed(&item["nameservers"]["search"]).as_array().cloned().unwrap_or_default());
        interfaces.insert(name.clone(), entry);
    }
    json!({ "interfaces": interfaces, "dns": { "nameservers": servers, "search": search } })
}

fn put_gateway(entry: &mut Json, gateway: Option<&str>) {
    if let Some(gateway) = gateway {
        let key = if gateway.contains(':') { "gateway_ipv6" } else { "gateway" };
        entry[key] = json!(gateway);
    }
}

fn put_match(entry: &mut Json, mac: &Json) {
    if let Some(mac) = mac.as_str() {
        entry["match"] = json!(format!("mac={}", mac.to_lowercase()));
    }
}

fn listed(value: &Json) -> Json {
    match value {
        Json::Array(_) => value.clone(),
        Json::String(_) => json!([value]),
        _ => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netplan_and_version_1_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let v2 = "version: 2\nethernets:\n  lan0:\n    match: {macaddress: 'AA:00:00:00:00:01'}\n    addresses: [10.0.0.2/24]\n    \
                  routes: [{to: default, via: 10.0.0.1}]\n    nameservers: {addresses: [9.9.9.9]}\n";
        let v1 = "version: 1\nconfig:\n- type: physical\n  name: lan0\n  mac_address: 'aa:00:00:00:00:01'\n  \
                  subnets: [{type: static, address: 10.0.0.2, netmask: 255.255.255.0, gateway: 10.0.0.1}]\n\
                  - {type: nameserver, address: [9.9.9.9]}\n";
        for text in [v2, v1] {
            let path = dir.path().join("network-config");
            fs::write(&path, text).unwrap();
            let node = network(&path).unwrap().to_json();
            let lan = &node["interfaces"]["lan0"];
            assert_eq!(lan["addresses"], json!(["10.0.0.2/24"]), "{node}");
            assert_eq!(lan["gateway"], "10.0.0.1");
            assert_eq!(lan["match"], "mac=aa:00:00:00:00:01");
            assert_eq!(node["dns"]["nameservers"], json!(["9.9.9.9"]));
        }
    }

    #[test]
    fn another_instance_id_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = |id: &str| InstanceData {
            instance_id: id.into(),
            user_data: b"#cloud-config\n".to_vec(),
            ..InstanceData::default()
        };
        assert!(!data("a").save(dir.path()).unwrap());
        fs::create_dir(dir.path().join("sem")).unwrap();
        assert!(!data("a").save(dir.path()).unwrap());
        assert!(dir.path().join("sem").exists());
        assert!(data("b").save(dir.path()).unwrap());
        assert!(!dir.path().join("sem").exists());
    }

    #[test]
    fn a_script_is_a_runcmd_and_junk_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("user-data"), "#!/bin/sh\necho hi\n").unwrap();
        let mut found = Vec::new();
        assert!(user_data(dir.path(), &mut found).unwrap().contains("runcmd"));
        fs::write(dir.path().join("user-data"), "what is this\n").unwrap();
        assert!(user_data(dir.path(), &mut found).is_none());
        assert_eq!(found.len(), 1);
    }
}

//! Instance data: what a datasource gave at first boot, kept under `/var/lib/ros/instance`.
//!
//! ```text
//! instance-id   user-data   meta-data   network-config   datasource      as they came
//! machine       the machine's own id when they came: another one asks again
//! parts/        documents of vendor and user data, later ones above earlier ones
//! scripts/      scripts of vendor and user data, in order; scripts-per-boot/, scripts-per-once/ the same
//! includes      URLs of parts that are still to be fetched, one a line
//! problems      what was not understood when it was taken apart, one a line
//! ```
//!
//! Formats: cloud-init's NoCloud (`user-data`, `meta-data`, `network-config`) and OpenStack's config-drive
//! (`openstack/latest/{user_data,meta_data.json,network_data.json}`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ros_api::durable;
use serde_json::{Value as Json, json};

use crate::diagnostic::Diagnostic;
use crate::layers::{bytes_of, unreadable};
use crate::schema::network::NETWORK;
use crate::tree::{Layer, Node, Origin, Value, merge};
use crate::userdata::{Frequency, Unpacked};
use crate::{check, document, interfaces, netplan, userdata};

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
    /// Network configuration: version 1 or 2, or OpenStack's; empty when there is none.
    pub network_config: String,
    /// The vendor's part, below the user's.
    pub vendor_data: Vec<u8>,
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
            vendor_data: fs::read(dir.join("vendor-data")).unwrap_or_default(),
            ..Self::new(user_data, meta_data, network_config)
        })
    }

    /// From a mounted config-drive; `None` when it is not one.
    #[must_use]
    pub fn from_config_drive(dir: &Path) -> Option<Self> {
        let latest = dir.join("openstack/latest");
        let meta = fs::read(latest.join("meta_data.json")).ok()?;
        let user_data = fs::read(latest.join("user_data")).unwrap_or_default();
        let mut network = fs::read_to_string(latest.join("network_data.json")).unwrap_or_default();
        if network.trim().is_empty() {
            network = debian_network(&dir.join("openstack"), &meta);
        }
        let data = Self::from_openstack(&meta, user_data, network, "configdrive")?;
        let vendor_data = fs::read(latest.join("vendor_data.json")).unwrap_or_default();
        Some(Self { vendor_data: vendors_part(&vendor_data), ..data })
    }

    /// From OpenStack's `meta_data.json` and its neighbours; `None` when it is not JSON.
    #[must_use]
    pub fn from_openstack(
        meta: &[u8],
        user_data: Vec<u8>,
        network: String,
        datasource: &str,
    ) -> Option<Self> {
        let meta: Json = serde_json::from_slice(meta).ok()?;
        let keys: Vec<&Json> =
            meta["public_keys"].as_object().into_iter().flat_map(|keys| keys.values()).collect();
        let name = meta["hostname"].as_str().or(meta["name"].as_str()).unwrap_or_default();
        let own = json!({
            "instance-id": meta["uuid"], "local-hostname": name, "public-keys": keys,
            "availability-zone": meta["availability_zone"],
        });
        Some(Self::from_meta(datasource, &own, user_data).with_network(network))
    }

    /// From metadata in NoCloud's words and user data.
    #[must_use]
    pub fn from_meta(datasource: &str, meta: &Json, user_data: Vec<u8>) -> Self {
        Self {
            datasource: datasource.to_owned(),
            ..Self::new(user_data, meta.to_string(), String::new())
        }
    }

    /// The same with a network document.
    #[must_use]
    pub fn with_network(self, network_config: String) -> Self {
        Self { network_config, ..self }
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
        Self { instance_id, user_data, meta_data, network_config, ..Self::default() }
    }

    /// What templates are filled in with: cloud-init's `v1`, its names at the top, and `ds.meta_data`.
    #[must_use]
    pub fn context(&self) -> Json {
        let meta = metadata(&self.meta_data);
        let v1 = json!({
            "instance_id": self.instance_id, "cloud_name": self.datasource, "platform": self.datasource,
            "local_hostname": meta["local-hostname"].as_str().or(meta["hostname"].as_str()),
            "region": meta["region"], "availability_zone": meta["availability-zone"],
            "public_ssh_keys": keys(&meta["public-keys"]),
        });
        let mut all = json!({ "ds": { "meta_data": underscored(&meta) } });
        if let (Json::Object(all), Json::Object(v1)) = (&mut all, &v1) {
            all.extend(v1.clone());
        }
        all["v1"] = v1;
        all
    }

    /// Keeps it in `dir`, user data taken apart. `instance-id` is written last, so that a torn write is fetched
    /// again. Answers whether it is another instance than before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> io::Result<bool> {
        fs::create_dir_all(dir)?;
        let stamp = dir.join("instance-id");
        let changed = fs::read_to_string(&stamp).is_ok_and(|old| old != self.instance_id);
        for folder in ["parts"].into_iter().chain(Frequency::ALL.map(Frequency::folder)) {
            remove(&dir.join(folder))?;
            fs::create_dir(dir.join(folder))?;
        }
        let mut problems = Vec::new();
        let mut includes = Vec::new();
        let context = self.context();
        for (order, name, bytes) in
            [(0, "vendor-data", &self.vendor_data), (1, "user-data", &self.user_data)]
        {
            let unpacked = userdata::unpack(bytes, name, &context);
            includes.extend(unpacked.includes.clone());
            problems.extend(keep_parts(dir, order, unpacked)?);
        }
        durable::write(&dir.join("includes"), includes.join("\n").as_bytes(), 0o600)?;
        durable::write(&dir.join("problems"), problems.join("\n").as_bytes(), 0o600)?;
        durable::write(&dir.join("user-data"), &self.user_data, 0o600)?;
        durable::write(&dir.join("meta-data"), self.meta_data.as_bytes(), 0o600)?;
        durable::write(&dir.join("network-config"), self.network_config.as_bytes(), 0o600)?;
        durable::write(&dir.join("datasource"), self.datasource.as_bytes(), 0o600)?;
        if changed {
            remove(&dir.join("sem"))?;
        }
        durable::write(&stamp, self.instance_id.as_bytes(), 0o600)?;
        Ok(changed)
    }
}

/// The network where `meta_data.json` says that it is, in Debian's words; Proxmox has no other.
fn debian_network(dir: &Path, meta: &[u8]) -> String {
    let meta: Json = serde_json::from_slice(meta).unwrap_or_default();
    let Some(path) = meta["network_config"]["content_path"].as_str() else { return String::new() };
    let sound = Path::new(path.trim_start_matches('/'));
    if !sound.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return String::new();
    }
    let text = fs::read_to_string(dir.join(sound)).unwrap_or_default();
    match interfaces::to_version_1(&text) {
        Json::Null => String::new(),
        document => document.to_string(),
    }
}

/// OpenStack's `vendor_data.json`: a text, or its member `cloud-init`.
#[must_use]
pub fn vendors_part(text: &[u8]) -> Vec<u8> {
    let all: Json = serde_json::from_slice(text).unwrap_or_default();
    let own = all.as_str().or(all["cloud-init"].as_str()).unwrap_or_default();
    own.as_bytes().to_vec()
}

/// `-` in names is `_` in templates.
fn underscored(value: &Json) -> Json {
    match value {
        Json::Object(map) => Json::Object(
            map.iter().map(|(key, value)| (key.replace('-', "_"), underscored(value))).collect(),
        ),
        other => other.clone(),
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes parts; what was not understood is answered.
fn keep_parts(dir: &Path, order: usize, unpacked: Unpacked) -> io::Result<Vec<String>> {
    let documents = unpacked.documents.iter().map(|part| ("parts", part, 0o600));
    let scripts = unpacked.scripts.iter().map(|(often, part)| (often.folder(), part, 0o700));
    for (index, (folder, part, mode)) in documents.chain(scripts).enumerate() {
        let sound = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let name: String = part.name.chars().map(sound).take(64).collect();
        let path = dir.join(folder).join(format!("{order:02}-{index:03}-{name}"));
        durable::write(&path, &part.content, mode)?;
    }
    Ok(unpacked.diagnostics.iter().map(Diagnostic::line).collect())
}

/// URLs of parts that are still to be fetched.
#[must_use]
pub fn includes(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("includes")).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Keeps what was fetched for [`includes`]; parts that include more are to be fetched then.
///
/// # Errors
/// When it cannot be written.
pub fn keep_included(dir: &Path, round: usize, fetched: &[(String, Vec<u8>)]) -> io::Result<()> {
    let data = InstanceData {
        instance_id: instance_id(dir).unwrap_or_default(),
        datasource: fs::read_to_string(dir.join("datasource")).unwrap_or_default(),
        meta_data: fs::read_to_string(dir.join("meta-data")).unwrap_or_default(),
        ..InstanceData::default()
    };
    let context = data.context();
    let mut problems = fs::read_to_string(dir.join("problems")).unwrap_or_default();
    let mut includes = Vec::new();
    for (index, (url, bytes)) in fetched.iter().enumerate() {
        let unpacked = userdata::unpack(bytes, url, &context);
        includes.extend(unpacked.includes.clone());
        for problem in keep_parts(dir, 10 * (round + 1) + index.min(9), unpacked)? {
            problems = format!("{problems}\n{problem}");
        }
    }
    durable::write(&dir.join("problems"), problems.trim().as_bytes(), 0o600)?;
    durable::write(&dir.join("includes"), includes.join("\n").as_bytes(), 0o600)
}

/// The scripts of user data that run so often, in order.
#[must_use]
pub fn scripts(dir: &Path, often: Frequency) -> Vec<PathBuf> {
    files_in(&dir.join(often.folder()))
}

/// The command that runs a script: as a copy in `run`, where programs may be run, which the instance's folder need not
/// allow.
#[must_use]
pub fn script_command(script: &Path, run: &Path) -> Vec<String> {
    let line = "cp \"$0\" \"$1\" && chmod 700 \"$1\" && exec \"$1\"";
    let (script, copy) = (script.display().to_string(), run.join("user-script"));
    vec!["/bin/sh".into(), "-c".into(), line.into(), script, copy.display().to_string()]
}

/// Files in name order; none when there is no folder.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// The instance's id, if its data was kept.
#[must_use]
pub fn instance_id(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join("instance-id")).ok()
}

/// The documents of instance data with the names of their files, lowest first.
pub(crate) fn documents(dir: &Path, found: &mut Vec<Diagnostic>) -> Vec<(String, String)> {
    let problems = fs::read_to_string(dir.join("problems")).unwrap_or_default();
    for problem in problems.lines().filter(|line| !line.is_empty()) {
        let file = dir.join("user-data").display().to_string();
        let origin = Origin { layer: Layer::Instance, file, line: 0, column: 0 };
        found.push(Diagnostic::error(origin, problem.to_owned()));
    }
    // A folder without parts was filled by somebody else: a plain document counts.
    let parts = dir.join("parts");
    let files = if parts.is_dir() { files_in(&parts) } else { vec![dir.join("user-data")] };
    let mut text = |path: PathBuf| match bytes_of(&path) {
        Ok(bytes) => {
            Some((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) => {
            let absent = error.kind() == io::ErrorKind::NotFound;
            found.extend((!absent).then(|| unreadable(&path, Layer::Instance, &error)));
            None
        }
    };
    files.into_iter().filter_map(&mut text).collect()
}

/// Host name (if nobody set one), ssh keys (added) and network (if nobody set one) from the metadata.
pub(crate) fn add_metadata(dir: &Path, tree: &mut Node, found: &mut Vec<Diagnostic>) {
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
    let text = fs::read_to_string(dir.join("network-config")).unwrap_or_default();
    if tree.at("ros.network.interfaces").is_none() && !text.trim().is_empty() {
        let file = dir.join("network-config").display().to_string();
        match document::parse(&text, Layer::Instance, &file) {
            Ok(node) => put_network(tree, &node, found),
            Err(wrong) => found.push(wrong),
        }
    }
}

/// A network document of others, below `ros.network`.
pub(crate) fn put_network(tree: &mut Node, document: &Node, found: &mut Vec<Diagnostic>) {
    let origin = &document.origin;
    let (own, wrong) = netplan::convert(&document.to_json());
    for message in wrong {
        found.push(Diagnostic::warning(origin.clone(), message));
    }
    let Ok(parsed) = document::parse(&own.to_string(), origin.layer, &origin.file) else { return };
    let Some(kept) = check::check(parsed, NETWORK, "network", found) else { return };
    let below = std::mem::replace(tree, Node::map(origin));
    let mut lower = Node::map(origin);
    lower.put("ros.network", kept);
    *tree = merge(lower, below);
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

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;

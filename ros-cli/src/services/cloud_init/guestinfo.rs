//! VMware: what the hypervisor was told for this guest (`guestinfo.*`), read over its backdoor, without a network.
//!
//! ```text
//!  guestinfo.metadata, .userdata, .vendordata, each with .encoding        cloud-init's words
//!  guestinfo.cloud-init.config.data, .config.url, .data.encoding          RancherOS's
//!  guestinfo.hostname, .interface.N.*, .dns.server.N, .dns.domain.N       RancherOS's
//! ```
//!
//! Reading a port that is not there ends a process with a signal, and an administrator may have closed it: so it is a
//! process of its own that reads, and prints what it found.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use cloud_config::instance::InstanceData;
use cloud_config::settings::gunzip;
use cloud_config::{Layer, document};
use serde_json::{Value, json};

use super::dmi::Dmi;

/// Interfaces that are asked about, addresses and routes of each, and name servers.
const INTERFACES: usize = 8;
const ADDRESSES: usize = 4;
const SERVERS: usize = 3;

/// Every key that is asked for.
fn keys() -> Vec<String> {
    let mut all = Vec::new();
    for name in ["metadata", "userdata", "vendordata"] {
        all.extend([name.to_owned(), format!("{name}.encoding")]);
    }
    let ours = ["cloud-init.config.data", "cloud-init.config.url", "cloud-init.data.encoding"];
    all.extend(ours.map(str::to_owned));
    all.push("hostname".into());
    for at in 0..INTERFACES {
        let of = |name: &str| format!("interface.{at}.{name}");
        all.extend(["name", "mac", "dhcp"].map(of));
        for n in 0..ADDRESSES {
            all.extend(["address", "netmask"].map(|name| of(&format!("ip.{n}.{name}"))));
            all.extend(["gateway", "destination"].map(|name| of(&format!("route.{n}.{name}"))));
        }
    }
    let servers = (0..SERVERS).flat_map(|n| [format!("dns.server.{n}"), format!("dns.domain.{n}")]);
    all.extend(servers);
    all
}

/// `ros cloud-init guestinfo`: prints what the hypervisor says, as JSON.
///
/// # Errors
/// When this is no guest of VMware's, or its backdoor is closed.
pub fn print() -> Result<ExitCode> {
    ensure!(vmw_backdoor::is_vmware_cpu(), "this is no guest of VMware's");
    let mut backdoor = vmw_backdoor::probe_backdoor().map_err(|e| anyhow!("backdoor: {e}"))?;
    let mut channel = backdoor.open_enhanced_chan().map_err(|e| anyhow!("backdoor: {e}"))?;
    let mut found = BTreeMap::new();
    for key in keys() {
        let value = channel.get_guestinfo(format!("guestinfo.{key}").as_bytes());
        if let Some(value) = value.map_err(|e| anyhow!("guestinfo.{key}: {e}"))? {
            found.insert(key, String::from_utf8_lossy(&value).into_owned());
        }
    }
    println!("{}", serde_json::to_string(&found)?);
    Ok(ExitCode::SUCCESS)
}

/// What the hypervisor was told; none when it was told nothing, or does not say.
pub fn local() -> Option<InstanceData> {
    let found = ask().and_then(|found| instance(&found, &Dmi::machine().uuid));
    found.inspect_err(|error| eprintln!("guestinfo: {error:#}")).ok().flatten()
}

fn ask() -> Result<BTreeMap<String, String>> {
    let ros = std::env::current_exe().context("find this program")?;
    let ended = Command::new(ros).args(["cloud-init", "guestinfo"]).output().context("read")?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {}", ended.status, why.trim());
    serde_json::from_slice(&ended.stdout).context("what was read")
}

/// As instance data.
fn instance(found: &BTreeMap<String, String>, machine: &str) -> Result<Option<InstanceData>> {
    let get = |key: &str| found.get(key).map(String::as_str).filter(|text| !text.trim().is_empty());
    let decoded = |key: &str, encoding: &str| -> Result<Vec<u8>> {
        let text = get(key).unwrap_or_default();
        decode(text, get(encoding).unwrap_or_default()).with_context(|| format!("guestinfo.{key}"))
    };
    let meta = decoded("metadata", "metadata.encoding")?;
    let meta = String::from_utf8_lossy(&meta).into_owned();
    let mut meta = parsed(&meta)?;
    let network = match network_of(&mut meta)? {
        Some(network) => network,
        None => interfaces(&get),
    };
    let mut user_data = decoded("userdata", "userdata.encoding")?;
    if user_data.is_empty() {
        user_data = decoded("cloud-init.config.data", "cloud-init.data.encoding")?;
    }
    if let (true, Some(url)) = (user_data.is_empty(), get("cloud-init.config.url")) {
        user_data = format!("#include\n{}\n", url.trim()).into_bytes();
    }
    let vendor_data = decoded("vendordata", "vendordata.encoding")?;
    let name = get("hostname");
    let told = meta.is_object() || name.is_some() || !network.is_empty();
    if !told && user_data.is_empty() && vendor_data.is_empty() {
        return Ok(None);
    }
    let meta = named(meta, name, machine);
    let data = InstanceData::from_meta("vmware", &meta, user_data).with_network(network);
    Ok(Some(InstanceData { vendor_data, ..data }))
}

/// cloud-init's encodings.
fn decode(text: &str, encoding: &str) -> Result<Vec<u8>> {
    let unbase64 = || {
        let packed: String = text.split_whitespace().collect();
        base64::engine::general_purpose::STANDARD.decode(packed).context("not base64")
    };
    match encoding.trim() {
        "" => Ok(text.as_bytes().to_vec()),
        "base64" | "b64" => unbase64(),
        "gzip+base64" | "gz+b64" => gunzip(&unbase64()?).context("not gzip"),
        other => bail!("encoding {other:?}: expected base64 or gzip+base64"),
    }
}

/// JSON or YAML; nothing is null.
fn parsed(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let node = document::parse(text, Layer::Instance, "guestinfo.metadata");
    Ok(node.map_err(|wrong| anyhow!("{}", wrong.line()))?.to_json())
}

/// The network document inside of metadata: as it is, or packed.
fn network_of(meta: &mut Value) -> Result<Option<String>> {
    let Some(map) = meta.as_object_mut() else { return Ok(None) };
    let encoding = map.remove("network.encoding");
    let encoding = encoding.as_ref().and_then(Value::as_str).unwrap_or_default();
    match map.remove("network") {
        Some(Value::String(text)) => {
            let text = decode(&text, encoding).context("guestinfo.metadata: network")?;
            Ok(Some(String::from_utf8_lossy(&text).into_owned()))
        }
        Some(document @ Value::Object(_)) => Ok(Some(document.to_string())),
        _ => Ok(None),
    }
}

/// Metadata with an id, a name, and keys where they are looked for.
fn named(meta: Value, name: Option<&str>, machine: &str) -> Value {
    let mut meta = if meta.is_object() { meta } else { json!({}) };
    if meta["instance-id"].is_null() && !machine.is_empty() {
        meta["instance-id"] = json!(machine.to_lowercase());
    }
    if let (Some(name), true) = (name, meta["local-hostname"].is_null()) {
        meta["local-hostname"] = json!(name.trim());
    }
    for key in ["public-keys-data", "public_keys_data"] {
        if meta["public-keys"].is_null() && !meta[key].is_null() {
            meta["public-keys"] = meta[key].clone();
        }
    }
    meta
}

/// RancherOS's `interface.N.*` and `dns.*` as a document of version 1; empty when there are none.
fn interfaces<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> String {
    let mut config: Vec<Value> = (0..INTERFACES).filter_map(|at| interface(at, get)).collect();
    let all = |name: &str| -> Vec<&str> {
        (0..SERVERS).filter_map(|n| get(&format!("dns.{name}.{n}"))).collect()
    };
    let (servers, search) = (all("server"), all("domain"));
    if !servers.is_empty() || !search.is_empty() {
        config.push(json!({ "type": "nameserver", "address": servers, "search": search }));
    }
    if config.is_empty() {
        return String::new();
    }
    json!({ "version": 1, "config": config }).to_string()
}

fn interface<'a>(at: usize, get: &impl Fn(&str) -> Option<&'a str>) -> Option<Value> {
    let of = |name: &str| get(&format!("interface.{at}.{name}"));
    let mut subnets = Vec::new();
    if of("dhcp").is_some_and(|word| matches!(word, "yes" | "true" | "1")) {
        subnets.push(json!({ "type": "dhcp" }));
    }
    for n in 0..ADDRESSES {
        let Some(address) = of(&format!("ip.{n}.address")) else { continue };
        let mut subnet = json!({ "type": "static", "address": address });
        if let Some(mask) = of(&format!("ip.{n}.netmask")) {
            subnet["netmask"] = json!(mask);
        }
        subnets.push(subnet);
    }
    if of("name").is_none() && of("mac").is_none() && subnets.is_empty() {
        return None;
    }
    let routes: Vec<Value> = (0..ADDRESSES)
        .filter_map(|n| {
            let gateway = of(&format!("route.{n}.gateway"))?;
            let to = of(&format!("route.{n}.destination")).unwrap_or("0.0.0.0/0");
            Some(json!({ "destination": to, "gateway": gateway }))
        })
        .collect();
    if let Some(first) = subnets.first_mut().filter(|_| !routes.is_empty()) {
        first["routes"] = json!(routes);
    }
    let name = of("name").map_or_else(|| format!("eth{at}"), str::to_owned);
    let mut link = json!({ "type": "physical", "name": name, "subnets": subnets });
    if let Some(mac) = of("mac") {
        link["mac_address"] = json!(mac);
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn told(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn of(words: &[(&str, &str)]) -> InstanceData {
        instance(&told(words), "420A-UUID").unwrap().unwrap()
    }

    fn network(data: &InstanceData) -> Value {
        let document = parsed(&data.network_config).unwrap();
        let (network, wrong) = cloud_config::netplan::convert(&document);
        assert_eq!(wrong, Vec::<String>::new());
        network
    }

    fn base64(bytes: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    /// The documentation's own example, by its shape: metadata in YAML with the network inside, all in base64.
    #[test]
    fn cloud_inits_words_in_their_encodings() {
        let meta = "instance-id: cloud-vm\nlocal-hostname: cloud-vm\npublic-keys-data: |\n  ssh-rsa A a\n  ssh-rsa B b\n\
                    network:\n  version: 2\n  ethernets:\n    nics: {match: {name: ens*}, dhcp4: true}\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"#cloud-config\nhostname: a\n").unwrap();
        let packed = base64(&packed.finish().unwrap());
        let data = of(&[
            ("metadata", &base64(meta.as_bytes())),
            ("metadata.encoding", "base64"),
            ("userdata", &packed),
            ("userdata.encoding", "gzip+base64"),
            ("vendordata", "#cloud-config\nhostname: vendor\n"),
        ]);
        assert_eq!((data.instance_id.as_str(), data.datasource.as_str()), ("cloud-vm", "vmware"));
        assert_eq!(data.user_data, b"#cloud-config\nhostname: a\n");
        assert_eq!(data.vendor_data, b"#cloud-config\nhostname: vendor\n");
        assert_eq!(data.context()["v1"]["public_ssh_keys"], json!(["ssh-rsa A a", "ssh-rsa B b"]));
        assert_eq!(network(&data)["interfaces"].as_object().unwrap().len(), 1);

        let inner = base64(b"version: 2\nethernets: {eth0: {addresses: [10.0.0.2/24]}}\n");
        let meta = json!({ "instance-id": "i", "network": inner, "network.encoding": "b64" });
        let data = of(&[("metadata", &meta.to_string())]);
        assert_eq!(network(&data)["interfaces"]["eth0"]["addresses"], json!(["10.0.0.2/24"]));
        assert!(!data.meta_data.contains("network"), "it is no metadata any more");
    }

    #[test]
    fn rancheros_words() {
        let data = of(&[
            ("hostname", "ranch-1"),
            ("cloud-init.config.data", "I2Nsb3VkLWNvbmZpZwo="),
            ("cloud-init.data.encoding", "base64"),
            ("interface.0.name", "eth0"),
            ("interface.0.mac", "00:50:56:11:22:33"),
            ("interface.0.ip.0.address", "192.0.2.7"),
            ("interface.0.ip.0.netmask", "255.255.255.0"),
            ("interface.0.route.0.gateway", "192.0.2.1"),
            ("interface.1.name", "eth1"),
            ("interface.1.dhcp", "yes"),
            ("dns.server.0", "192.0.2.53"),
            ("dns.domain.0", "lab.example"),
        ]);
        assert_eq!(data.instance_id, "420a-uuid");
        assert_eq!(data.user_data, b"#cloud-config\n");
        assert_eq!(data.context()["v1"]["local_hostname"], "ranch-1");
        let network = network(&data);
        let eth0 = &network["interfaces"]["eth0"];
        assert_eq!(eth0["addresses"], json!(["192.0.2.7/24"]));
        assert_eq!(
            (&eth0["match"], &eth0["gateway"]),
            (&json!("mac=00:50:56:11:22:33"), &json!("192.0.2.1"))
        );
        assert_eq!(network["interfaces"]["eth1"]["dhcp"], true);
        assert_eq!(network["dns"]["search"], json!(["lab.example"]));
        let url = of(&[("cloud-init.config.url", "http://h/c.yml")]);
        assert_eq!(url.user_data, b"#include\nhttp://h/c.yml\n");
    }

    #[test]
    fn nothing_told_is_no_source_and_what_is_wrong_is_said() {
        assert_eq!(instance(&told(&[]), "u").unwrap(), None);
        assert_eq!(instance(&told(&[("userdata", " ")]), "u").unwrap(), None);
        for (key, value, encoding, why) in [
            ("userdata", "*", "base64", "not base64"),
            ("userdata", "x", "rot13", "expected base64"),
            ("metadata", "a: [", "", "guestinfo.metadata"),
        ] {
            let words = told(&[(key, value), (&format!("{key}.encoding"), encoding)]);
            let error = format!("{:#}", instance(&words, "u").unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_machine_that_is_no_guest_says_so() {
        if vmw_backdoor::is_vmware_cpu() {
            return;
        }
        assert!(print().unwrap_err().to_string().contains("no guest"));
    }
}

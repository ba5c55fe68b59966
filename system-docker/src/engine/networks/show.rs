//! Networks and endpoints in Docker's shapes.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::endpoint::{Endpoint, mac_text};
use super::network::{BRIDGE, Network, PREDEFINED, predefined_id};
use super::ports::{self, Port};
use super::{Subnet, asked::Mode};
use crate::engine::container::{Container, Record};
use crate::engine::error::Result;
use crate::engine::filters::{Filters, Patterns};
use crate::engine::time::rfc3339;

/// Filters of `network ls`.
pub const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Filters of `network prune`.
pub const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "until"];

fn shape(name: &str, id: &str, driver: &str) -> Value {
    json!({
        "Name": name, "Id": id, "Created": rfc3339(0), "Scope": "local", "Driver": driver, "EnableIPv4": true,
        "EnableIPv6": false, "IPAM": { "Driver": "default", "Options": null, "Config": [] }, "Internal": false,
        "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": {}, "Options": {}, "Labels": {},
    })
}

/// What is there without having been made; `bridge` has no range until it is used.
pub fn predefined() -> Vec<Value> {
    let drivers = [BRIDGE, "host", "null"];
    let all = PREDEFINED.iter().zip(drivers);
    all.map(|(name, driver)| shape(name, &predefined_id(name), driver)).collect()
}

/// A network.
pub fn network(network: &Network) -> Value {
    let mut shown = shape(&network.name, &network.id, BRIDGE);
    shown["Created"] = rfc3339(network.created).into();
    shown["EnableIPv6"] = network.ipv6.into();
    shown["Internal"] = network.internal.into();
    shown["Attachable"] = network.attachable.into();
    shown["Options"] = json!(network.options);
    shown["Labels"] = json!(network.labels);
    shown["IPAM"]["Config"] = network.subnets.iter().map(subnet).collect();
    shown
}

fn subnet(subnet: &Subnet) -> Value {
    let mut shown = json!({ "Subnet": subnet.subnet, "Gateway": subnet.gateway });
    if let Some(range) = subnet.range {
        shown["IPRange"] = json!(range);
    }
    if !subnet.auxiliary.is_empty() {
        shown["AuxiliaryAddresses"] = json!(subnet.auxiliary);
    }
    shown
}

/// All networks that pass the filters.
pub fn list(
    networks: &[Arc<Network>],
    filters: &Filters,
    is_unused: &dyn Fn(&Network) -> bool,
) -> Result<Vec<Value>> {
    let (names, ids) = (filters.patterns("name")?, filters.patterns("id")?);
    let mut all: Vec<(Value, bool)> = networks.iter().map(|n| (network(n), is_unused(n))).collect();
    let made = |name: &Value| networks.iter().any(|network| *name == network.name.as_str());
    all.extend(predefined().into_iter().filter(|n| !made(&n["Name"])).map(|n| (n, true)));
    all.retain(|(shown, unused)| passes(shown, *unused, filters, &names, &ids));
    all.sort_by_key(|(shown, _)| shown["Name"].as_str().unwrap_or_default().to_owned());
    Ok(all.into_iter().map(|(shown, _)| shown).collect())
}

fn passes(
    shown: &Value,
    unused: bool,
    filters: &Filters,
    names: &Patterns,
    ids: &Patterns,
) -> bool {
    let text = |key: &str| shown[key].as_str().unwrap_or_default();
    let builtin = PREDEFINED.contains(&text("Name"));
    let labels = serde_json::from_value(shown["Labels"].clone()).unwrap_or_default();
    filters.labels(&labels)
        && names.any(text("Name"))
        && ids.any(text("Id"))
        && filters.any("driver", |driver| text("Driver") == driver)
        && filters.any("scope", |scope| text("Scope") == scope)
        && filters.any("type", |kind| match kind {
            "builtin" => builtin,
            "custom" => !builtin,
            _ => false,
        })
        && filters.any("dangling", |wanted| (!builtin && unused) == matches!(wanted, "true" | "1"))
}

/// Containers that run in a network, by id.
pub fn containers(network: &Network, containers: &[Arc<Container>]) -> Value {
    let mut all = Map::new();
    for container in containers {
        let record = container.record();
        let Some(live) = record.network.endpoint(network).and_then(|e| e.live.as_ref()) else {
            continue;
        };
        let address = |v4| live.address(v4).map(|net| net.to_string()).unwrap_or_default();
        all.insert(
            record.id.clone(),
            json!({
                "Name": record.name, "EndpointID": live.id, "MacAddress": mac_text(live.mac),
                "IPv4Address": address(true), "IPv6Address": address(false),
            }),
        );
    }
    all.into()
}

/// A container's networks, by name.
pub fn endpoints(record: &Record) -> Value {
    let shared = match Mode::parse(record.host_config.network_mode.as_deref()) {
        Mode::Host => Some("host"),
        Mode::None => Some("none"),
        Mode::Container(_) | Mode::Networks(_) => None,
    };
    if let Some(name) = shared {
        let mut shown = endpoint(&Endpoint::default(), record);
        shown["NetworkID"] = predefined_id(name).into();
        shown["DNSNames"] = Value::Null;
        return json!({ name: shown });
    }
    let all = record.network.endpoints.iter();
    all.map(|one| (one.network.clone(), endpoint(one, record))).collect::<Map<_, _>>().into()
}

fn endpoint(endpoint: &Endpoint, record: &Record) -> Value {
    let live = endpoint.live.as_ref();
    let net = |v4: bool| live.and_then(|live| live.address(v4));
    let text = |v4: bool| net(v4).map(|net| net.addr().to_string()).unwrap_or_default();
    let length = |v4: bool| net(v4).map_or(0, |net| net.prefix_len());
    let gateway = |v4: bool| {
        let found = live.and_then(|live| live.gateways.iter().find(|g| g.is_ipv4() == v4));
        found.map(ToString::to_string).unwrap_or_default()
    };
    let mut ipam = Map::new();
    ipam.extend(endpoint.v4.map(|v4| ("IPv4Address".to_owned(), json!(v4))));
    ipam.extend(endpoint.v6.map(|v6| ("IPv6Address".to_owned(), json!(v6))));
    if !endpoint.link_local.is_empty() {
        let addresses = endpoint.link_local.iter().map(|net| net.addr().to_string());
        ipam.insert("LinkLocalIPs".to_owned(), addresses.collect::<Vec<_>>().into());
    }
    let options = &endpoint.options;
    let mac = live.map(|live| live.mac).or(endpoint.mac);
    let links: Vec<String> =
        endpoint.links.iter().map(|(container, alias)| format!("{container}:{alias}")).collect();
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    json!({
        "IPAMConfig": if ipam.is_empty() { Value::Null } else { ipam.into() }, "Links": list(&links),
        "Aliases": list(&endpoint.aliases), "DriverOpts": if options.is_empty() { Value::Null } else { json!(options) }, "GwPriority": endpoint.priority,
        "MacAddress": mac.map(mac_text).unwrap_or_default(), "NetworkID": endpoint.network_id,
        "EndpointID": live.map(|live| live.id.clone()).unwrap_or_default(), "Gateway": gateway(true),
        "IPAddress": text(true), "IPPrefixLen": length(true), "IPv6Gateway": gateway(false),
        "GlobalIPv6Address": text(false), "GlobalIPv6PrefixLen": length(false),
        "DNSNames": list(&endpoint.names(record)),
    })
}

/// `NetworkSettings` of a container's `inspect`.
pub fn settings(record: &Record, pid: i32) -> Value {
    let networks = endpoints(record);
    let bridge = networks[BRIDGE].clone();
    let mut shown = json!({
        "Bridge": "", "SandboxID": if pid > 0 { record.id.as_str() } else { "" },
        "SandboxKey": if pid > 0 { format!("/proc/{pid}/ns/net") } else { String::new() },
        "Ports": published(record), "Networks": networks, "HairpinMode": false,
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    // Of old, the first network's values stood here too.
    for (key, none) in [
        ("EndpointID", json!("")),
        ("Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
        ("IPAddress", json!("")),
        ("IPPrefixLen", json!(0)),
        ("IPv6Gateway", json!("")),
        ("MacAddress", json!("")),
    ] {
        shown[key] = if bridge.is_object() { bridge[key].clone() } else { none };
    }
    shown
}

fn exposed(record: &Record) -> Vec<String> {
    match Mode::parse(record.host_config.network_mode.as_deref()) {
        Mode::Networks(_) => record.config.exposed_ports.clone().unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`; what is exposed and not published has nothing.
fn published(record: &Record) -> Value {
    if !record.state.is_running() {
        return json!({});
    }
    let mut all: Map<String, Value> =
        exposed(record).into_iter().map(|port| (port, Value::Null)).collect();
    for port in &record.network.ports {
        let own = all.entry(format!("{}/{}", port.private, port.protocol.word()));
        let own = own.or_insert(Value::Null);
        if own.is_null() {
            *own = json!([]);
        }
        if let Value::Array(list) = own {
            list.push(json!({
                "HostIp": port.here.ip(), "HostPort": port.here.port().to_string(),
            }));
        }
    }
    all.into()
}

/// `Ports` of a container in a list.
pub fn ports_in_list(record: &Record) -> Vec<Value> {
    if !record.state.is_running() {
        return Vec::new();
    }
    let own = &record.network.ports;
    let show = |port: &Port| {
        json!({
            "IP": port.here.ip(), "PrivatePort": port.private, "PublicPort": port.here.port(),
            "Type": port.protocol.word(),
        })
    };
    let mut all: Vec<Value> = own.iter().map(show).collect();
    for text in exposed(record) {
        if let Ok((private, protocol)) = ports::parse_port(&text)
            && !own.iter().any(|port| (port.private, port.protocol) == (private, protocol))
        {
            all.push(json!({ "PrivatePort": private, "Type": protocol.word() }));
        }
    }
    all
}

/// Whether a container is in the network of that name or id.
pub fn is_in(record: &Record, name: &str) -> bool {
    let Value::Object(all) = endpoints(record) else { return false };
    all.iter()
        .any(|(own, shown)| own == name || shown["NetworkID"].as_str().is_some_and(|id| id == name))
}

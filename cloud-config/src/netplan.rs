//! Network documents of others as `ros.network`: cloud-init's version 1 and 2 (netplan), OpenStack's
//! `network_data.json`. What has no counterpart is answered as a complaint, and the rest counts.

use std::net::Ipv4Addr;

use serde_json::{Map, Value as Json, json};

/// `ros.network` in JSON, and what was left out.
#[must_use]
pub fn convert(document: &Json) -> (Json, Vec<String>) {
    let document = document.get("network").unwrap_or(document);
    let mut out = Out::default();
    let version =
        document["version"].as_i64().or(document["version"].as_str().and_then(|v| v.parse().ok()));
    match version {
        Some(1) => version_1(document, &mut out),
        Some(2) => version_2(document, &mut out),
        _ if document["links"].is_array() => openstack(document, &mut out),
        _ => out.wrong.push("network: expected version 1, version 2 or OpenStack's links".into()),
    }
    let mut network = json!({ "interfaces": out.interfaces });
    if !out.servers.is_empty() || !out.search.is_empty() {
        network["dns"] = json!({ "nameservers": out.servers, "search": out.search });
    }
    (network, out.wrong)
}

#[derive(Default)]
struct Out {
    interfaces: Map<String, Json>,
    servers: Vec<Json>,
    search: Vec<Json>,
    wrong: Vec<String>,
}

impl Out {
    fn entry(&mut self, name: &str) -> &mut Map<String, Json> {
        let entry = self.interfaces.entry(name).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        // An object by the line above; nothing else is ever put there.
        match entry {
            Json::Object(map) => map,
            _ => unreachable!("made an object"),
        }
    }

    fn put(&mut self, name: &str, key: &str, value: Json) {
        self.entry(name).insert(key.to_owned(), value);
    }

    fn push(&mut self, name: &str, key: &str, value: Json) {
        let list = self.entry(name).entry(key).or_insert_with(|| json!([]));
        if let Json::Array(items) = list {
            items.push(value);
        }
    }

    fn gateway(&mut self, name: &str, address: &str) {
        let key = if address.contains(':') { "gateway_ipv6" } else { "gateway" };
        self.put(name, key, json!(address));
    }

    fn dns(&mut self, servers: &Json, search: &Json) {
        for (from, into) in [(servers, &mut self.servers), (search, &mut self.search)] {
            for item in listed(from) {
                if !into.contains(&item) {
                    into.push(item);
                }
            }
        }
    }

    fn route(&mut self, name: &str, to: &str, via: &Json, metric: &Json) {
        let default = matches!(to, "default" | "0.0.0.0/0" | "::/0" | "0.0.0.0/0.0.0.0");
        match via.as_str() {
            Some(via) if default && metric.is_null() => self.gateway(name, via),
            via => {
                let to = if default { "default" } else { to };
                let mut route = json!({ "to": to });
                if let Some(via) = via {
                    route["via"] = json!(via);
                }
                if let Some(metric) = metric.as_u64() {
                    route["metric"] = json!(metric);
                }
                self.push(name, "routes", route);
            }
        }
    }

    fn vlan(&mut self, name: &str, parent: &Json, id: &Json) {
        match (parent.as_str(), number(id)) {
            (Some(parent), Some(id)) => {
                self.push(parent, "vlans", json!(format!("{id}:{name}")));
                self.entry(name);
            }
            _ => self.wrong.push(format!("network: VLAN {name}: expected an id and a link")),
        }
    }

    fn bond(&mut self, name: &str, parts: &Json, options: Option<&Map<String, Json>>) {
        for part in listed(parts) {
            if let Some(part) = part.as_str() {
                self.put(part, "bond", json!(name));
            }
        }
        let options: Map<String, Json> = options
            .into_iter()
            .flatten()
            .map(|(key, value)| (bond_option(key), json!(scalar(value))))
            .collect();
        self.put(name, "bond_opts", Json::Object(options));
    }

    fn bridge(&mut self, name: &str, ports: &Json, stp: Option<bool>, delay: Option<u64>) {
        self.put(name, "bridge", json!("true"));
        for port in listed(ports) {
            if let Some(port) = port.as_str() {
                self.put(port, "bridge", json!(name));
            }
        }
        let options =
            json!({ "stp": stp.unwrap_or(false), "forward_delay": delay.unwrap_or(0).min(30) });
        self.put(name, "bridge_opts", options);
    }
}

fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn number(value: &Json) -> Option<u64> {
    value.as_u64().or(value.as_str().and_then(|text| text.parse().ok()))
}

/// netplan's and ifupdown's names of bond options as the kernel has them.
fn bond_option(name: &str) -> String {
    let name =
        name.strip_prefix("bond-").or(name.strip_prefix("bond_")).unwrap_or(name).replace('-', "_");
    match name.as_str() {
        "mii_monitor_interval" => "miimon".into(),
        "transmit_hash_policy" => "xmit_hash_policy".into(),
        "up_delay" => "updelay".into(),
        "down_delay" => "downdelay".into(),
        "primary_reselect_policy" => "primary_reselect".into(),
        "fail_over_mac_policy" => "fail_over_mac".into(),
        "arp_ip_targets" => "arp_ip_target".into(),
        _ => name,
    }
}

/// A list, a text with blanks, or nothing.
fn listed(value: &Json) -> Vec<Json> {
    match value {
        Json::Array(items) => items.clone(),
        Json::String(text) => text.split_whitespace().map(Json::from).collect(),
        _ => Vec::new(),
    }
}

fn version_2(document: &Json, out: &mut Out) {
    let section = |name: &str| document[name].as_object().cloned().unwrap_or_default();
    for (name, item) in section("ethernets") {
        netplan_link(&name, &item, out);
        if !item["set-name"].is_null() {
            out.wrong.push(format!("network: {name}: set-name: interfaces are not renamed"));
        }
    }
    for (name, item) in section("bonds") {
        netplan_link(&name, &item, out);
        out.bond(&name, &item["interfaces"], item["parameters"].as_object());
    }
    for (name, item) in section("bridges") {
        netplan_link(&name, &item, out);
        let options = &item["parameters"];
        out.bridge(
            &name,
            &item["interfaces"],
            options["stp"].as_bool(),
            number(&options["forward-delay"]),
        );
    }
    for (name, item) in section("vlans") {
        netplan_link(&name, &item, out);
        out.vlan(&name, &item["link"], &item["id"]);
    }
    for other in ["wifis", "modems", "tunnels", "vrfs", "dummy-devices"] {
        if document.get(other).is_some() {
            out.wrong.push(format!("network: {other}: not set up by ros"));
        }
    }
}

fn netplan_link(name: &str, item: &Json, out: &mut Out) {
    out.entry(name);
    let own = &item["match"];
    match (own["macaddress"].as_str(), own["name"].as_str()) {
        (Some(mac), _) => out.put(name, "match", json!(format!("mac={}", mac.to_lowercase()))),
        (None, Some(pattern)) => out.put(name, "match", json!(pattern)),
        (None, None) if own.get("driver").is_some() => {
            out.wrong.push(format!("network: {name}: match.driver: give name or macaddress"));
        }
        (None, None) => {}
    }
    for (theirs, ours) in
        [("dhcp4", "dhcp"), ("dhcp6", "dhcp6"), ("mtu", "mtu"), ("macaddress", "mac")]
    {
        if !item[theirs].is_null() {
            out.put(name, ours, item[theirs].clone());
        }
    }
    let addresses = item["addresses"].as_array().into_iter().flatten();
    for address in addresses {
        let text = address
            .as_str()
            .or(address.as_object().and_then(|map| map.keys().next()).map(String::as_str));
        if let Some(text) = text {
            out.push(name, "addresses", json!(text));
        }
    }
    for key in ["gateway4", "gateway6"] {
        if let Some(gateway) = item[key].as_str() {
            out.gateway(name, gateway);
        }
    }
    for route in item["routes"].as_array().into_iter().flatten() {
        if let Some(to) = route["to"].as_str() {
            out.route(name, to, &route["via"], &route["metric"]);
        }
    }
    out.dns(&item["nameservers"]["addresses"], &item["nameservers"]["search"]);
    if item["dhcp4"].is_null() && item["dhcp6"].is_null() && item["addresses"].is_null() {
        // netplan asks nobody unless it is told to.
        out.put(name, "dhcp", json!(false));
    }
}

fn version_1(document: &Json, out: &mut Out) {
    for item in document["config"].as_array().into_iter().flatten() {
        let name = item["name"].as_str().unwrap_or_default();
        match item["type"].as_str().unwrap_or_default() {
            "nameserver" => out.dns(&item["address"], &item["search"]),
            "route" => {
                out.wrong.push("network: a route without an interface: put it in a subnet".into())
            }
            "physical" => version_1_link(name, item, out),
            "bond" => {
                version_1_link(name, item, out);
                out.bond(name, &item["bond_interfaces"], item["params"].as_object());
            }
            "bridge" => {
                version_1_link(name, item, out);
                let stp = &item["params"]["bridge_stp"];
                let stp = stp.as_bool().or(stp.as_str().map(|word| word == "on" || word == "true"));
                out.bridge(
                    name,
                    &item["bridge_interfaces"],
                    stp,
                    number(&item["params"]["bridge_fd"]),
                );
            }
            "vlan" => {
                version_1_link(name, item, out);
                out.vlan(name, &item["vlan_link"], &item["vlan_id"]);
            }
            "loopback" => {}
            other => {
                out.wrong.push(format!("network: {name}: type {other:?} is not set up by ros"))
            }
        }
    }
}

fn version_1_link(name: &str, item: &Json, out: &mut Out) {
    out.entry(name);
    if let (Some(mac), Some("physical")) = (item["mac_address"].as_str(), item["type"].as_str()) {
        out.put(name, "match", json!(format!("mac={}", mac.to_lowercase())));
    }
    if !item["mtu"].is_null() {
        out.put(name, "mtu", item["mtu"].clone());
    }
    let mut asked = false;
    for subnet in item["subnets"].as_array().into_iter().flatten() {
        let kind = subnet["type"].as_str().unwrap_or_default();
        match kind {
            "dhcp" | "dhcp4" => {
                asked = true;
                out.put(name, "dhcp", json!(true));
            }
            "dhcp6" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless" | "ipv6_slaac" => {
                out.put(name, "dhcp6", json!(true));
            }
            "static" | "static6" => {
                if let Some(address) = with_prefix(subnet["address"].as_str(), &subnet["netmask"]) {
                    out.push(name, "addresses", json!(address));
                }
            }
            "manual" => {}
            other => out.wrong.push(format!("network: {name}: subnet type {other:?}")),
        }
        if let Some(gateway) = subnet["gateway"].as_str() {
            out.gateway(name, gateway);
        }
        for route in subnet["routes"].as_array().into_iter().flatten() {
            let network = route["network"].as_str().or(route["destination"].as_str());
            if let Some(to) = with_prefix(network, &route["netmask"]) {
                out.route(name, &to, &route["gateway"], &route["metric"]);
            }
        }
        out.dns(&subnet["dns_nameservers"], &subnet["dns_search"]);
    }
    if !asked {
        out.put(name, "dhcp", json!(false));
    }
}

/// `address` with the prefix length of `netmask` where it has none.
fn with_prefix(address: Option<&str>, netmask: &Json) -> Option<String> {
    let text = address?;
    if text.contains('/') {
        return Some(text.to_owned());
    }
    let prefix = match netmask {
        Json::Number(prefix) => prefix.as_u64().filter(|prefix| *prefix <= 128)?.to_string(),
        Json::String(mask) => match mask.parse::<Ipv4Addr>() {
            Ok(mask) => u32::from(mask).count_ones().to_string(),
            Err(_) => mask
                .parse::<std::net::Ipv6Addr>()
                .map(|mask| u128::from(mask).count_ones().to_string())
                .or_else(|_| mask.parse::<u8>().map(|prefix| prefix.to_string()))
                .ok()?,
        },
        _ => if text.contains(':') { "64" } else { "24" }.to_owned(),
    };
    Some(format!("{text}/{prefix}"))
}

/// OpenStack's `network_data.json` (Nova, "Metadata service").
fn openstack(document: &Json, out: &mut Out) {
    let links = document["links"].as_array().cloned().unwrap_or_default();
    let name_of =
        |id: &Json| links.iter().find(|link| &link["id"] == id).map(|link| link_name(link, &links));
    for link in &links {
        let name = link_name(link, &links);
        out.entry(&name);
        out.put(&name, "dhcp", json!(false));
        if let Some(mtu) = link["mtu"].as_u64() {
            out.put(&name, "mtu", json!(mtu));
        }
        match link["type"].as_str().unwrap_or_default() {
            "bond" => {
                let parts: Vec<String> =
                    listed(&link["bond_links"]).iter().filter_map(name_of).collect();
                let options = json!({ "mode": link["bond_mode"], "miimon": link["bond_miimon"], "xmit_hash_policy": link["bond_xmit_hash_policy"] });
                let given: Map<String, Json> = options
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                out.bond(&name, &json!(parts), Some(&given));
            }
            "vlan" => out.vlan(&name, &json!(name_of(&link["vlan_link"])), &link["vlan_id"]),
            _ => {
                if let Some(mac) = link["ethernet_mac_address"].as_str() {
                    out.put(&name, "match", json!(format!("mac={}", mac.to_lowercase())));
                }
            }
        }
    }
    for network in document["networks"].as_array().into_iter().flatten() {
        let Some(name) = name_of(&network["link"]) else { continue };
        match network["type"].as_str().unwrap_or_default() {
            "ipv4_dhcp" => out.put(&name, "dhcp", json!(true)),
            "ipv6_dhcp" | "ipv6_slaac" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless" => {
                out.put(&name, "dhcp6", json!(true));
            }
            _ => {
                if let Some(address) =
                    with_prefix(network["ip_address"].as_str(), &network["netmask"])
                {
                    out.push(&name, "addresses", json!(address));
                }
            }
        }
        for route in network["routes"].as_array().into_iter().flatten() {
            if let Some(to) = with_prefix(route["network"].as_str(), &route["netmask"]) {
                out.route(&name, &to, &route["gateway"], &Json::Null);
            }
        }
    }
    for service in document["services"].as_array().into_iter().flatten() {
        if service["type"] == "dns" {
            out.dns(&json!([service["address"]]), &Json::Null);
        }
    }
}

/// A bond's name must fit (15 bytes); links of hardware are found by their address, whatever they are called.
fn link_name(link: &Json, links: &[Json]) -> String {
    let of_kind = |kind: &str| {
        links.iter().filter(|other| other["type"] == kind).position(|other| other == link)
    };
    match link["type"].as_str() {
        Some("bond") => format!("bond{}", of_kind("bond").unwrap_or(0)),
        Some("vlan") => format!("vlan{}", number(&link["vlan_id"]).unwrap_or(0)),
        _ => link["id"].as_str().unwrap_or("link").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{DOCUMENT, network::NETWORK};
    use crate::{Layer, check, document};
    use proptest::prelude::*;

    fn converted(text: &str) -> (Json, Vec<String>) {
        let node = document::parse(text, Layer::Instance, "network").unwrap();
        let (own, wrong) = convert(&node.to_json());
        let node = document::parse(&own.to_string(), Layer::Instance, "network").unwrap();
        let mut found = Vec::new();
        let kept = check::check(node, NETWORK, "", &mut found).unwrap();
        assert_eq!(found, [], "what is made is what the schema has");
        let _ = DOCUMENT;
        (check::to_json(&kept, NETWORK), wrong)
    }

    #[test]
    fn netplan_and_version_1_say_the_same() {
        let v2 = "network:\n  version: 2\n  ethernets:\n    lan0:\n      match: {macaddress: 'AA:00:00:00:00:01'}\n      addresses: [10.0.0.2/24]\n      \
                  routes: [{to: default, via: 10.0.0.1}, {to: 10.9.0.0/16, via: 10.0.0.9, metric: 5}]\n      nameservers: {addresses: [9.9.9.9], search: [x]}\n";
        let v1 = "version: 1\nconfig:\n- type: physical\n  name: lan0\n  mac_address: 'aa:00:00:00:00:01'\n  \
                  subnets: [{type: static, address: 10.0.0.2, netmask: 255.255.255.0, gateway: 10.0.0.1, routes: [{network: 10.9.0.0, netmask: 255.255.0.0, gateway: 10.0.0.9, metric: 5}]}]\n\
                  - {type: nameserver, address: [9.9.9.9], search: [x]}\n";
        for text in [v2, v1] {
            let (json, wrong) = converted(text);
            assert_eq!(wrong, Vec::<String>::new());
            let lan = &json["interfaces"]["lan0"];
            assert_eq!(lan["addresses"], json!(["10.0.0.2/24"]), "{json}");
            assert_eq!(
                (&lan["gateway"], &lan["match"]),
                (&json!("10.0.0.1"), &json!("mac=aa:00:00:00:00:01"))
            );
            assert_eq!(
                lan["routes"],
                json!([{"to": "10.9.0.0/16", "via": "10.0.0.9", "metric": 5}])
            );
            assert_eq!(json["dns"], json!({"nameservers": ["9.9.9.9"], "search": ["x"]}));
        }
    }

    #[test]
    fn bonds_bridges_and_vlans() {
        let v2 = "version: 2\nethernets: {a: {}, b: {}, c: {dhcp4: true}}\nbonds:\n  bond0: {interfaces: [a, b], parameters: {mode: active-backup, mii-monitor-interval: 100}, dhcp4: true}\n\
                  bridges: {br0: {interfaces: [c], addresses: [10.1.0.1/24], parameters: {stp: true, forward-delay: 4}}}\nvlans: {v7: {id: 7, link: bond0, addresses: ['fd00::7/64']}}\nwifis: {w: {}}\n";
        let v1 = "version: 1\nconfig:\n- {type: physical, name: a}\n- {type: physical, name: b}\n- {type: physical, name: c, subnets: [{type: dhcp}]}\n\
                  - {type: bond, name: bond0, bond_interfaces: [a, b], params: {bond-mode: active-backup, bond-miimon: 100}, subnets: [{type: dhcp}]}\n\
                  - {type: bridge, name: br0, bridge_interfaces: [c], params: {bridge_stp: 'on', bridge_fd: 4}, subnets: [{type: static, address: 10.1.0.1/24}]}\n\
                  - {type: vlan, name: v7, vlan_link: bond0, vlan_id: 7, subnets: [{type: static6, address: 'fd00::7/64'}]}\n- {type: wifi, name: w}\n";
        for text in [v2, v1] {
            let (json, wrong) = converted(text);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            let of = |name: &str| &json["interfaces"][name];
            assert_eq!((&of("a")["bond"], &of("b")["bond"]), (&json!("bond0"), &json!("bond0")));
            assert_eq!(of("bond0")["bond_opts"], json!({"mode": "active-backup", "miimon": "100"}));
            assert_eq!(
                (&of("bond0")["dhcp"], &of("bond0")["vlans"]),
                (&json!(true), &json!(["7:v7"]))
            );
            assert_eq!((&of("br0")["bridge"], &of("c")["bridge"]), (&json!("true"), &json!("br0")));
            assert_eq!(of("br0")["bridge_opts"], json!({"stp": true, "forward_delay": 4}));
            assert_eq!(of("v7")["addresses"], json!(["fd00::7/64"]));
        }
    }

    #[test]
    fn openstack_names_links_by_their_addresses() {
        let text = r#"{"links": [
            {"id": "tap1", "type": "ovs", "ethernet_mac_address": "FA:16:3E:00:00:01", "mtu": 1442},
            {"id": "v", "type": "vlan", "vlan_link": "tap1", "vlan_id": 101}],
          "networks": [{"id": "n0", "link": "tap1", "type": "ipv4", "ip_address": "10.0.0.5", "netmask": "255.255.255.0",
              "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}]},
            {"id": "n1", "link": "v", "type": "ipv4_dhcp"}],
          "services": [{"type": "dns", "address": "10.0.0.2"}]}"#;
        let (json, wrong) = converted(text);
        assert_eq!(wrong, Vec::<String>::new());
        let link = &json["interfaces"]["tap1"];
        assert_eq!((&link["match"], &link["mtu"]), (&json!("mac=fa:16:3e:00:00:01"), &json!(1442)));
        assert_eq!(
            (&link["addresses"], &link["gateway"]),
            (&json!(["10.0.0.5/24"]), &json!("10.0.0.1"))
        );
        assert_eq!(
            (&link["vlans"], &json["interfaces"]["vlan101"]["dhcp"]),
            (&json!(["101:vlan101"]), &json!(true))
        );
        assert_eq!(json["dns"]["nameservers"], json!(["10.0.0.2"]));
    }

    proptest! {
        #[test]
        fn no_document_panics(text in "(version: [12]\n)(ethernets|config|bonds|bridges|vlans|links): [\\[\\]{}a-z0-9:, '\"/.-]{0,80}") {
            if let Ok(node) = document::parse(&text, Layer::Instance, "n") {
                let _ = convert(&node.to_json());
            }
        }
    }
}

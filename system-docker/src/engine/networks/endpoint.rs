//! What a container has of networks; part of its record.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bollard_stubs::models::EndpointSettings;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::network::{BRIDGE, Network};
use super::ports::Port;
use crate::engine::container::Record;
use crate::engine::error::{ApiError, Result};
use crate::engine::request::hostname;
use crate::net::link::Plug;

/// A container's endpoints, and its published ports while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// One for each network.
    pub endpoints: Vec<Endpoint>,
    /// Ports of this machine that are its own now.
    pub ports: Vec<Port>,
}

impl Attachment {
    /// Whether it has links, addresses or ports.
    pub fn is_live(&self) -> bool {
        !self.ports.is_empty() || self.endpoints.iter().any(|endpoint| endpoint.live.is_some())
    }

    /// The way out: the endpoint that was given priority, then the one first by name.
    pub fn gateway(&self) -> Option<&Endpoint> {
        let open = |endpoint: &&Endpoint| {
            endpoint.live.as_ref().is_some_and(|live| !live.gateways.is_empty())
        };
        let order =
            |endpoint: &&Endpoint| (std::cmp::Reverse(endpoint.priority), endpoint.network.clone());
        self.endpoints.iter().filter(open).min_by_key(order)
    }

    /// The endpoint in a network.
    pub fn endpoint(&self, network: &Network) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.is_in(network))
    }
}

/// A container's place in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name, or what was asked for until it is found.
    pub network: String,
    /// The network's id; empty before the first start.
    pub network_id: String,
    /// More names in that network.
    pub aliases: Vec<String>,
    /// `container`, and the name that this container has for it.
    pub links: Vec<(String, String)>,
    /// Address that was asked for.
    pub v4: Option<Ipv4Addr>,
    /// Address that was asked for.
    pub v6: Option<Ipv6Addr>,
    /// Hardware address that was asked for.
    pub mac: Option<[u8; 6]>,
    /// The highest is the way out.
    pub priority: i64,
    /// Addresses besides, which lead nowhere but along the link.
    #[serde(default)]
    pub link_local: Vec<IpNet>,
    /// What its creator noted down.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// While the container runs.
    pub live: Option<Live>,
}

/// What an endpoint has while its container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// 64 hex digits.
    pub id: String,
    /// Host's end of the pair of links.
    pub host: String,
    /// The container's end.
    pub device: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Addresses, each with the network's length of prefix.
    pub addresses: Vec<IpNet>,
    /// Where packets go that leave the network; none in an internal one.
    pub gateways: Vec<IpAddr>,
}

impl Live {
    /// What the kernel is asked for.
    pub fn to_plug(&self, network: &Network, link_local: &[IpNet]) -> Plug {
        Plug {
            host: self.host.clone(),
            device: self.device.clone(),
            bridge: network.bridge.interface.clone(),
            mac: self.mac,
            mtu: network.bridge.mtu,
            addresses: [&self.addresses[..], link_local].concat(),
            isolated: !network.bridge.between,
        }
    }

    /// Its address of a family.
    pub fn address(&self, v4: bool) -> Option<IpNet> {
        self.addresses.iter().copied().find(|address| address.addr().is_ipv4() == v4)
    }
}

impl Endpoint {
    /// What a client asks of its place in the network `network`.
    pub fn new(network: &str, asked: &EndpointSettings) -> Result<Self> {
        let ipam = asked.ipam_config.clone().unwrap_or_default();
        // Others' options are notes; what Docker gives a meaning would have none here.
        let options = asked.driver_opts.clone().unwrap_or_default();
        if let Some(name) = options.keys().find(|name| name.starts_with("com.docker.")) {
            return Err(ApiError::bad(format!("endpoint option {name} is not available")));
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let wrong = |text: &str| ApiError::bad(format!("invalid address {text:?}"));
        let link_local = ipam.link_local_ips.unwrap_or_default();
        let link_local = link_local.iter().map(|text| parse_link_local(text));
        let link_local = link_local.collect::<Result<Vec<_>>>()?;
        let v4 = filled(ipam.ipv4_address)
            .map(|text| text.parse().map_err(|_| wrong(&text)))
            .transpose()?;
        let v6 = filled(ipam.ipv6_address)
            .map(|text| text.parse().map_err(|_| wrong(&text)))
            .transpose()?;
        let mac = filled(asked.mac_address.clone()).map(|text| parse_mac(&text)).transpose()?;
        let links = asked.links.iter().flatten().map(|link| split_link(link)).collect();
        let aliases = asked.aliases.clone().unwrap_or_default();
        if network == BRIDGE && (v4.is_some() || v6.is_some()) {
            return Err(ApiError::bad(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if network == BRIDGE && !aliases.is_empty() {
            return Err(ApiError::bad(
                "network-scoped aliases are only supported for user-defined networks",
            ));
        }
        Ok(Self {
            network: network.to_owned(),
            aliases,
            links,
            v4,
            v6,
            mac,
            priority: asked.gw_priority.unwrap_or(0),
            link_local,
            options: options.into_iter().collect(),
            ..Self::default()
        })
    }

    /// Whether it is this network's.
    pub fn is_in(&self, network: &Network) -> bool {
        match self.network_id.is_empty() {
            true => self.network == network.name || network.id.starts_with(&self.network),
            false => self.network_id == network.id,
        }
    }

    /// Addresses it has now.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.live.iter().flat_map(|live| &live.addresses).map(IpNet::addr)
    }

    /// The names by which the container `record` is found in this network; none in Docker's own `bridge`.
    pub fn names(&self, record: &Record) -> Vec<String> {
        if self.network == BRIDGE {
            return Vec::new();
        }
        let mut names = vec![record.name.clone()];
        names.extend(self.aliases.iter().cloned());
        names.extend([record.id[..12].to_owned(), hostname(record)]);
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// `container:alias`, or a container alone.
pub fn split_link(text: &str) -> (String, String) {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    let plain = |name: &str| name.trim_start_matches('/').to_owned();
    (plain(container), plain(alias))
}

fn parse_link_local(text: &str) -> Result<IpNet> {
    let address: Option<IpAddr> = text.parse().ok();
    let net = address.and_then(|address| match address {
        IpAddr::V4(v4) => IpNet::new(address, 16).ok().filter(|_| v4.is_link_local()),
        IpAddr::V6(v6) => IpNet::new(address, 64).ok().filter(|_| v6.is_unicast_link_local()),
    });
    net.ok_or_else(|| ApiError::bad(format!("{text:?} is not a link-local address")))
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let wrong = || ApiError::bad(format!("invalid MAC address: {text:?}"));
    let octets: Vec<u8> = text
        .split([':', '-'])
        .map(|pair| u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    let mac: [u8; 6] = octets.try_into().map_err(|_| wrong())?;
    // The lowest bit of the first octet says "a group".
    if mac[0] & 1 == 1 { Err(wrong()) } else { Ok(mac) }
}

/// As people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard_stubs::models::EndpointIpamConfig;

    use super::*;

    #[test]
    fn settings_are_parsed_or_refused() {
        let asked = |v4: &str, mac: &str| EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(v4.into()),
                ..Default::default()
            }),
            mac_address: Some(mac.into()),
            links: Some(vec!["db:database".into(), "/web".into()]),
            ..Default::default()
        };
        let endpoint = Endpoint::new("front", &asked("10.0.0.9", "02:42:00:00:00:0f")).unwrap();
        assert_eq!(endpoint.v4, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(endpoint.mac.map(mac_text).as_deref(), Some("02:42:00:00:00:0f"));
        let link = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(endpoint.links, [link("db", "database"), link("web", "web")]);
        for (network, v4, mac) in [
            ("front", "10.0.0", ""),
            ("front", "", "02:42"),
            ("front", "", "01:00:00:00:00:00"),
            ("bridge", "10.0.0.9", ""),
        ] {
            assert!(Endpoint::new(network, &asked(v4, mac)).is_err(), "{network} {v4} {mac}");
        }
        for (name, known) in [("a", true), ("com.docker.network.endpoint.sysctls", false)] {
            let options = Some(HashMap::from([(name.to_owned(), "b".to_owned())]));
            let with = EndpointSettings { driver_opts: options, ..Default::default() };
            assert_eq!(Endpoint::new("front", &with).is_ok(), known, "{name}");
        }
        for (text, known) in [("169.254.8.8", true), ("fe80::1", true), ("10.0.0.1", false)] {
            assert_eq!(parse_link_local(text).is_ok(), known, "{text}");
        }
    }

    #[test]
    fn the_way_out_is_chosen_by_priority_then_name() {
        let endpoint = |network: &str, priority: i64, internal: bool| Endpoint {
            network: network.into(),
            priority,
            live: Some(Live {
                id: String::new(),
                host: String::new(),
                device: String::new(),
                mac: [0; 6],
                addresses: Vec::new(),
                gateways: if internal { vec![] } else { vec![IpAddr::from([10, 0, 0, 1])] },
            }),
            ..Endpoint::default()
        };
        let chosen = |endpoints: Vec<Endpoint>| {
            let attachment = Attachment { endpoints, ports: Vec::new() };
            attachment.gateway().map(|endpoint| endpoint.network.clone())
        };
        let (a, b) = (endpoint("a", 0, false), endpoint("b", 0, false));
        assert_eq!(chosen(vec![b.clone(), a.clone()]).as_deref(), Some("a"));
        assert_eq!(chosen(vec![a.clone(), endpoint("c", 5, false)]).as_deref(), Some("c"));
        assert_eq!(chosen(vec![endpoint("a", 9, true), b]).as_deref(), Some("b"));
        assert_eq!(chosen(vec![endpoint("a", 0, true)]), None);
    }
}

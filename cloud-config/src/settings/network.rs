//! `ros.network`, typed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Command;

/// Network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Name, glob or `mac=…` → configuration.
    pub interfaces: BTreeMap<String, Interface>,
    /// Name servers.
    pub dns: Dns,
    /// Seconds to wait for a lease.
    pub dhcp_timeout: Option<u64>,
    /// Commands before the network is set up.
    pub pre_cmds: Vec<Command>,
    /// Commands after that.
    pub post_cmds: Vec<Command>,
    /// Proxy for HTTP.
    pub http_proxy: Option<String>,
    /// Proxy for HTTPS.
    pub https_proxy: Option<String>,
    /// Hosts without proxy.
    pub no_proxy: Option<String>,
}

impl Network {
    /// Proxies as environment variables, both spellings.
    #[must_use]
    pub fn proxies(&self) -> Vec<(String, String)> {
        let all = [
            ("http_proxy", &self.http_proxy),
            ("https_proxy", &self.https_proxy),
            ("no_proxy", &self.no_proxy),
        ];
        let set = all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        set.flat_map(|(name, value)| {
            [(name.to_owned(), value.clone()), (name.to_uppercase(), value)]
        })
        .collect()
    }
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// What it applies to, if not its name: glob or `mac=…`.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// DHCP; by default when there is no address.
    pub dhcp: Option<bool>,
    /// DHCPv6 and router advertisements.
    pub dhcp6: Option<bool>,
    /// One address with prefix length.
    pub address: Option<String>,
    /// Addresses with prefix length, IPv4 and IPv6.
    pub addresses: Vec<String>,
    /// A link-local IPv4 address when nobody answers.
    pub ipv4ll: bool,
    /// IPv4 router.
    pub gateway: Option<String>,
    /// IPv6 router.
    pub gateway_ipv6: Option<String>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Hardware address to take.
    pub mac: Option<String>,
    /// `true`: a bridge; a name: a port of that bridge.
    pub bridge: Option<String>,
    /// Options of a bridge.
    pub bridge_opts: Bridge,
    /// The bond that this is a part of.
    pub bond: Option<String>,
    /// Options of a bond.
    pub bond_opts: BTreeMap<String, String>,
    /// `100`, `200:name`.
    #[serde(deserialize_with = "super::cloud::words")]
    pub vlans: Vec<String>,
    /// Commands before it is set up.
    pub pre_up: Vec<Command>,
    /// Commands after that.
    pub post_up: Vec<Command>,
}

/// Options of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bridge {
    /// Spanning tree.
    pub stp: bool,
    /// Seconds until a port forwards.
    pub forward_delay: u32,
    /// Ports keep their VLANs apart.
    pub vlan_filtering: bool,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Destination with prefix length, or `default`.
    pub to: String,
    /// Router; none: on the link.
    pub via: Option<String>,
    /// Lower is better.
    pub metric: Option<u32>,
    /// Routing table.
    pub table: Option<u32>,
    /// The router is on the link whatever the addresses say.
    pub on_link: bool,
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses.
    pub nameservers: Vec<String>,
    /// Domains.
    pub search: Vec<String>,
}

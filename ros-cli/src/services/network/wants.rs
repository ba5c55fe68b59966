//! From the configuration to what the network is to become. Every interface that no entry names does DHCP.

use std::net::IpAddr;
use std::time::Duration;

use cloud_config::settings::{Interface as Entry, Network};

use super::dhcpcd::Link;
use super::interfaces::{Interface, entry_of};
use super::resolv::Dns;
use super::run::Wants;

/// How long an address may take when nothing is configured.
const LIMIT: Duration = Duration::from_secs(20);

impl Wants {
    /// What `network` says about the interfaces that are `present`, and what could not be understood of it.
    #[must_use]
    pub fn of(network: &Network, present: &[Interface]) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        let links = present.iter().map(|interface| link(network, interface, &mut wrong)).collect();
        let dns =
            Dns { servers: network.dns.nameservers.clone(), search: network.dns.search.clone() };
        let limit = network.dhcp_timeout.map_or(LIMIT, Duration::from_secs);
        (Self { links, dns, limit }, wrong)
    }
}

fn link(network: &Network, interface: &Interface, wrong: &mut Vec<String>) -> Link {
    let patterns = network
        .interfaces
        .iter()
        .map(|(name, entry)| (entry.matches.as_deref().unwrap_or(name), entry));
    let name = interface.name.clone();
    match entry_of(interface, patterns) {
        None => Link { name, dhcp: true, ..Link::default() },
        Some(entry) => configured(name, entry, wrong),
    }
}

fn configured(name: String, entry: &Entry, wrong: &mut Vec<String>) -> Link {
    let addresses: Vec<String> = entry.address.iter().chain(&entry.addresses).cloned().collect();
    let has_v4 = addresses.iter().any(|address| !address.contains(':'));
    let mut router = |key: &str, text: &Option<String>| -> Option<IpAddr> {
        let text = text.as_ref()?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            wrong.push(format!("ros.network.interfaces.{name}.{key}: {text:?} is not an address"));
        }
        parsed
    };
    let gateway = router("gateway", &entry.gateway);
    let gateway_ipv6 = router("gateway_ipv6", &entry.gateway_ipv6);
    let dhcp = entry.dhcp.unwrap_or(!has_v4 && addresses.is_empty()) || entry.dhcp6 == Some(true);
    Link { name, dhcp, addresses, gateway, gateway_ipv6, mtu: entry.mtu, ipv4ll: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dhcp_unless_an_address_is_given() {
        let present =
            ["eth0", "eth1"].map(|name| Interface { name: name.into(), mac: String::new() });
        let mut network = Network::default();
        let fixed = Entry {
            address: Some("10.0.0.5/24".into()),
            gateway: Some("x".into()),
            ..Entry::default()
        };
        network.interfaces.insert("eth1".into(), fixed);
        let (wants, wrong) = Wants::of(&network, &present);
        assert!(wants.links[0].dhcp && !wants.links[1].dhcp);
        assert_eq!(wants.links[1].addresses, ["10.0.0.5/24"]);
        assert_eq!(wrong.len(), 1, "the gateway is no address");
    }
}

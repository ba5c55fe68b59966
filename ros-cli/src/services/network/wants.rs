//! From the configuration to what the network is to become. Every interface that no entry names does DHCP.

use std::net::IpAddr;
use std::time::Duration;

use cloud_config::settings::{Command, Interface as Entry, Network, Route};

use super::dhcpcd::{self, Link};
use super::interfaces::Interface;
use super::links;
use super::resolv::Dns;
use super::run::Wants;

/// How long an address may take when nothing is configured.
const LIMIT: Duration = Duration::from_secs(20);

impl Wants {
    /// What `network` says about the interfaces that are `present`, and what could not be understood of it.
    #[must_use]
    pub fn of(network: &Network, present: &[Interface]) -> (Self, Vec<String>) {
        let (topology, mut wrong) = links::topology(network, present);
        let hardware = present.iter().map(|one| (one.name.clone(), links::entry(network, one)));
        let made = topology.made.iter().map(|name| (name.clone(), network.interfaces.get(name)));
        let all: Vec<(String, Option<&Entry>)> = hardware.chain(made).collect();
        let own = all.iter().filter(|(name, _)| !topology.parts.contains(name));
        let links = own.map(|(name, entry)| link(name.clone(), *entry, &mut wrong)).collect();
        let hooks = |of: fn(&Entry) -> &Vec<Command>| -> Vec<Vec<String>> {
            let entries = all.iter().filter_map(|(_, entry)| *entry);
            entries.flat_map(of).map(Command::words).collect()
        };
        let general = |commands: &[Command]| commands.iter().map(Command::words).collect();
        let before: Vec<Vec<String>> = [general(&network.pre_cmds), hooks(|e| &e.pre_up)].concat();
        let after = [hooks(|e| &e.post_up), general(&network.post_cmds)].concat();
        let dns =
            Dns { servers: network.dns.nameservers.clone(), search: network.dns.search.clone() };
        let limit = network.dhcp_timeout.map_or(LIMIT, Duration::from_secs);
        (Self { links, steps: topology.steps, before, after, dns, limit }, wrong)
    }
}

fn link(name: String, entry: Option<&Entry>, wrong: &mut Vec<String>) -> Link {
    match entry {
        None => Link { name, dhcp: true, ..Link::default() },
        Some(entry) => configured(name, entry, wrong),
    }
}

fn configured(name: String, entry: &Entry, wrong: &mut Vec<String>) -> Link {
    let addresses: Vec<String> = entry.address.iter().chain(&entry.addresses).cloned().collect();
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
    let mut routes = Vec::new();
    for route in &entry.routes {
        let via = router("routes", &route.via);
        let sound = route.to == "default"
            || route.to.split_once('/').is_some_and(|(to, _)| to.parse::<IpAddr>().is_ok());
        if sound && via.is_some() == route.via.is_some() {
            let Route { metric, table, on_link, .. } = *route;
            routes.push(dhcpcd::Route { to: route.to.clone(), via, metric, table, on_link });
        }
    }
    // An entry that only asks for IPv6 does not ask for IPv4.
    let dhcp = entry.dhcp.unwrap_or(addresses.is_empty() && entry.dhcp6 != Some(true));
    Link {
        name,
        dhcp,
        dhcp6: entry.dhcp6,
        addresses,
        gateway,
        gateway_ipv6,
        mtu: entry.mtu,
        ipv4ll: entry.ipv4ll,
        routes,
    }
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

//! `/etc/hosts` and `/etc/resolv.conf` of a container, as its networks make them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_stubs::models::HostConfig;

use super::asked::Mode;
use super::links;
use crate::engine::Engine;
use crate::engine::container::{Container, Record};
use crate::engine::error::{ApiError, Result};
use crate::engine::request::hostname;
use crate::net::dns;

/// Files that are made for a container and bound into it.
pub const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

impl Engine {
    /// Writes the files of a container that starts; answers the folder that they are in, which is another's when it
    /// shares that one's network.
    pub fn network_files(&self, container: &Container, record: &Record) -> Result<PathBuf> {
        if let Mode::Container(name) = Mode::parse(record.host_config.network_mode.as_deref()) {
            let owner = self.network_owner(&name)?;
            if !owner.record().is_service() {
                return Ok(owner.dir().to_owned());
            }
        }
        let name = format!("{}\n", hostname(record));
        fs::write(container.dir().join("hostname"), name)?;
        let links = self.links(record)?;
        let links: String = links.iter().filter_map(links::Link::line).collect();
        fs::write(container.dir().join("hosts"), hosts(record) + &links)?;
        fs::write(container.dir().join("resolv.conf"), resolv_conf(record))?;
        Ok(container.dir().to_owned())
    }

    /// The container at the end of a chain of `container:`, whose network it is.
    fn network_owner(&self, name: &str) -> Result<Arc<Container>> {
        let mut owner = self.container(name)?;
        for _ in 0..self.containers().len() {
            let mode = owner.record().host_config.network_mode.clone();
            let Mode::Container(next) = Mode::parse(mode.as_deref()) else { return Ok(owner) };
            owner = self.container(&next)?;
        }
        Err(ApiError::bad(format!("container {name} shares its network in a circle")))
    }
}

/// Writes `hosts` anew where it is: the container has that very file.
pub fn rewrite_hosts(container: &Container) -> Result<()> {
    let text = hosts(&container.record());
    Ok(fs::write(container.dir().join("hosts"), text)?)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn hosts(record: &Record) -> String {
    const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    let name = hostname(record);
    let mode = Mode::parse(record.host_config.network_mode.as_deref());
    let mut text = match mode {
        Mode::Host => read("/etc/hosts"),
        Mode::Networks(_) => LOCAL.to_owned(),
        Mode::None | Mode::Container(_) => format!("{LOCAL}127.0.1.1\t{name}\n"),
    };
    let domain = record.config.domainname.clone().filter(|domain| !domain.is_empty());
    let names = domain.map_or_else(|| name.clone(), |domain| format!("{name}.{domain} {name}"));
    for endpoint in &record.network.endpoints {
        text.extend(endpoint.addresses().map(|address| format!("{address}\t{names}\n")));
    }
    text.extend(record.host_config.extra_hosts.iter().flatten().filter_map(|entry| {
        let (name, address) = entry.split_once([':', '='])?;
        let address = match address {
            "host-gateway" => gateway(record).to_string(),
            address => address.trim_matches(['[', ']']).to_owned(),
        };
        Some(format!("{address}\t{name}\n"))
    }));
    text
}

/// Where the container finds this machine.
pub(super) fn gateway(record: &Record) -> IpAddr {
    let live = record.network.gateway().and_then(|endpoint| endpoint.live.as_ref());
    let first = live.and_then(|live| live.gateways.first().copied());
    first.unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

fn resolv_conf(record: &Record) -> String {
    let host = &record.host_config;
    let in_network = matches!(Mode::parse(host.network_mode.as_deref()), Mode::Networks(_));
    let machine = read("/etc/resolv.conf");
    let asked = host.dns.clone().unwrap_or_default();
    if asked.is_empty() && !in_network {
        return machine;
    }
    let servers = if in_network { vec![dns::ADDRESS.to_string()] } else { asked };
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let search = host.dns_search.clone().filter(|list| !list.is_empty());
    let search = search.unwrap_or_else(|| {
        let line = machine.lines().rev().find_map(|line| line.strip_prefix("search "));
        let of_machine = line.filter(|_| in_network).unwrap_or_default();
        of_machine.split_whitespace().map(str::to_owned).collect()
    });
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = host.dns_options.clone().unwrap_or_default();
    if in_network && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// Servers that a container's name server asks.
pub fn servers(host: &HostConfig) -> Vec<IpAddr> {
    let asked = host.dns.iter().flatten().filter_map(|text| text.parse().ok());
    let asked: Vec<IpAddr> = asked.collect();
    if !asked.is_empty() {
        return asked;
    }
    let machine = read("/etc/resolv.conf");
    let lines = machine.lines().filter_map(|line| line.strip_prefix("nameserver"));
    lines.filter_map(|text| text.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(mode: &str) -> Record {
        let mut record = Record::example();
        record.host_config.network_mode = Some(mode.into());
        record
    }

    #[test]
    fn a_container_in_networks_asks_its_own_server() {
        let mut record = record("front");
        record.host_config.dns = Some(vec!["192.0.2.53".into()]);
        record.host_config.dns_search = Some(vec!["example.org".into()]);
        record.host_config.dns_options = Some(vec!["timeout:1".into()]);
        let text = resolv_conf(&record);
        let expected = "nameserver 127.0.0.11\nsearch example.org\noptions timeout:1 ndots:0\n";
        assert_eq!(text, expected);
        assert_eq!(servers(&record.host_config), [IpAddr::from([192, 0, 2, 53])]);
        record.host_config.network_mode = Some("host".into());
        let text = resolv_conf(&record);
        assert_eq!(text, "nameserver 192.0.2.53\nsearch example.org\noptions timeout:1\n");
    }

    #[test]
    fn extra_hosts_know_the_gateway() {
        let mut record = record("none");
        record.host_config.extra_hosts =
            Some(vec!["db:192.0.2.7".into(), "six=[fd00::1]".into(), "up:host-gateway".into()]);
        let text = hosts(&record);
        for line in ["192.0.2.7\tdb", "fd00::1\tsix", "127.0.0.1\tup"] {
            assert!(text.lines().any(|own| own == line), "{line} is not in {text}");
        }
    }
}

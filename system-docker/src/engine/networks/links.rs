//! Links (`--link`), as containers in Docker's own `bridge` have them: the other's address in `/etc/hosts`, and what it is
//! in the environment. In other networks a link is one more name, see [`super::names`].

use std::net::IpAddr;
use std::sync::Arc;

use bollard_stubs::models::HostConfig;

use super::asked::Mode;
use super::endpoint::split_link;
use super::files::gateway;
use super::network::BRIDGE;
use super::ports::parse_port;
use crate::engine::Engine;
use crate::engine::container::{Container, Record};
use crate::engine::error::{ApiError, Result};

/// A link, resolved.
pub struct Link {
    alias: String,
    other: Arc<Record>,
    address: Option<IpAddr>,
}

impl Engine {
    /// Refuses links to what is not there, and from where they lead nowhere.
    pub(super) fn check_links(&self, host: &HostConfig, mode: &str) -> Result<()> {
        for text in host.links.iter().flatten() {
            let (name, _) = split_link(text);
            self.container(&name)
                .map_err(|_| ApiError::bad(format!("could not get container for {name}")))?;
            if mode != BRIDGE {
                return Err(ApiError::bad(
                    "conflicting options: links need a network: --network bridge, or one of your own",
                ));
            }
        }
        Ok(())
    }

    /// The links of a container that starts. One to a container with the host's network leads to the host.
    pub fn links(&self, record: &Record) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for text in record.host_config.links.iter().flatten() {
            let (name, alias) = split_link(text);
            let other = self.container(&name)?;
            let other = other.running().map(|_| other.record()).map_err(|_| {
                ApiError::conflict(format!(
                    "Cannot link to a non running container: /{name} AS {alias}"
                ))
            })?;
            let address = match Mode::parse(other.host_config.network_mode.as_deref()) {
                Mode::Host => Some(gateway(record)),
                _ => {
                    let mut all = other.network.endpoints.iter();
                    let bridged = all.find(|endpoint| endpoint.network == BRIDGE);
                    bridged.and_then(|endpoint| endpoint.addresses().next())
                }
            };
            links.push(Link { alias, other, address });
        }
        Ok(links)
    }

    /// Forgets a link of a container.
    pub fn remove_link(&self, container: &Container, alias: &str) -> Result<()> {
        let gone = container.change(|record| {
            let links = record.host_config.links.get_or_insert_default();
            let before = links.len();
            links.retain(|link| split_link(link).1 != alias);
            links.len() < before
        })?;
        match gone {
            true => Ok(()),
            false => Err(ApiError::missing(format!(
                "could not find link {alias} of container {}",
                container.record().name
            ))),
        }
    }
}

impl Link {
    /// Its line of `/etc/hosts`.
    pub fn line(&self) -> Option<String> {
        let (alias, id, name) = (&self.alias, &self.other.id[..12], &self.other.name);
        Some(format!("{}\t{alias} {id} {name}\n", self.address?))
    }

    /// `DB_NAME`, `DB_PORT_80_TCP_ADDR`, `DB_ENV_USER`…, for the container `own`.
    pub fn variables(&self, own: &str) -> Vec<String> {
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let mut all = vec![format!("{prefix}_NAME=/{own}/{}", self.alias)];
        let exposed = self.other.config.exposed_ports.iter().flatten();
        let mut ports: Vec<_> = exposed.filter_map(|text| parse_port(text).ok()).collect();
        ports.sort();
        if let Some(address) = self.address {
            for (number, (port, protocol)) in ports.into_iter().enumerate() {
                let word = protocol.word();
                let url = format!("{word}://{address}:{port}");
                let name = format!("{prefix}_PORT_{port}_{}", word.to_uppercase());
                if number == 0 {
                    all.push(format!("{prefix}_PORT={url}"));
                }
                all.push(format!("{name}={url}"));
                all.push(format!("{name}_ADDR={address}"));
                all.push(format!("{name}_PORT={port}"));
                all.push(format!("{name}_PROTO={word}"));
            }
        }
        let theirs = self.other.config.env.iter().flatten();
        let told = theirs.filter(|pair| !pair.starts_with("HOME=") && !pair.starts_with("PATH="));
        all.extend(told.map(|pair| format!("{prefix}_ENV_{pair}")));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_in_hosts_and_environment() {
        let mut other = Record::example();
        other.config.exposed_ports = Some(vec!["80/tcp".into(), "53/udp".into()]);
        other.config.env = Some(vec!["PATH=/bin".into(), "FOO=1".into()]);
        let address = Some(IpAddr::from([172, 17, 0, 2]));
        let link = Link { alias: "my-db".into(), other: Arc::new(other), address };
        assert_eq!(link.line().unwrap(), "172.17.0.2\tmy-db 000000000000 example\n");
        let told = link.variables("web");
        for line in [
            "MY_DB_NAME=/web/my-db",
            "MY_DB_PORT=udp://172.17.0.2:53",
            "MY_DB_PORT_80_TCP_ADDR=172.17.0.2",
            "MY_DB_ENV_FOO=1",
        ] {
            assert!(told.iter().any(|own| own == line), "{line} is not in {told:?}");
        }
        assert!(!told.iter().any(|line| line.contains("PATH")));
    }
}

//! At `create`: which networks a container will have, from its mode and its endpoints.

use std::collections::HashMap;

use bollard_stubs::models::{EndpointSettings, HostConfig};

use super::endpoint::{Attachment, Endpoint, split_link};
use super::network::{BRIDGE, PREDEFINED};
use super::ports;
use crate::engine::Engine;
use crate::engine::error::{ApiError, Result};

type Asked = HashMap<String, EndpointSettings>;

/// Where a container's network namespace comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The host's.
    Host,
    /// Its own, with a loopback only.
    None,
    /// Another container's.
    Container(String),
    /// Its own, in networks.
    Networks(String),
}

impl Mode {
    /// Reads `HostConfig.NetworkMode`. One that is not given is the host's: system services live there.
    pub fn parse(text: Option<&str>) -> Self {
        match text.unwrap_or_default() {
            "" | "default" | "host" => Self::Host,
            "none" => Self::None,
            text => match text.strip_prefix("container:") {
                Some(name) => Self::Container(name.to_owned()),
                None => Self::Networks(text.to_owned()),
            },
        }
    }
}

/// What was asked for, as a mode to keep and the endpoints of it.
///
/// Without a mode it is `default`; but published ports, links or a hardware address make it a bridge: a port that goes
/// nowhere is not what anybody wants.
fn resolve(host: &HostConfig, asked: &Asked, default: &str) -> Result<(String, Vec<Endpoint>)> {
    let given = host.network_mode.as_deref().unwrap_or_default();
    let is_default = matches!(given, "" | "default");
    let mut named: Vec<&String> = asked.keys().filter(|name| *name != "default").collect();
    named.sort();
    let mode = match (is_default, named.first()) {
        (false, _) => given.to_owned(),
        (true, Some(first)) => (*first).clone(),
        (true, None) if asks_for_a_bridge(host, asked) => BRIDGE.to_owned(),
        (true, None) => default.to_owned(),
    };
    let settings = |name: &str| {
        let own = asked.get(name).or_else(|| asked.get("default").filter(|_| name == mode));
        own.cloned().unwrap_or_default()
    };
    match Mode::parse(Some(&mode)) {
        Mode::Networks(first) => {
            let mut endpoints = vec![Endpoint::new(&first, &settings(&first))?];
            for name in named.into_iter().filter(|name| **name != first) {
                if PREDEFINED[1..].contains(&name.as_str()) {
                    return Err(ApiError::bad(format!(
                        "conflicting options: network {first} and network {name}"
                    )));
                }
                endpoints.push(Endpoint::new(name, &settings(name))?);
            }
            Ok((mode, endpoints))
        }
        other => {
            if let Some(name) = named.into_iter().find(|name| **name != mode) {
                return Err(ApiError::bad(format!(
                    "conflicting options: a container of network mode {mode:?} cannot be in network {name}"
                )));
            }
            if matches!(other, Mode::Container(_)) && ports::is_asked(host) {
                return Err(ApiError::bad(
                    "conflicting options: port publishing and the container type network mode",
                ));
            }
            Ok((mode, Vec::new()))
        }
    }
}

fn asks_for_a_bridge(host: &HostConfig, asked: &Asked) -> bool {
    let has_mac = |settings: &EndpointSettings| {
        settings.mac_address.as_ref().is_some_and(|mac| !mac.is_empty())
    };
    ports::is_asked(host)
        || host.userns_mode.as_deref() == Some("auto")
        || host.links.as_ref().is_some_and(|links| !links.is_empty())
        || asked.values().any(has_mac)
}

impl Engine {
    /// The attachment of a new container; its mode is written into `host`.
    pub fn attachment(&self, host: &mut HostConfig, asked: Option<&Asked>) -> Result<Attachment> {
        ports::check(host)?;
        let none = Asked::new();
        let (mode, mut endpoints) = resolve(host, asked.unwrap_or(&none), &self.default_network)?;
        // In a network of one's own, links are between its endpoints.
        if let Some(first) = endpoints.first_mut().filter(|first| first.network != BRIDGE) {
            let links = host.links.take().unwrap_or_default();
            first.links.extend(links.iter().map(|link| split_link(link)));
        }
        self.check_links(host, &mode)?;
        host.network_mode = Some(mode);
        for endpoint in &mut endpoints {
            // One that is not there now may be at the start.
            if let Ok(network) = self.networks.find(&endpoint.network) {
                endpoint.network.clone_from(&network.name);
                endpoint.network_id.clone_from(&network.id);
            }
        }
        let mut seen = std::collections::HashSet::new();
        endpoints.retain(|endpoint| seen.insert(endpoint.network.clone()));
        Ok(Attachment { endpoints, ports: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::PortBinding;

    use super::*;

    #[test]
    fn modes_and_endpoints_make_networks() {
        type Case<'a> = (&'a str, &'a [&'a str], bool, Option<(&'a str, &'a [&'a str])>);
        let table: [Case<'_>; 14] = [
            ("", &[], false, Some(("host", &[]))),
            ("default", &[], false, Some(("host", &[]))),
            ("default", &["default"], false, Some(("host", &[]))),
            ("", &[], true, Some(("bridge", &["bridge"]))),
            ("default", &["default"], true, Some(("bridge", &["bridge"]))),
            ("bridge", &[], false, Some(("bridge", &["bridge"]))),
            ("front", &["front", "back"], false, Some(("front", &["front", "back"]))),
            ("default", &["front"], true, Some(("front", &["front"]))),
            ("host", &["host"], false, Some(("host", &[]))),
            ("host", &["front"], false, None),
            ("none", &[], false, Some(("none", &[]))),
            ("front", &["host"], false, None),
            ("container:x", &[], false, Some(("container:x", &[]))),
            ("container:x", &[], true, None),
        ];
        for (mode, networks, publish, expected) in table {
            let ports = HashMap::from([("80/tcp".to_owned(), Some(vec![PortBinding::default()]))]);
            let host = HostConfig {
                network_mode: Some(mode.into()),
                port_bindings: publish.then_some(ports),
                ..Default::default()
            };
            let asked = networks.iter().map(|n| ((*n).to_owned(), EndpointSettings::default()));
            let got = resolve(&host, &asked.collect(), "host").ok().map(|(mode, endpoints)| {
                (mode, endpoints.into_iter().map(|e| e.network).collect::<Vec<_>>())
            });
            let expected = expected.map(|(mode, list)| {
                (mode.to_owned(), list.iter().map(|n| (*n).to_owned()).collect())
            });
            assert_eq!(got, expected, "{mode} {networks:?} {publish}");
        }
    }

    #[test]
    fn a_user_namespace_of_its_own_is_not_for_the_host_s_network() {
        for (users, expected) in [("auto", BRIDGE), ("host", "host"), ("", "host")] {
            let host = HostConfig { userns_mode: Some(users.into()), ..Default::default() };
            assert_eq!(resolve(&host, &Asked::new(), "host").unwrap().0, expected, "{users}");
        }
    }
}

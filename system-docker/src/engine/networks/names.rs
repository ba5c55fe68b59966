//! The names that a container finds others by: those of its own networks.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use super::asked::Mode;
use super::endpoint::Endpoint;
use super::files::servers;
use crate::engine::Engine;
use crate::engine::container::{Container, Record};
use crate::net::dns::Source;

/// What one container may be told.
#[derive(Debug)]
pub struct Names {
    engine: Weak<Engine>,
    id: String,
}

impl Names {
    /// Those of the container `id`.
    pub fn new(engine: Weak<Engine>, id: &str) -> Self {
        Self { engine, id: id.to_owned() }
    }

    fn own(&self) -> Option<(Arc<Engine>, Arc<Record>)> {
        let engine = self.engine.upgrade()?;
        let record = engine.containers().get(&self.id)?.record();
        matches!(Mode::parse(record.host_config.network_mode.as_deref()), Mode::Networks(_))
            .then_some((engine, record))
    }
}

impl Source for Names {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let (engine, own) = self.own()?;
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let all: Vec<Arc<Container>> = engine.containers().values().cloned().collect();
        let mut found = Vec::new();
        for endpoint in own.network.endpoints.iter().filter(|endpoint| endpoint.live.is_some()) {
            let wanted = wanted(endpoint, &name);
            for container in &all {
                let record = container.record();
                let theirs = record.network.endpoints.iter();
                for their in theirs.filter(|e| e.network_id == endpoint.network_id) {
                    if their.names(&record).iter().any(|n| n.eq_ignore_ascii_case(&wanted)) {
                        found.extend(their.addresses());
                    }
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }

    fn name(&self, address: IpAddr) -> Option<String> {
        let (engine, own) = self.own()?;
        let all: Vec<Arc<Container>> = engine.containers().values().cloned().collect();
        let networks = own.network.endpoints.iter().filter(|endpoint| endpoint.live.is_some());
        let networks: Vec<&Endpoint> = networks.collect();
        all.iter().find_map(|container| {
            let record = container.record();
            let mut theirs = record.network.endpoints.iter();
            let at = theirs.find(|their| {
                networks.iter().any(|own| own.network_id == their.network_id)
                    && their.addresses().any(|own| own == address)
            })?;
            Some(format!("{}.{}", record.name, at.network))
        })
    }

    fn upstream(&self) -> Vec<IpAddr> {
        match self.own() {
            // One that is in internal networks only tells nothing to the outside, not even by names.
            Some((_, record)) if record.network.gateway().is_some() => servers(&record.host_config),
            _ => Vec::new(),
        }
    }
}

/// The name to look for in the endpoint's network: behind a link, or without the network's own name at its end.
fn wanted(endpoint: &Endpoint, name: &str) -> String {
    let linked = endpoint.links.iter().find(|(_, alias)| alias.eq_ignore_ascii_case(name));
    if let Some((container, _)) = linked {
        return container.clone();
    }
    let end = format!(".{}", endpoint.network.to_ascii_lowercase());
    name.strip_suffix(&end).unwrap_or(name).to_owned()
}

//! From an endpoint that was asked for to links, addresses, names and ports, and back; and what a new daemon takes up.
//!
//! ```text
//!  reserve   before the shim: addresses and ports are chosen and written into the record
//!  plug      between create and start: the namespace exists and nothing runs in it yet
//!  release   after the end: written down as free; the links went with the namespace
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoint::{Attachment, Endpoint, Live};
use super::network::{BRIDGE, LABEL, Network};
use super::{asked::Mode, ipam, lock, names, ports};
use crate::engine::container::{Container, Record};
use crate::engine::error::{ApiError, Result};
use crate::engine::{Engine, new_id};
use crate::net::link::{self, Plug};
use crate::net::{self, dns, nft, rules};

/// What our end of a pair of links begins with: nobody else's does.
const HOST_END: &str = "sdv";

impl Engine {
    /// Chooses addresses and ports for a container that is about to start.
    pub fn reserve_network(&self, container: &Container) -> Result<()> {
        let record = container.record();
        if record.network.endpoints.is_empty() {
            return Ok(());
        }
        let networks: Vec<Arc<Network>> = record
            .network
            .endpoints
            .iter()
            .map(|endpoint| self.network_of(name_of(endpoint)))
            .collect::<Result<_>>()?;
        let _one = lock(&self.networks.choice);
        let mut attachment = Attachment { endpoints: Vec::new(), ports: Vec::new() };
        for (endpoint, network) in record.network.endpoints.iter().zip(&networks) {
            let live = self.choose(endpoint, network, &record.id, &attachment)?;
            attachment.endpoints.push(Endpoint {
                network: network.name.clone(),
                network_id: network.id.clone(),
                live: Some(live),
                ..endpoint.clone()
            });
        }
        let publish_at = attachment
            .gateway()
            .and_then(|endpoint| networks.iter().find(|network| endpoint.is_in(network)))
            .and_then(|network| network.bridge.publish_at);
        lock(&self.networks.holds).remove(&record.id);
        let (ports, holds) = ports::take(&record, &attachment, publish_at)?;
        attachment.ports = ports;
        container.change(|record| record.network = attachment)?;
        lock(&self.networks.holds).insert(container.id.clone(), holds);
        Ok(())
    }

    /// An endpoint's addresses and names of links. The caller holds `choice`.
    pub(super) fn choose(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        container: &str,
        beside: &Attachment,
    ) -> Result<Live> {
        let taken = self.addresses_in(network, container);
        let mut addresses: Vec<IpNet> = Vec::new();
        for subnet in &network.subnets {
            let v4 = subnet.subnet.addr().is_ipv4();
            let wanted = match v4 {
                true => endpoint.v4.map(IpAddr::from),
                false => endpoint.v6.map(IpAddr::from),
            };
            let address = match wanted {
                Some(address) if !subnet.subnet.contains(&address) => {
                    return Err(ApiError::bad(format!(
                        "invalid endpoint settings: no configured subnet contains IP address {address}"
                    )));
                }
                Some(address) if taken.contains(&address) || address == subnet.gateway => {
                    return Err(ApiError::forbidden("Address already in use"));
                }
                Some(address) => address,
                None => free_address(subnet, &addresses, &taken).ok_or_else(|| {
                    ApiError::internal(format!(
                        "no available addresses on this network's address pools: {}",
                        network.name
                    ))
                })?,
            };
            let address = IpNet::new(address, subnet.subnet.prefix_len());
            addresses.push(address.map_err(|e| ApiError::internal(e.to_string()))?);
        }
        if endpoint.v6.is_some() && !network.ipv6 {
            return Err(ApiError::bad(format!("network {} has no IPv6", network.name)));
        }
        let id = new_id()?;
        let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
        Ok(Live {
            host: format!("{HOST_END}{}", &id[..12]),
            id,
            device: free_device(beside),
            mac: endpoint.mac.unwrap_or_else(|| mac(&addresses)),
            addresses,
            gateways: if network.internal { Vec::new() } else { gateways.collect() },
        })
    }

    /// Gives the namespace of `pid`, in which nothing runs yet, what was reserved.
    pub async fn plug_network(
        self: &Arc<Self>,
        container: &Arc<Container>,
        pid: i32,
    ) -> Result<()> {
        let record = container.record();
        match Mode::parse(record.host_config.network_mode.as_deref()) {
            Mode::Host | Mode::Container(_) => return Ok(()),
            Mode::None | Mode::Networks(_) => {}
        }
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        if record.network.endpoints.is_empty() {
            return Ok(net::within(namespace, link::loopback).await?);
        }
        let plugs = self.plugs(&record.network)?;
        self.plug_all(&plugs, &namespace).await?;
        let gateways = gateways(&record.network);
        let sockets = net::within(namespace, move || {
            link::loopback()?;
            plugs.iter().try_for_each(|(_, plug)| link::configure(plug))?;
            link::default_routes(&gateways)?;
            dns::Sockets::open()
        })
        .await?;
        self.serve_names(container, sockets)?;
        self.write_rules().await?;
        for endpoint in &record.network.endpoints {
            let (id, name) = (&endpoint.network_id, &endpoint.network);
            self.events().network("connect", id, name, Some(&record.id));
        }
        Ok(())
    }

    pub(super) fn plugs(&self, attachment: &Attachment) -> Result<Vec<(Arc<Network>, Plug)>> {
        let plug = |endpoint: &Endpoint| {
            let network = self.networks.find(&endpoint.network_id)?;
            let live = endpoint.live.as_ref();
            let plug = live.map(|live| live.to_plug(&network, &endpoint.link_local));
            let missing = || ApiError::internal(format!("no address in {}", endpoint.network));
            Ok((network, plug.ok_or_else(missing)?))
        };
        attachment.endpoints.iter().map(plug).collect()
    }

    pub(super) async fn plug_all(
        &self,
        plugs: &[(Arc<Network>, Plug)],
        namespace: &File,
    ) -> Result<()> {
        let (plugs, namespace) = (plugs.to_vec(), namespace.try_clone()?);
        let _one = self.networks.kernel.lock().await;
        Ok(net::on_thread(move || {
            plugs.iter().try_for_each(|(network, plug)| {
                link::ensure_bridge(&network.to_bridge())?;
                link::plug(plug, &namespace)
            })
        })
        .await?)
    }

    pub(super) fn serve_names(
        self: &Arc<Self>,
        container: &Container,
        sockets: dns::Sockets,
    ) -> Result<()> {
        let source = names::Names::new(Arc::downgrade(self), &container.id);
        let server = dns::serve(sockets, Arc::new(source))?;
        lock(&self.networks.servers).insert(container.id.clone(), server);
        Ok(())
    }

    /// Takes back what a container had while it ran.
    pub async fn release_network(&self, container: &Container) -> Result<()> {
        lock(&self.networks.servers).remove(&container.id);
        let attachment = container.record().network.clone();
        if !attachment.is_live() {
            return Ok(());
        }
        forget(container)?;
        let ends: Vec<String> = attachment
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.live.as_ref().map(|live| live.host.clone()))
            .collect();
        {
            let _one = self.networks.kernel.lock().await;
            net::on_thread(move || ends.iter().try_for_each(|end| link::remove(end))).await?;
        }
        let written = self.write_rules().await;
        // Only now may others have its ports: until now packets went to it.
        lock(&self.networks.holds).remove(&container.id);
        for endpoint in attachment.endpoints.iter().filter(|endpoint| endpoint.live.is_some()) {
            let (id, name) = (&endpoint.network_id, &endpoint.network);
            self.events().network("disconnect", id, name, Some(&container.id));
        }
        written
    }

    /// Writes the firewall's table as networks and containers are now; without networks there is none.
    pub(super) async fn write_rules(&self) -> Result<()> {
        let _one = self.networks.kernel.lock().await;
        let networks: Vec<rules::Bridged> =
            self.networks.list().iter().map(|network| network.to_bridged()).collect();
        let published: Vec<rules::Published> = self
            .containers()
            .values()
            .flat_map(|container| ports::published(&container.record().network))
            .collect();
        Ok(net::on_thread(move || match networks.is_empty() {
            true => nft::remove(nft::Family::Inet, rules::TABLE),
            false => nft::replace(&rules::host(&networks, &published)),
        })
        .await?)
    }

    /// Before containers are taken up: bridges are made, and what ended with its boot is written down as free.
    pub async fn restore_networks(&self) {
        let networks = self.networks.list();
        let all: Vec<Arc<Container>> = self.containers().values().cloned().collect();
        for container in &all {
            let record = container.record();
            let may_run = record.state.is_running() && record.boot_id == self.boot_id;
            if record.network.is_live()
                && !may_run
                && let Err(error) = forget(container)
            {
                tracing::warn!("container {}: {error}", container.id);
            }
        }
        for network in networks {
            let (bridge, name) = (network.to_bridge(), network.name.clone());
            if let Err(error) = net::on_thread(move || link::ensure_bridge(&bridge)).await {
                tracing::warn!("network {name}: {error}");
            }
        }
        if self.has_networks()
            && let Err(error) = self.write_rules().await
        {
            tracing::warn!("rules of networks: {error}");
        }
        if let Err(error) = self.sweep_links(&all).await {
            tracing::warn!("leftover links: {error}");
        }
    }

    /// Whether there are any: without, the kernel is not asked for anything that would load a module.
    fn has_networks(&self) -> bool {
        !self.networks.list().is_empty()
    }

    /// Ends of pairs that no container has, and bridges of no network: of starts and removals that were cut short.
    async fn sweep_links(&self, all: &[Arc<Container>]) -> Result<()> {
        let mut own = HashSet::new();
        for container in all {
            let endpoints = &container.record().network.endpoints;
            own.extend(endpoints.iter().filter_map(|e| Some(e.live.as_ref()?.host.clone())));
        }
        let ids: HashSet<String> = self.networks.list().iter().map(|n| n.id.clone()).collect();
        let stray = move |(name, label): &(String, String)| {
            name.starts_with(HOST_END) && !own.contains(name)
                || label.strip_prefix(LABEL).is_some_and(|id| !ids.contains(id))
        };
        Ok(net::on_thread(move || {
            let all = link::names()?;
            all.iter().filter(|link| stray(link)).try_for_each(|(name, _)| link::remove(name))
        })
        .await?)
    }

    /// Takes up the network of a container that an earlier daemon started: its name server, and its ports.
    pub async fn take_up_network(self: &Arc<Self>, container: &Arc<Container>, pid: i32) {
        let record = container.record();
        if !record.network.is_live() {
            return;
        }
        let mut holds = Vec::new();
        let live = record.network.gateway().and_then(|endpoint| endpoint.live.as_ref());
        for port in &record.network.ports {
            match live.and_then(|live| ports::Hold::again(port, live)) {
                None => {}
                Some(Ok(hold)) => holds.push(hold),
                Some(Err(error)) => {
                    tracing::warn!("port {} is somebody else's too: {error}", port.here)
                }
            }
        }
        lock(&self.networks.holds).insert(record.id.clone(), holds);
        // One that has just ended is noticed by who waits for it.
        if let Err(error) = self.reopen_names(container, pid).await
            && container.process().is_some()
            && std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists()
        {
            tracing::warn!("container {}: its name server: {error}", record.id);
        }
    }

    async fn reopen_names(self: &Arc<Self>, container: &Arc<Container>, pid: i32) -> Result<()> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        let sockets = net::within(namespace, dns::Sockets::open).await?;
        self.serve_names(container, sockets)
    }
}

fn name_of(endpoint: &Endpoint) -> &str {
    match endpoint.network.as_str() {
        BRIDGE => BRIDGE,
        name if endpoint.network_id.is_empty() => name,
        _ => &endpoint.network_id,
    }
}

/// Writes down that nothing of it is used any more.
fn forget(container: &Container) -> Result<()> {
    container.change(|record: &mut Record| {
        record.network.ports.clear();
        record.network.endpoints.iter_mut().for_each(|endpoint| endpoint.live = None);
    })
}

pub(super) fn gateways(attachment: &Attachment) -> Vec<IpAddr> {
    let live = attachment.gateway().and_then(|endpoint| endpoint.live.as_ref());
    live.map(|live| live.gateways.clone()).unwrap_or_default()
}

fn free_address(subnet: &ipam::Subnet, beside: &[IpNet], taken: &[IpAddr]) -> Option<IpAddr> {
    let beside = beside.iter().find_map(|address| match address {
        IpNet::V4(v4) if subnet.subnet.addr().is_ipv6() => Some(*v4),
        _ => None,
    });
    let counterpart = beside.and_then(|v4| ipam::counterpart(subnet, v4, taken));
    counterpart.or_else(|| ipam::free_address(subnet, taken))
}

/// `eth0`, `eth1`…: the first that no other endpoint has.
fn free_device(beside: &Attachment) -> String {
    let used: HashSet<&str> = beside
        .endpoints
        .iter()
        .filter_map(|endpoint| Some(endpoint.live.as_ref()?.device.as_str()))
        .collect();
    let names = (0..).map(|number| format!("eth{number}"));
    names.into_iter().find(|name| !used.contains(name.as_str())).unwrap_or_default()
}

/// As Docker's: from the IPv4 address, so that neighbours' tables stay right when an address moves to another container.
fn mac(addresses: &[IpNet]) -> [u8; 6] {
    let v4 = addresses.iter().find_map(|address| match address {
        IpNet::V4(v4) => Some(v4.addr().octets()),
        IpNet::V6(_) => None,
    });
    let [a, b, c, d] = v4.unwrap_or_default();
    [0x02, 0x42, a, b, c, d]
}

//! Networks: `network create`, `ls`, `inspect`, `rm`, `prune`, and what containers have of them.
//!
//! ```text
//!  networks/<id>.json   a network as it was made: written before it is answered for, the bridge after it
//!  container.json       the container's endpoints: asked for at create or connect; addresses and ports while it runs
//!  the kernel           follows from both at any time: bridges, one pair of links an endpoint, one table of rules
//! ```
//!
//! So there is nothing to lose: a daemon that starts makes what is missing and takes away what is too much. A
//! container's links go with its namespace, whether a daemon lives or not. Nothing is made before a network is asked for.

pub mod asked;
mod attach;
mod connect;
mod endpoint;
pub mod files;
mod ipam;
mod links;
mod names;
mod network;
pub mod ports;
pub mod show;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bollard_stubs::models::NetworkCreateRequest;
use ipnet::IpNet;
use ros_api::durable;
use serde_json::Value;

use super::error::{ApiError, Result};
use super::filters::Filters;
use super::{Container, Engine, new_id, time};
use crate::net;

pub use endpoint::Attachment;
use ipam::Subnet;
use network::{BRIDGE, Network, PREDEFINED};

/// All networks, and what a daemon holds for containers that run.
#[derive(Debug)]
pub struct Networks {
    dir: PathBuf,
    /// By id. A lock because handlers run concurrently; never held across an await.
    all: Mutex<BTreeMap<String, Arc<Network>>>,
    /// Held while a name, a range or an address is chosen and written down.
    choice: Mutex<()>,
    /// Held while the kernel is changed, so that what was worked out last is written last.
    kernel: tokio::sync::Mutex<()>,
    /// By container: its name server.
    servers: Mutex<HashMap<String, net::dns::Server>>,
    /// By container: sockets that keep others off its published ports.
    holds: Mutex<HashMap<String, Vec<ports::Hold>>>,
}

impl Networks {
    /// Reads the networks that there are.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let dir = root.join("networks");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut all = BTreeMap::new();
        for entry in
            fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?.flatten()
        {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).map_err(anyhow::Error::from);
            match read.and_then(|text| Ok(serde_json::from_slice::<Network>(&text)?)) {
                Ok(network) => drop(all.insert(network.id.clone(), Arc::new(network))),
                Err(error) => tracing::warn!("{} is left alone: {error}", path.display()),
            }
        }
        Ok(Self {
            dir,
            all: Mutex::new(all),
            choice: Mutex::default(),
            kernel: tokio::sync::Mutex::default(),
            servers: Mutex::default(),
            holds: Mutex::default(),
        })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Network>>> {
        lock(&self.all)
    }

    fn list(&self) -> Vec<Arc<Network>> {
        self.all().values().cloned().collect()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// The network of a name, an id, or an unambiguous prefix of one.
    fn find(&self, name: &str) -> Result<Arc<Network>> {
        let all = self.all();
        let named = all.values().find(|network| network.name == name);
        if let Some(network) = all.get(name).or(named) {
            return Ok(Arc::clone(network));
        }
        let mut found = all.values().filter(|n| !name.is_empty() && n.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(network), None) => Ok(Arc::clone(network)),
            (Some(_), Some(_)) => {
                Err(ApiError::bad(format!("network {name} is ambiguous: several ids begin so")))
            }
            _ => Err(ApiError::missing(format!("network {name} not found"))),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> Result<[u8; 7]> {
    let mut bytes = [0; 7];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| ApiError::internal(format!("random numbers: {e}")))?;
    Ok(bytes)
}

impl Engine {
    /// Makes a network and its bridge; answers its id.
    pub async fn create_network(&self, asked: &NetworkCreateRequest) -> Result<String> {
        if PREDEFINED.contains(&asked.name.as_str()) {
            return Err(ApiError::forbidden(format!(
                "operation is not permitted on predefined {} network",
                asked.name
            )));
        }
        let occupied = net::on_thread(net::link::occupied).await?;
        let network = self.write_network(|taken, own| {
            let taken: Vec<IpNet> = occupied.iter().chain(taken).copied().collect();
            let network = Network::new(new_id()?, asked, &taken, random()?)?;
            check_free(&network, own)?;
            Ok(network)
        })?;
        if let Err(error) = self.make_bridge(&network).await {
            self.unmake_network(&network).await?;
            return Err(error);
        }
        self.events().network("create", &network.id, &network.name, None);
        Ok(network.id.clone())
    }

    /// The network `bridge`; made when it is asked for the first time.
    fn default_bridge(&self) -> Result<Arc<Network>> {
        if let Ok(network) = self.networks.find(&network::predefined_id(BRIDGE)) {
            return Ok(network);
        }
        let occupied = net::link::occupied()?;
        self.write_network(|taken, own| {
            let taken: Vec<IpNet> = occupied.iter().chain(taken).copied().collect();
            let network = Network::predefined_bridge(&taken)?;
            check_free(&network, own)?;
            Ok(network)
        })
    }

    /// The network that a container names, the predefined one made if need be.
    fn network_of(&self, name: &str) -> Result<Arc<Network>> {
        if name == BRIDGE || name == network::predefined_id(BRIDGE) {
            return self.default_bridge();
        }
        self.networks.find(name)
    }

    /// Has a network made while nobody else makes one, and writes it down.
    fn write_network(
        &self,
        make: impl FnOnce(&[IpNet], &[Arc<Network>]) -> Result<Network>,
    ) -> Result<Arc<Network>> {
        let _one = lock(&self.networks.choice);
        let own = self.networks.list();
        let taken: Vec<IpNet> =
            own.iter().flat_map(|network| &network.subnets).map(|s| s.subnet).collect();
        let network = Arc::new(make(&taken, &own)?);
        let text = serde_json::to_vec(&*network).map_err(|e| ApiError::internal(e.to_string()))?;
        durable::write(&self.networks.path(&network.id), &text, 0o600)?;
        self.networks.all().insert(network.id.clone(), Arc::clone(&network));
        Ok(network)
    }

    /// The record goes first: a bridge without one is taken away when a daemon starts.
    async fn unmake_network(&self, network: &Network) -> Result<()> {
        let path = self.networks.path(&network.id);
        fs::remove_file(&path)?;
        durable::sync_parent(&path)?;
        self.networks.all().remove(&network.id);
        let interface = network.bridge.interface.clone();
        Ok(net::on_thread(move || net::link::remove(&interface)).await?)
    }

    async fn make_bridge(&self, network: &Network) -> Result<()> {
        let bridge = network.to_bridge();
        net::on_thread(move || net::link::ensure_bridge(&bridge)).await?;
        self.write_rules().await
    }

    /// Removes a network that no running container has.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        if PREDEFINED.contains(&name) {
            return Err(ApiError::forbidden(format!(
                "{name} is a pre-defined network and cannot be removed"
            )));
        }
        let network = self.networks.find(name)?;
        if !self.endpoints_in(&network).is_empty() {
            return Err(ApiError::forbidden(format!(
                "error while removing network: network {} has active endpoints",
                network.name
            )));
        }
        self.unmake_network(&network).await?;
        self.write_rules().await?;
        self.events().network("destroy", &network.id, &network.name, None);
        Ok(())
    }

    /// Removes networks of users' that no container runs in; answers their names.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        for network in self.networks.list() {
            let until = |text: &str| time::parse(text).is_some_and(|t| network.created < t);
            if network.name != BRIDGE
                && filters.labels(&network.labels)
                && filters.without_labels(&network.labels)
                && filters.any("until", until)
                && self.endpoints_in(&network).is_empty()
            {
                self.remove_network(&network.id).await?;
                gone.push(network.name.clone());
            }
        }
        Ok(gone)
    }

    /// Containers that run in a network.
    fn endpoints_in(&self, network: &Network) -> Vec<Arc<Container>> {
        let has = |container: &Arc<Container>| {
            let record = container.record();
            let mut endpoints = record.network.endpoints.iter();
            endpoints.any(|e| e.network_id == network.id && e.live.is_some())
        };
        self.containers().values().filter(|container| has(container)).cloned().collect()
    }

    /// All networks as Docker shows them in a list.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<Value>> {
        show::list(&self.networks.list(), filters, &|network| self.endpoints_in(network).is_empty())
    }

    /// One network as Docker shows it.
    pub fn inspect_network(&self, name: &str) -> Result<Value> {
        let own = self.networks.find(name);
        if own.is_err()
            && let Some(shown) = show::predefined().into_iter().find(|shown| {
                shown["Name"] == name
                    || name.len() >= 4
                        && shown["Id"].as_str().is_some_and(|id| id.starts_with(name))
            })
        {
            return Ok(shown);
        }
        let network = own?;
        let mut shown = show::network(&network);
        shown["Containers"] = show::containers(&network, &self.endpoints_in(&network));
        Ok(shown)
    }

    /// Addresses in a network that are somebody's, but not those of the container `but`.
    fn addresses_in(&self, network: &Network, but: &str) -> Vec<IpAddr> {
        let mut taken = Vec::new();
        for container in self.containers().values().filter(|container| container.id != but) {
            let record = container.record();
            let endpoints = record.network.endpoints.iter().filter(|e| e.network_id == network.id);
            taken.extend(endpoints.flat_map(endpoint::Endpoint::addresses));
        }
        taken
    }
}

/// Refuses a network whose name, interface or range another has.
fn check_free(network: &Network, own: &[Arc<Network>]) -> Result<()> {
    for other in own {
        if other.name == network.name {
            return Err(ApiError::conflict(format!(
                "network with name {} already exists",
                network.name
            )));
        }
        if other.bridge.interface == network.bridge.interface {
            return Err(ApiError::conflict(format!(
                "interface {} is network {}'s",
                network.bridge.interface, other.name
            )));
        }
        let both =
            || network.subnets.iter().flat_map(|a| other.subnets.iter().map(move |b| (a, b)));
        if both().any(|(a, b)| ipam::overlap(&a.subnet, &b.subnet)) {
            return Err(ApiError::forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space (network {})",
                other.name
            )));
        }
    }
    Ok(())
}

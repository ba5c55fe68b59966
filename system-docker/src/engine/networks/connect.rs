//! `network connect` and `network disconnect`, of containers that run or do not.

use std::fs::File;
use std::sync::Arc;

use bollard_stubs::models::EndpointSettings;

use super::asked::Mode;
use super::attach::gateways;
use super::endpoint::Endpoint;
use super::network::{Network, PREDEFINED};
use super::{files, lock};
use crate::engine::Engine;
use crate::engine::container::Container;
use crate::engine::error::{ApiError, Result};
use crate::net::{self, link};

impl Engine {
    /// Puts a container into one more network.
    pub async fn connect(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
        asked: &EndpointSettings,
    ) -> Result<()> {
        let _one = container.verbs.lock().await;
        let network = self.network_to_connect(network)?;
        may_connect(container)?;
        let endpoint = Endpoint::new(&network.name, asked)?;
        if container.record().network.endpoint(&network).is_some() {
            return Err(ApiError::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                container.record().name,
                network.name
            )));
        }
        let endpoint =
            Endpoint { network: network.name.clone(), network_id: network.id.clone(), ..endpoint };
        let pid = container.running().map(|process| process.pid());
        let Ok(pid) = pid else {
            return container.change(|record| record.network.endpoints.push(endpoint));
        };
        self.add_endpoint(container, &network, endpoint)?;
        if let Err(error) = self.plug_one(container, &network, pid).await {
            self.drop_endpoint(container, &network, pid).await?;
            return Err(error);
        }
        self.write_rules().await?;
        self.events().network("connect", &network.id, &network.name, Some(&container.id));
        Ok(())
    }

    fn network_to_connect(&self, name: &str) -> Result<Arc<Network>> {
        if PREDEFINED[1..].contains(&name) {
            return Err(ApiError::forbidden(format!(
                "container cannot be connected to {name} network: it is a container's from its create on"
            )));
        }
        self.network_of(name)
    }

    fn add_endpoint(
        &self,
        container: &Container,
        network: &Network,
        endpoint: Endpoint,
    ) -> Result<()> {
        let _one = lock(&self.networks.choice);
        let beside = container.record().network.clone();
        let live = self.choose(&endpoint, network, &container.id, &beside)?;
        let endpoint = Endpoint { live: Some(live), ..endpoint };
        container.change(|record| record.network.endpoints.push(endpoint))
    }

    async fn plug_one(&self, container: &Container, network: &Network, pid: i32) -> Result<()> {
        let attachment = container.record().network.clone();
        let mut plugs = self.plugs(&attachment)?;
        plugs.retain(|(other, _)| other.id == network.id);
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        self.plug_all(&plugs, &namespace).await?;
        let gateways = gateways(&attachment);
        net::within(namespace, move || {
            plugs.iter().try_for_each(|(_, plug)| link::configure(plug))?;
            link::default_routes(&gateways)
        })
        .await?;
        files::rewrite_hosts(container)
    }

    /// Takes a container out of a network.
    pub async fn disconnect(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
    ) -> Result<()> {
        let _one = container.verbs.lock().await;
        if PREDEFINED[1..].contains(&network) {
            return Err(ApiError::forbidden(format!(
                "container cannot be disconnected from {network} network"
            )));
        }
        let network = self.network_of(network)?;
        if container.record().network.endpoint(&network).is_none() {
            return Err(ApiError::missing(format!(
                "container {} is not connected to network {}",
                container.id, network.name
            )));
        }
        match container.running().map(|process| process.pid()) {
            Ok(pid) => self.drop_endpoint(container, &network, pid).await?,
            Err(_) => take_out(container, &network).map(drop)?,
        }
        self.events().network("disconnect", &network.id, &network.name, Some(&container.id));
        Ok(())
    }

    async fn drop_endpoint(
        &self,
        container: &Container,
        network: &Network,
        pid: i32,
    ) -> Result<()> {
        let gone = take_out(container, network)?;
        if let Some(live) = gone.and_then(|endpoint| endpoint.live) {
            net::on_thread(move || link::remove(&live.host)).await?;
        }
        let gateways = gateways(&container.record().network);
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        net::within(namespace, move || link::default_routes(&gateways)).await?;
        files::rewrite_hosts(container)?;
        self.write_rules().await
    }
}

fn take_out(container: &Container, network: &Network) -> Result<Option<Endpoint>> {
    container.change(|record| {
        let endpoints = &mut record.network.endpoints;
        let at = endpoints.iter().position(|endpoint| endpoint.is_in(network))?;
        Some(endpoints.remove(at))
    })
}

fn may_connect(container: &Container) -> Result<()> {
    let record = container.record();
    let mode = record.host_config.network_mode.as_deref();
    match Mode::parse(mode) {
        Mode::Networks(_) => Ok(()),
        Mode::None => Err(ApiError::forbidden(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
        Mode::Host | Mode::Container(_) => Err(ApiError::forbidden(
            "container sharing network namespace with another container or host cannot be connected to any other network (a container whose network is not named has the host's: give it --network)",
        )),
    }
}

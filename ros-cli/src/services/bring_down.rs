//! Stops the services, in the reverse of the order in which they started, each with its own grace, all of a
//! wave at once. What is no service stops first: it is somebody's work on top of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;
use ros_api::{ServiceSpec, durable, labels, paths};
use tokio::time::Instant;

use super::container;
use super::engine::Engine;
use super::plan::Plan;
use super::progress::{complain, say, seconds};
use super::report::ServicesReport;

/// Stops everything within `limit`; what does not stop in time is left to be killed.
///
/// # Errors
/// When the daemon does not answer.
pub async fn bring_down(limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    if let Err(error) = durable::write(Path::new(paths::GOING_DOWN), b"", 0o644) {
        complain(&format!("{}: {error}", paths::GOING_DOWN));
    }
    let engine = Engine::connect()?;
    let running = engine.docker().list_containers(None::<ListContainersOptions>).await?;
    for wave in waves(running, &order()) {
        let stops = wave.iter().map(|name| stop(&engine, name, deadline));
        futures_util::future::join_all(stops).await;
    }
    Ok(())
}

async fn stop(engine: &Engine, name: &str, deadline: Instant) {
    let started = Instant::now();
    let left = deadline.saturating_duration_since(started).as_millis();
    let grace = grace_ms(engine, name).await.min(u64::try_from(left).unwrap_or(u64::MAX));
    match engine.stop(name, grace).await {
        Ok(()) => {
            let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            say(&format!("{name} stopped {}", seconds(took)));
        }
        Err(error) => complain(&format!("{error:#}")),
    }
}

/// The grace that the container was made with.
async fn grace_ms(engine: &Engine, name: &str) -> u64 {
    let container = engine.inspect(name).await.ok().flatten();
    let seconds = container
        .and_then(|container| container.config?.stop_timeout)
        .and_then(|s| u64::try_from(s).ok());
    seconds.map_or_else(|| container::grace_ms(&ServiceSpec::default()), |seconds| seconds * 1000)
}

/// The order in which this boot's services started, as it was reported.
fn order() -> Vec<Vec<String>> {
    let report = ServicesReport::read().unwrap_or_default();
    let specs: BTreeMap<String, ServiceSpec> = report
        .services
        .into_iter()
        .map(|service| {
            let mut spec = ServiceSpec::default();
            spec.ros.after = service.after;
            (service.name, spec)
        })
        .collect();
    Plan::of(&specs).waves()
}

/// Names of running containers in the order in which they stop: no services, services that are not in
/// `order`, then `order` from its end.
fn waves(running: Vec<ContainerSummary>, order: &[Vec<String>]) -> Vec<Vec<String>> {
    let position =
        |name: &str| order.iter().position(|wave| wave.iter().any(|service| service == name));
    let mut waves: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for container in running {
        let service =
            container.labels.as_ref().and_then(|labels| labels.get(labels::SERVICE_NAME)).cloned();
        let (at, name) = match service {
            Some(name) => (position(&name).map_or(1, |at| 1 + order.len() - at), Some(name)),
            None => (0, container.id),
        };
        waves.entry(at).or_default().extend(name);
    }
    waves.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn running(id: &str, service: Option<&str>) -> ContainerSummary {
        let label =
            |name: &str| HashMap::from([(labels::SERVICE_NAME.to_owned(), name.to_owned())]);
        ContainerSummary { id: Some(id.into()), labels: service.map(label), ..Default::default() }
    }

    #[test]
    fn the_last_started_stops_first() {
        let order = [
            vec!["udev".to_owned()],
            vec!["network".to_owned()],
            vec!["console".into(), "ntp".into()],
        ];
        let containers = vec![
            running("1", Some("udev")),
            running("2", Some("console")),
            running("3", None),
            running("4", Some("ntp")),
            running("5", Some("network")),
            running("6", Some("stranger")),
        ];
        let expected =
            [vec!["3"], vec!["stranger"], vec!["console", "ntp"], vec!["network"], vec!["udev"]];
        assert_eq!(waves(containers, &order), expected);
        assert!(waves(Vec::new(), &order).is_empty());
    }
}

//! `update`: limits and restart policy of a container, running or not.

use std::fs;
use std::path::Path;

use bollard_stubs::models::{ContainerUpdateBody, HostConfig};

use super::Engine;
use super::container::Container;
use super::error::{ApiError, Result};

impl Engine {
    /// Changes what is named, for now and for later starts.
    pub async fn update(&self, container: &Container, body: ContainerUpdateBody) -> Result<()> {
        let _one = container.verbs.lock().await;
        if body.devices.is_some() {
            return Err(ApiError::bad(
                "update: devices cannot be changed while a container exists",
            ));
        }
        let mut host = container.record().host_config.clone();
        merge(&mut host, &body);
        super::limits::check(&host)?;
        if let Ok(process) = container.running() {
            for (file, value) in settings(&host, &body) {
                let controller = file.split('.').next().unwrap_or_default();
                if !self.limits.has(controller) {
                    continue;
                }
                set(process.cgroup(), file, &value)?;
            }
            if let Some(weight) = body.blkio_weight.filter(|weight| *weight != 0)
                && self.limits.has("io")
            {
                set_io_weight(process.cgroup(), weight)?;
            }
        }
        container.change(|record| record.host_config = host)?;
        self.events().container(container, "update", &[]);
        Ok(())
    }
}

fn merge(host: &mut HostConfig, body: &ContainerUpdateBody) {
    fn take<T: Clone>(to: &mut Option<T>, from: &Option<T>, is_set: impl Fn(&T) -> bool) {
        if let Some(value) = from.as_ref().filter(|value| is_set(value)) {
            *to = Some(value.clone());
        }
    }
    let given = |value: &i64| *value != 0;
    take(&mut host.memory, &body.memory, given);
    take(&mut host.memory_swap, &body.memory_swap, given);
    take(&mut host.memory_reservation, &body.memory_reservation, given);
    take(&mut host.nano_cpus, &body.nano_cpus, given);
    take(&mut host.cpu_quota, &body.cpu_quota, given);
    take(&mut host.cpu_period, &body.cpu_period, given);
    take(&mut host.cpu_shares, &body.cpu_shares, given);
    take(&mut host.pids_limit, &body.pids_limit, given);
    take(&mut host.blkio_weight, &body.blkio_weight, |weight| *weight != 0);
    take(&mut host.cpuset_cpus, &body.cpuset_cpus, |list| !list.is_empty());
    take(&mut host.cpuset_mems, &body.cpuset_mems, |list| !list.is_empty());
    take(&mut host.restart_policy, &body.restart_policy, |policy| {
        policy.name.is_some_and(|name| !name.as_ref().is_empty())
    });
}

/// Files of the cgroup and what they become, of what is named
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
fn settings(host: &HostConfig, body: &ContainerUpdateBody) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let bound = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    let named = |value: Option<i64>| value.is_some_and(|value| value != 0);
    let memory = host.memory.unwrap_or(0);
    if named(body.memory) || named(body.memory_swap) {
        let swap = host.memory_swap.unwrap_or(0);
        all.push((
            "memory.swap.max",
            bound(if swap > 0 { swap - memory } else { swap.min(memory) }),
        ));
    }
    if named(body.memory) {
        all.push(("memory.max", bound(memory)));
    }
    if named(body.memory_reservation) {
        all.push(("memory.low", bound(host.memory_reservation.unwrap_or(0))));
    }
    if named(body.nano_cpus) {
        all.push(("cpu.max", format!("{} 100000", host.nano_cpus.unwrap_or(0) / 10_000)));
    } else if named(body.cpu_quota) || named(body.cpu_period) {
        let period = host.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
        let quota = host
            .cpu_quota
            .filter(|quota| *quota > 0)
            .map_or("max".to_owned(), |quota| quota.to_string());
        all.push(("cpu.max", format!("{quota} {period}")));
    }
    if let Some(shares) = body.cpu_shares.filter(|shares| *shares > 0) {
        all.push(("cpu.weight", weight(shares).to_string()));
    }
    if named(body.pids_limit) {
        all.push(("pids.max", bound(host.pids_limit.unwrap_or(0))));
    }
    for (file, list) in [("cpuset.cpus", &body.cpuset_cpus), ("cpuset.mems", &body.cpuset_mems)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            all.push((file, list.clone()));
        }
    }
    all
}

/// cgroup v1's shares (2 to 262144) as v2's weight (1 to 10000), as OCI runtimes convert them.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9_999) / 262_142
}

/// BFQ's own scale is Docker's, 10 to 1000; the cost model's is 1 to 10000. A kernel with neither schedules no I/O by weight,
/// which Docker passes over too.
fn set_io_weight(cgroup: &Path, weight: u16) -> Result<()> {
    let weight = i64::from(weight);
    let of_cost_model = 1 + (weight.max(10) - 10) * 9_999 / 990;
    for (file, value) in [("io.bfq.weight", weight), ("io.weight", of_cost_model)] {
        if cgroup.join(file).exists() {
            return set(cgroup, file, &value.to_string());
        }
    }
    Ok(())
}

fn set(cgroup: &Path, file: &str, value: &str) -> Result<()> {
    let path = cgroup.join(file);
    fs::write(&path, value)
        .map_err(|e| ApiError::internal(format!("write {value} to {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let mut host =
            HostConfig { memory: Some(1 << 20), pids_limit: Some(5), ..Default::default() };
        let body = ContainerUpdateBody {
            memory: Some(2 << 20),
            nano_cpus: Some(500_000_000),
            ..Default::default()
        };
        merge(&mut host, &body);
        assert_eq!(
            (host.memory, host.pids_limit, host.nano_cpus),
            (Some(2 << 20), Some(5), Some(500_000_000))
        );
        let files = settings(&host, &body);
        assert!(
            files.contains(&("memory.max", "2097152".into()))
                && files.contains(&("cpu.max", "50000 100000".into()))
        );
        assert!(!files.iter().any(|(file, _)| *file == "pids.max"));
    }

    #[test]
    fn the_weight_goes_where_the_kernel_has_it() {
        for (file, expected) in [("io.bfq.weight", "500"), ("io.weight", "4950")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(file), "").unwrap();
            set_io_weight(dir.path(), 500).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), expected);
        }
        set_io_weight(Path::new("/nonexistent"), 500).unwrap();
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}

//! `stats`: what a container uses, in Docker's shape.

use serde_json::{Map, Value, json};

use super::Engine;
use super::container::{Container, Record};
use super::error::Result;
use super::networks::asked::Mode;
use super::time::{now, rfc3339};

/// One reading, to be compared with the next.
#[derive(Clone, Debug)]
pub struct Reading {
    at: i64,
    stats: ros_runtime::Stats,
    system_ns: u64,
    networks: Map<String, Value>,
}

impl Engine {
    /// Reads the container's counters now; none when it does not run.
    pub fn read_stats(&self, container: &Container) -> Result<Option<Reading>> {
        let Ok(process) = container.running() else { return Ok(None) };
        let networks = networks(&container.record(), process.pid());
        Ok(Some(Reading { at: now(), stats: process.stats()?, system_ns: system_cpu(), networks }))
    }
}

/// A reading and the one before it, as Docker shows them. Without a reading: all zero, as for a stopped container.
pub fn shown(container: &Container, reading: Option<&Reading>, before: Option<&Reading>) -> Value {
    let record = container.record();
    let (id, name) = (record.id.clone(), format!("/{}", record.name));
    let Some(reading) = reading else {
        return json!({ "id": id, "name": name, "read": rfc3339(0), "preread": rfc3339(0), "cpu_stats": {}, "precpu_stats": {},
            "memory_stats": {}, "pids_stats": {}, "blkio_stats": {}, "num_procs": 0, "storage_stats": {} });
    };
    let stats = &reading.stats;
    let (read_bytes, written_bytes, _, _) = stats.io;
    let entry = |op: &str, value: u64| json!({ "major": 0, "minor": 0, "op": op, "value": value });
    let memory: serde_json::Map<String, Value> =
        stats.memory_stat.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "id": id, "name": name, "read": rfc3339(reading.at), "preread": rfc3339(before.map_or(0, |before| before.at)),
        "os_type": "linux", "networks": reading.networks, "num_procs": 0, "storage_stats": {},
        "pids_stats": { "current": stats.pids, "limit": stats.pids_limit },
        "cpu_stats": cpu(reading), "precpu_stats": before.map_or_else(|| json!({}), cpu),
        "memory_stats": { "usage": stats.memory, "limit": stats.memory_limit.unwrap_or_else(memory_of_the_machine), "stats": memory },
        "blkio_stats": {
            "io_service_bytes_recursive": [entry("read", read_bytes), entry("write", written_bytes)],
            "io_serviced_recursive": null, "io_queue_recursive": null, "io_service_time_recursive": null,
            "io_wait_time_recursive": null, "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
        },
    })
}

/// Counters of the links of a container with a network of its own; the host's are not its.
fn networks(record: &Record, pid: i32) -> Map<String, Value> {
    match Mode::parse(record.host_config.network_mode.as_deref()) {
        Mode::Networks(_) => {
            links(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
        }
        _ => Map::new(),
    }
}

/// Of `/proc/net/dev`, but the loopback: bytes, packets, errors, drops, each way (`man 5 proc_pid_net`).
fn links(text: &str) -> Map<String, Value> {
    let link = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let count = |at: usize| counters.get(at).copied().unwrap_or(0);
        let shown = json!({
            "rx_bytes": count(0), "rx_packets": count(1), "rx_errors": count(2), "rx_dropped": count(3),
            "tx_bytes": count(8), "tx_packets": count(9), "tx_errors": count(10), "tx_dropped": count(11),
        });
        (name.trim() != "lo").then(|| (name.trim().to_owned(), shown))
    };
    text.lines().filter_map(link).collect()
}

fn cpu(reading: &Reading) -> Value {
    let stats = &reading.stats;
    let (periods, throttled, throttled_usec) = stats.cpu_throttled;
    json!({
        "cpu_usage": {
            "total_usage": stats.cpu_usec * 1000, "usage_in_usermode": stats.cpu_user_usec * 1000,
            "usage_in_kernelmode": stats.cpu_system_usec * 1000,
        },
        "system_cpu_usage": reading.system_ns, "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "throttling_data": {
            "periods": periods, "throttled_periods": throttled, "throttled_time": throttled_usec * 1000,
        },
    })
}

/// CPU time of the whole machine, nanoseconds: the first line of /proc/stat, in ticks of 10 ms.
fn system_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: u64 =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks * 10_000_000
}

fn memory_of_the_machine() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_both_ways() {
        let text = "Inter-|   Receive     |  Transmit\n face |bytes packets\n\
            lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let links = links(text);
        assert_eq!(links.len(), 1);
        assert_eq!(
            (&links["eth0"]["rx_dropped"], &links["eth0"]["tx_bytes"]),
            (&json!(4), &json!(50))
        );
    }
}

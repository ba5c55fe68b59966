//! What a container uses, read from its cgroup. A controller that is not enabled leaves its fields at 0.

use std::fs;
use std::io;
use std::path::Path;

/// Counters of one cgroup (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, microseconds.
    pub cpu_usec: u64,
    /// Of it in user mode.
    pub cpu_user_usec: u64,
    /// Of it in the kernel.
    pub cpu_system_usec: u64,
    /// Enforcement periods, those throttled, and time throttled in microseconds.
    pub cpu_throttled: (u64, u64, u64),
    /// Memory in bytes, page cache included.
    pub memory: u64,
    /// Page cache that is not in use: Docker subtracts it.
    pub memory_inactive_file: u64,
    /// Memory limit in bytes; none: unlimited.
    pub memory_limit: Option<u64>,
    /// `memory.stat`, whole.
    pub memory_stat: Vec<(String, u64)>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of them; none: unlimited.
    pub pids_limit: Option<u64>,
    /// Bytes read, bytes written, reads, writes; over all devices.
    pub io: (u64, u64, u64, u64),
    /// Times that the kernel killed for want of memory.
    pub oom_kills: u64,
}

pub(crate) fn read(cgroup: &Path) -> io::Result<Stats> {
    let cpu = pairs(&fs::read_to_string(cgroup.join("cpu.stat"))?);
    let memory_stat = pairs(&text(cgroup, "memory.stat"));
    Ok(Stats {
        cpu_usec: value(&cpu, "usage_usec"),
        cpu_user_usec: value(&cpu, "user_usec"),
        cpu_system_usec: value(&cpu, "system_usec"),
        cpu_throttled: (
            value(&cpu, "nr_periods"),
            value(&cpu, "nr_throttled"),
            value(&cpu, "throttled_usec"),
        ),
        memory: number(cgroup, "memory.current").unwrap_or(0),
        memory_inactive_file: value(&memory_stat, "inactive_file"),
        memory_limit: number(cgroup, "memory.max"),
        memory_stat,
        pids: number(cgroup, "pids.current").unwrap_or(0),
        pids_limit: number(cgroup, "pids.max"),
        io: io_totals(&text(cgroup, "io.stat")),
        oom_kills: oom_kills(cgroup),
    })
}

pub(crate) fn oom_kills(cgroup: &Path) -> u64 {
    value(&pairs(&text(cgroup, "memory.events")), "oom_kill")
}

/// Pids of the cgroup and of those below it.
pub(crate) fn pids(cgroup: &Path) -> io::Result<Vec<i32>> {
    let mut pids: Vec<i32> = fs::read_to_string(cgroup.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for entry in fs::read_dir(cgroup)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(self::pids(&entry.path()).unwrap_or_default());
        }
    }
    Ok(pids)
}

fn text(cgroup: &Path, name: &str) -> String {
    fs::read_to_string(cgroup.join(name)).unwrap_or_default()
}

fn number(cgroup: &Path, name: &str) -> Option<u64> {
    text(cgroup, name).trim().parse().ok()
}

fn pairs(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn value(pairs: &[(String, u64)], name: &str) -> u64 {
    pairs.iter().find(|(key, _)| key == name).map_or(0, |(_, value)| *value)
}

/// Sums `254:0 rbytes=1 wbytes=2 rios=3 wios=4 …` over its lines.
fn io_totals(text: &str) -> (u64, u64, u64, u64) {
    let sum = |name: &str| {
        let values =
            text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.filter_map(|value| value.parse::<u64>().ok()).sum()
    };
    (sum("rbytes"), sum("wbytes"), sum("rios"), sum("wios"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_read_and_missing_controllers_are_zero() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu.stat"), "usage_usec 30\nuser_usec 10\nsystem_usec 20\n")
            .unwrap();
        fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        fs::write(dir.path().join("pids.max"), "64\n").unwrap();
        fs::write(
            dir.path().join("io.stat"),
            "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n254:16 rbytes=10\n",
        )
        .unwrap();
        let stats = read(dir.path()).unwrap();
        assert_eq!((stats.cpu_usec, stats.memory, stats.memory_limit), (30, 0, None));
        assert_eq!((stats.pids_limit, stats.io), (Some(64), (11, 2, 3, 4)));
        assert!(read(&dir.path().join("none")).is_err());
    }
}

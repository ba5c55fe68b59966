//! What a container is limited to, of what this host can limit: a controller that the kernel lacks, or that somebody else
//! holds, is warned of at create, as Docker does, and left out at start.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use bollard_stubs::models::{HostConfig, ResourcesUlimits, ThrottleDevice};
use ros_runtime::{IoKind, IoLimit, Resources, Rlimit};

use super::error::{ApiError, Result};

const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.controllers";
/// The least memory in which a container starts.
const LEAST_MEMORY: i64 = 6 << 20;

/// What this host can limit.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    controllers: HashSet<String>,
    /// Whether device programs are loaded.
    pub device_rules: bool,
}

impl Limits {
    /// Of the host.
    pub fn of_host(device_rules: bool) -> Self {
        let text = fs::read_to_string(CONTROLLERS).unwrap_or_default();
        Self { controllers: text.split_whitespace().map(str::to_owned).collect(), device_rules }
    }

    /// Whether there is a controller: `memory`, `cpu`, `cpuset`, `pids`, `io`.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.contains(controller)
    }

    /// Takes out of `asked` what cannot be limited here; says what that is.
    pub fn possible(&self, mut asked: Resources) -> (Resources, Vec<String>) {
        let mut lost = Vec::new();
        let mut without = |controller: &str, is_asked: bool, what: &str| {
            let gone = is_asked && !self.has(controller);
            if gone {
                lost.push(format!(
                    "Your kernel does not support {what} or the cgroup is not mounted. Limitation discarded."
                ));
            }
            gone
        };
        let memory = (asked.memory, asked.memory_swap, asked.memory_reservation) != (0, 0, 0);
        if without("memory", memory, "memory limit capabilities") {
            (asked.memory, asked.memory_swap, asked.memory_reservation) = (0, 0, 0);
        }
        let cpu = asked.nano_cpus != 0 || asked.cpu_quota != 0 || asked.cpu_period != 0;
        if without("cpu", cpu || asked.cpu_shares != 0, "CPU shares and quota") {
            (asked.nano_cpus, asked.cpu_quota, asked.cpu_period, asked.cpu_shares) = (0, 0, 0, 0);
        }
        let cpuset = !asked.cpuset_cpus.is_empty() || !asked.cpuset_mems.is_empty();
        if without("cpuset", cpuset, "cpuset") {
            (asked.cpuset_cpus, asked.cpuset_mems) = (String::new(), String::new());
        }
        if without("pids", asked.pids > 0, "PIDs limit capabilities") {
            asked.pids = 0;
        }
        if without("io", asked.io_weight != 0 || !asked.io.is_empty(), "Block I/O limits") {
            (asked.io_weight, asked.io) = (0, Vec::new());
        }
        (asked, lost)
    }
}

/// What was asked for. Refuses what makes no sense.
pub fn resources(host: &HostConfig) -> Result<Resources> {
    let number = |value: Option<i64>| value.unwrap_or(0);
    let unsigned =
        |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Ok(Resources {
        memory: number(host.memory),
        memory_swap: number(host.memory_swap),
        memory_reservation: number(host.memory_reservation),
        nano_cpus: number(host.nano_cpus),
        cpu_quota: number(host.cpu_quota),
        cpu_period: unsigned(host.cpu_period),
        cpu_shares: unsigned(host.cpu_shares),
        cpuset_cpus: host.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: host.cpuset_mems.clone().unwrap_or_default(),
        pids: number(host.pids_limit),
        io_weight: io_weight(host)?,
        io: io_limits(host)?,
    })
}

/// Refuses limits that contradict themselves, in Docker's words.
pub fn check(host: &HostConfig) -> Result<()> {
    let asked = resources(host)?;
    let refuse = |when: bool, why: &str| if when { Err(ApiError::bad(why)) } else { Ok(()) };
    refuse(
        asked.memory != 0 && asked.memory < LEAST_MEMORY,
        "Minimum memory limit allowed is 6MB",
    )?;
    refuse(
        asked.memory_swap > 0 && asked.memory == 0,
        "You should always set the Memory limit when using Memoryswap limit, see usage",
    )?;
    refuse(
        asked.memory > 0 && asked.memory_swap > 0 && asked.memory_swap < asked.memory,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    )?;
    refuse(
        asked.memory > 0 && asked.memory_reservation > asked.memory,
        "Minimum memory limit can not be less than memory reservation limit, see usage",
    )?;
    refuse(asked.nano_cpus < 0, "Range of CPUs is from 0.01 up: a negative number is none")?;
    refuse(
        asked.nano_cpus > 0 && (asked.cpu_quota > 0 || asked.cpu_period > 0),
        "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set",
    )?;
    rlimits(host).map(|_| ())
}

fn io_weight(host: &HostConfig) -> Result<u16> {
    match host.blkio_weight.unwrap_or(0) {
        weight @ (0 | 10..=1000) => Ok(weight),
        _ => Err(ApiError::bad("Range of blkio weight is from 10 to 1000")),
    }
}

fn io_limits(host: &HostConfig) -> Result<Vec<IoLimit>> {
    let lists = [
        (IoKind::ReadBytes, &host.blkio_device_read_bps),
        (IoKind::WriteBytes, &host.blkio_device_write_bps),
        (IoKind::Reads, &host.blkio_device_read_iops),
        (IoKind::Writes, &host.blkio_device_write_iops),
    ];
    let all = lists.iter().flat_map(|(kind, list)| list.iter().flatten().map(|one| (*kind, one)));
    all.map(|(kind, one)| io_limit(kind, one)).collect()
}

fn io_limit(kind: IoKind, asked: &ThrottleDevice) -> Result<IoLimit> {
    let path = asked.path.clone().unwrap_or_default();
    let wrong = |why: &str| ApiError::bad(format!("{path:?}: {why}"));
    let rate = asked.rate.and_then(|rate| u64::try_from(rate).ok()).filter(|rate| *rate > 0);
    let rate = rate.ok_or_else(|| wrong("a device's rate is a positive number"))?;
    let about = fs::metadata(&path).map_err(|error| wrong(&error.to_string()))?;
    if !about.file_type().is_block_device() {
        return Err(wrong("not a block device"));
    }
    let device = about.rdev();
    Ok(IoLimit { kind, major: rustix::fs::major(device), minor: rustix::fs::minor(device), rate })
}

/// Limits of the processes. An unknown name is refused.
pub fn rlimits(host: &HostConfig) -> Result<Vec<Rlimit>> {
    host.ulimits.iter().flatten().map(rlimit).collect()
}

fn rlimit(asked: &ResourcesUlimits) -> Result<Rlimit> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let name = asked.name.clone().unwrap_or_default();
    if !NAMES.contains(&name.as_str()) {
        return Err(ApiError::bad(format!("invalid ulimit type: {name}")));
    }
    let bound =
        |value: Option<i64>| value.map_or(0, |value| u64::try_from(value).unwrap_or(u64::MAX));
    let (soft, hard) = (bound(asked.soft), bound(asked.hard));
    if soft > hard {
        return Err(ApiError::bad(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Rlimit { name, soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_themselves_are_refused() {
        let host = |edit: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            edit(&mut host);
            host
        };
        let wrong: [fn(&mut HostConfig); 7] = [
            |host| host.memory = Some(1 << 20),
            |host| host.memory_swap = Some(1 << 30),
            |host| (host.memory, host.memory_swap) = (Some(1 << 30), Some(1 << 29)),
            |host| (host.nano_cpus, host.cpu_quota) = (Some(1), Some(1)),
            |host| host.blkio_weight = Some(1),
            |host| {
                host.ulimits = Some(vec![ResourcesUlimits {
                    name: Some("x".into()),
                    soft: Some(1),
                    hard: Some(1),
                }]);
            },
            |host| {
                let path = Some("/dev/null".into());
                host.blkio_device_read_bps = Some(vec![ThrottleDevice { path, rate: Some(1) }]);
            },
        ];
        for (at, edit) in wrong.into_iter().enumerate() {
            assert_eq!(check(&host(edit)).unwrap_err().status, 400, "{at}");
        }
        check(&host(|host| (host.memory, host.memory_swap) = (Some(1 << 30), Some(-1)))).unwrap();
    }

    #[test]
    fn what_the_host_cannot_limit_is_named_and_left_out() {
        let asked = Resources { memory: 1 << 30, pids: 5, ..Resources::default() };
        let host = Limits { controllers: HashSet::from(["pids".to_owned()]), device_rules: true };
        let (left, lost) = host.possible(asked);
        assert_eq!(left, Resources { pids: 5, ..Resources::default() });
        assert_eq!(lost.len(), 1);
        assert!(lost[0].contains("memory"));
    }
}

//! Everything that decides a container's spec, as types.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::capabilities::ALL_CAPABILITIES;
use crate::seccomp::SeccompProfile;

/// Everything that decides a container's spec.
#[derive(Clone, Debug)]
pub struct SpecInput {
    /// Container id: names the cgroup.
    pub id: String,
    /// Command and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`; PATH and HOME are added when missing, TERM with a terminal.
    pub env: Vec<String>,
    /// Working directory; empty: `/`.
    pub cwd: String,
    /// User id; a name is resolved by the shim, see [`crate::ShimRequest::user`].
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Host name, in a UTS namespace of its own.
    pub hostname: String,
    /// NIS domain name; empty: none.
    pub domainname: String,
    /// Terminal instead of pipes.
    pub terminal: bool,
    /// Every capability and device, no masked paths, no seccomp.
    pub privileged: bool,
    /// Capabilities added, with or without `CAP_`; `ALL`. Unknown ones are ignored: validate with [`FromStr`] at the edge.
    pub cap_add: Vec<String>,
    /// Capabilities dropped; `ALL`.
    pub cap_drop: Vec<String>,
    /// What the host can give: [`host_capabilities`].
    pub available: HashSet<Capability>,
    /// Nothing executed may gain privileges.
    pub no_new_privileges: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// A user namespace of its own, and what its ids are outside of it.
    pub users: Option<IdRange>,
    /// Root file system read-only.
    pub read_only: bool,
    /// Instead of Docker's own masked paths.
    pub masked_paths: Option<Vec<String>>,
    /// Instead of Docker's own read-only paths.
    pub readonly_paths: Option<Vec<String>>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// More device cgroup rules.
    pub device_rules: Vec<DeviceRule>,
    /// Whether a device program is loaded at all: only a host that may load none goes without.
    pub confine_devices: bool,
    /// Limits.
    pub resources: Resources,
    /// Process limits.
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Cgroup that the container's own is made in, from the root of the hierarchy.
    pub cgroup_parent: String,
    /// The kernel's release, for what depends on it.
    pub kernel: String,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
}

impl Default for SpecInput {
    fn default() -> Self {
        Self {
            id: String::new(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            hostname: String::new(),
            domainname: String::new(),
            terminal: false,
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            available: HashSet::from(ALL_CAPABILITIES),
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            namespaces: Namespaces::default(),
            users: None,
            read_only: false,
            masked_paths: None,
            readonly_paths: None,
            devices: Vec::new(),
            device_rules: Vec::new(),
            confine_devices: true,
            resources: Resources::default(),
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            oom_score_adj: 0,
            cgroup_parent: "/system-docker".into(),
            kernel: String::new(),
            shm_size: 64 << 20,
        }
    }
}

/// System-call filter.
#[derive(Clone, Debug, Default)]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// One's own.
    Profile(Box<SeccompProfile>),
}

/// Where a namespace comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// A new one.
    #[default]
    Own,
    /// The host's.
    Host,
    /// That of a path: `/proc/<pid>/ns/<kind>`, or a bound one.
    Path(PathBuf),
}

/// The namespaces that are a choice; the mount namespace always is the container's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// System V IPC, message queues, `/dev/shm`.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Network; its own one has a loopback that is down.
    pub net: Namespace,
    /// View of the cgroup tree.
    pub cgroup: Namespace,
}

/// What the ids of a container's users and groups are outside of it: 0 is `first`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's id of the container's 0.
    pub first: u32,
    /// How many ids there are.
    pub count: u32,
}

/// A device node in the container; made from a host path by [`crate::device`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container, under `/dev`.
    pub path: PathBuf,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of `rwm`.
    pub access: String,
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Both, in a rule.
    All,
}

impl From<DeviceKind> for LinuxDeviceType {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Char => Self::C,
            DeviceKind::Block => Self::B,
            DeviceKind::All => Self::A,
        }
    }
}

/// A rule of the device cgroup: `c 1:3 rwm`, `b 8:* r`, `a *:* rwm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Kind.
    pub kind: DeviceKind,
    /// Major number; none: any.
    pub major: Option<u32>,
    /// Minor number; none: any.
    pub minor: Option<u32>,
    /// Of `rwm`.
    pub access: String,
}

impl FromStr for DeviceRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("device rule {text:?} is not like \"c 1:3 rwm\"");
        let mut words = text.split_whitespace();
        let kind = match words.next() {
            Some("c") => DeviceKind::Char,
            Some("b") => DeviceKind::Block,
            Some("a") => DeviceKind::All,
            _ => return Err(wrong()),
        };
        let number = |word: &str| match word {
            "*" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| wrong()),
        };
        let (major, minor) =
            words.next().and_then(|word| word.split_once(':')).ok_or_else(wrong)?;
        let access = words.next().ok_or_else(wrong)?;
        let valid = !access.is_empty()
            && access.chars().all(|c| "rwm".contains(c))
            && words.next().is_none();
        let rule =
            Self { kind, major: number(major)?, minor: number(minor)?, access: access.to_owned() };
        if valid { Ok(rule) } else { Err(wrong()) }
    }
}

/// Limits; 0 or none: not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: i64,
    /// Memory and swap together in bytes; -1: unlimited swap.
    pub memory_swap: i64,
    /// Memory kept when memory is short, bytes.
    pub memory_reservation: i64,
    /// CPUs × 10⁹; wins over quota and period.
    pub nano_cpus: i64,
    /// Microseconds of CPU time per period.
    pub cpu_quota: i64,
    /// Length of a period, microseconds.
    pub cpu_period: u64,
    /// Relative weight; 1024 is usual.
    pub cpu_shares: u64,
    /// CPUs, `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Processes and threads.
    pub pids: i64,
    /// Relative weight of reads and writes, 10 to 1000.
    pub io_weight: u16,
    /// Rates of single devices.
    pub io: Vec<IoLimit>,
}

/// How fast one block device may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoLimit {
    /// What is counted.
    pub kind: IoKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// A second.
    pub rate: u64,
}

/// What an [`IoLimit`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Reads.
    Reads,
    /// Writes.
    Writes,
}

/// A process limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// `nofile` or `RLIMIT_NOFILE`; an unknown one is ignored.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

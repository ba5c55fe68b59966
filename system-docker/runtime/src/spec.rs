//! From what Docker's API asks to an OCI runtime spec: a pure function. What a container is *not* given here (a root,
//! the user's mounts, its user looked up by name) is done by the shim, which has the root mounted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{
    Capabilities, Capability, Hooks, Linux, LinuxBlockIo, LinuxCapabilities, LinuxCpu, LinuxDevice,
    LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, LinuxSeccomp, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, Mount,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};
use serde::{Deserialize, Serialize};

use crate::seccomp;

/// Docker's default PATH.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default capabilities.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// In the kernel's order, so that bit N of `CapBnd` is the N-th.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_SYS: &str = "/sys/devices/virtual/powercap";
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

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
    /// One's own, in OCI form.
    Profile(Box<LinuxSeccomp>),
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

/// The capabilities of this process's bounding set: what it can pass on.
#[must_use]
pub fn host_capabilities() -> HashSet<Capability> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
    let bits = u64::from_str_radix(hex.trim(), 16).unwrap_or(0);
    let held = |(bit, _): &(usize, &Capability)| bits & (1 << bit) != 0;
    ALL_CAPABILITIES.iter().enumerate().filter(held).map(|(_, capability)| *capability).collect()
}

/// The spec.
#[must_use]
pub fn spec(input: &SpecInput) -> Spec {
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path("root".into()).set_readonly(Some(input.read_only));
    spec.set_version("1.0.2".into())
        .set_root(Some(root))
        .set_process(Some(process(input)))
        .set_mounts(Some(mounts(input)))
        .set_hooks(None::<Hooks>)
        .set_hostname((input.namespaces.uts == Namespace::Own).then(|| input.hostname.clone()))
        .set_linux(Some(linux(input)));
    if !input.domainname.is_empty() && input.namespaces.uts == Namespace::Own {
        spec.set_domainname(Some(input.domainname.clone()));
    }
    spec
}

fn process(input: &SpecInput) -> Process {
    let mut user = User::default();
    user.set_uid(input.uid)
        .set_gid(input.gid)
        .set_additional_gids(Some(input.additional_gids.clone()));
    let cwd = if input.cwd.is_empty() { "/" } else { &input.cwd };
    let mut process = Process::default();
    process
        .set_terminal(Some(input.terminal))
        .set_user(user)
        .set_args(Some(input.args.clone()))
        .set_env(Some(environment(&input.env, input.terminal, input.uid)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capability_sets(capabilities(input))))
        .set_rlimits(Some(input.rlimits.iter().filter_map(rlimit).collect()))
        // Not `Some(false)`: libcontainer would load seccomp after it gave up the right to.
        .set_no_new_privileges(input.no_new_privileges.then_some(true))
        .set_apparmor_profile(None::<String>)
        .set_selinux_label(None::<String>)
        .set_oom_score_adj((input.oom_score_adj != 0).then_some(input.oom_score_adj));
    process
}

/// HOME is always there: libcontainer would look it up by `getpwuid`, and a static glibc opens the *container's* NSS
/// libraries for that.
pub(crate) fn environment(given: &[String], terminal: bool, uid: u32) -> Vec<String> {
    let has = |name: &str| given.iter().any(|pair| pair.split('=').next() == Some(name));
    let home = format!("HOME={}", default_home(uid));
    let defaults = [("PATH", PATH, true), ("TERM", "TERM=xterm", terminal), ("HOME", &home, true)];
    let missing = defaults.iter().filter(|(name, _, wanted)| *wanted && !has(name));
    missing.map(|(_, pair, _)| (*pair).to_owned()).chain(given.iter().cloned()).collect()
}

/// The home folder of a user without an entry in `/etc/passwd`.
pub(crate) fn default_home(uid: u32) -> &'static str {
    if uid == 0 { "/root" } else { "/" }
}

/// `base` with the variables of `over`, which replace those of the same name.
pub(crate) fn overlay_environment(base: &[String], over: &[String]) -> Vec<String> {
    let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let replaced: HashSet<String> = over.iter().map(name).collect();
    base.iter().filter(|pair| !replaced.contains(&name(pair))).chain(over).cloned().collect()
}

fn capabilities(input: &SpecInput) -> HashSet<Capability> {
    let parse = |word: &String| {
        let upper = word.to_uppercase();
        Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok()
    };
    let is_all = |words: &[String]| words.iter().any(|word| word.eq_ignore_ascii_case("all"));
    let mut set = match () {
        () if input.privileged || is_all(&input.cap_add) => HashSet::from(ALL_CAPABILITIES),
        () if is_all(&input.cap_drop) => HashSet::new(),
        () => HashSet::from(DEFAULT_CAPABILITIES),
    };
    if !input.privileged {
        // Dropping ALL and adding ALL: Docker lets the single names decide.
        for dropped in input.cap_drop.iter().filter_map(parse) {
            set.remove(&dropped);
        }
        set.extend(input.cap_add.iter().filter_map(parse));
    }
    set.retain(|capability| input.available.contains(capability));
    set
}

/// As Docker: nothing inheritable or ambient, so a user other than root has none until it executes a set-uid program.
pub(crate) fn capability_sets(set: Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None::<Capabilities>)
        .set_ambient(None::<Capabilities>);
    sets
}

fn rlimit(limit: &Rlimit) -> Option<PosixRlimit> {
    let upper = limit.name.to_uppercase();
    let name = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
    let kind: PosixRlimitType = serde_json::from_value(format!("RLIMIT_{name}").into()).ok()?;
    PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build().ok()
}

fn mounts(input: &SpecInput) -> Vec<Mount> {
    let sys = if input.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", input.shm_size);
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ]
}

fn mount(target: &str, kind: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(kind.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn linux(input: &SpecInput) -> Linux {
    let (masked, readonly) = hidden_paths(input);
    let mut linux = Linux::default();
    let sysctls: HashMap<String, String> = input.sysctls.clone().into_iter().collect();
    linux
        .set_sysctl((!sysctls.is_empty()).then_some(sysctls))
        .set_resources(resources(input))
        .set_cgroups_path(Some(PathBuf::from(&input.cgroup_parent).join(&input.id)))
        .set_namespaces(Some(namespaces(&input.namespaces)))
        .set_devices(Some(input.devices.iter().map(device_node).collect()))
        .set_seccomp(filter(input))
        .set_rootfs_propagation(None)
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(None);
    linux
}

fn hidden_paths(input: &SpecInput) -> (Vec<String>, Vec<String>) {
    if input.privileged {
        return (Vec::new(), Vec::new());
    }
    let masked = MASKED_PATHS.iter().chain([&MASKED_SYS]).map(|path| (*path).to_owned());
    let readonly = READONLY_PATHS.iter().map(|path| (*path).to_owned());
    (
        input.masked_paths.clone().unwrap_or_else(|| masked.collect()),
        input.readonly_paths.clone().unwrap_or_else(|| readonly.collect()),
    )
}

fn namespaces(choice: &Namespaces) -> Vec<LinuxNamespace> {
    let all = [
        (LinuxNamespaceType::Pid, &choice.pid),
        (LinuxNamespaceType::Ipc, &choice.ipc),
        (LinuxNamespaceType::Uts, &choice.uts),
        (LinuxNamespaceType::Network, &choice.net),
        (LinuxNamespaceType::Cgroup, &choice.cgroup),
        (LinuxNamespaceType::Mount, &Namespace::Own),
    ];
    all.iter().filter_map(|(kind, from)| namespace(*kind, from)).collect()
}

fn namespace(kind: LinuxNamespaceType, from: &Namespace) -> Option<LinuxNamespace> {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    match from {
        Namespace::Own => namespace.set_path(None),
        Namespace::Host => return None,
        Namespace::Path(path) => namespace.set_path(Some(path.clone())),
    };
    Some(namespace)
}

fn device_node(device: &Device) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.path.clone())
        .set_typ(device.kind.into())
        .set_major(device.major.into())
        .set_minor(device.minor.into())
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

fn filter(input: &SpecInput) -> Option<LinuxSeccomp> {
    match &input.seccomp {
        Seccomp::Default if input.privileged => None,
        Seccomp::Default => Some(seccomp::default_profile(&capabilities(input))),
        Seccomp::Unconfined => None,
        Seccomp::Profile(profile) => Some((**profile).clone()),
    }
}

/// None when nothing is limited: then no device program is loaded at all.
fn resources(input: &SpecInput) -> Option<LinuxResources> {
    let confined = input.confine_devices && !input.privileged;
    if !confined && input.resources == Resources::default() {
        return None;
    }
    let limits = &input.resources;
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(device_rules(input)))
        .set_memory(memory(limits))
        .set_cpu(cpu(limits))
        .set_block_io(block_io(limits))
        .set_pids((limits.pids > 0).then(|| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limits.pids);
            pids
        }));
    Some(resources)
}

fn memory(limits: &Resources) -> Option<LinuxMemory> {
    let some = |value: i64| (value != 0).then_some(value);
    let (limit, swap, reservation) =
        (some(limits.memory), some(limits.memory_swap), some(limits.memory_reservation));
    if limit.is_none() && reservation.is_none() {
        return None;
    }
    let mut memory = LinuxMemory::default();
    // Docker's default: as much swap as memory.
    let swap = swap.or_else(|| limit.and_then(|limit| limit.checked_mul(2)));
    memory.set_limit(limit).set_reservation(reservation).set_swap(limit.and(swap));
    Some(memory)
}

fn cpu(limits: &Resources) -> Option<LinuxCpu> {
    const PERIOD: u64 = 100_000;
    let (quota, period) = match limits.nano_cpus {
        0 => (limits.cpu_quota, limits.cpu_period),
        nano => (nano / 10_000, PERIOD),
    };
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let mut cpu = LinuxCpu::default();
    cpu.set_quota((quota != 0).then_some(quota))
        .set_period((period != 0).then_some(period))
        .set_shares((limits.cpu_shares != 0).then_some(limits.cpu_shares))
        .set_cpus(text(&limits.cpuset_cpus))
        .set_mems(text(&limits.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(limits: &Resources) -> Option<LinuxBlockIo> {
    if limits.io_weight == 0 && limits.io.is_empty() {
        return None;
    }
    let rates = |kind: IoKind| {
        let some: Vec<LinuxThrottleDevice> =
            limits.io.iter().filter(|limit| limit.kind == kind).filter_map(throttle).collect();
        (!some.is_empty()).then_some(some)
    };
    let mut io = LinuxBlockIo::default();
    io.set_weight((limits.io_weight != 0).then_some(limits.io_weight))
        .set_throttle_read_bps_device(rates(IoKind::ReadBytes))
        .set_throttle_write_bps_device(rates(IoKind::WriteBytes))
        .set_throttle_read_iops_device(rates(IoKind::Reads))
        .set_throttle_write_iops_device(rates(IoKind::Writes));
    Some(io)
}

fn throttle(limit: &IoLimit) -> Option<LinuxThrottleDevice> {
    let device = LinuxThrottleDeviceBuilder::default()
        .major(i64::from(limit.major))
        .minor(i64::from(limit.minor))
        .rate(limit.rate);
    device.build().ok()
}

/// Everything denied, then Docker's list; nothing denied when privileged.
fn device_rules(input: &SpecInput) -> Vec<LinuxDeviceCgroup> {
    if input.privileged {
        return vec![rule(true, DeviceKind::All, None, None, "rwm")];
    }
    let c = DeviceKind::Char;
    let mut rules = vec![
        rule(false, DeviceKind::All, None, None, "rwm"),
        rule(true, c, None, None, "m"),
        rule(true, DeviceKind::Block, None, None, "m"),
        rule(true, c, Some(5), Some(2), "rwm"),
        rule(true, c, Some(136), None, "rwm"),
    ];
    let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)];
    rules.extend(nodes.map(|(major, minor)| rule(true, c, Some(major), Some(minor), "rwm")));
    rules.extend(
        input.devices.iter().map(|d| rule(true, d.kind, Some(d.major), Some(d.minor), &d.access)),
    );
    rules
        .extend(input.device_rules.iter().map(|r| rule(true, r.kind, r.major, r.minor, &r.access)));
    rules
}

fn rule(
    allow: bool,
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind.into()))
        .set_major(major.map(i64::from))
        .set_minor(minor.map(i64::from))
        .set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> SpecInput {
        SpecInput { id: "c1".into(), args: vec!["true".into()], ..SpecInput::default() }
    }

    fn bounding(input: &SpecInput) -> HashSet<Capability> {
        let spec = spec(input);
        spec.process()
            .as_ref()
            .unwrap()
            .capabilities()
            .as_ref()
            .unwrap()
            .bounding()
            .clone()
            .unwrap()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn capabilities_follow_docker() {
        let table: [(&[&str], &[&str], bool, usize); 7] = [
            (&[], &[], false, 14),
            (&[], &["ALL"], false, 0),
            (&["CAP_SYS_TIME"], &["all"], false, 1),
            (&["sys_time"], &[], false, 15),
            (&["ALL"], &[], false, 41),
            (&["ALL"], &["SYS_ADMIN"], false, 40),
            (&[], &["ALL"], true, 41),
        ];
        for (add, drop, privileged, count) in table {
            let input =
                SpecInput { cap_add: words(add), cap_drop: words(drop), privileged, ..input() };
            assert_eq!(bounding(&input).len(), count, "{add:?} {drop:?} {privileged}");
        }
    }

    #[test]
    fn no_capability_is_asked_that_the_host_cannot_give() {
        let available = HashSet::from([Capability::Kill]);
        assert_eq!(
            bounding(&SpecInput { available: available.clone(), privileged: true, ..input() }),
            available
        );
    }

    #[test]
    fn nothing_is_inheritable_or_ambient() {
        let spec = spec(&input());
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
    }

    #[test]
    fn home_path_and_term() {
        let table: [(&[&str], bool, u32, &[&str]); 4] = [
            (&[], false, 0, &[PATH, "HOME=/root"]),
            (&[], true, 7, &[PATH, "TERM=xterm", "HOME=/"]),
            (&["HOME=/x", "PATH=/y"], false, 0, &["HOME=/x", "PATH=/y"]),
            (&["HOMEY=1"], false, 0, &[PATH, "HOME=/root", "HOMEY=1"]),
        ];
        for (given, terminal, uid, expected) in table {
            assert_eq!(environment(&words(given), terminal, uid), expected, "{given:?}");
        }
        assert_eq!(overlay_environment(&words(&["A=1", "B=2"]), &words(&["A=3"])), ["B=2", "A=3"]);
    }

    #[test]
    fn the_mount_namespace_is_always_its_own() {
        let host = Namespace::Host;
        let namespaces = Namespaces {
            pid: host.clone(),
            ipc: host.clone(),
            uts: host.clone(),
            net: host.clone(),
            cgroup: host,
        };
        let spec = spec(&SpecInput { namespaces, hostname: "h".into(), ..input() });
        let kinds: Vec<_> = spec
            .linux()
            .as_ref()
            .unwrap()
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(LinuxNamespace::typ)
            .collect();
        assert_eq!(kinds, [LinuxNamespaceType::Mount]);
        assert_eq!(spec.hostname(), &None, "the host's name is not touched");
    }

    #[test]
    fn a_namespace_can_be_joined_by_path() {
        let net = Namespace::Path("/proc/7/ns/net".into());
        let spec =
            spec(&SpecInput { namespaces: Namespaces { net, ..Namespaces::default() }, ..input() });
        let all = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let net =
            all.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network).unwrap();
        assert_eq!(net.path(), &Some("/proc/7/ns/net".into()));
    }

    #[test]
    fn privileged_hides_nothing_and_filters_nothing() {
        let plain = spec(&input());
        let linux = plain.linux().as_ref().unwrap();
        assert!(linux.masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
        assert!(linux.seccomp().is_some());
        let privileged = spec(&SpecInput { privileged: true, ..input() });
        let linux = privileged.linux().as_ref().unwrap();
        assert_eq!((linux.masked_paths().as_ref().unwrap().len(), linux.seccomp()), (0, &None));
        assert_eq!(linux.resources(), &None);
        let memory = Resources { memory: 1 << 30, ..Resources::default() };
        let limited =
            resources(&SpecInput { privileged: true, resources: memory, ..input() }).unwrap();
        assert_eq!(limited.devices().as_ref().unwrap().len(), 1, "everything allowed");
    }

    #[test]
    fn no_new_privileges_is_true_or_absent() {
        for wanted in [true, false] {
            let spec = spec(&SpecInput { no_new_privileges: wanted, ..input() });
            assert_eq!(
                spec.process().as_ref().unwrap().no_new_privileges(),
                wanted.then_some(true)
            );
        }
    }

    #[test]
    fn limits() {
        let limits =
            Resources { memory: 100, nano_cpus: 1_500_000_000, pids: 9, ..Resources::default() };
        let resources = resources(&SpecInput { resources: limits, ..input() }).unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().swap(), Some(200));
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 9);
        let none = super::resources(&input()).unwrap();
        assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());
    }

    #[test]
    fn device_rules_parse() {
        let rule: DeviceRule = "c 10:* rw".parse().unwrap();
        assert_eq!(
            rule,
            DeviceRule {
                kind: DeviceKind::Char,
                major: Some(10),
                minor: None,
                access: "rw".into()
            }
        );
        for bad in ["", "c", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 q", "c 1:3 r x", "c a:3 r"] {
            assert!(bad.parse::<DeviceRule>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rlimits_by_either_name() {
        for name in ["nofile", "RLIMIT_NOFILE"] {
            let limit = rlimit(&Rlimit { name: name.into(), soft: 1, hard: 2 }).unwrap();
            assert_eq!((limit.typ(), limit.hard()), (PosixRlimitType::RlimitNofile, 2));
        }
        assert!(rlimit(&Rlimit { name: "shoes".into(), soft: 1, hard: 2 }).is_none());
    }

    #[test]
    fn the_spec_survives_its_file() {
        let spec = spec(&input());
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }
}

//! Which capabilities a container gets, by Docker's rules.

use std::collections::HashSet;
use std::fs;
use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::SpecInput;

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
pub(super) const ALL_CAPABILITIES: [Capability; 41] = [
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

/// The capabilities of this process's bounding set: what it can pass on.
#[must_use]
pub fn host_capabilities() -> HashSet<Capability> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
    let bits = u64::from_str_radix(hex.trim(), 16).unwrap_or(0);
    let held = |(bit, _): &(usize, &Capability)| bits & (1 << bit) != 0;
    ALL_CAPABILITIES.iter().enumerate().filter(held).map(|(_, capability)| *capability).collect()
}

pub(super) fn capabilities(input: &SpecInput) -> HashSet<Capability> {
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

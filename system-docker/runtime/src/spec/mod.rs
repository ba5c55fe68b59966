//! From what Docker's API asks to an OCI runtime spec: a pure function. What a container is *not* given here (a root,
//! the user's mounts, its user looked up by name) is done by the shim, which has the root mounted.
//!
//! [`input`]: what decides it · [`process`]: command, environment, limits of the process · [`capabilities`] ·
//! [`resources`]: the cgroup

mod capabilities;
mod input;
mod process;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Hooks, Linux, LinuxDevice, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxSeccomp, Mount, Root, Spec,
};

use crate::seccomp;

use capabilities::capabilities;
pub(crate) use capabilities::capability_sets;
pub use capabilities::host_capabilities;
pub use input::{
    Device, DeviceKind, DeviceRule, IdRange, IoKind, IoLimit, Namespace, Namespaces, Resources,
    Rlimit, Seccomp, SpecInput,
};
use process::process;
pub(crate) use process::{PATH, default_home, overlay_environment};
use resources::resources;

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

fn mounts(input: &SpecInput) -> Vec<Mount> {
    let sys = if input.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", input.shm_size);
    let options = ["nosuid", "noexec", "nodev", "mode=1777", &shm_size];
    let mut shm = mount("/dev/shm", "tmpfs", &options);
    shm.set_source(Some("shm".into()));
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        shm,
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        cgroup(input, sys),
    ]
}

/// The hierarchy has its options from its last mount by a process in the host's cgroup namespace, and libcontainer gives
/// none. There the host's own mount is bound.
fn cgroup(input: &SpecInput, sys: &str) -> Mount {
    const AT: &str = "/sys/fs/cgroup";
    if input.namespaces.cgroup != Namespace::Host {
        return mount(AT, "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]);
    }
    let mut host = mount(AT, "bind", &["bind", "private", "nosuid", "noexec", "nodev", sys]);
    host.set_source(Some(AT.into()));
    host
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
        .set_namespaces(Some(namespaces(input)))
        .set_uid_mappings(input.users.map(mapping))
        .set_gid_mappings(input.users.map(mapping))
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

fn namespaces(input: &SpecInput) -> Vec<LinuxNamespace> {
    let choice = &input.namespaces;
    let users = if input.users.is_some() { &Namespace::Own } else { &Namespace::Host };
    let all = [
        (LinuxNamespaceType::User, users),
        (LinuxNamespaceType::Pid, &choice.pid),
        (LinuxNamespaceType::Ipc, &choice.ipc),
        (LinuxNamespaceType::Uts, &choice.uts),
        (LinuxNamespaceType::Network, &choice.net),
        (LinuxNamespaceType::Cgroup, &choice.cgroup),
        (LinuxNamespaceType::Mount, &Namespace::Own),
    ];
    all.iter().filter_map(|(kind, from)| namespace(*kind, from)).collect()
}

/// One entry: all of its parts are given.
fn mapping(users: IdRange) -> Vec<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(users.first);
    mapping.size(users.count).build().into_iter().collect()
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
        Seccomp::Profile(profile) => Some(profile.filter(&capabilities(input), &input.kernel)),
    }
}

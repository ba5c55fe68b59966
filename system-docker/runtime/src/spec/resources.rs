//! The cgroup of a spec: limits and rules for devices.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
};

use super::{DeviceKind, IoKind, IoLimit, Resources, SpecInput};

/// None when nothing is limited: then no device program is loaded at all.
pub(super) fn resources(input: &SpecInput) -> Option<LinuxResources> {
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

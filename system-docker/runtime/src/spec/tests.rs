//! The spec as a whole.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, PosixRlimitType};

use super::process::{environment, rlimit};
use super::resources::resources;
use super::*;

fn input() -> SpecInput {
    SpecInput { id: "c1".into(), args: vec!["true".into()], ..SpecInput::default() }
}

fn bounding(input: &SpecInput) -> HashSet<Capability> {
    let spec = spec(input);
    spec.process().as_ref().unwrap().capabilities().as_ref().unwrap().bounding().clone().unwrap()
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
        let input = SpecInput { cap_add: words(add), cap_drop: words(drop), privileged, ..input() };
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
    let net = all.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network).unwrap();
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
    let limited = resources(&SpecInput { privileged: true, resources: memory, ..input() }).unwrap();
    assert_eq!(limited.devices().as_ref().unwrap().len(), 1, "everything allowed");
}

#[test]
fn no_new_privileges_is_true_or_absent() {
    for wanted in [true, false] {
        let spec = spec(&SpecInput { no_new_privileges: wanted, ..input() });
        assert_eq!(spec.process().as_ref().unwrap().no_new_privileges(), wanted.then_some(true));
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
    let none = super::resources::resources(&input()).unwrap();
    assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());
}

#[test]
fn device_rules_parse() {
    let rule: DeviceRule = "c 10:* rw".parse().unwrap();
    assert_eq!(
        rule,
        DeviceRule { kind: DeviceKind::Char, major: Some(10), minor: None, access: "rw".into() }
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

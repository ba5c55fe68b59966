//! Instance data: what is kept of it, and the shapes that volumes come in.

use super::*;

#[test]
fn another_instance_id_is_noticed_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = |id: &str| InstanceData {
        instance_id: id.into(),
        user_data: b"#cloud-config\n".to_vec(),
        ..InstanceData::default()
    };
    assert!(!data("a").save(dir.path()).unwrap());
    fs::create_dir(dir.path().join("sem")).unwrap();
    assert!(!data("a").save(dir.path()).unwrap());
    assert!(dir.path().join("sem").exists());
    assert!(data("b").save(dir.path()).unwrap());
    assert!(!dir.path().join("sem").exists());
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// What the layers say when `data` is a machine's only source.
fn settings_of(data: &InstanceData) -> (crate::Settings, Vec<Diagnostic>) {
    let dir = tempfile::tempdir().unwrap();
    data.save(dir.path()).unwrap();
    let none = dir.path().join("none");
    let loaded = crate::load(&crate::Sources {
        release: None,
        oem: none.clone(),
        fragments: none.clone(),
        instance: dir.path().to_owned(),
        user: none,
        cmdline: String::new(),
    });
    (loaded.settings, loaded.diagnostics)
}

/// As Proxmox writes its NoCloud volume.
#[test]
fn proxmox_nocloud() {
    let dir = folder(&[
        (
            "user-data",
            "#cloud-config\nhostname: vm-101\nmanage_etc_hosts: true\nfqdn: vm-101.lab.example\nuser: ann\n\
             password: $5$salt$hash\nssh_authorized_keys:\n  - ssh-ed25519 AAAA ann\nchpasswd:\n  expire: False\n\
             users:\n  - default\npackage_upgrade: true\n",
        ),
        ("meta-data", "instance-id: 2f0a1ab6a1d5b1f1c1b3\n"),
        (
            "network-config",
            "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: 'bc:24:11:0a:0b:0c'\n\
             \x20     subnets:\n      - type: static\n        address: '192.0.2.7'\n        netmask: '255.255.255.0'\n\
             \x20       gateway: '192.0.2.1'\n      - type: dhcp6\n    - type: nameserver\n      address:\n      - '192.0.2.53'\n\
             \x20     search:\n      - 'lab.example'\n",
        ),
    ]);
    let data = InstanceData::from_nocloud(dir.path()).unwrap();
    assert_eq!(data.instance_id, "2f0a1ab6a1d5b1f1c1b3");
    let (settings, found) = settings_of(&data);
    let errors = found.iter().filter(|one| one.severity == crate::Severity::Error).count();
    assert_eq!(errors, 0, "{found:?}");
    assert_eq!(settings.host_name(), "vm-101");
    assert_eq!(settings.ssh_authorized_keys, ["ssh-ed25519 AAAA ann"]);
    let eth0 = &settings.ros.network.interfaces["eth0"];
    assert_eq!(eth0.addresses, ["192.0.2.7/24"]);
    assert_eq!(eth0.matches.as_deref(), Some("mac=bc:24:11:0a:0b:0c"));
    assert_eq!(settings.ros.network.dns.search, ["lab.example"]);
}

/// As Proxmox writes its config-drive: the network in a file of its own, in Debian's words.
#[test]
fn proxmox_config_drive() {
    let dir = folder(&[
        (
            "openstack/latest/meta_data.json",
            r#"{"uuid": "a2d1-4c", "network_config": {"content_path": "/content/0000"}}"#,
        ),
        ("openstack/latest/user_data", "#cloud-config\nhostname: vm-102\n"),
        ("openstack/latest/vendor_data.json", r##"{"cloud-init": "#cloud-config\nlocale: C\n"}"##),
        (
            "openstack/content/0000",
            "auto lo\niface lo inet loopback\n\n        dns_nameservers 192.0.2.53\nauto eth0\niface eth0 inet static\n\
             \x20       address 192.0.2.8\n        netmask 255.255.255.0\n        gateway 192.0.2.1\n",
        ),
    ]);
    let data = InstanceData::from_config_drive(dir.path()).unwrap();
    assert_eq!((data.instance_id.as_str(), data.datasource.as_str()), ("a2d1-4c", "configdrive"));
    assert_eq!(data.vendor_data, b"#cloud-config\nlocale: C\n");
    let (settings, _) = settings_of(&data);
    assert_eq!(settings.host_name(), "vm-102");
    assert_eq!(settings.ros.network.interfaces["eth0"].addresses, ["192.0.2.8/24"]);
    assert_eq!(settings.ros.network.dns.nameservers, ["192.0.2.53"]);
    let elsewhere = debian_network(
        dir.path(),
        br#"{"network_config": {"content_path": "/../../etc/hostname"}}"#,
    );
    assert_eq!(elsewhere, "");
}

#[test]
fn user_data_is_taken_apart_once_and_includes_follow() {
    let dir = tempfile::tempdir().unwrap();
    let mime = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n\
        --b\nContent-Type: text/jinja2\n\n## template: jinja\n#cloud-config\nhostname: {{ ds.meta_data.local_hostname }}\n\
        --b\nContent-Type: text/x-include-url\n\nhttp://a/b\n--b\nContent-Type: text/plain\n\nwhat\n--b--\n";
    let data = InstanceData {
        vendor_data: b"#cloud-config\nhostname: vendor\nlocale: C\n".to_vec(),
        ..InstanceData::new(
            mime.into(),
            "local-hostname: n1\ninstance-id: i\n".into(),
            String::new(),
        )
    };
    data.save(dir.path()).unwrap();
    let mut found = Vec::new();
    let texts: Vec<String> =
        documents(dir.path(), &mut found).into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        texts,
        ["#cloud-config\nhostname: vendor\nlocale: C\n", "#cloud-config\nhostname: n1"]
    );
    assert_eq!((found.len(), scripts(dir.path(), Frequency::Instance).len()), (1, 1), "{found:?}");
    assert_eq!(includes(dir.path()), ["http://a/b"]);
    let fetched = [("http://a/b".to_owned(), b"#include\nhttp://c\n".to_vec())];
    keep_included(dir.path(), 0, &fetched).unwrap();
    assert_eq!(includes(dir.path()), ["http://c"]);
    let fetched = [("http://c".to_owned(), b"#cloud-config\nhostname: last\n".to_vec())];
    keep_included(dir.path(), 1, &fetched).unwrap();
    assert_eq!(includes(dir.path()), Vec::<String>::new());
    assert!(documents(dir.path(), &mut found).last().unwrap().1.ends_with("hostname: last\n"));
}

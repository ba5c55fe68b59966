//! Configuration on a booted machine: a bridge with a VLAN on it carries the machine, users are made, changes are
//! applied in place, a change on trial goes back, and a broken file locks nobody out.

use anyhow::{Result, ensure};

use crate::site::{BOOT, Site};

const USER_DATA: &str = "\
fqdn: config-one.example
users: [default, {name: ann, groups: [sudo, ops], sudo: 'ALL=(ALL) NOPASSWD:ALL', gecos: Ann}]
ca_certs: {trusted: [\"-----BEGIN CERTIFICATE-----\\nAA==\\n-----END CERTIFICATE-----\"]}
swap: {size: 16M}
packages: [vim]
rancher:
  network:
    interfaces:
      'e*': {bridge: br0}
      br0: {bridge: 'true', dhcp: true, vlans: '7:v7'}
      v7: {addresses: [10.7.0.1/24, 'fd00:7::1/64'], routes: [{to: 10.8.0.0/16, via: 10.7.0.2}]}
";

#[test]
fn a_bridge_users_changes_in_place_and_the_way_back() -> Result<()> {
    let site = Site::new("config")?;
    let (_machine, first) = site.boot(site.spec("v1.0", USER_DATA)?)?;
    site.settled()?;
    ensure!(site.guest.ok("hostname")? == "config-one");
    let addresses = site.guest.ok("ip -o addr")?;
    for expected in ["br0    inet 10.0.2.", "inet 10.7.0.1/24", "inet6 fd00:7::1/64"] {
        ensure!(addresses.contains(expected), "no {expected:?} in:\n{addresses}");
    }
    ensure!(site.guest.ok("ip route")?.contains("10.8.0.0/16 via 10.7.0.2"));
    ensure!(site.guest.ok("id ann")?.contains("(ops)"));
    ensure!(site.guest.ok("sudo -u ann sudo -n id -u")? == "0");
    ensure!(site.guest.ok("cat /proc/swaps")?.contains("/var/swap.img"));
    let complaints = site.guest.ok("ros config validate; true")?;
    ensure!(complaints.contains("packages: accepted, but does nothing"), "{complaints}");

    every_verb_says_what_it_does(&site)?;
    site.guest.ok("ros config set ros.sysctl.kernel.domainname in.place")?;
    site.guest.ok("ros config set ros.environment.MARK here")?;
    let applied = site.guest.ok("ros config apply")?;
    ensure!(applied.contains("changed: console took it over"), "{applied}");
    ensure!(site.guest.ok("cat /proc/sys/kernel/domainname")? == "in.place");
    site.guest.ok("for i in $(seq 50); do grep -q MARK=here /etc/environment && exit 0; sleep 0.2; done; exit 1")?;

    site.guest.ok("ros config set hostname on-trial && ros config apply --confirm 5")?;
    ensure!(site.guest.ok("hostname")? == "on-trial");
    site.guest.ok(
        "for i in $(seq 100); do [ $(hostname) = config-one ] && exit 0; sleep 0.2; done; exit 1",
    )?;

    site.guest.ok(
        "sudo sh -c 'echo \"hostname: [\" > /var/lib/ros/conf/cloud-config.yml'; sudo ros reboot",
    )?;
    site.guest.wait_boot(&first, BOOT)?;
    ensure!(
        site.guest.ok("cat /proc/sys/kernel/domainname")? == "in.place",
        "the last good file counts"
    );
    ensure!(site.guest.run("ros config validate")?.status == 1);
    ensure!(site.guest.ok("cat /proc/cmdline")?.contains("case.word=1"));
    let kept = site.guest.ok("ros config restore --list")?;
    ensure!(kept.contains("ros config restore --generation 1"), "{kept}");
    site.guest.ok("ros config restore --generation 1 && ros config validate")?;
    ensure!(site.guest.ok("ros config get ros.sysctl.kernel.domainname")? == "in.place");
    Ok(())
}

/// What only looks, what changes the machine's own file, and that no secret is shown.
fn every_verb_says_what_it_does(site: &Site) -> Result<()> {
    let guest = &site.guest;
    let wrong = guest.run("printf 'hostnam: a\\nhostname: [b]\\n' | ros config validate -")?;
    ensure!(wrong.status == 1 && wrong.stdout.contains("2:11"), "{wrong:?}");
    ensure!(wrong.stdout.contains('^') && wrong.stdout.contains("did you mean"), "{wrong:?}");
    let json = "printf 'hostname: [b]\\n' | ros config validate --format json -; test $? = 1";
    let found: serde_json::Value = serde_json::from_str(&guest.ok(json)?)?;
    ensure!(found[0]["path"] == "hostname" && found[0]["column"] == 11, "{found}");

    guest.ok("ros config set ros.registries.h.password s3cret")?;
    ensure!(!guest.ok("ros config export; ros config export --full")?.contains("s3cret"));
    ensure!(guest.ok("ros config export --private")?.contains("s3cret"));
    let origin = guest.ok("ros config get --show-origin ros.registries.h")?;
    ensure!(origin.contains("# user /var/lib/ros/conf/cloud-config.yml:"), "{origin}");
    ensure!(guest.run("ros config get --default ros.registries.h")?.status == 1);
    let diff = guest.run("ros config diff")?;
    ensure!(diff.status == 1 && !diff.stdout.contains("s3cret"), "{diff:?}");

    let merged = guest.ok("printf 'timezone: UTC\\n' | ros config merge --dry-run")?;
    ensure!(merged.contains("+timezone: UTC"), "{merged}");
    ensure!(guest.run("ros config get timezone")?.status == 1, "only shown");
    guest.ok("printf 'timezone: UTC\\n' | ros config merge && ros config get timezone")?;
    guest.ok("EDITOR='sed -i s/s3cret/0ther/' ros config edit")?;
    ensure!(guest.ok("ros config export --private")?.contains("0ther"));
    let torn = guest.run("EDITOR=\"sed -i 's/^timezone:.*/timezone: [/'\" ros config edit")?;
    ensure!(torn.status != 0 && guest.ok("ros config get timezone")? == "UTC", "{torn:?}");
    guest.ok("ros config unset timezone; ros config unset ros.registries")?;
    ensure!(guest.run("ros config get timezone")?.status == 1);

    let schema: serde_json::Value = serde_json::from_str(&guest.ok("ros config schema")?)?;
    ensure!(schema["properties"]["hostname"].is_object(), "no hostname in the schema");
    let image = "printf 'ros: {services: {a: {image: h/x:1}}}\\n' > /tmp/c && ros config images --input /tmp/c";
    ensure!(guest.ok(image)? == "h/x:1");
    ensure!(guest.ok("printf '{{ env.A }}' | A=filled ros config generate")? == "filled");
    ensure!(guest.ok("ros config kernel-args case.word=1")?.contains("case.word=1"));
    Ok(())
}

//! Three datasources over real HTTP, on one disk, one boot each: a NoCloud seed that the firmware's serial number names,
//! EC2 with its tokens, Hetzner. The instance changes with each, so that what runs once, for each instance and at each boot
//! is seen on the way; and so does the network: a bond with a VLAN on it over two cards, and static IPv6 on a third, then
//! nothing of it. Each instance says at home that it is there, and ends as its user data says: not at all, off, by a boot.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::machine::{Card, Machine, Spec, hardware_address};
use ros_tests::metadata::Metadata;
use serde_json::json;

use crate::site::Site;

/// How often something ran: lines of a file.
const COUNTS: &str = "cd /var/lib/ros; wc -l count-bootcmd count-runcmd count-boot count-instance count-once | head -5 | tr -s ' \\n' ' '";

/// User data of several parts, as a cloud's users write it. `end` is what becomes of the machine when it is told `go`: the
/// condition waits for that.
fn user_data(hostname: &str, home: u16, end: &str) -> String {
    let script = |kind: &str| {
        format!(
            "--b\nContent-Type: text/x-shellscript-per-{kind}\n\n#!/bin/sh\necho {kind} >> /var/lib/ros/count-{kind}\n\n"
        )
    };
    let config = json!({
        "hostname": hostname,
        "fqdn": format!("{hostname}.example"),
        "ntp": { "servers": ["192.0.2.9"] },
        "phone_home": { "url": format!("http://10.0.2.2:{home}/home/$INSTANCE_ID"), "post": "all" },
        "power_state": {
            "mode": if end.is_empty() { "poweroff" } else { end }, "message": format!("{hostname} ends: {end}"),
            "condition": if end.is_empty() { json!(false) } else { json!(wait_to_end(hostname)) },
        },
        "timezone": "Europe/Zurich",
        "bootcmd": ["echo x >> /var/lib/ros/count-bootcmd"],
        "runcmd": ["echo x >> /var/lib/ros/count-runcmd"],
        "device_aliases": { "data": "/dev/vdb" },
        "disk_setup": { "data": { "layout": [50, [50, "82"]] } },
        "fs_setup": [
            { "device": "data.1", "filesystem": "ext4", "label": "data" },
            { "device": "data.2", "filesystem": "swap" },
        ],
        "mounts": [["data.1", "/mnt/data"], ["data.2", "none", "swap"]],
        "final_message": format!("{hostname} is up from $DATASOURCE"),
    });
    let scripts: String = ["boot", "instance", "once"].map(script).concat();
    format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n\n{config}\n{scripts}--b--\n"
    )
}

fn wait_to_end(hostname: &str) -> String {
    format!("until [ -e /var/lib/ros/end-{hostname} ]; do sleep 0.2; done")
}

/// Two cards in a bond that does DHCP, a VLAN on it; the third with an address of each kind.
fn network_config() -> String {
    let at = |index: usize| json!({ "macaddress": hardware_address(index) });
    json!({
        "version": 2,
        "ethernets": {
            "one": { "match": at(0) }, "two": { "match": at(1) },
            "meta": {
                "match": at(2), "dhcp4": true, "addresses": ["fd00:9::1/64"],
                "routes": [{ "to": "fd00:a::/64", "via": "fd00:9::2" }],
            },
        },
        "bonds": { "bond0": {
            "interfaces": ["one", "two"], "dhcp4": true, "parameters": { "mode": "active-backup", "mii-monitor-interval": 100 },
        } },
        "vlans": { "v9": { "id": 9, "link": "bond0", "addresses": ["10.9.0.1/24"] } },
    })
    .to_string()
}

struct Case {
    site: Site,
    metadata: Metadata,
}

impl Case {
    fn spec(&self, smbios: &str) -> Result<Spec> {
        let mut spec = Spec::new(&self.site.dir);
        spec.disks = vec![self.site.dir.join("disk.qcow2"), self.site.dir.join("data.qcow2")];
        spec.throwaway = true;
        spec.ssh_port = Some(self.site.guest.port);
        spec.cards = vec![Card::Same, Card::Metadata(self.metadata.port)];
        spec.smbios = vec![format!("type=1,{smbios}")];
        Ok(spec)
    }

    /// Boots, and waits until what is to be done at the first boot of an instance is done.
    fn boot(&self, smbios: &str, name: &str) -> Result<Machine> {
        let (machine, _) = self.site.boot(self.spec(smbios)?)?;
        self.is_up(machine, name)
    }

    /// The same with a cable in the first card alone: it is that card, whose address the bond takes, which QEMU's DHCP server
    /// gives the address that ssh is forwarded to.
    fn boot_with_one_cable(&self, smbios: &str, name: &str) -> Result<Machine> {
        let machine = Machine::start(self.spec(smbios)?)?;
        machine.cable(1, false)?;
        self.site.guest.wait(crate::site::BOOT)?;
        self.is_up(machine, name)
    }

    /// Waits until what is to be done at the first boot of an instance is done.
    fn is_up(&self, machine: Machine, name: &str) -> Result<Machine> {
        machine.wait_serial(&format!("{name} is up from"), 0, Duration::from_secs(120))?;
        self.site.settled()?;
        ensure!(self.site.guest.ok("hostname")? == name);
        Ok(machine)
    }

    fn power_off(&self, machine: Machine) -> Result<()> {
        self.site.guest.run("ros poweroff")?;
        machine.wait_off(Duration::from_secs(90))
    }

    /// Its own `power_state` ends the machine now.
    fn ends(&self, machine: &Machine, name: &str, how: &str) -> Result<()> {
        self.site.guest.run(&format!("touch /var/lib/ros/end-{name}"))?;
        machine.wait_serial(&format!("{name} ends: {how}"), 0, Duration::from_secs(60)).map(drop)
    }

    /// What the instance `id` said at home, once: the form of cloud-init, with the machine's own keys.
    fn said_at_home(&self, id: &str, name: &str) -> Result<()> {
        let said = self.metadata.told(&format!("POST /home/{id}"));
        ensure!(said.len() == 1, "{id} said {said:?}");
        let form: BTreeMap<&str, &str> =
            said[0].split('&').filter_map(|pair| pair.split_once('=')).collect();
        let fields: Vec<&str> = form.keys().copied().collect();
        let expected =
            ["fqdn", "hostname", "instance_id", "pub_key_ecdsa", "pub_key_ed25519", "pub_key_rsa"];
        ensure!(fields == expected, "{said:?}");
        let full = format!("{name}.example");
        let told = (form["instance_id"], form["hostname"], form["fqdn"]);
        ensure!(told == (id, name, full.as_str()), "{said:?}");
        ensure!(form["pub_key_rsa"] == "N%2FA", "there is no such key: {said:?}");
        for kind in ["ecdsa", "ed25519"] {
            let file = format!("{}/ssh_host_{kind}_key.pub", ros_api::paths::SSH_HOST_KEYS);
            let key = self.site.guest.ok(&format!("cat {file}"))?;
            let coded = key.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            let coded = coded.replace(' ', "%20").replace('@', "%40");
            ensure!(form[&*format!("pub_key_{kind}")] == coded, "{coded} is not in {said:?}");
        }
        Ok(())
    }

    /// chrony asks who was named, although that came over the network.
    fn the_clock_asks(&self) -> Result<()> {
        let sources = self.site.guest.ok("system-docker exec ntp /usr/bin/chronyc -n sources")?;
        ensure!(sources.contains(" 192.0.2.9 "), "{sources}");
        Ok(())
    }

    fn user_data(&self, hostname: &str, end: &str) -> String {
        user_data(hostname, self.metadata.port, end)
    }

    /// Somebody is at home.
    fn at_home(&self, id: &str) {
        self.metadata.page(&format!("POST /home/{id}"), "application/x-www-form-urlencoded", "");
    }

    fn counts(&self) -> Result<Vec<String>> {
        let text = self.site.guest.ok(COUNTS)?;
        let numbers = text.split_whitespace().filter(|word| word.parse::<u32>().is_ok());
        Ok(numbers.map(str::to_owned).collect())
    }

    fn seed(&self) {
        let meta = json!({ "instance-id": "seed-1", "public-keys": [self.site.public_key] });
        self.metadata.page("GET /seed/user-data", "", &self.user_data("seeded", ""));
        self.metadata.page("GET /seed/meta-data", "", &meta.to_string());
        self.at_home("seed-1");
        self.metadata.page("GET /seed/network-config", "", &network_config());
    }

    fn ec2(&self) {
        let token = "X-aws-ec2-metadata-token: T0K3N";
        let lifetime = "X-aws-ec2-metadata-token-ttl-seconds:";
        let page = |path: &str, body: &str| {
            self.metadata.page(&format!("GET /latest/{path}"), token, body);
        };
        self.metadata.page("PUT /latest/api/token", lifetime, "T0K3N");
        page("meta-data/instance-id", "i-0123456789abcdef0");
        page("meta-data/local-hostname", "ip-10-0-0-5.internal");
        page("meta-data/public-keys/", "0=me");
        page("meta-data/public-keys/0/openssh-key", &self.site.public_key);
        page("meta-data/placement/region", "eu-central-2");
        page("user-data", &self.user_data("elastic", "poweroff"));
        self.at_home("i-0123456789abcdef0");
    }

    fn hetzner(&self) {
        let text = format!(
            "instance-id: 4711\nhostname: by-metadata\nregion: eu-central\npublic-keys:\n- {}\n",
            self.site.public_key
        );
        self.metadata.page("GET /hetzner/v1/metadata", "", &text);
        self.metadata.page("GET /hetzner/v1/userdata", "", &self.user_data("rented", "reboot"));
        self.at_home("4711");
    }
}

pub fn three_clouds_over_http_and_how_often_things_run() -> Result<()> {
    let case = Case { site: Site::new("clouds")?, metadata: Metadata::start()? };
    let (site, metadata) = (&case.site, &case.metadata);
    artifacts::disk("v1.0", "4G", &site.dir.join("disk.qcow2"))?;
    artifacts::empty_disk("256M", &site.dir.join("data.qcow2"))?;

    case.seed();
    let serial = format!("serial=ds=nocloud;s=http://10.0.2.2:{}/seed/", metadata.port);
    let machine = case.boot_with_one_cable(&serial, "seeded")?;
    the_network_is_as_the_seed_says(site)?;
    the_bond_outlives_a_cable(site, &machine)?;
    case.said_at_home("seed-1", "seeded")?;
    case.the_clock_asks()?;
    ensure!(site.guest.ok("date +%Z")?.starts_with("CE"), "the zone counts");
    ensure!(case.counts()? == ["1"; 5], "{:?}", case.counts()?);
    ensure!(site.guest.ok("findmnt -no FSTYPE,LABEL /mnt/data")?.contains("ext4"));
    ensure!(site.guest.ok("cat /proc/swaps")?.contains("/dev/vdb2"));
    site.guest.ok("echo kept > /mnt/data/kept; sync")?;
    case.power_off(machine)?;

    case.ec2();
    metadata.asked();
    let uuid = "uuid=ec2e1916-9099-7caf-fd21-012345abcdef";
    let machine = case.boot(&format!("manufacturer=Amazon EC2,{uuid}"), "elastic")?;
    let asked = metadata.asked();
    ensure!(asked.first().is_some_and(|first| first == "PUT /latest/api/token"), "{asked:?}");
    ensure!(site.guest.ok("cat /var/lib/ros/instance/datasource")? == "ec2");
    ensure!(site.guest.run("test -e /sys/class/net/bond0")?.status == 1, "the bond is gone");
    ensure!(case.counts()? == ["2", "2", "2", "2", "1"], "{:?}", case.counts()?);
    ensure!(site.guest.ok("cat /mnt/data/kept")? == "kept", "a disk with data is left as it is");
    case.said_at_home("i-0123456789abcdef0", "elastic")?;
    case.ends(&machine, "elastic", "poweroff")?;
    machine.wait_off(Duration::from_secs(90)).context("by power_state")?;

    case.hetzner();
    let uuid = "uuid=11111111-2222-3333-4444-555555555555";
    let machine = case.boot(&format!("manufacturer=Hetzner,{uuid}"), "rented")?;
    ensure!(site.guest.ok("cat /var/lib/ros/instance/instance-id")? == "4711");
    ensure!(case.counts()? == ["3", "3", "3", "3", "1"], "{:?}", case.counts()?);
    case.said_at_home("4711", "rented")?;
    asked_no_more(&case, &machine)
}

fn the_network_is_as_the_seed_says(site: &Site) -> Result<()> {
    let bond = site.guest.ok("cat /proc/net/bonding/bond0")?;
    ensure!(bond.matches("Slave Interface").count() == 2, "{bond}");
    ensure!(bond.contains("active-backup"), "{bond}");
    let addresses = site.guest.ok("ip -o addr")?;
    for expected in ["bond0    inet 10.0.2.", "inet 10.9.0.1/24", "inet6 fd00:9::1/64"] {
        ensure!(addresses.contains(expected), "no {expected:?} in:\n{addresses}");
    }
    ensure!(site.guest.ok("ip -6 route")?.contains("fd00:a::/64 via fd00:9::2"));
    Ok(())
}

fn the_bond_outlives_a_cable(site: &Site, machine: &Machine) -> Result<()> {
    // Of the bond itself, and of its cards.
    let up = |count: u32| {
        let counted = format!("[ $(grep -c 'MII Status: up' /proc/net/bonding/bond0) = {count} ]");
        site.guest
            .ok(&format!("for i in $(seq 100); do {counted} && exit 0; sleep 0.2; done; exit 1"))
    };
    up(2)?;
    machine.cable(1, true)?;
    up(3)?;
    machine.cable(0, false)?;
    up(2).context("over the second card")?;
    machine.cable(0, true)?;
    up(3).map(drop)
}

/// A cloud that answered this machine is not asked again: the next boot, which `power_state` makes, waits for nobody, and
/// does nothing again that is for once: it stays.
fn asked_no_more(case: &Case, machine: &Machine) -> Result<()> {
    case.metadata.asked();
    let before = case.site.guest.ok("cat /proc/sys/kernel/random/boot_id")?;
    case.ends(machine, "rented", "reboot")?;
    case.site.guest.wait_boot(&before, crate::site::BOOT)?;
    case.site.settled()?;
    let asked = case.metadata.asked();
    ensure!(asked.is_empty(), "{asked:?}");
    let log = Path::new("/var/log/messages");
    let private = format!("stat -c %a {}", log.display());
    ensure!(case.site.guest.ok(&private)? == "600", "the kernel's log is root's");
    // The scripts of this boot run once the console is up.
    let counted = "for i in $(seq 100); do [ $(wc -l < /var/lib/ros/count-boot) = 4 ] && exit 0; sleep 0.2; done; exit 1";
    case.site.guest.ok(counted).context("the script of each boot")?;
    ensure!(case.counts()? == ["4", "3", "4", "3", "1"], "{:?}", case.counts()?);
    Ok(())
}

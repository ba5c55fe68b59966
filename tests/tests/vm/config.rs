//! Configuration on a booted machine: a bridge with a VLAN on it carries the machine, users, passwords, files, certificates,
//! time servers and swap are made, changes are applied in place, a change on trial goes back, also when it cut the machine
//! off, and a broken file locks nobody out.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use serde_json::{Value, json};

use crate::site::{BOOT, Site};
use crate::tls::Server;

/// What crypt(5) makes of `word of ann`.
const HASH: &str = "$6$saltsalt$et/mHsUau.mQI4NYSKAm2KZD5CeBX//RIhRA3f899VvkmG56awLSPBU4H4T6dydjMcGT3FPMYPegMbVgBMpn/0";

/// What a configuration may say of a machine, beside its network.
const USER_DATA: &str = "\
fqdn: config-one.example
groups: [{ops: [ros]}, empty]
users:
- default
- {name: ann, groups: [sudo, ops], sudo: 'ALL=(ALL) NOPASSWD:ALL', gecos: Ann, lock_passwd: false, hashed_passwd: 'HASH'}
- {name: bob, uid: 1234, primary_group: ops, shell: /bin/sh, lock_passwd: false, plain_text_passwd: word of bob}
- {name: eve, plain_text_passwd: locked}
chpasswd: {expire: false, users: [{name: ros, password: word of ros, type: text}]}
write_files:
- {path: /etc/case/plain, content: \"say hi\\n\", encoding: text/plain}
- {path: /etc/case/b64, encoding: b64, content: c2F5IGhpCg==}
- {path: /etc/case/base64, encoding: base64, content: c2F5IGhpCg==}
- {path: /etc/case/gz, encoding: gz, content: !!binary ZIPPED}
- {path: /etc/case/gzip, encoding: gzip, content: !!binary ZIPPED}
- {path: /etc/case/gz-b64, encoding: gz+b64, content: ZIPPED}
- {path: /etc/case/gz-base64, encoding: gz+base64, content: ZIPPED}
- {path: /etc/case/gzip-b64, encoding: gzip+b64, content: ZIPPED}
- {path: /etc/case/gzip-base64, encoding: gzip+base64, content: ZIPPED}
- {path: /etc/case/binary, content: !!binary c2F5IGhpCg==}
- {path: /etc/case-bytes, content: !!binary //79}
- {path: /etc/added, content: \"one\\n\", permissions: '0600'}
- {path: /etc/added, content: \"two\\n\", permissions: '0600', append: true}
- {path: /home/ann/late, content: mine, owner: 'ann:ops', permissions: '0640', defer: true}
- {path: /etc/case-too-early, content: no, owner: ann}
ntp: {servers: [192.0.2.7], pools: [], peers: [192.0.2.8]}
growpart: {mode: auto}
swap: {size: 16M}
packages: [vim]
rancher:
  network:
    interfaces:
      'e*': {bridge: br0}
      br0: {bridge: 'true', dhcp: true, vlans: '7:v7'}
      v7: {addresses: [10.7.0.1/24, 'fd00:7::1/64'], routes: [{to: 10.8.0.0/16, via: 10.7.0.2}]}
";

pub fn a_bridge_users_changes_in_place_and_the_way_back() -> Result<()> {
    let site = Site::new("config")?;
    let (ours, stranger) =
        (Server::start(&site.dir.join("ours"))?, Server::start(&site.dir.join("stranger"))?);
    let own = USER_DATA.replace("HASH", HASH).replace("ZIPPED", ZIPPED);
    let trusted = serde_json::to_string(&ours.certificate)?;
    let host_key = host_key(&site.dir.join("host_key"))?;
    let user_data = format!("{own}ca_certs: {{trusted: [{trusted}]}}\nssh_keys: {host_key}\n");
    let (machine, first) = site.boot(site.spec("v1.0", &user_data)?)?;
    site.settled()?;
    ensure!(site.guest.ok("hostname")? == "config-one");
    the_network_is_as_configured(&site)?;
    users_and_passwords_are_there(&site)?;
    files_are_written(&site)?;
    the_disk_and_the_clock_are_as_configured(&site)?;
    the_right_server_is_trusted(&site, &ours, &stranger)?;
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

    confirmed_it_stays(&site)?;
    cut_off_it_comes_back(&site, "br0")?;
    the_network_is_as_configured(&site)?;

    let from = machine.serial().len();
    site.guest.ok(
        "sudo sh -c 'echo \"hostname: [\" > /var/lib/ros/conf/cloud-config.yml'; sudo ros reboot",
    )?;
    site.guest.wait_boot(&first, BOOT)?;
    ensure!(
        site.guest.ok("cat /proc/sys/kernel/domainname")? == "in.place",
        "the last good file counts"
    );
    site.settled()?;
    let offered = "the last good configuration counts instead (`ros config edit` repairs the file, `ros config restore` puts";
    machine.wait_serial(offered, from, Duration::from_secs(10)).context("on the console")?;
    ensure!(site.guest.ok("dmesg")?.contains(offered), "not in the kernel's log");
    let validate = site.guest.run("ros config validate")?;
    ensure!(validate.status == 1 && validate.stdout.contains(offered), "{validate:?}");
    ensure!(validate.stdout.contains("cloud-config.yml:2:1: error: "), "{validate:?}");
    ensure!(site.guest.ok("cat /proc/cmdline")?.contains("case.word=1"));
    let kept = site.guest.ok("ros config restore --list")?;
    ensure!(kept.contains("ros config restore --generation 1"), "{kept}");
    site.guest.ok("ros config restore --generation 1 && ros config validate")?;
    ensure!(site.guest.ok("ros config get ros.sysctl.kernel.domainname")? == "in.place");
    Ok(())
}

fn the_network_is_as_configured(site: &Site) -> Result<()> {
    let addresses = site.guest.ok("ip -o addr")?;
    for expected in ["br0    inet 10.0.2.", "inet 10.7.0.1/24", "inet6 fd00:7::1/64"] {
        ensure!(addresses.contains(expected), "no {expected:?} in:\n{addresses}");
    }
    ensure!(site.guest.ok("ip route")?.contains("10.8.0.0/16 via 10.7.0.2"));
    Ok(())
}

/// Passwords are asked of PAM's own helper, as a login does.
fn users_and_passwords_are_there(site: &Site) -> Result<()> {
    let guest = &site.guest;
    ensure!(guest.ok("id ann")?.contains("(ops)"));
    ensure!(guest.ok("id ros")?.contains("(ops)"), "a member of the group");
    ensure!(guest.ok("sudo -u ann sudo -n id -u")? == "0");
    ensure!(guest.ok("id -u bob; id -gn bob")? == "1234\nops");
    ensure!(guest.ok("grep ^bob: /etc/passwd")?.ends_with(":/bin/sh"));
    guest.ok("grep -q '^empty:x:[0-9]*:$' /etc/group")?;
    let shadow = guest.ok("cat /etc/shadow")?;
    ensure!(shadow.contains(&format!("\nann:{HASH}:")), "the hash as it is given: {shadow}");
    ensure!(shadow.contains("\neve:*:"), "locked, whatever the password: {shadow}");
    ensure!(!shadow.contains("word of"), "a password in the clear");
    let mut scan = Command::new("ssh-keyscan");
    let scanned = scan
        .args(["-T", "60", "-t", "rsa", "-p", &guest.port.to_string(), "127.0.0.1"])
        .output()?;
    let public = std::fs::read_to_string(site.dir.join("host_key.pub"))?;
    let public = public.split_whitespace().nth(1).context("a public key")?;
    ensure!(
        String::from_utf8_lossy(&scanned.stdout).contains(public),
        "sshd has another: {scanned:?}"
    );
    for (user, password, lets_in) in [
        ("ann", "word of ann", true),
        ("bob", "word of bob", true),
        ("ros", "word of ros", true),
        ("bob", "word of ann", false),
        ("eve", "locked", false),
    ] {
        let asked = guest.run(&format!("printf '{password}\\0' | unix_chkpwd {user} nonull"))?;
        ensure!((asked.status == 0) == lets_in, "{user} with {password:?}: {asked:?}");
    }
    Ok(())
}

/// A host key of the kind that no machine makes by itself, as the configuration takes it.
fn host_key(file: &Path) -> Result<Value> {
    artifacts::run(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"])
            .arg(file),
    )?;
    let read = |file: &Path| std::fs::read_to_string(file).context("read the host key");
    Ok(json!({ "rsa_private": read(file)?, "rsa_public": read(&file.with_extension("pub"))? }))
}

/// `say hi` and a line's end, in gzip and base64.
const ZIPPED: &str = "H4sIAAAAAAACAytOrFTIyOQCAN9HmsUHAAAA";

fn files_are_written(site: &Site) -> Result<()> {
    let guest = &site.guest;
    let all = guest
        .ok("cd /etc/case && for f in *; do echo $f: $(stat -c '%a %U:%G' $f) $(cat $f); done")?;
    let mut lines = all.lines();
    ensure!(lines.clone().count() == 10, "{all}");
    ensure!(lines.all(|line| line.ends_with(": 644 root:root say hi")), "{all}");
    ensure!(guest.ok("/bin/busybox od -An -tx1 /etc/case-bytes")?.trim() == "ff fe fd");
    ensure!(guest.ok("stat -c %a /etc/added; cat /etc/added")? == "600\none\ntwo");
    let late = guest.ok("stat -c '%a %U:%G' /home/ann/late; cat /home/ann/late")?;
    ensure!(late == "640 ann:ops\nmine", "written when ann is there: {late}");
    let log = guest.ok("dmesg")?;
    ensure!(log.contains("ann is not in /etc/passwd"), "too early, and it is said: {log}");
    Ok(())
}

/// STATE reaches to the disk's end although its image was smaller; swap; chrony asks who is configured.
fn the_disk_and_the_clock_are_as_configured(site: &Site) -> Result<()> {
    let guest = &site.guest;
    let numbers = |text: String| -> Result<Vec<u64>> {
        text.split_whitespace().map(|word| word.parse().context("a number")).collect()
    };
    let built = artifacts::images().join("disk-v1.0.qcow2");
    let built = Command::new("qemu-img").args(["info", "--output=json"]).arg(built).output()?;
    let built: Value = serde_json::from_slice(&built.stdout)?;
    let built = built["virtual-size"].as_u64().context("the image's size")?;
    let sizes = "d=$(findmnt -no SOURCE /var); p=$(basename ${d%%[*}); \
                 cat /sys/class/block/$p/start /sys/class/block/$p/size /sys/class/block/$p/../size; stat -f -c '%b %S' /var";
    let [start, size, disk, blocks, block] = numbers(guest.ok(sizes)?)?[..] else {
        anyhow::bail!("five numbers were asked for");
    };
    ensure!(disk * 512 > built + (1 << 30), "the disk is no larger than its image: {disk}");
    ensure!(
        disk - (start + size) < 4096,
        "the partition ends {} sectors early",
        disk - start - size
    );
    ensure!(blocks * block > size * 512 / 10 * 9, "the file system has {} bytes", blocks * block);

    ensure!(guest.ok("awk '$1 == \"/var/swap.img\" { print $3 }' /proc/swaps")? == "16380");
    let sources = guest.ok("system-docker exec ntp /usr/bin/chronyc -n sources")?;
    for source in ["^? 192.0.2.7 ", "=? 192.0.2.8 "] {
        ensure!(sources.contains(source), "no {source:?} in:\n{sources}");
    }
    Ok(())
}

/// `ros` itself is the client: what it asks for comes from who is trusted, and not from anybody else.
fn the_right_server_is_trusted(site: &Site, ours: &Server, stranger: &Server) -> Result<()> {
    let ask = |server: &Server| {
        let url = format!("https://10.0.2.2:{}/config.yml", server.port);
        site.guest.run(&format!("ros install --dry-run -d /dev/none -c {url}"))
    };
    let (trusted, refused) = (ask(ours)?, ask(stranger)?);
    ensure!(trusted.stderr.contains("no such device"), "{trusted:?}");
    ensure!(!trusted.stderr.contains("config.yml"), "{trusted:?}");
    ensure!(refused.stderr.contains("config.yml"), "{refused:?}");
    Ok(())
}

/// Until the guard of a trial has ended.
const NO_GUARD: &str = "for i in $(seq 150); do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q '[c]onfig guard' || exit 0; \
                        sleep 0.2; done; exit 1";

/// The guard lives to the end of the trial, and does nothing then.
fn confirmed_it_stays(site: &Site) -> Result<()> {
    let guest = &site.guest;
    guest.ok("ros config set hostname confirmed && ros config apply --confirm 10")?;
    ensure!(guest.run(&NO_GUARD.replace("150", "1"))?.status == 1, "nobody guards the trial");
    guest.ok("ros config confirm")?;
    ensure!(guest.run("ros config confirm")?.status == 1, "there is nothing to confirm any more");
    guest.ok(NO_GUARD)?;
    ensure!(guest.ok("hostname; ros config get hostname")? == "confirmed\nconfirmed");
    ensure!(guest.run("ros config diff")?.status == 0, "it is what was applied");
    guest.ok("ros config unset hostname && ros config apply")?;
    ensure!(guest.ok("hostname")? == "config-one");
    Ok(())
}

/// A fixed address of another network in place of DHCP: nobody reaches the machine to confirm it, and after the time it is
/// back by itself, with the configuration as it was.
pub fn cut_off_it_comes_back(site: &Site, interface: &str) -> Result<()> {
    let guest = &site.guest;
    let key = format!("ros.network.interfaces.{interface}");
    let before = guest.run(&format!("ros config get {key}"))?;
    guest.ok(&format!("ros config set {key} '{{dhcp: false, address: 192.0.2.9/24}}'"))?;
    let diff = guest.run("ros config diff")?;
    ensure!(diff.status == 1 && diff.stdout.contains("192.0.2.9/24"), "{diff:?}");
    // What the machine itself sees of it, while nobody else does.
    guest.ok(&format!(
        "rm -f /tmp/enough; setsid sh -c 'while [ ! -e /tmp/enough ]; do echo; ip -4 -o addr show dev {interface} | tr \"\\n\" \" \"; \
         sleep 0.3; done' > /tmp/seen 2> /dev/null < /dev/null & \
         setsid ros config apply --confirm 30 > /tmp/applied 2>&1 < /dev/null &"
    ))?;
    let end = Instant::now() + Duration::from_secs(90);
    while greets(guest.port) {
        ensure!(
            Instant::now() < end,
            "the machine is still reached: {}",
            guest.ok("cat /tmp/applied")?
        );
    }
    guest.wait(BOOT).context("after the trial")?;
    guest.ok(
        "for i in $(seq 150); do ros config diff > /dev/null && exit 0; sleep 0.2; done; exit 1",
    )?;

    let after = guest.run(&format!("ros config get {key}"))?;
    ensure!((after.status, &after.stdout) == (before.status, &before.stdout), "{after:?}");
    let applied = guest.ok("touch /tmp/enough; cat /tmp/applied")?;
    ensure!(applied.contains("on trial for 30 s"), "{applied}");
    ensure!(applied.contains("changed: network took it over"), "{applied}");
    let seen = guest.ok("cat /tmp/seen")?;
    let cut_off =
        seen.lines().any(|line| line.contains("192.0.2.9/24") && !line.contains("10.0.2."));
    ensure!(cut_off, "the address of DHCP stayed beside the fixed one:\n{seen}");
    let now = guest.ok(&format!("ip -4 -o addr show dev {interface}"))?;
    ensure!(now.contains("10.0.2.") && !now.contains("192.0.2.9"), "{now}");
    ensure!(guest.ok("dmesg")?.contains("nobody confirmed the change in time: going back"));
    Ok(())
}

/// Whether sshd says who it is. QEMU takes a connection to a machine that nobody reaches, too.
fn greets(port: u16) -> bool {
    let greeting = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut word = [0; 4];
        stream.read_exact(&mut word)?;
        Ok(&word == b"SSH-")
    };
    greeting().unwrap_or(false)
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

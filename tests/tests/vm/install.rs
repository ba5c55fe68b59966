//! `ros install`: out of RAM onto an empty disk, which a BIOS and UEFI boot then; another release than the one that runs, by
//! name, from an OCI archive or layout; the configuration from a file or a URL. What is refused leaves no byte on the disk;
//! an installation that was killed leaves an empty one, and the next does it again. The order of writes is read from a
//! recording of the disk.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::guest::Ran;
use ros_tests::machine::{Firmware, Machine, Spec};
use ros_tests::metadata::Metadata;
use ros_tests::powercut::log::{Kind, Log};

use crate::site::Site;

const OFF: Duration = Duration::from_secs(60);

pub fn a_disk_made_in_ram_boots_by_bios_and_uefi_and_is_upgraded() -> Result<()> {
    let site = Site::new("install")?;
    let disk = raw(&site, "disk.raw", 4 << 30)?;
    let small = raw(&site, "small.raw", 600 << 20)?;
    let (machine, _) = site.boot(from_ram(&site, vec![disk.clone(), small])?)?;
    site.settled()?;
    let web = Metadata::start()?;
    what_is_wrong_is_refused(&site, &web)?;
    another_release_is_planned(&site)?;
    ensure!(fs::metadata(&disk)?.blocks() == 0, "something was written to the disk");
    killed_it_leaves_an_empty_disk(&site, &disk)?;
    web.page("GET /good.yml", "", &good(&site));
    let url = format!("http://10.0.2.2:{}/good.yml", web.port);
    let said = site.guest.run(&format!(
        "ros install -d /dev/vda -i {ARCHIVE} -c {url} -a case.installed=1 -f --no-reboot"
    ))?;
    ensure!(said.status == 0, "{said:?}");
    for word in ["v1.1 onto /dev/vda", &url, ARCHIVE, "the disk is whole", "a BIOS boots it"] {
        ensure!(said.stderr.contains(word), "no {word:?} in {}", said.stderr);
    }
    ensure!(!said.stderr.contains("nobody can log in"), "{}", said.stderr);
    refuses(&site, "ros install -d /dev/vda", &["not empty", "ROS_STATE", "-f"])?;
    power_off(&site, &machine)?;
    has_uuids_of_its_own(&disk)?;
    its_first_sector_came_last(&site)?;

    let (machine, first) = site.boot(from_disk(&site, &disk))?;
    ensure!(site.guest.ok("hostname")? == "installed");
    ensure!(site.guest.ok("cat /proc/cmdline")?.contains("case.installed=1"));
    site.settled()?;
    let status = site.status()?;
    ensure!(status["running"]["state"] == "good", "{status}");
    ensure!(site.version()? == "v1.1", "it is the archive's");
    site.guest.ok("ros os verify && system-docker check")?;
    site.guest.ok("ros os upgrade --yes -i os:v1.0")?;
    ensure!(site.version()? == "v1.0");
    ensure!(site.guest.ok("cat /proc/sys/kernel/random/boot_id")? == first, "it was booted");
    power_off(&site, &machine)?;

    let spec = Spec { firmware: Firmware::Uefi, ..from_disk(&site, &disk) };
    let (_machine, _) = site.boot(spec)?;
    ensure!(site.guest.ok("test -d /sys/firmware/efi && echo uefi")? == "uefi");
    ensure!(site.version()? == "v1.0" && site.guest.ok("hostname")? == "installed");
    ensure!(site.guest.ok("cat /proc/cmdline")?.contains("case.installed=1"), "they stay");
    Ok(())
}

fn raw(site: &Site, name: &str, size: u64) -> Result<PathBuf> {
    let path = site.dir.join(name);
    File::create(&path)?.set_len(size)?;
    Ok(path)
}

fn from_ram(site: &Site, disks: Vec<PathBuf>) -> Result<Spec> {
    let mut spec = site.ram_spec(disks, "")?;
    File::create(recording(site))?;
    spec.recording = Some(recording(site));
    spec.throwaway = true;
    Ok(spec)
}

fn recording(site: &Site) -> PathBuf {
    site.dir.join("writes.log")
}

fn from_disk(site: &Site, disk: &Path) -> Spec {
    let mut spec = Spec::new(&site.dir);
    spec.disks = vec![disk.to_owned()];
    spec.throwaway = true;
    spec.ssh_port = Some(site.guest.port);
    spec
}

fn power_off(site: &Site, machine: &Machine) -> Result<()> {
    site.guest.ok("ros poweroff")?;
    machine.wait_off(OFF)
}

impl Site {
    fn put(&self, name: &str, text: &str) -> Result<()> {
        let file = self.dir.join(name);
        fs::write(&file, text)?;
        self.guest.send(&file, &format!("/tmp/{name}"))
    }
}

fn good(site: &Site) -> String {
    let host = format!("10.0.2.2:{}", site.registry_port);
    format!(
        "#cloud-config\nhostname: installed\nssh_authorized_keys: ['{}']\nros:\n  upgrade: {{repository: '{host}/os'}}\n  \
         registries: {{'{host}': {{plain_http: true}}}}\n",
        site.public_key
    )
}

fn refuses(site: &Site, command: &str, words: &[&str]) -> Result<Ran> {
    let ran = site.guest.run(command)?;
    ensure!(ran.status == 1, "{command}: {ran:?}");
    for word in words {
        ensure!(ran.stderr.contains(word), "{command}: no {word:?} in {}", ran.stderr);
    }
    Ok(ran)
}

/// Where the archive of a release lies on the machine.
const ARCHIVE: &str = "/tmp/os-v1.1.oci.tar";

/// Each form of a name for another release: it is found, and what it would be is said.
fn another_release_is_planned(site: &Site) -> Result<()> {
    let bench = site.bench()?;
    bench.take("v1.1")?;
    site.guest.send(&bench.archive("v1.1")?, ARCHIVE)?;
    site.guest.ok(&format!("mkdir /tmp/layout && tar -xf {ARCHIVE} -C /tmp/layout"))?;
    let named = format!("10.0.2.2:{}/os:v1.2", site.registry_port);
    for (image, words) in [
        ("v1.2", ["v1.2 onto /dev/vda", &named, "fetch"]),
        ("os:v1.2", ["v1.2 onto /dev/vda", &named, "fetch"]),
        (&*named, ["v1.2 onto /dev/vda", &named, "fetch"]),
        (ARCHIVE, ["v1.1 onto /dev/vda", ARCHIVE, "fetch"]),
        ("/tmp/layout", ["v1.1 onto /dev/vda", "/tmp/layout", "fetch"]),
    ] {
        let dry = site.guest.run(&format!("ros install -d /dev/vda -i {image} --dry-run"))?;
        let said = words.iter().all(|word| dry.stderr.contains(word));
        ensure!(dry.status == 0 && said, "{image}: {words:?}: {dry:?}");
    }
    site.guest.ok("rm -r /tmp/layout; head -c 100000 /tmp/os-v1.1.oci.tar > /tmp/torn.oci.tar")?;
    for image in ["os:v9.9", "/tmp/nothing.oci.tar", "/tmp/torn.oci.tar"] {
        refuses(site, &format!("ros install -d /dev/vda -f -i {image}"), &[image])?;
    }
    Ok(())
}

/// From a URL: refused with the words that `validate` has for the same text, under the URL's name.
fn what_is_fetched_is_checked(site: &Site, web: &Metadata, bad: &str) -> Result<()> {
    let url = format!("http://10.0.2.2:{}/bad.yml", web.port);
    let command = format!("ros install -d /dev/vda -f -c {url}");
    refuses(site, &command, &[&url, "404"])?;
    web.page("GET /bad.yml", "", bad);
    let said = refuses(site, &command, &["2 errors"])?;
    let validate = site.guest.run("ros config validate /tmp/bad.yml")?;
    ensure!(validate.stdout.lines().count() >= 6, "{validate:?}");
    for line in validate.stdout.lines() {
        let line = line.replace("/tmp/bad.yml", &url);
        ensure!(said.stderr.contains(&line), "{line} is not in {}", said.stderr);
    }
    web.page("GET /bad.yml", "", "\u{0}\u{1}no text\n");
    refuses(site, &command, &[&url, "nothing was changed"])?;
    Ok(())
}

fn what_is_wrong_is_refused(site: &Site, web: &Metadata) -> Result<()> {
    let bad = "#cloud-config\nhostname: [a]\nros:\n  ssh: {port: 99999}\n";
    site.put("bad.yml", bad)?;
    what_is_fetched_is_checked(site, web, bad)?;
    let said = refuses(
        site,
        "ros install -d /dev/vda -c /tmp/bad.yml -f",
        &["bad.yml:2:11", "bad.yml:4:15", "port: 99999", "^", "2 errors"],
    )?;
    let validate = site.guest.run("ros config validate /tmp/bad.yml")?;
    for line in validate.stdout.lines() {
        ensure!(said.stderr.contains(line), "validate says more: {line}");
    }
    refuses(
        site,
        "ros install -d /dev/vdz -c /tmp/bad.yml -f",
        &["vdz", "no such device", "4:15"],
    )?;
    refuses(site, "ros install -d /dev/vdb -f", &["/dev/vdb", "are needed"])?;
    refuses(site, "ros install -d /dev/vda -t raid", &["-t raid"])?;
    site.guest.ok("mke2fs -q /dev/vdb && mkdir -p /mnt/x && mount /dev/vdb /mnt/x")?;
    refuses(site, "ros install -d /dev/vdb -f", &["vdb is mounted at /mnt/x"])?;
    site.guest.ok("umount /mnt/x")?;
    let dry = site.guest.run("ros install -d /dev/vda --dry-run")?;
    ensure!(dry.status == 0 && dry.stderr.contains("nobody can log in"), "{dry:?}");
    Ok(())
}

/// Killed in the middle: neither a boot sector nor a table, so neither firmware nor a label finds anything there.
fn killed_it_leaves_an_empty_disk(site: &Site, disk: &Path) -> Result<()> {
    let killed = site.guest.run(
        "(ros install -d /dev/vda -f --no-reboot; echo ended $?) > /tmp/killed 2>&1 & \
         for i in $(seq 600); do grep -q '^state partition' /tmp/killed && break; sleep 0.1; done; \
         system-docker kill ros-install; wait; cat /tmp/killed; sync",
    )?;
    ensure!(killed.stdout.contains("ended 1"), "{killed:?}");
    let mut beginning = vec![1; 1 << 20];
    File::open(disk)?.read_exact_at(&mut beginning, 0)?;
    ensure!(beginning.iter().all(|byte| *byte == 0), "the first MiB is not empty");
    Ok(())
}

/// As the disk saw it: whatever else was written had been flushed before something came into the first sector, and
/// nothing came after it. So no power cut leaves half an installation that boots.
fn its_first_sector_came_last(site: &Site) -> Result<()> {
    let log = Log::read(&recording(site))?;
    let mut boots = Vec::new();
    for (index, entry) in log.entries.iter().enumerate() {
        if let (0, Kind::Write(at)) = (entry.offset, entry.kind)
            && log.data(at, 512)?.iter().any(|byte| *byte != 0)
        {
            boots.push(index);
        }
    }
    ensure!(boots.len() == 1, "the first sector was written {} times", boots.len());
    let (before, after) = log.entries.split_at(boots[0]);
    ensure!(before.len() > 1000, "only {} requests", before.len());
    let last = before.last().context("nothing was written before")?;
    ensure!(last.flush && last.kind == Kind::Nothing, "no flush before the first sector: {last:?}");
    let written = after[1..].iter().filter(|entry| entry.kind != Kind::Nothing).count();
    ensure!(written == 0, "{written} writes after the first sector");
    ensure!(after[1..].iter().any(|entry| entry.flush), "the first sector was not flushed");
    Ok(())
}

fn has_uuids_of_its_own(disk: &Path) -> Result<()> {
    let mut shown = std::process::Command::new("sgdisk");
    let shown = shown.args(["-p", "-v"]).arg(disk).output().context("start sgdisk")?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    ensure!(shown.contains("No problems found"), "{shown}");
    ensure!(!shown.to_lowercase().contains("5d0b4c1e"), "the image builder's UUIDs: {shown}");
    Ok(())
}

//! Replacing the OS: up, back, up, down, with the user's data kept; and every bad upgrade leaves things as they were.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ros_tests::meddler::{Harm, Meddler};
use ros_tests::registry::{Registry, free_port};
use serde_json::Value;

use crate::site::{BOOT, Site, WAY_BACK};

pub fn goes_up_back_and_down_past_bad_upgrades_and_keeps_the_users_data() -> Result<()> {
    let mut site = Site::new("replace")?;
    let (_machine, mut boot) = site.boot(site.spec("v1.0", "hostname: replace")?)?;
    site.settled()?;
    // The first of the steps below is the command that fails there.
    let _registry = bad_upgrades_change_nothing(&mut site)?;
    ensure!(site.version()? == "v1.0");
    site.guest.ok("echo mine > /home/ros/data")?;
    site.guest.ok("system-docker run --rm -v keep:/keep --entrypoint /bin/busybox $(system-docker ps | awk '$NF == \"ntp\" {print $2}') sh -c 'echo kept > /keep/it'")?;

    let steps = [
        ("ros os upgrade -f -i os:v1.2", "v1.2"),
        ("ros os rollback -f", "v1.0"),
        ("ros os upgrade -f --kexec -i os:v1.2", "v1.2"),
        ("ros os upgrade -f -i os:v1.1", "v1.1"),
    ];
    for (command, version) in steps {
        let ran = site.guest.run(command)?;
        // The machine may cut the line by rebooting before the command ends.
        ensure!(
            ran.status == 0 || ran.status == 255,
            "{command}: {}\n{}{}",
            ran.status,
            ran.stdout,
            ran.stderr
        );
        boot = site.guest.wait_boot(&boot, BOOT)?;
        site.settled()?;
        ensure!(site.version()? == version, "after {command}: {}", site.version()?);
        let status = site.status()?;
        ensure!(status["running"]["version"] == version, "{status}");
        ensure!(status["running"]["state"] == "good", "{status}");
        ensure!(site.guest.ok("cat /home/ros/data")? == "mine");
        ensure!(site.guest.ok("cat /var/lib/system-docker/volumes/keep/_data/it")? == "kept");
        ensure!(site.guest.ok("hostname")? == "replace");
        how_it_was_booted(&site, command)?;
    }
    pins_hold(&site)
}

/// By the boot loader or by the kernel before (x86 boot protocol: `type_of_loader` 0xD is kexec), as it was asked for; and
/// the receipt says so.
fn how_it_was_booted(site: &Site, command: &str) -> Result<()> {
    let kexec = command.contains("--kexec");
    let by_kernel = site.guest.ok("cat /proc/sys/kernel/bootloader_type")? == "208";
    let receipt = crate::live::receipt(site)?;
    ensure!(by_kernel == kexec && receipt["kexec"] == kexec, "{command}: {receipt}");
    ensure!(receipt["verdict"] == "good" && receipt["down_ms"].as_u64() > Some(0), "{receipt}");
    eprintln!("{command}: down {} ms", receipt["down_ms"]);
    Ok(())
}

/// From v1.1 to v1.2, by a boot; the check says bad; back to v1.1, by another.
pub fn a_search_goes_on_over_boots() -> Result<()> {
    let site = Site::new("bisect")?;
    let (_machine, _) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    site.guest.ok("ros os upgrade -y -i os:v1.1")?;
    let ran =
        site.guest.run("ros os bisect v1.1 v1.7-console -- test ! -e /var/lib/ros/bisect.json")?;
    ensure!(ran.status == 0 || ran.status == 255, "{ran:?}");
    let end = Instant::now() + WAY_BACK;
    loop {
        let ran = site.guest.run("ros os bisect; ros os version")?;
        if ran.stdout == "v1.2 is the first bad version; v1.1 is good\nv1.1\n" {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{ran:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Five releases of every class. Five is prime: steps of 1, 2, 3 and 4, five of each, pass every way between two of them once.
const FIVE: [&str; 5] = ["v1.0", "v1.1", "v1.2", "v1.7-console", "v1.9-daemon"];

pub fn every_way_between_five_releases() -> Result<()> {
    let site = Site::new("pairs")?;
    let (_machine, _) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let mut at = 0;
    for step in (1..FIVE.len()).flat_map(|step| [step; FIVE.len()]) {
        let to = (at + step) % FIVE.len();
        let ran = site.guest.run(&format!("ros os upgrade -f -i os:{}", FIVE[to]))?;
        ensure!(ran.status == 0 || ran.status == 255, "{} to {}: {ran:?}", FIVE[at], FIVE[to]);
        becomes_good(&site, FIVE[to])?;
        let receipt = crate::live::receipt(&site)?;
        ensure!(receipt["verdict"] == "good" && receipt["to"] == FIVE[to], "{receipt}");
        eprintln!("{} to {}: {}", FIVE[at], FIVE[to], receipt["class"]);
        at = to;
    }
    site.guest.ok("ros os verify && system-docker check").map(drop)
}

/// It may be booted meanwhile.
fn becomes_good(site: &Site, version: &str) -> Result<()> {
    let end = Instant::now() + WAY_BACK;
    loop {
        let ran = site.guest.run("ros os status --format json")?;
        let status: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let running = &status["running"];
        if ran.status == 0 && running["version"] == version && running["state"] == "good" {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{version} does not become good: {ran:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn pins_hold(site: &Site) -> Result<()> {
    site.guest.ok("ros os pin v1.1")?;
    let refused = site.guest.run("ros os upgrade -y --no-reboot -i os:v1.2")?;
    ensure!(refused.status != 0 && refused.stderr.contains("pinned"), "{refused:?}");
    let list = site.json("ros os list --format json")?;
    let pinned = list.as_array().into_iter().flatten().find(|entry| entry["version"] == "v1.1");
    ensure!(
        pinned.is_some_and(|entry| entry["pinned"] == true && entry["running"] == true),
        "{list}"
    );
    site.guest.ok("ros os unpin v1.1")?;
    site.guest.ok("ros os upgrade -f --stage -i os:v1.2")?;
    ensure!(site.version()? == "v1.1");
    Ok(())
}

/// A power cut does not do this, but a bad sector may.
pub fn what_the_disk_lost_is_passed_over_and_brought_again() -> Result<()> {
    let site = Site::new("lost")?;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    site.guest.ok("ros os upgrade -y -i os:v1.1")?;
    ensure!(!site.guest.ok("ros os list")?.contains("damaged"));

    // The lock file of what boots cannot be read: another generation is whole, and boots from now on.
    site.guest.ok("echo x > /var/lib/ros/generations/2/release.yml; sync; ros reboot")?;
    let boot = site.guest.wait_boot(&boot, BOOT)?;
    instead_of(&site, "v1.1", "v1.0")?;
    // The same command brings it again, in the running system.
    site.guest.ok("ros os upgrade -y -i os:v1.1")?;
    ensure!(site.version()? == "v1.1");

    // So it is with a kernel that BOOT lost, without anybody at the boot menu.
    site.guest.run("ros os upgrade -f -i os:v1.2")?;
    let boot = site.guest.wait_boot(&boot, BOOT)?;
    site.settled()?;
    ensure!(site.version()? == "v1.2");
    site.guest
        .ok("rm /boot$(sed 's/.*BOOT_IMAGE=\\([^ ]*\\).*/\\1/' /proc/cmdline); sync; ros reboot")?;
    let boot = site.guest.wait_boot(&boot, WAY_BACK)?;
    instead_of(&site, "v1.2", "v1.1")?;
    site.guest.run("ros os upgrade -f -i os:v1.2")?;
    site.guest.wait_boot(&boot, BOOT)?;
    site.settled()?;
    ensure!(site.version()? == "v1.2");
    site.guest.ok("ros os prune && ros os verify")?;
    Ok(())
}

/// `runs` is what came up, whole, and what boots by default; the status says what became of `lost`.
fn instead_of(site: &Site, lost: &str, runs: &str) -> Result<()> {
    site.settled()?;
    let said = site.guest.ok("ros os status; ros os list")?;
    ensure!(site.version()? == runs, "{said}");
    ensure!(said.contains(&format!("it is damaged, and {runs} runs in its place")), "{said}");
    ensure!(said.contains(&format!("next boot  {runs}\n")), "{said}");
    let listed = said.lines().find(|line| line.split(' ').next() == Some(lost));
    ensure!(listed.is_some_and(|line| line.contains("damaged")), "{said}");
    Ok(())
}

/// The registry as it is afterwards: sound again, behind a proxy that does no harm.
fn bad_upgrades_change_nothing(site: &mut Site) -> Result<(Registry, Meddler)> {
    let storage = site.dir.join("registry");
    let (port, inner) = (site.registry_port, free_port()?);
    let before = generations(site)?;

    fails(site, "os:v9.9", "v9.9", &before)?;
    // A release that is larger than the disk. As with those that follow, its layers must not be here yet.
    plant_huge(&site.registry)?;
    fails(site, "os:v1.14-huge", "not enough space on /var", &before)?;

    // A proxy that flips a byte stands where the registry was.
    site.registry.kill();
    let behind = Registry::start(&storage, inner)?;
    let flips = Meddler::start(port, inner, Harm::Flip(150_000))?;
    fails(site, "os:v1.2", "", &before)?;
    drop(flips);

    // The registry dies midway.
    let cuts = Meddler::start(port, inner, Harm::Cut(600_000))?;
    fails(site, "os:v1.2", "", &before)?;
    drop(cuts);

    // The disk is full.
    let harmless = Meddler::start(port, inner, Harm::None)?;
    site.guest.ok("dd if=/dev/zero of=/var/lib/filler bs=1M 2>/dev/null; sync; true")?;
    fails(site, "os:v1.2", "space", &before)?;
    site.guest.ok("rm /var/lib/filler; sync")?;

    // An initrd that is not what the lock file says.
    fails(site, "os:v1.13-wrong", "initrd of the release is damaged", &before)?;
    let none = site.guest.ok("ros os list --local --format json")?;
    ensure!(!none.contains("v1.13"), "{none}");
    Ok((behind, harmless))
}

/// The upgrade fails with a message that has `word`, and what is installed and what boots stays the same.
fn fails(site: &Site, image: &str, word: &str, before: &str) -> Result<()> {
    let ran = site.guest.run(&format!("timeout 120 ros os upgrade -f --no-reboot -i {image}"))?;
    ensure!(ran.status != 0 && ran.status != 124, "{image} was not refused in time: {ran:?}");
    ensure!(ran.stderr.to_lowercase().contains(word), "{word:?} is not in {:?}", ran.stderr);
    let after = generations(site)?;
    ensure!(after == before, "{image} changed something:\n{before}\n{after}");
    Ok(())
}

/// The manifest of v1.2 under another name, with a first layer that is said to be twice as large as the disk.
fn plant_huge(registry: &Registry) -> Result<()> {
    let manifest: Value = serde_json::from_str(&registry.manifest("os", "v1.2")?)?;
    let mut huge = manifest;
    huge["layers"][0]["size"] = (8u64 << 30).into();
    registry.put_manifest("os", "v1.14-huge", &huge.to_string())
}

pub fn generations(site: &Site) -> Result<String> {
    site.guest.ok("ls /var/lib/ros/generations; readlink /var/lib/ros/generations/current; cat /boot/grub/grubenv; ls /boot/sets")
}

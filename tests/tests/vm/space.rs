//! The disk: versions side by side share what is the same, and fifty upgrades on the smallest disk find room for each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::bench::Bench;

use crate::site::{BOOT, Site};

/// The smallest disk that is supported.
const DISK: &str = "2G";
/// What each of nine releases has that the one before had not: a year of small updates.
const NINE: [Change; 9] = [
    Change::Files("ntp"),
    Change::Files("console"),
    Change::Files("network"),
    Change::Files("udev"),
    Change::Files("syslog"),
    Change::Files("acpid"),
    Change::Files("cloud-init"),
    Change::Files("console"),
    Change::Files("ntp"),
];
/// What costs more: boot sets and daemons are shared by none that has another.
const DEAR: [Change; 2] = [Change::BootSet, Change::Daemon];
/// Upgrades, each to another boot set; of so many one is booted.
const FIFTY: (usize, usize) = (50, 10);
/// New files of a service, in bytes that do not compress.
const FILES: usize = 1 << 20;

/// How a release differs from the one before.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A service's files, as much as a package of some size.
    Files(&'static str),
    /// Kernel arguments and the initrd.
    BootSet,
    /// The daemon, and with it the initrd's `/init`.
    Daemon,
}

/// Definitions of releases that nobody else needs, in a folder of their own.
struct Definitions {
    dir: PathBuf,
    random: fastrand::Rng,
}

impl Definitions {
    fn new(site: &Site) -> Result<Self> {
        let (dir, ours) = (site.dir.join("definitions"), artifacts::checkout().join("os-images"));
        fs::create_dir_all(dir.join("releases"))?;
        for part in ["services", "kernel", "grub", "releases/v1.0.yml"] {
            symlink(ours.join(part), dir.join(part))?;
        }
        Ok(Self { dir, random: fastrand::Rng::with_seed(1) })
    }

    /// Writes the release `version`, which is `from` with `change`.
    fn write(&mut self, version: &str, from: &str, change: Change) -> Result<()> {
        let releases = self.dir.join("releases");
        let text = match change {
            Change::Files(service) => {
                let content: Vec<u8> = (0..FILES).map(|_| self.random.u8(..)).collect();
                fs::create_dir_all(releases.join(version).join("usr/share"))?;
                fs::write(releases.join(version).join("usr/share/new"), content)?;
                format!("images: {{os-{service}: {{rootfs: {version}}}}}")
            }
            Change::BootSet => format!("defaults: {{hostname: {version}}}"),
            Change::Daemon => format!("programs: {{system-docker: {{append: '{version}'}}}}"),
        };
        let file = releases.join(format!("{version}.yml"));
        fs::write(&file, format!("from: {from}\n{text}\n"))
            .with_context(|| format!("write {}", file.display()))
    }
}

pub fn ten_versions_share_and_fifty_upgrades_find_room() -> Result<()> {
    let mut site = Site::new("space")?;
    // Its own copy: what is pushed is of this test alone.
    let storage = site.dir.join("registry");
    site.registry.kill();
    fs::remove_file(&storage)?;
    let mut copy = std::process::Command::new("cp");
    artifacts::run(copy.arg("-al").arg(artifacts::registry_storage()).arg(&storage))?;
    site.registry = ros_tests::registry::Registry::start(&storage, site.registry_port)?;

    let bench = site.bench()?;
    let mut definitions = Definitions::new(&site)?;
    let mut spec = site.spec("v1.0", "")?;
    let disk = site.dir.join("small.qcow2");
    artifacts::disk("v1.0", DISK, &disk)?;
    spec.disks = vec![disk];
    let (_machine, boot) = site.boot(spec)?;
    site.settled()?;
    ten_versions(&site, &bench, &mut definitions)?;
    fifty_upgrades(&site, &bench, &mut definitions, boot)?;
    site.guest.ok("ros os verify && system-docker check").map(drop)
}

/// Makes a release and gives it to the registry.
fn publish(
    site: &Site,
    bench: &Bench,
    definitions: &mut Definitions,
    version: &str,
    from: &str,
    change: Change,
) -> Result<()> {
    definitions.write(version, from, change)?;
    bench.build(version, &definitions.dir)?;
    bench.push(version, site.registry_port)?;
    bench.forget(version)
}

/// Bytes that the disk's file systems have in use.
fn used(site: &Site) -> Result<u64> {
    let used = site
        .guest
        .ok("sync; df -Pk /var/lib/ros /boot | awk 'NR > 1 {kib += $3} END {print kib * 1024}'")?;
    used.parse().with_context(|| format!("df: {used}"))
}

fn ten_versions(site: &Site, bench: &Bench, definitions: &mut Definitions) -> Result<()> {
    let one = used(site)?;
    let (mut all, mut before, mut from) = (Vec::new(), one, "v1.0".to_owned());
    for (number, change) in NINE.into_iter().chain(DEAR).enumerate() {
        let version = format!("v2.{number}");
        publish(site, bench, definitions, &version, &from, change)?;
        site.guest.ok(&format!("ros os upgrade -f --stage -i os:{version}"))?;
        let now = used(site)?;
        eprintln!("{version}, {change:?}: {} kB more", now.saturating_sub(before) / 1000);
        all.push(now);
        (before, from) = (now, version);
    }
    let installed = site.json("ros os list --local --format json")?;
    ensure!(installed.as_array().is_some_and(|there| there.len() == all.len() + 1), "{installed}");
    let ten = all[NINE.len() - 1];
    let percent = ten * 100 / one;
    eprintln!("ten versions: {} kB, one: {} kB, {percent} %", ten / 1000, one / 1000);
    ensure!(percent <= 150, "ten versions take {percent} % of one");
    Ok(())
}

fn fifty_upgrades(
    site: &Site,
    bench: &Bench,
    definitions: &mut Definitions,
    mut boot: String,
) -> Result<()> {
    for number in 1..=FIFTY.0 {
        let version = format!("v3.{number}");
        publish(site, bench, definitions, &version, "v1.0", Change::BootSet)?;
        if number % FIFTY.1 != 0 {
            site.guest.ok(&format!("ros os upgrade -f --stage -i os:{version}"))?;
            continue;
        }
        site.guest.run(&format!("ros os upgrade -f -i os:{version}"))?;
        boot = site.guest.wait_boot(&boot, BOOT)?;
        site.settled()?;
        ensure!(site.version()? == version, "{version} does not run: {}", site.status()?);
        eprintln!("{version} runs: {}", site.guest.ok("df -h /var/lib/ros /boot; ls /boot/sets")?);
    }
    Ok(())
}

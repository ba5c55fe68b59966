//! Releases that cannot boot or stay sick: the machine is back on the good one by itself, and says why.

use anyhow::{Result, ensure};
use ros_tests::machine::{Machine, tail};

use crate::site::{Site, WAY_BACK};

pub fn what_cannot_boot_goes_back() -> Result<()> {
    // PID 1 hangs. By kexec: that is a try like any other, and the watchdog leads back to the boot loader.
    let site = Site::new("hang")?;
    let (machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let boot = goes_back(&site, &boot, "v1.3-hang", "--kexec")?;
    let serial = machine.serial();
    ensure!(!serial.contains("no kexec"), "{}", tail(&serial, 60));
    let receipt = crate::live::receipt(&site)?;
    ensure!(receipt["verdict"] == "put-back" && receipt["class"] == "kexec", "{receipt}");
    // The kernel panics.
    goes_back(&site, &boot, "v1.4-panic", "").map(drop)
}

pub fn what_hangs_without_a_watchdog_or_stays_sick_goes_back() -> Result<()> {
    let site = Site::new("sick")?;
    let mut spec = site.spec("v1.0", "")?;
    spec.watchdog = false;
    let (machine, boot) = site.boot(spec)?;
    site.settled()?;
    let boot = the_kernels_own_watchdog_ends_it(&site, &machine, &boot)?;
    goes_back(&site, &boot, "v1.5-sick", "").map(drop)
}

/// The release that hangs, tried once.
fn the_kernels_own_watchdog_ends_it(site: &Site, machine: &Machine, boot: &str) -> Result<String> {
    site.guest.ok("dmesg | grep -F 'ros: [watchdog] Software Watchdog'")?;
    site.guest.ok("ros os upgrade -f --stage -i os:v1.3-hang")?;
    let ran = site.guest.run("ros os try -f v1.3-hang")?;
    ensure!(ran.status == 0 || ran.status == 255, "{ran:?}");
    let boot = site.guest.wait_boot(boot, WAY_BACK)?;
    site.settled()?;
    ensure!(site.version()? == "v1.0", "{}", site.status()?);
    let serial = machine.serial();
    ensure!(serial.contains("Initiating system reboot"), "{}", tail(&serial, 60));
    Ok(boot)
}

pub fn what_is_half_there_or_fails_the_users_checks_goes_back() -> Result<()> {
    let site = Site::new("half")?;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let boot = goes_back(&site, &boot, "v1.12-half", "")?;
    // Every service is ready, and what held before does not.
    site.configure("ros: {upgrade: {health: ['test $(ros os version) = v1.0']}}")?;
    goes_back(&site, &boot, "v1.2", "")?;
    let reason = site.status()?["last_failure"]["reason"].to_string();
    ensure!(
        reason.contains("test $(ros os version) = v1.0: health check ended with 1"),
        "{reason}"
    );
    Ok(())
}

/// Upgrades to a sick version; returns the boot in which the good one runs again.
fn goes_back(site: &Site, boot: &str, version: &str, how: &str) -> Result<String> {
    let began = std::time::Instant::now();
    let upgrade = format!("ros os upgrade -f {how} -i os:{version}");
    let ran = site.guest.run(&upgrade)?;
    ensure!(ran.status == 0 || ran.status == 255, "{upgrade}: {ran:?}");
    let boot = back_on_the_good_one(site, boot, version)?;
    eprintln!("{version}: back after {} s", began.elapsed().as_secs());
    let again = site.guest.run(&format!("ros os upgrade -y --no-reboot -i os:{version}"))?;
    ensure!(
        again.status != 0 && again.stderr.contains("failed"),
        "a failed version was not refused: {again:?}"
    );
    Ok(boot)
}

/// A sick release may answer ssh for a while before it is put back: wait for the good version, not for any boot.
fn back_on_the_good_one(site: &Site, before: &str, version: &str) -> Result<String> {
    let end = std::time::Instant::now() + WAY_BACK;
    let mut boot = before.to_owned();
    loop {
        boot = site
            .guest
            .wait_boot(&boot, end.saturating_duration_since(std::time::Instant::now()))?;
        if site.version().is_ok_and(|running| running == "v1.0") {
            break;
        }
    }
    site.settled()?;
    let status = site.status()?;
    ensure!(
        status["running"]["version"] == "v1.0" && status["running"]["state"] == "good",
        "{status}"
    );
    let list = site.json("ros os list --format json")?;
    let failed = list.as_array().into_iter().flatten().find(|entry| entry["version"] == version);
    let failed = failed.map(|entry| entry["state"].to_string() + &entry["reason"].to_string());
    ensure!(
        failed.as_ref().is_some_and(|text| text.contains("failed") && text.len() > 20),
        "{list}"
    );
    let env = site.guest.ok("strings /boot/grub/grubenv 2>/dev/null || cat /boot/grub/grubenv")?;
    ensure!(env.contains("ros_default=1") && env.contains("ros_trial=\n"), "{env}");
    Ok(boot)
}

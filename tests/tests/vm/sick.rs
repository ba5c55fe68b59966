//! Sick releases: the machine is back on the good one by itself, and says why.

use anyhow::{Result, ensure};

use crate::site::{Site, WAY_BACK};

#[test]
fn a_pid_1_that_hangs_goes_back() -> Result<()> {
    goes_back("hang", "v1.3-hang")
}

#[test]
fn a_kernel_that_panics_goes_back() -> Result<()> {
    goes_back("panic", "v1.4-panic")
}

#[test]
fn a_service_that_stays_sick_goes_back() -> Result<()> {
    goes_back("sick", "v1.5-sick")
}

fn goes_back(case: &str, version: &str) -> Result<()> {
    let site = Site::new(case)?;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let upgrade = format!("ros os upgrade -f -i os:{version}");
    let ran = site.guest.run(&upgrade)?;
    ensure!(ran.status == 0 || ran.status == 255, "{upgrade}: {ran:?}");
    back_on_the_good_one(&site, &boot, version)?;
    let again = site.guest.run(&format!("ros os upgrade -y --no-reboot -i os:{version}"))?;
    ensure!(
        again.status != 0 && again.stderr.contains("failed"),
        "a failed version was not refused: {again:?}"
    );
    Ok(())
}

/// A sick release may answer ssh for a while before it is put back: wait for the good version, not for any boot.
fn back_on_the_good_one(site: &Site, before: &str, version: &str) -> Result<()> {
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
    Ok(())
}

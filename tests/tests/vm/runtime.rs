//! The daemon itself replaced under running containers, and put back when it crashes or does not find them.

use anyhow::{Context, Result, ensure};

use crate::live::{receipt, runs};
use crate::site::{BOOT, Site};

/// Its log is numbers in a row.
const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done";

pub fn another_daemon_takes_over_or_the_old_one_is_back() -> Result<()> {
    let site = Site::new("runtime")?;
    let (machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let image = site
        .guest
        .ok("system-docker ps | awk '$NF == \"ntp\" {print $2}'")
        .context("ntp's image")?;
    let run = |name: &str, options: &str, script: &str| {
        site.guest.ok(&format!(
            "system-docker run -d --name {name} {options} --entrypoint /bin/busybox {image} sh -c '{script}'"
        ))
    };
    run("counts", "", COUNTS)?;
    // Long enough that its policy does not pause.
    run("again", "--restart always", "sleep 11")?;
    let before = processes(&site)?;
    ensure!(before.len() > 6, "{before:?}");

    for (version, word) in [
        ("v1.10-crashes", "was killed by signal 11: system-docker: the planted crash (3 times)"),
        ("v1.11-forgets", "cannot re-attach to"),
    ] {
        let plan = site.guest.run(&format!("ros os upgrade --dry-run -i os:{version}"))?;
        ensure!(plan.stderr.contains("class     runtime, without a reboot"), "{plan:?}");
        ensure!(plan.stderr.contains("daemon    changed, containers keep running"), "{plan:?}");
        let ran = site.guest.run(&format!("ros os upgrade -f -i os:{version}"))?;
        ensure!(ran.status == 1 && ran.stderr.contains(word), "{ran:?}");
        runs(&site, &boot, "v1.0", 1)?;
        ensure!(processes(&site)? == before, "{before:?} {:?}", processes(&site)?);
        ensure!(daemon(&site)?.starts_with("/var/lib/ros/generations/1/"), "{}", daemon(&site)?);
        let receipt = receipt(&site)?;
        ensure!(receipt["verdict"] == "put-back" && receipt["class"] == "runtime", "{receipt}");
        ensure!(receipt["reason"].as_str().is_some_and(|said| said.contains(word)), "{receipt}");
        let status = site.status()?;
        ensure!(status["last_failure"]["version"] == version, "{status}");
        let again = site.guest.run(&format!("ros os upgrade -y -i os:{version}"))?;
        ensure!(again.status == 1 && again.stderr.contains("failed on this machine"), "{again:?}");
        goes_on(&site)?;
    }

    let diff = site.guest.ok("ros os diff v1.0 v1.9-daemon")?;
    ensure!(diff.contains("class     runtime") && diff.contains("PID 1 alone changed"), "{diff}");
    let ran = site.guest.run("ros os upgrade -f -i os:v1.9-daemon")?;
    ensure!(ran.status == 0 && ran.stderr.contains("every container found again"), "{ran:?}");
    taken_over(&site, &boot, &before)?;
    let number = site.status()?["running"]["generation"].as_u64().context("no generation")?;
    let receipt = receipt(&site)?;
    ensure!(receipt["verdict"] == "good" && receipt["reboot"] == false, "{receipt}");
    let first = &receipt["services"][0];
    ensure!(first["name"] == "system-docker" && first["how"] == "take-over", "{receipt}");
    ensure!(first["gap_ms"].as_u64() > Some(0) && receipt["services"][1].is_null(), "{receipt}");
    eprintln!("upgrade: {receipt}");

    // What PID 1 is, only a boot can try: the next one does, with the generation that came up before to go back to.
    let status = site.status()?;
    ensure!(status["default"] == 1 && status["trial"]["generation"] == number, "{status}");
    site.guest.ok("ros os rollback -f")?;
    ensure!(processes(&site)? == before, "{before:?} {:?}", processes(&site)?);
    runs(&site, &boot, "v1.0", 1)?;
    eprintln!("rollback: {}", self::receipt(&site)?);

    // The power goes while the new daemon is on trial: nothing of it is left but a generation.
    let mut command = crate::live::upgrade_to(&site, "v1.9-daemon")?;
    site.guest.ok("for i in $(seq 600); do grep -q '\"trial\":{\"generation\":4' /run/ros/daemon.json && exit 0; sleep 0.05; done; exit 1")?;
    machine.reset()?;
    let after = site.guest.wait_boot(&boot, BOOT)?;
    let _ = command.kill();
    command.wait()?;
    site.settled()?;
    runs(&site, &after, "v1.0", 1)?;
    ensure!(daemon(&site)?.starts_with("/var/lib/ros/generations/1/"), "{}", daemon(&site)?);

    site.guest.ok("ros os rollback -f v1.9-daemon")?;
    site.guest.run("ros reboot")?;
    let last = site.guest.wait_boot(&after, BOOT)?;
    site.settled()?;
    runs(&site, &last, "v1.9-daemon", u32::try_from(number)?)
}

/// The new daemon has every container as it was, and is the one that runs.
fn taken_over(site: &Site, boot: &str, before: &[(String, i64)]) -> Result<()> {
    let id = site.guest.ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(id == boot, "the machine was booted: {boot} {id}");
    ensure!(site.version()? == "v1.9-daemon", "{}", site.version()?);
    ensure!(site.status()?["running"]["state"] == "good", "{}", site.status()?);
    ensure!(processes(site)? == before, "{before:?} {:?}", processes(site)?);
    ensure!(daemon(site)?.starts_with("/var/lib/ros/generations/4/"), "{}", daemon(site)?);
    goes_on(site)
}

/// The daemon's program, as the kernel says.
fn daemon(site: &Site) -> Result<String> {
    site.guest
        .ok("readlink /proc/$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' /run/ros/daemon.json)/exe")
}

/// Name and process of every container that runs, but the one that ends again and again.
fn processes(site: &Site) -> Result<Vec<(String, i64)>> {
    let all = site.json("system-docker inspect $(system-docker ps -q)")?;
    let mut processes: Vec<(String, i64)> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["Name"].as_str()?.to_owned(), one["State"]["Pid"].as_i64()?)))
        .filter(|(name, _)| name != "/again")
        .collect();
    processes.sort();
    Ok(processes)
}

/// The container that counts missed nothing, and goes on; the one that ends is started again.
fn goes_on(site: &Site) -> Result<()> {
    let said = site.guest.ok("system-docker logs counts")?;
    let numbers: Vec<u64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    ensure!(numbers == expected, "the log has gaps: {numbers:?}");
    becomes(site, &format!("[ $(system-docker logs counts | wc -l) -gt {} ]", numbers.len()))?;
    let now = "system-docker inspect again | grep -o '\"RestartCount\": [0-9]*'";
    let before = site.guest.ok(now)?;
    becomes(site, &format!("[ \"$({now})\" != '{before}' ]"))
}

/// Waits until a shell's test holds.
fn becomes(site: &Site, test: &str) -> Result<()> {
    site.guest.ok(&format!("for i in $(seq 200); do {test} && exit 0; sleep 0.1; done; exit 1"))?;
    Ok(())
}

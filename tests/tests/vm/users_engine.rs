//! The user's engine: an optional part that comes when it is asked for, and is replaced under its containers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::registry::Registry;
use serde_json::Value;

use crate::live::{receipt, runs};
use crate::site::{BOOT, Site};

/// How long what is asked for may take to come, with its health window.
const COMES: Duration = Duration::from_secs(300);

/// Its log is numbers in a row; it serves a page.
const COUNTS: &str = "/bin/busybox mkdir /www; echo served > /www/index.html; /bin/busybox httpd -p 80 -h /www; \
    i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 1; done";

/// Asked before and after everything.
const STATE: &str =
    "docker inspect -f '{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}' counts";

pub fn it_comes_when_asked_for_and_is_replaced_under_its_containers() -> Result<()> {
    let mut site = Site::new("engine")?;
    site.registry.kill();
    let (_machine, boot) =
        site.boot(site.spec("v1.0", "rancher: {services_include: {docker: true}}")?)?;
    comes_once_the_registry_is_there(&mut site, &boot)?;
    a_container_runs(&site)?;
    is_replaced(&site, &boot)?;
    is_put_back(&site, &boot)?;
    outlives_the_image_it_began_with(&site)?;
    comes_back_with_its_containers(&site, &boot)
}

/// The machine is well without it, and says so.
fn comes_once_the_registry_is_there(site: &mut Site, boot: &str) -> Result<()> {
    let report = site.settled()?;
    ensure!(report["healthy"] == true, "{report}");
    let warned = report["warnings"].to_string();
    ensure!(warned.contains("docker is not on this machine yet"), "{report}");
    let ran = site.guest.run("docker ps")?;
    ensure!(ran.status == 127 && ran.stderr.contains("ros service enable docker"), "{ran:?}");
    let ran = site.guest.run("ros service enable docker")?;
    ensure!(ran.status == 1 && ran.stderr.contains("10.0.2.2"), "{ran:?}");
    ensure!(listed(site)?["note"] == "not on this machine", "{}", listed(site)?);
    runs(site, boot, "v1.0", 1)?;

    site.registry = Registry::start(&site.dir.join("registry"), site.registry_port)?;
    let waits = COMES.as_secs() / 2;
    let settled = "[ -e /run/ros/docker ] && ros os status > /dev/null && exit; sleep 2";
    site.guest.ok(&format!("for i in $(seq {waits}); do {settled}; done; exit 1"))?;
    runs(site, boot, "v1.0", 2)?;
    let receipt = receipt(site)?;
    ensure!(receipt["verdict"] == "good" && receipt["by"] == "automatic", "{receipt}");
    ensure!(receipt["predicted"] == receipt["fetched"], "{receipt}");
    ensure!(listed(site)?["ready"] == true, "{}", listed(site)?);
    let verified = site.guest.run("ros os verify")?;
    ensure!(verified.status == 0, "{verified:?}");
    Ok(())
}

/// As the machine's own user runs one: with a published port, a volume from home, and a policy.
fn a_container_runs(site: &Site) -> Result<()> {
    let archive = site.dir.join("busybox.tar");
    crate::boot::busybox_archive(&archive)?;
    site.guest.send(&archive, "/tmp/busybox.tar")?;
    let as_user = |command: &str| site.guest.ok(&format!("sudo -u ros sh -c \"{command}\""));
    as_user("docker load -q -i /tmp/busybox.tar")?;
    site.guest.ok(&format!(
        "docker run -d --name counts --restart unless-stopped -p 8080:80 -v /home/ros:/home busybox:test \
         /bin/busybox sh -c '{COUNTS}'"
    ))?;
    let said = as_user("docker run --rm -v /home/ros:/home busybox:test /bin/busybox ls -a /home")?;
    ensure!(said.contains(".ssh"), "{said}");
    serves(site)?;
    // What a hand in the system does, the system does not: containers are of one engine only.
    let system = site.guest.ok("system-docker ps")?;
    ensure!(!system.contains("counts"), "{system}");
    Ok(())
}

fn is_replaced(site: &Site, boot: &str) -> Result<()> {
    let before = site.guest.ok(STATE)?;
    let ran = site.guest.run("ros os upgrade -y -i os:v1.14-engine")?;
    ensure!(ran.status == 0 && ran.stderr.contains("service   docker changed, restart"), "{ran:?}");
    runs(site, boot, "v1.14-engine", 3)?;
    ensure!(site.guest.ok("system-docker exec docker cat /etc/engine")? == "another engine");
    let receipt = receipt(site)?;
    eprintln!("the engine was replaced: {receipt}");
    ensure!(receipt["services"][0]["gap_ms"].as_u64() > Some(0), "{receipt}");
    went_on(site, &before)?;
    site.guest.ok("docker run --rm busybox:test /bin/busybox true")?;
    Ok(())
}

fn is_put_back(site: &Site, boot: &str) -> Result<()> {
    let before = site.guest.ok(STATE)?;
    let ran = site.guest.run("ros os upgrade -y -i os:v1.15-engine")?;
    ensure!(ran.status == 1 && ran.stderr.contains("docker: health check ended with 1"), "{ran:?}");
    runs(site, boot, "v1.14-engine", 3)?;
    ensure!(receipt(site)?["verdict"] == "put-back", "{}", receipt(site)?);
    went_on(site, &before)
}

/// The engine that began the container is of no generation any more: what its shim needs of it stays.
fn outlives_the_image_it_began_with(site: &Site) -> Result<()> {
    site.guest.ok("ros os prune --keep 1")?;
    let left = site.guest.ok("ls /var/lib/ros/generations")?;
    ensure!(!left.split_whitespace().any(|name| name == "2"), "{left}");
    // The shim finds nothing in a cache that it would not find on the disk.
    site.guest.ok("echo 3 > /proc/sys/vm/drop_caches; docker exec counts /bin/busybox true")?;
    serves(site)
}

/// When the machine goes down they are stopped in the engine's own way, and start again as their policy says.
fn comes_back_with_its_containers(site: &Site, boot: &str) -> Result<()> {
    site.guest.ok(
        "docker run -d --name ends --restart always busybox:test /bin/busybox sh -c \
         'trap \"echo ended by itself; exit 0\" TERM; echo began; while :; do /bin/busybox sleep 0.2; done'",
    )?;
    site.guest.run("ros reboot")?;
    let after = site.guest.wait_boot(boot, BOOT)?;
    site.settled()?;
    runs(site, &after, "v1.14-engine", 3)?;
    ensure!(listed(site)?["ready"] == true, "{}", listed(site)?);
    site.guest.ok(
        "for i in $(seq 60); do [ $(docker ps -q | wc -l) = 2 ] && exit; sleep 1; done; exit 1",
    )?;
    let said = site.guest.ok("docker logs ends")?;
    ensure!(said.lines().take(3).eq(["began", "ended by itself", "began"]), "{said}");
    serves(site)
}

/// The same process all the while: no number is missing, and it goes on.
fn went_on(site: &Site, before: &str) -> Result<()> {
    let after = site.guest.ok(STATE)?;
    ensure!(after == before, "{before} {after}");
    let numbers = || -> Result<Vec<u64>> {
        let said = site.guest.ok("docker logs counts")?;
        Ok(said.lines().filter_map(|line| line.trim().parse().ok()).collect())
    };
    let first = numbers()?;
    let expected: Vec<u64> = (1..=first.len() as u64).collect();
    ensure!(first == expected, "the log has gaps: {first:?}");
    site.guest.ok("sleep 2")?;
    ensure!(numbers()?.len() > first.len(), "it does not go on");
    serves(site)
}

fn serves(site: &Site) -> Result<()> {
    let page = "wget -qO- http://127.0.0.1:8080/ && exit; sleep 1";
    let said = site.guest.ok(&format!("for i in $(seq 30); do {page}; done; exit 1"))?;
    ensure!(said == "served", "{said}");
    Ok(())
}

fn listed(site: &Site) -> Result<Value> {
    let all = site.json("ros service list --format json")?;
    let docker = all.as_array().and_then(|all| all.iter().find(|one| one["name"] == "docker"));
    docker.cloned().with_context(|| format!("no docker in {all}"))
}

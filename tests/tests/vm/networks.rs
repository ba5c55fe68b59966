//! Bridge networks by the docker CLI: nothing of them before one is asked for; addresses, names, ports and isolation;
//! all of it there after the daemon was killed, and after a reboot.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::docker::Docker;
use crate::site::{BOOT, Site};

/// How long PID 1 may take to start the daemon again.
const AGAIN: Duration = Duration::from_secs(60);

/// A server of `hello` at port 80.
const SERVE: &str = "/bin/busybox mkdir -p /www; echo hello > /www/index.html; exec /bin/busybox httpd -f -p 80 -h /www";
/// Asks for it: the last arguments are address and port.
const ASK: &str = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 5";

pub fn containers_meet_on_bridges_and_the_bridges_outlive_the_daemon() -> Result<()> {
    let site = Site::new("networks")?;
    let (_machine, first) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let docker = Docker::connect(&site)?;

    nothing_is_there_before_it_is_asked_for(&site, &docker)?;
    docker.ok(&["network", "create", "--ipv6", "front"])?;
    docker.ok(&["network", "create", "--internal", "back"])?;
    start(
        &docker,
        "web",
        &["--network", "front", "--network-alias", "www", "-p", "8080:80", "--restart", "always"],
        SERVE,
    )?;
    start(&docker, "peer", &["--network", "front"], "exec /bin/busybox sleep 100000")?;
    start(&docker, "apart", &["--network", "back"], "exec /bin/busybox sleep 100000")?;

    they_meet(&docker)?;
    the_port_answers(&site, &docker)?;
    networks_are_kept_apart(&docker)?;
    one_more_network_at_run_time(&docker)?;

    let before = addresses(&docker)?;
    kill_the_daemon(&site)?;
    docker.answers(AGAIN)?;
    ensure!(addresses(&docker)? == before, "addresses changed with the daemon");
    they_meet(&docker)?;
    the_port_answers(&site, &docker)?;

    drop(docker);
    site.guest.ok("ros reboot")?;
    site.guest.wait_boot(&first, BOOT)?;
    site.settled()?;
    let docker = Docker::connect(&site)?;
    let networks = docker.ok(&["network", "ls", "--format", "{{.Name}}"])?;
    ensure!(networks.lines().eq(["back", "bridge", "front", "host", "none"]), "{networks}");
    the_port_answers(&site, &docker)?;
    docker.ok(&["start", "peer"])?;
    they_meet(&docker)?;

    docker.ok(&["rm", "-f", "web", "peer", "apart"])?;
    docker.ok(&["network", "prune", "-f"])?;
    ensure!(bridges(&site)?.is_empty(), "left: {}", bridges(&site)?);
    Ok(())
}

pub fn a_compose_file_comes_up_and_goes_down() -> Result<()> {
    let site = Site::new("compose")?;
    let (_machine, _) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let docker = Docker::connect(&site)?;
    let file = site.dir.join("compose.yml");
    std::fs::write(&file, COMPOSE)?;

    docker.compose(&file, &["-p", "shop", "up", "-d"])?;
    let state = docker.ok(&["ps", "--filter", "name=front", "--format", "{{.Status}}"])?;
    ensure!(state.starts_with("Up"), "front is {state:?}");
    // Both were started; that one has asked the other is another matter.
    let front = named(&docker, "front")?;
    let end = Instant::now() + AGAIN;
    while !docker.ok(&["logs", &front])?.contains("200 OK") {
        let said = docker.run(&["logs", &front])?;
        ensure!(Instant::now() < end, "front did not reach back by its name: {said:?}");
    }
    ensure!(docker.ok(&["volume", "ls", "-q"])?.lines().any(|name| name == "shop_data"));
    let label = "label=com.docker.compose.project=shop";
    ensure!(docker.ok(&["network", "ls", "-q", "--filter", label])?.lines().count() == 1);

    docker.compose(&file, &["-p", "shop", "down", "-v"])?;
    for (what, list) in [
        ("ps", &["ps", "-aq", "--filter", label][..]),
        ("networks", &["network", "ls", "-q", "--filter", label]),
    ] {
        let left = docker.ok(list)?;
        ensure!(left.is_empty(), "{what} left: {left}");
    }
    ensure!(!docker.ok(&["volume", "ls", "-q"])?.contains("shop_data"));
    Ok(())
}

/// Two services in one network; the second starts when the first is healthy and asks it by its name.
const COMPOSE: &str = r#"
version: "2.4"
services:
  back:
    image: busybox:test
    entrypoint: [/bin/busybox, sh, -c]
    command: ["echo hello > /data/index.html; exec /bin/busybox httpd -f -p 80 -h /data"]
    volumes: [data:/data]
    healthcheck: {test: [CMD, /bin/busybox, test, -e, /data/index.html], interval: 1s, timeout: 20s, retries: 30}
  front:
    image: busybox:test
    depends_on: {back: {condition: service_healthy}}
    entrypoint: [/bin/busybox, sh, -c]
    command: ["printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 20 back 80; exec /bin/busybox sleep 100000"]
volumes: {data: {}}
networks: {default: {driver: bridge}}
"#;

fn named(docker: &Docker, part: &str) -> Result<String> {
    docker.ok(&["ps", "-a", "--filter", &format!("name={part}"), "--format", "{{.Names}}"])
}

fn start(docker: &Docker, name: &str, options: &[&str], script: &str) -> Result<()> {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(options);
    args.extend(["busybox:test", "/bin/busybox", "sh", "-c", script]);
    docker.ok(&args).map(drop)
}

fn exec(docker: &Docker, name: &str, command: &str) -> Result<ros_tests::guest::Ran> {
    docker.run(&["exec", name, "/bin/busybox", "sh", "-c", command])
}

fn bridges(site: &Site) -> Result<String> {
    site.guest.ok(
        "cd /sys/class/net && for link in *; do if [ -e $link/bridge ]; then echo $link; fi; done",
    )
}

/// Not a bridge, not an address, not a module.
fn nothing_is_there_before_it_is_asked_for(site: &Site, docker: &Docker) -> Result<()> {
    ensure!(bridges(site)?.is_empty(), "{}", bridges(site)?);
    let modules = site.guest.ok("cut -d' ' -f1 /proc/modules")?;
    for module in ["bridge", "veth", "nf_tables", "nf_nat"] {
        ensure!(!modules.lines().any(|own| own == module), "{module} is loaded");
    }
    ensure!(site.guest.ok("cat /proc/sys/net/ipv4/ip_forward")? == "0");
    let networks = docker.ok(&["network", "ls", "--format", "{{.Name}}"])?;
    ensure!(networks.lines().eq(["bridge", "host", "none"]), "{networks}");
    let bridge =
        docker.ok(&["network", "inspect", "bridge", "--format", "{{len .IPAM.Config}}"])?;
    ensure!(bridge == "0", "the predefined bridge has a range before anybody uses it");
    Ok(())
}

fn they_meet(docker: &Docker) -> Result<()> {
    for target in ["web", "www", "web.front"] {
        let ran = exec(docker, "peer", &format!("/bin/busybox ping -c 3 -W 5 {target}"))?;
        ensure!(ran.status == 0, "{target}: {ran:?}");
    }
    let six = exec(docker, "peer", "/bin/busybox ping -6 -c 3 -W 5 web")?;
    ensure!(six.status == 0, "by IPv6: {six:?}");
    let page = exec(docker, "peer", &format!("{ASK} web 80"))?;
    ensure!(page.stdout.contains("hello"), "{page:?}");
    Ok(())
}

/// At every address of the machine, its loopback too; from another network, too.
fn the_port_answers(site: &Site, docker: &Docker) -> Result<()> {
    let own = "$(/bin/busybox ip -4 addr show | /bin/busybox awk '/inet 10\\./{sub(\"/.*\",\"\",$2); print $2; exit}')";
    for address in ["127.0.0.1", own] {
        let script = format!("{ASK} {address} 8080");
        let said = docker.ok(&[
            "run",
            "--rm",
            "--network",
            "host",
            "busybox:test",
            "/bin/busybox",
            "sh",
            "-c",
            &script,
        ])?;
        ensure!(said.contains("hello"), "{address}: {said:?}");
    }
    let shown = docker.ok(&["port", "web", "80/tcp"])?;
    ensure!(shown.lines().any(|line| line == "0.0.0.0:8080"), "{shown}");
    let taken = site.guest.run("/bin/true; (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'")?;
    ensure!(taken.status == 0, "{taken:?}");
    let again = docker.run(&[
        "run",
        "--rm",
        "--network",
        "front",
        "-p",
        "8080:80",
        "busybox:test",
        "/bin/busybox",
        "true",
    ])?;
    ensure!(again.stderr.contains("port is already allocated"), "{again:?}");
    Ok(())
}

/// `apart` is in an internal network: it reaches no other, and nobody outside, not even by asking for names.
fn networks_are_kept_apart(docker: &Docker) -> Result<()> {
    let web = docker.ok(&[
        "inspect",
        "web",
        "--format",
        "{{.NetworkSettings.Networks.front.IPAddress}}",
    ])?;
    for target in [web.as_str(), "10.0.2.2"] {
        let ran = exec(docker, "apart", &format!("/bin/busybox ping -c 1 -W 2 {target}"))?;
        ensure!(ran.status != 0, "{target} answered: {ran:?}");
    }
    let name = exec(docker, "apart", "/bin/busybox nslookup web")?;
    ensure!(name.status != 0, "a name of another network: {name:?}");
    let out = exec(docker, "peer", "/bin/busybox ping -c 3 -W 5 10.0.2.2")?;
    ensure!(out.status == 0, "no way out of front: {out:?}");
    Ok(())
}

fn one_more_network_at_run_time(docker: &Docker) -> Result<()> {
    docker.ok(&["network", "connect", "--alias", "late", "back", "peer"])?;
    let ran = exec(docker, "apart", "/bin/busybox ping -c 3 -W 5 late")?;
    ensure!(ran.status == 0, "{ran:?}");
    docker.ok(&["network", "disconnect", "back", "peer"])?;
    let ran = exec(docker, "apart", "/bin/busybox ping -c 1 -W 2 late")?;
    ensure!(ran.status != 0, "{ran:?}");
    let busy = docker.run(&["network", "rm", "front"])?;
    ensure!(busy.stderr.contains("active endpoints"), "{busy:?}");
    Ok(())
}

fn addresses(docker: &Docker) -> Result<Value> {
    let text = docker.ok(&["network", "inspect", "front", "--format", "{{json .Containers}}"])?;
    Ok(serde_json::from_str(&text)?)
}

/// As a fault would: PID 1 starts the next one.
pub fn kill_the_daemon(site: &Site) -> Result<()> {
    site.guest.ok(
        "for dir in /proc/[0-9]*; do \
         case \"$(tr '\\0' ' ' < $dir/cmdline 2>/dev/null)\" in *'system-docker daemon'*) kill -9 ${dir#/proc/}; exit 0;; esac; \
         done; exit 1",
    ).map(drop)
}

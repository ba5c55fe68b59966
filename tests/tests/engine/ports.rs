//! Published ports in a network namespace of the daemon's own: from `::1`, from a neighbour that is kept apart, and under
//! a daemon that dies. Every container has a user namespace here.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use crate::daemon::{Site, publish, told, until};

const IMAGE: &str = "box:v1";
/// For who is not answered at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// A daemon with a network of its own, and the image in its store.
fn site() -> Result<Site> {
    let mut site = Site::new("ports")?;
    publish(&site.host(), IMAGE, 1000, "gzip -n", "+gzip")?;
    let archive = site.dir.join("box.tar").display().to_string();
    let mut copy = Command::new("skopeo");
    copy.args([
        "copy",
        "-q",
        "--src-tls-verify=false",
        &format!("docker://{}/{IMAGE}", site.host()),
    ]);
    copy.arg(format!("docker-archive:{archive}:{IMAGE}"));
    told(copy)?;
    site.own_network = true;
    site.options = vec!["--userns-remap".into(), "auto".into()];
    site.start(&json!({}))?;
    site.docker(&["load", "-q", "-i", &archive])?;
    Ok(site)
}

/// A page, asked for in the daemon's network.
fn page(site: &Site, from: &str) -> Result<String> {
    page_in(File::open(format!("/proc/{}/ns/net", site.daemon_pid()?))?, from)
}

/// A page, asked for in the network of a container.
fn page_of_container(site: &Site, name: &str, from: &str) -> Result<String> {
    let pid = site.docker(&["inspect", "-f", "{{.State.Pid}}", name])?;
    page_in(File::open(format!("/proc/{}/root/proc/{pid}/ns/net", site.daemon_pid()?))?, from)
}

fn page_in(namespace: File, from: &str) -> Result<String> {
    let from: SocketAddr = from.parse()?;
    let asked = thread::spawn(move || -> Result<String> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let mut server = TcpStream::connect_timeout(&from, PATIENCE)?;
        server.set_read_timeout(Some(PATIENCE))?;
        server.write_all(b"GET /word HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        server.read_to_string(&mut said)?;
        Ok(said.rsplit("\r\n").next().unwrap_or_default().trim().to_owned())
    });
    asked.join().map_err(|_| anyhow::anyhow!("the thread died"))?
}

fn serve(site: &Site, network: &str, name: &str, ports: &[&str]) -> Result<()> {
    let begin = ["run", "-d", "--network", network, "--name", name];
    let serve = [IMAGE, "busybox", "httpd", "-f", "-h", "/", "-p", "80"];
    let ports: Vec<&str> = ports.iter().flat_map(|port| ["-p", port]).collect();
    site.docker(&[&begin, &ports[..], &serve].concat())?;
    until("it serves", || page_of_container(site, name, "127.0.0.1:80").is_ok())
}

#[test]
fn ports_are_reached_from_everywhere_they_are_published() -> Result<()> {
    let site = site()?;
    let network =
        |name: &str, more: &[&str]| site.docker(&[&["network", "create"], more, &[name]].concat());
    network("both", &["--ipv6", "--subnet", "10.55.0.0/24", "--subnet", "fd00:55::/64"])?;
    network("old", &["--subnet", "10.56.0.0/24"])?;
    serve(&site, "both", "one", &["8080:80", "[::1]:8081:80"])?;
    serve(&site, "old", "two", &["[::1]:8082:80", "127.0.0.1:8083:80"])?;
    for (filter, names) in [
        ("publish=8083", "two"),
        ("publish=8080-8081/tcp", "one"),
        ("publish=80", ""),
        ("publish=8083/udp", ""),
    ] {
        let said = site.docker(&["ps", "--format", "{{.Names}}", "--filter", filter])?;
        ensure!(said == names, "{filter}: {said:?}");
    }
    let said = site.docker(&["ps", "-q", "--filter", "expose=80"])?;
    ensure!(said.lines().count() == 2, "{said:?}");
    let all = [
        "127.0.0.1:8080",
        "[::1]:8080",
        "[::1]:8081",
        "[::1]:8082",
        "127.0.0.1:8083",
        "10.55.0.1:8080",
    ];
    for from in all {
        ensure!(page(&site, from).context(from)? == "a word of box:v1", "{from}");
    }
    ensure!(page(&site, "127.0.0.1:8081").is_err(), "it is published at ::1 only");
    ensure!(page(&site, "10.56.0.1:8083").is_err(), "it is published at 127.0.0.1 only");

    // Neighbours that are kept apart meet at what is published, and nowhere else.
    let apart = ["--subnet", "10.57.0.0/24", "-o", "com.docker.network.bridge.enable_icc=false"];
    network("apart", &apart)?;
    serve(&site, "apart", "three", &["8090:80"])?;
    serve(&site, "apart", "four", &[])?;
    let address = "{{.NetworkSettings.Networks.apart.IPAddress}}";
    let three = site.docker(&["inspect", "-f", address, "three"])? + ":80";
    ensure!(page(&site, &three)? == "a word of box:v1");
    ensure!(page_of_container(&site, "four", &three).is_err(), "they are neighbours all the same");
    ensure!(page_of_container(&site, "four", "10.57.0.1:8090")? == "a word of box:v1");

    // Another daemon takes all of it up.
    let daemon = site.daemon_pid()?;
    let mut kill = Command::new("kill");
    kill.args(["-s", "KILL", &daemon.to_string()]);
    told(kill)?;
    until("another daemon", || site.daemon_pid().is_ok_and(|pid| pid != daemon))?;
    site.answers()?;
    for from in all {
        let after = || format!("{from}, after the daemon was killed");
        ensure!(page(&site, from).with_context(after)? == "a word of box:v1", after());
    }
    site.docker(&["rm", "-f", "one", "two", "three", "four"])?;
    ensure!(page(&site, "[::1]:8080").is_err() && page(&site, "127.0.0.1:8080").is_err());

    // Who asks for a user namespace and for no network has Docker's own bridge, not the host's.
    let mut run = Command::new(Site::program()?);
    run.env("SYSTEM_DOCKER_HOST", site.dir.join("docker.sock"));
    run.args(["run", "--rm", "--userns", "auto", IMAGE, "cat", "/proc/self/uid_map"]);
    ensure!(told(run)?.ends_with("65536"));

    for driver in ["macvlan", "ipvlan"] {
        let said = site.refused(&["network", "create", "-d", driver, "x"])?;
        ensure!(said.contains(driver) && said.contains("there is the driver bridge"), "{said}");
    }
    Ok(())
}

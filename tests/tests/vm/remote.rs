//! Folders of another machine, by NFS 4: the machine comes up without the server, mounts when it is there, and goes down when
//! it is gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::machine::Machine;
use ros_tests::nfs::NfsServer;
use ros_tests::registry::free_port;

use crate::docker::Docker;
use crate::site::Site;

pub fn another_machine_s_folders_come_with_it_and_hold_nothing_up() -> Result<()> {
    let site = Site::new("remote")?;
    let (folder, port) = (site.dir.join("export"), free_port()?);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("file"), "of the server")?;
    // One place that host and console share, one that is the console's own, one option of each kind.
    let user_data = format!(
        "mounts:\n- ['10.0.2.2:/export', /mnt/shared, nfs, 'port={port},_netdev']\n- ['10.0.2.2:/export', /data/own, nfs4, 'port={port},ro']\n"
    );
    let (machine, _) = site.boot(site.spec("v1.0", &user_data)?)?;
    let report = site.settled()?;
    ensure!(report["healthy"] == true && report["warnings"] == serde_json::json!([]), "{report}");
    let guest = &site.guest;
    for target in ["/mnt/shared", "/data/own"] {
        let said =
            format!("mounts: 10.0.2.2:/export on {target}: mount 10.0.2.2:/export of type nfs");
        machine.wait_serial(&said, 0, Duration::from_secs(60)).context("on the console")?;
    }
    ensure!(guest.run("findmnt /mnt/shared")?.status == 1, "there is no server yet");

    let server = NfsServer::start(&folder, port, &site.dir.join("nfs"))?;
    let appear = |target: &str| {
        guest.ok(&format!("for i in $(seq 300); do [ -e {target}/file ] && exec cat {target}/file; sleep 0.3; done; exit 1"))
    };
    for target in ["/mnt/shared", "/data/own"] {
        let content = appear(target)?;
        ensure!(content == "of the server", "{target}: {content:?}");
    }
    ensure!(guest.run("touch /data/own/x")?.status != 0, "it is read-only");
    guest.ok("echo from the machine > /mnt/shared/back && sync /mnt/shared/back")?;
    ensure!(fs::read_to_string(folder.join("back"))? == "from the machine\n");
    let version = guest.ok("findmnt -no FSTYPE,OPTIONS /mnt/shared")?;
    ensure!(version.starts_with("nfs4 ") && version.contains("vers=4.1"), "{version}");

    containers_have_it_too(&site, port, &folder)?;
    a_dead_server_keeps_nobody(&site, &machine, server)
}

/// From the host, and by volumes of their own.
fn containers_have_it_too(site: &Site, port: u16, folder: &Path) -> Result<()> {
    let docker = Docker::connect(site)?;
    let run = |line: &str| docker.run(&line.split(' ').collect::<Vec<_>>());
    let ok = |line: &str| docker.ok(&line.split(' ').collect::<Vec<_>>());
    let seen = ok("run --rm -v /mnt/shared:/x:ro busybox:test /bin/busybox cat /x/back")?;
    ensure!(seen == "from the machine");
    let nfs = "volume create --opt type=nfs --opt device=:/export --opt";
    ok(&format!("{nfs} o=addr=10.0.2.2,port={port},rw far"))?;
    ok("run --rm -v far:/x busybox:test /bin/busybox cp /x/back /x/volume")?;
    ensure!(fs::read_to_string(folder.join("volume"))? == "from the machine\n");
    let still = site.guest.run("grep -q volumes/far /proc/self/mountinfo")?;
    ensure!(still.status == 1, "it is mounted still");
    ok(&format!("{nfs} o=addr=10.0.2.2,vers=3 old"))?;
    let refused = run("run --rm -v old:/x busybox:test /bin/busybox true")?;
    let says_how = refused.stderr.contains("add the option nolock");
    ensure!(refused.status == 125 && says_how, "{refused:?}");
    Ok(())
}

/// A server that goes keeps nobody from going, whatever it was not given yet.
fn a_dead_server_keeps_nobody(site: &Site, machine: &Machine, server: NfsServer) -> Result<()> {
    let guest = &site.guest;
    guest.ok("dd if=/dev/zero of=/mnt/shared/lost bs=64k count=64 2> /dev/null")?;
    drop(server);
    guest.ok("setsid sh -c 'while echo more; do :; done > /mnt/shared/more' > /dev/null 2>&1 < /dev/null &")?;
    let from = machine.serial().len();
    guest.run("ros poweroff")?;
    machine.wait_off(Duration::from_secs(180))?;
    // One file system in two places: the last to go is waited for.
    let said = &machine.serial()[from..];
    let names = |place| said.contains(&format!("{place} does not answer; it is given up"));
    ensure!(names("/mnt/shared") || names("/data/own"), "{said}");
    Ok(())
}

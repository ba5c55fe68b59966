//! Folders of another machine, by NFS 4: the machine comes up without the server, mounts when it is there, and goes down when
//! it is gone.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::nfs::NfsServer;
use ros_tests::registry::free_port;

use crate::docker::Docker;
use crate::site::Site;

#[test]
fn another_machine_s_folders_come_with_it_and_hold_nothing_up() -> Result<()> {
    let site = Site::new("remote")?;
    let (folder, port) = (site.dir.join("export"), free_port()?);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("file"), "of the server")?;
    // One place that host and console share, one that is the console's own, one option of each kind.
    let user_data = format!(
        "mounts:\n- ['10.0.2.2:/export', /mnt/shared, nfs, 'port={port},_netdev']\n- ['10.0.2.2:/export', /data/own, nfs4, 'port={port},ro']\n"
    );
    let (mut machine, _) = site.boot(site.spec("v1.0", &user_data)?)?;
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

    let docker = Docker::connect(&site)?;
    // The host has it too: a container gets it from there.
    let seen = [
        "run",
        "--rm",
        "-v",
        "/mnt/shared:/x:ro",
        "busybox:test",
        "/bin/busybox",
        "cat",
        "/x/back",
    ];
    ensure!(docker.ok(&seen)? == "from the machine");
    let o = format!("o=addr=10.0.2.2,port={port},rw");
    let volume =
        ["volume", "create", "--opt", "type=nfs", "--opt", "device=:/export", "--opt", &o, "far"];
    docker.ok(&volume)?;
    docker.ok(&[
        "run",
        "--rm",
        "-v",
        "far:/x",
        "busybox:test",
        "/bin/busybox",
        "sh",
        "-c",
        "echo by a volume > /x/volume",
    ])?;
    ensure!(fs::read_to_string(folder.join("volume"))? == "by a volume\n");
    ensure!(
        guest.run("grep -q volumes/far /proc/self/mountinfo")?.status == 1,
        "it is mounted still"
    );
    let locks = "o=addr=10.0.2.2,vers=3";
    docker.ok(&[
        "volume",
        "create",
        "--opt",
        "type=nfs",
        "--opt",
        "device=:/export",
        "--opt",
        locks,
        "old",
    ])?;
    let refused =
        docker.run(&["run", "--rm", "-v", "old:/x", "busybox:test", "/bin/busybox", "true"])?;
    ensure!(
        refused.status == 125 && refused.stderr.contains("add the option nolock"),
        "{refused:?}"
    );

    // A server that goes keeps nobody from going, whatever it was not given yet.
    guest.ok("dd if=/dev/zero of=/mnt/shared/lost bs=64k count=64 2> /dev/null")?;
    drop(server);
    guest.ok("setsid sh -c 'while echo more; do :; done > /mnt/shared/more' > /dev/null 2>&1 < /dev/null &")?;
    let from = machine.serial().len();
    guest.run("ros poweroff")?;
    machine.wait_off(Duration::from_secs(180))?;
    ensure!(machine.serial()[from..].contains("/mnt/shared does not answer; it is given up"));
    Ok(())
}

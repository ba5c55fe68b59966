//! What a container sees of the host, and what it does not.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ros_runtime::{Mount, MountKind, Namespace, Namespaces, Propagation, RuntimeError, SpecInput};

use crate::host::{Host, bind, expect, has_sys_resource, output, spec};

pub async fn users_are_the_container_s(host: &Host) -> Result<()> {
    for (id, user, expected) in [
        ("u1", "", "0 0\n/root\n"),
        ("u2", "ann", "1000 1000 29\n/home/ann\n"),
        ("u3", "5:audio", "5 29\n/\n"),
    ] {
        let mut request = host.request(id, &["sh", "-c", "echo $(id -u) $(id -G); echo $HOME"]);
        request.user = user.into();
        let (code, text) = host.run(&request).await?;
        ensure!((code, text.as_str()) == (0, expected), "{user:?}: {code} {text:?}");
    }
    let mut request = host.request("u4", &["pwd"]);
    request.spec = spec(&SpecInput { cwd: "/made/for/it".into(), ..host.input("u4", &["pwd"]) });
    ensure!(host.run(&request).await?.1 == "/made/for/it\n");
    Ok(())
}

pub async fn binds_read_only_tmpfs_and_devices(host: &Host) -> Result<()> {
    let shared = host.dir.join("vol");
    fs::create_dir_all(&shared)?;
    fs::write(shared.join("file"), "from host\n")?;
    let script = "cat /vol/file /one; echo in > /vol/new; touch /ro/x && exit 1; touch /one2 && exit 2; touch /t/x || exit 3; \
                  grep ' /t ' /proc/mounts; cat /dev/null; cat /dev/shm/file; exit 0";
    let mut request = host.request("b", &["sh", "-c", script]);
    request.spec = spec(&SpecInput { read_only: true, ..host.input("b", &["sh", "-c", script]) });
    let read_only = |mount: Mount| Mount { read_only: true, ..mount };
    let tmpfs = |target: &str, options: &str| Mount {
        target: target.into(),
        kind: MountKind::Tmpfs { options: vec![options.into()] },
        read_only: false,
        mapped: false,
    };
    request.mounts = vec![
        bind(&shared, "/vol", Propagation::Rprivate),
        read_only(bind(&shared, "/ro", Propagation::Rprivate)),
        bind(&shared.join("file"), "/one", Propagation::Rprivate),
        tmpfs("/t", "size=64k,noexec,mode=1777"),
        tmpfs("/tmp", "size=64k"),
        bind(&shared, "/dev/shm", Propagation::Rprivate),
    ];
    let (code, text) = host.run(&request).await?;
    ensure!(code == 0, "{code}: {text}");
    ensure!(text.matches("from host").count() == 3 && text.contains("noexec"), "{text}");
    ensure!(fs::read_to_string(shared.join("new"))? == "in\n");
    Ok(())
}

pub async fn device_rules_are_enforced(host: &Host) -> Result<()> {
    if has_sys_resource() {
        let (code, text) = host
            .sh("dr", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg && exit 4; cat /dev/null")
            .await?;
        ensure!(code == 0, "{code}: {text}");
    }
    Ok(())
}

pub async fn the_host_s_dev_can_be_bound(host: &Host) -> Result<()> {
    let before = fs::symlink_metadata("/dev/ptmx")?.file_type();
    let script = "ls /dev/mem-mark /dev/zero && ls /sys/kernel >/dev/null";
    let mut request = host.request("d", &["sh", "-c", script]);
    let own_dev = host.dir.join("devdir");
    fs::create_dir_all(&own_dev)?;
    for name in ["null", "zero", "mem-mark"] {
        fs::write(own_dev.join(name), "")?;
    }
    request.mounts = vec![
        bind(&own_dev, "/dev", Propagation::Rslave),
        bind(Path::new("/sys"), "/sys", Propagation::Rprivate),
    ];
    let (code, text) = host.run(&request).await?;
    ensure!(code == 0, "{code}: {text}");
    ensure!(
        fs::symlink_metadata("/dev/ptmx")?.file_type() == before,
        "the host's /dev was changed"
    );
    ensure!(fs::read_dir(&own_dev)?.count() == 3, "nodes were made in the host's folder");
    let mut request =
        host.request("d2", &["sh", "-c", "ls -d /dev/null /dev/zero && echo x > /dev/null"]);
    request.mounts = vec![bind(Path::new("/dev"), "/dev", Propagation::Rprivate)];
    request.spec = spec(&SpecInput {
        privileged: true,
        ..host.input("d2", &["sh", "-c", "ls -d /dev/null /dev/zero && echo x > /dev/null"])
    });
    let (code, text) = host.run(&request).await?;
    ensure!(code == 0, "{code}: {text}");
    Ok(())
}

pub async fn propagation_both_ways(host: &Host) -> Result<()> {
    let vol = host.dir.join("prop");
    for folder in ["in", "out"] {
        fs::create_dir_all(vol.join(folder))?;
    }
    let none = None::<&str>;
    let table = [
        (Propagation::Rshared, true, true),
        (Propagation::Rslave, true, false),
        (Propagation::Rprivate, false, false),
    ];
    for (number, (propagation, comes_in, goes_out)) in table.into_iter().enumerate() {
        let id = format!("p{number}");
        let script =
            "mount -t tmpfs inner /v/out && touch /v/out/x && echo ready && read a && ls /v/in";
        let mut request = host.request(&id, &["sh", "-c", script]);
        request.spec =
            spec(&SpecInput { privileged: true, ..host.input(&id, &["sh", "-c", script]) });
        request.mounts =
            vec![bind(&vol, "/v", propagation), bind(&vol, "/private", Propagation::Rprivate)];
        request.open_stdin = true;
        let process = host.runtime.create(&request).await?;
        let mut stream = process.attach(true).await?;
        process.start().await?;
        expect(&mut stream, "ready").await?;
        ensure!(vol.join("out/x").exists() == goes_out, "{propagation:?} outwards");
        mount(Some("host"), &vol.join("in"), Some("tmpfs"), MsFlags::empty(), none)?;
        fs::write(vol.join("in/seen"), "")?;
        stream.write(b"\n").await?;
        let (out, _) = output(&mut stream).await?;
        ensure!(out.contains("seen") == comes_in, "{propagation:?} inwards: {out:?}");
        ensure!(process.wait().await?.code == 0);
        umount2(&vol.join("in"), MntFlags::empty()).context("the host's mount is gone")?;
        if goes_out {
            umount2(&vol.join("out"), MntFlags::empty())
                .context("the container's mount did not stay")?;
        }
        process.delete().await?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&format!("run/{id}/root")), "the root is mounted on the host");
    }
    let mut request = host.request("pe", &["true"]);
    request.mounts = vec![bind(Path::new("/etc"), "/v", Propagation::Rshared)];
    let error =
        host.runtime.create(&request).await.err().context("a mount that cannot be shared was")?;
    ensure!(matches!(error, RuntimeError::BadMount(_)), "{error}");
    Ok(())
}

pub async fn namespaces_of_the_host(host: &Host) -> Result<()> {
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}"));
    let script = "for n in pid ipc uts net cgroup mnt; do echo $n $(busybox readlink /proc/self/ns/$n); done";
    let all = Namespaces {
        pid: Namespace::Host,
        ipc: Namespace::Host,
        uts: Namespace::Host,
        net: Namespace::Host,
        cgroup: Namespace::Host,
    };
    for (id, namespaces, shared) in [("n1", all, true), ("n2", Namespaces::default(), false)] {
        let mut request = host.request(id, &["sh", "-c", script]);
        request.spec = spec(&SpecInput { namespaces, ..host.input(id, &["sh", "-c", script]) });
        let (code, text) = host.run(&request).await?;
        ensure!(code == 0, "{code}: {text}");
        for kind in ["pid", "ipc", "uts", "net", "cgroup", "mnt"] {
            let same = text.contains(&own(kind)?.to_string_lossy().into_owned());
            ensure!(same == (shared && kind != "mnt"), "{kind}: {text}");
        }
    }
    Ok(())
}

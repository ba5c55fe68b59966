//! Booting: to login with all services healthy, configuration applied once, least privilege, the Docker API, an
//! orderly power off; from UEFI; without STATE; with a broken configuration.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::machine::{Direct, Firmware, Machine, Spec};

use crate::site::{BOOT, Site};

const USER_DATA: &str = "\
hostname: case-one
write_files:
- {path: /etc/case, content: written, permissions: '0640', owner: 'root:root'}
bootcmd:
- echo early >> /var/lib/ros/bootcmd-count
runcmd:
- echo ran >> /var/lib/ros/runcmd-count
mounts:
- [tmpfs, /mnt/case, tmpfs, 'size=1m,mode=0700']
rancher:
  sysctl: {kernel.domainname: case.example}
";

pub fn boots_healthy_configured_confined_and_powers_off() -> Result<()> {
    let site = Site::new("boot")?;
    let (machine, first) = site.boot(site.spec("v1.0", USER_DATA)?)?;
    machine.wait_serial("login:", 0, BOOT)?;

    all_services_are_healthy(&site)?;
    ensure!(site.guest.ok("hostname")? == "case-one");
    ensure!(site.guest.ok("stat -c '%a %U' /etc/case; cat /etc/case")? == "640 root\nwritten");
    ensure!(site.guest.ok("cat /var/lib/ros/runcmd-count")? == "ran");
    ensure!(site.guest.ok("cat /var/lib/ros/bootcmd-count")? == "early");
    ensure!(site.guest.ok("cat /proc/sys/kernel/domainname")? == "case.example");
    ensure!(site.guest.ok("cat /proc/1/mountinfo")?.contains(" /mnt/case "));
    // No container's own mount took the hierarchy's options away.
    let hierarchy = site.guest.ok("grep ' /sys/fs/cgroup ' /proc/1/mounts")?;
    for option in ["nsdelegate", "favordynmods", "memory_recursiveprot"] {
        ensure!(hierarchy.contains(option), "{option}: {hierarchy}");
    }
    services_have_only_what_they_declare(&site)?;
    docker_cli_runs_busybox(&site)?;
    list_matches_the_registry(&site)?;

    site.guest.ok("ros reboot")?;
    site.guest.wait_boot(&first, BOOT)?;
    all_services_are_healthy(&site)?;
    ensure!(site.guest.ok("cat /var/lib/ros/runcmd-count")? == "ran", "runcmd ran again");
    let early = site.guest.ok("cat /var/lib/ros/bootcmd-count")?;
    ensure!(early == "early\nearly", "bootcmd is for every boot: {early:?}");
    ensure!(site.version()? == "v1.0");

    let from = machine.serial().len();
    machine.press_power()?;
    machine.wait_off(Duration::from_secs(60))?;
    let said = machine.serial()[from..].to_owned();
    ensure!(said.contains("Power down"), "no orderly power off:\n{said}");
    Ok(())
}

fn all_services_are_healthy(site: &Site) -> Result<()> {
    site.settled()?;
    let list = site.json("ros service list --format json")?;
    for name in ["udev", "network", "cloud-init", "ntp", "syslog", "acpid", "console"] {
        let service = list
            .as_array()
            .and_then(|all| all.iter().find(|service| service["name"] == name))
            .with_context(|| format!("no service {name} in {list}"))?;
        ensure!(service["ready"] == true, "{name} is not ready: {service}");
    }
    Ok(())
}

/// The capabilities the kernel says each service's first process has are those it declares, and no others.
fn services_have_only_what_they_declare(site: &Site) -> Result<()> {
    let list = site.json("ros service list --format json")?;
    let mut checked = 0;
    let enabled = |service: &&serde_json::Value| service["enabled"] == true;
    for service in list.as_array().context("no list")?.iter().filter(enabled) {
        let name = service["name"].as_str().context("no name")?;
        let declared = site.json(&format!("ros service inspect {name} --format json"))?;
        let spec = &declared["spec"];
        if spec["privileged"] == true || spec["x-ros"]["oneshot"] == true {
            continue;
        }
        let pid = declared["live"]["pid"].as_i64().filter(|pid| *pid > 0);
        let pid = pid.with_context(|| format!("{name} has no process: {declared}"))?;
        let status = site.guest.ok(&format!("grep -E '^Cap(Bnd|Eff)' /proc/{pid}/status"))?;
        let allowed = mask(&spec["cap_add"])?;
        for line in status.lines() {
            let (kind, hex) = line.split_once(':').context("no mask")?;
            let has = u64::from_str_radix(hex.trim(), 16)?;
            ensure!(has & !allowed == 0, "{name} has {kind} {has:x}, declares {allowed:x}");
        }
        checked += 1;
    }
    ensure!(checked >= 5, "only {checked} services were checked");
    Ok(())
}

/// Bits of `linux/capability.h`.
fn mask(names: &serde_json::Value) -> Result<u64> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let mut bits = 0;
    for name in names.as_array().into_iter().flatten() {
        let name = name.as_str().context("a capability is a word")?;
        let bit = NAMES
            .iter()
            .position(|known| *known == name)
            .with_context(|| format!("capability {name}?"))?;
        bits |= 1 << bit;
    }
    Ok(bits)
}

/// The unmodified docker CLI, over a tunnel to the machine's socket, loads and runs an image.
fn docker_cli_runs_busybox(site: &Site) -> Result<()> {
    let socket = site.dir.join("docker.sock");
    let mut tunnel = site.guest.ssh();
    tunnel.args(["-N", "-L"]).arg(format!(
        "{}:{}",
        socket.display(),
        ros_api::paths::SYSTEM_DOCKER_SOCKET
    ));
    let mut tunnel = tunnel.stdin(Stdio::null()).spawn().context("start the tunnel")?;
    let shown = (|| {
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let docker = |args: &[&str]| -> Result<String> {
            let host = format!("unix://{}", socket.display());
            let output = Command::new("docker")
                .env("DOCKER_HOST", host)
                .args(args)
                .output()
                .context("start docker")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "docker {args:?}: {said}");
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let archive = site.dir.join("busybox.tar");
        busybox_archive(&archive)?;
        docker(&["load", "-q", "-i", archive.to_str().context("path")?])?;
        let said = docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox:test",
            "/bin/busybox",
            "echo",
            "from",
            "inside",
        ])?;
        ensure!(said == "from inside", "{said:?}");
        ensure!(docker(&["ps", "--format", "{{.Names}}"])?.contains("console"));
        a_changed_file_runs_nowhere(site)
    })();
    let _ = tunnel.kill();
    let _ = tunnel.wait();
    shown
}

/// fs-verity lets nobody change a file of the store in its place; one put there instead is seen at the next start, even
/// with the same length and time, and `check` names it.
fn a_changed_file_runs_nowhere(site: &Site) -> Result<()> {
    const RUN: &str = "system-docker run --rm --network none busybox:test /bin/busybox true";
    let guest = &site.guest;
    let file = guest.ok(
        "for l in /var/lib/system-docker/layers/*; do [ \"$(ls $l/tree)\" = bin ] && echo $l/tree/bin/busybox; done | head -n 1",
    )?;
    let changed = guest.run(&format!("printf x | dd of={file} bs=1 conv=notrunc"))?;
    ensure!(changed.status != 0, "a file of the store could be written to");
    guest.ok(&format!(
        "cp -p {file} /var/lib/other && printf x | dd of=/var/lib/other bs=1 seek=4096 conv=notrunc && \
         touch -r {file} /var/lib/other && mv {file} /var/lib/whole && mv /var/lib/other {file}"
    ))?;
    let ran = guest.run(RUN)?;
    ensure!(ran.status != 0 && ran.stderr.contains("is damaged"), "{}{}", ran.stdout, ran.stderr);
    let check = guest.run("system-docker check")?;
    ensure!(
        check.status == 1 && check.stdout.contains("bin/busybox is damaged"),
        "{}",
        check.stdout
    );
    guest.ok(&format!("mv /var/lib/whole {file}"))?;
    guest.ok(RUN)?;
    let check = guest.run("system-docker check")?;
    ensure!(check.status == 0, "{}{}", check.stdout, check.stderr);
    Ok(())
}

/// A docker archive with the host's static busybox, made by skopeo from an OCI layout made here.
pub fn busybox_archive(to: &std::path::Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = r#"
set -e
mkdir -p root/bin oci/blobs/sha256
cp "$(command -v busybox)" root/bin/busybox
tar -C root --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf layer .
put() { h=$(sha256sum < "$1" | cut -d' ' -f1); cp "$1" "oci/blobs/sha256/$h"; echo "$h"; }
l=$(put layer)
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/busybox"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$l" > config
c=$(put config)
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' "$c" "$(stat -c %s config)" "$l" "$(stat -c %s layer)" > manifest
m=$(put manifest)
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"busybox:test"}}]}' "$m" "$(stat -c %s manifest)" > oci/index.json
printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
skopeo copy -q "oci:oci:busybox:test" "docker-archive:archive.tar:busybox:test"
"#;
    artifacts::run(Command::new("sh").args(["-c", script]).current_dir(dir.path()))?;
    std::fs::copy(dir.path().join("archive.tar"), to)?;
    Ok(())
}

fn list_matches_the_registry(site: &Site) -> Result<()> {
    let list = site.json("ros os list --format json")?;
    let mut listed: Vec<&str> = list
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|entry| entry["version"].as_str())
        .collect();
    let falls = |pair: &[&str]| numbers(pair[0]) >= numbers(pair[1]);
    ensure!(listed.windows(2).all(falls), "not newest first: {listed:?}");
    listed.sort_unstable();
    let url = format!("docker://127.0.0.1:{}/os", site.registry_port);
    let output = Command::new("skopeo").args(["list-tags", "--tls-verify=false", &url]).output()?;
    let tags: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    // Signatures are tags too; of an earlier run there may be some.
    let mut tags: Vec<&str> = tags["Tags"]
        .as_array()
        .context("no tags")?
        .iter()
        .filter_map(serde_json::Value::as_str)
        .filter(|tag| !tag.ends_with(".sig"))
        .collect();
    tags.sort_unstable();
    ensure!(listed == tags, "listed {listed:?}, the registry has {tags:?}");
    Ok(())
}

/// The numbers in a version, as they are compared.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

pub fn boots_from_uefi() -> Result<()> {
    let site = Site::new("uefi")?;
    let mut spec = site.spec("v1.0", "")?;
    spec.firmware = Firmware::Uefi;
    let (_machine, _) = site.boot(spec)?;
    site.settled()?;
    ensure!(site.guest.ok("test -d /sys/firmware/efi && echo uefi")? == "uefi");
    ensure!(site.version()? == "v1.0");
    Ok(())
}

pub fn boots_in_ram_without_state() -> Result<()> {
    let site = Site::new("ram")?;
    let spec = site.ram_spec(Vec::new(), "-- rancher.password=h1dden")?;
    let (_machine, _) = site.boot(spec)?;
    site.settled()?;
    what_follows_the_dashes_is_secret(&site)?;
    ensure!(site.guest.ok("findmnt -no FSTYPE /var || stat -f -c %T /var")?.contains("tmpfs"));
    ensure!(site.version()? == "v1.0");
    Ok(())
}

/// It counts, and nobody but root reads it: not here, not in another container, not as PID 1's arguments.
fn what_follows_the_dashes_is_secret(site: &Site) -> Result<()> {
    ensure!(site.guest.ok("ros config get ros.password")? == "h1dden");
    for read in [
        "cat /proc/cmdline",
        "cat /proc/1/cmdline",
        "system-docker exec syslog /bin/busybox cat /proc/cmdline",
        "sudo -u nobody cat /run/ros/cmdline /run/ros/cmdline.public 2>/dev/null",
        "sudo -u nobody dmesg 2>/dev/null",
    ] {
        let said = site.guest.run(read)?.stdout;
        ensure!(!said.contains("h1dden"), "{read}: {said}");
    }
    let public = site.guest.ok("cat /proc/cmdline")?;
    ensure!(public.contains("panic=5") && !public.contains("--"), "{public}");
    Ok(())
}

pub fn a_broken_configuration_is_reported_and_does_not_stop_the_boot() -> Result<()> {
    let site = Site::new("broken-config")?;
    let user_data =
        "hostname: [not, a, name]\nwrite_filse: []\nmounts: [[/dev/vda1, /mnt/other, xfs]]";
    let (machine, _) = site.boot(site.spec("v1.0", user_data)?)?;
    let report = site.settled()?;
    what_cannot_be_mounted_is_said(&report)?;
    let wrong = ":2:11: error: hostname: expected a host name";
    let unknown =
        ":3:14: warning: write_filse: no such key; it is left out (did you mean \"write_files\"?)";
    for said in [wrong, unknown] {
        machine.wait_serial(said, 0, Duration::from_secs(10)).context("on the console")?;
        let log = site.guest.ok("dmesg")?;
        ensure!(log.contains(said), "no {said:?} in the kernel's log:\n{log}");
        // syslogd writes it a moment later.
        let file = format!(
            "for i in $(seq 50); do grep -qF '{said}' /var/log/messages && exit 0; sleep 0.2; done; exit 1"
        );
        site.guest.ok(&file).context("in /var/log/messages")?;
        let validate = site.guest.run("ros config validate")?;
        ensure!(validate.status == 1 && validate.stdout.contains(said), "{validate:?}");
    }
    let interface = site.guest.ok("ip -o -4 route show default | cut -d' ' -f5")?;
    crate::config::cut_off_it_comes_back(&site, &interface)
}

/// With the reason, and it holds nothing up.
fn what_cannot_be_mounted_is_said(report: &serde_json::Value) -> Result<()> {
    let warnings = report["warnings"].as_array().context("no warnings")?;
    let mut lines = warnings.iter().filter_map(serde_json::Value::as_str);
    let said = lines.find(|line| line.starts_with("mounts: /dev/vda1 on /mnt/other: "));
    let said = said.with_context(|| format!("the mount is not complained about: {report}"))?;
    ensure!(said.ends_with("kernel has no file system xfs"), "{said}");
    ensure!(report["healthy"] == true, "{report}");
    Ok(())
}

pub fn an_empty_disk_is_formatted_when_told_to_and_kept() -> Result<()> {
    let site = Site::new("autoformat")?;
    let disk = site.dir.join("empty.qcow2");
    artifacts::empty_disk("2G", &disk)?;
    let spec = || -> Result<Spec> {
        let mut spec = site.ram_spec(vec![disk.clone()], "ros.state.autoformat")?;
        // Both boots are on this host.
        spec.throwaway = true;
        Ok(spec)
    };
    let (machine, _) = site.boot(spec()?)?;
    site.settled()?;
    ensure!(site.guest.ok("findmnt -no FSTYPE /var")? == "ext4");
    site.guest.ok("echo kept > /home/ros/kept; sync; ros poweroff")?;
    machine.wait_off(Duration::from_secs(60))?;
    let (_machine, _) = site.boot(spec()?)?;
    ensure!(site.guest.ok("cat /home/ros/kept")? == "kept");
    Ok(())
}

pub fn recovery_gives_a_shell() -> Result<()> {
    let site = Site::new("recovery")?;
    let images = artifacts::images();
    let mut spec = Spec::new(&site.dir);
    spec.direct = Some(Direct {
        kernel: images.join("vmlinuz"),
        initrd: images.join("initrd"),
        append: "console=ttyS0 panic=5 ros.recovery".to_owned(),
    });
    let machine = Machine::start(spec)?;
    machine.wait_serial("ecovery", 0, BOOT)?;
    Ok(())
}

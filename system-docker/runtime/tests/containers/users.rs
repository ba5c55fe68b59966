//! A container with a user namespace of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use ros_runtime::{IdRange, Mount, Namespaces, Propagation, ShimRequest, SpecInput};

use crate::host::{Host, bind, exec, exec_output, expect, spec};

const USERS: IdRange = IdRange { first: 600_000, count: 65_536 };

fn request(host: &Host, id: &str, script: &str) -> ShimRequest {
    let input = SpecInput {
        users: Some(USERS),
        namespaces: Namespaces::default(),
        ..host.input(id, &["sh", "-c", script])
    };
    ShimRequest { users: Some(USERS), spec: spec(&input), ..host.request(id, &["sh"]) }
}

fn owner(path: &Path) -> (u32, u32) {
    fs::symlink_metadata(path).map_or((u32::MAX, u32::MAX), |data| (data.uid(), data.gid()))
}

/// What it makes belongs on disk to whom it says inside, as without a user namespace.
pub async fn its_root_is_nobody_outside(host: &Host) -> Result<()> {
    let volume = host.dir.join("mapped");
    let outside = host.dir.join("outside");
    for folder in [&volume, &outside] {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(volume.join("theirs"), "volume\n")?;
    chown(volume.join("theirs"), Some(1000), Some(1000))?;
    let script = "id -u; touch /made /etc/mark /v/made /t/made || exit 1; chown 1000:29 /made; \
                  ls -n /v/theirs /bin/busybox | grep -c -w -e 1000 -e '0        0'; \
                  touch /o/made 2>/dev/null && exit 2; mknod /node b 8 0 2>/dev/null && exit 3; \
                  echo text > /dev/stdout; cat /etc/mark /proc/self/uid_map; sleep 1000";
    let mut request = request(host, "n", script);
    let mapped = |mount: Mount| Mount { mapped: true, ..mount };
    request.mounts = vec![
        mapped(bind(&volume, "/v", Propagation::Rprivate)),
        bind(&outside, "/o", Propagation::Rprivate),
        Mount {
            target: "/t".into(),
            kind: ros_runtime::MountKind::Tmpfs { options: vec!["size=64k,mode=700".into()] },
            read_only: false,
            mapped: false,
        },
        mapped(bind(&volume, "/dev/shm/late", Propagation::Rprivate)),
    ];
    let process = host.runtime.create(&request).await?;
    let mut stream = process.attach(false).await?;
    process.start().await?;
    let said = expect(&mut stream, "65536").await?;
    ensure!(said.starts_with("0\n2\ntext\ncontainer\n"), "{said}");
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    ensure!(status.contains("\nUid:\t600000\t600000\t600000\t600000\n"), "{status}");

    let upper = host.dir.join("containers/n/upper");
    ensure!(owner(&upper.join("made")) == (1000, 29), "{:?}", owner(&upper.join("made")));
    ensure!(owner(&upper.join("etc/mark")) == (0, 0), "{:?}", owner(&upper.join("etc/mark")));
    ensure!(owner(&volume.join("made")) == (0, 0), "{:?}", owner(&volume.join("made")));
    ensure!(owner(&host.dir.join("layer/etc/mark")) == (0, 0), "the layer was changed");
    ensure!(!outside.join("made").exists());

    // One more process is in it too, and may do there what root may; a user is that user.
    let script = "id -u; ls /dev/shm/late; touch /by-exec; cat /proc/self/uid_map";
    let (code, text) = exec_output(&process, &exec("e", &["sh", "-c", script])).await?;
    ensure!(code == 0 && text.starts_with("0\nmade\ntheirs\n"), "{code} {text}");
    ensure!(text.contains("600000"), "an exec is not in the user namespace: {text}");
    ensure!(owner(&upper.join("by-exec")) == (0, 0));
    let script =
        "id -u; id -G; touch /tmp/ann; echo text > /dev/stdout; touch /x 2>/dev/null || echo no";
    let mut request = exec("ann", &["sh", "-c", script]);
    request.user = "ann".into();
    let (code, text) = exec_output(&process, &request).await?;
    ensure!((code, text.as_str()) == (0, "1000\n1000 29\ntext\nno\n"), "{code} {text}");
    ensure!(owner(&upper.join("tmp/ann")) == (1000, 1000));
    request = exec(
        "t",
        &["sh", "-c", "test -O $(readlink /proc/self/fd/0) && echo mine; echo x > /dev/tty"],
    );
    request.tty = true;
    let (code, text) = exec_output(&process, &request).await?;
    ensure!((code, text.as_str()) == (0, "mine\r\nx\r\n"), "{code} {text:?}");
    process.delete().await?;
    ensure!(!host.dir.join("run/n").exists(), "nothing is left");
    Ok(())
}

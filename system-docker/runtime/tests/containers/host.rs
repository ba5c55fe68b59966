//! What the tests run in: a mount namespace with a cgroup hierarchy of its own, a layer with busybox, and containers
//! made of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use ros_runtime::{
    AttachStream, ExecRequest, Log, Mount, MountKind, Process, Propagation, Root, Runtime,
    ShimRequest, SpecInput, Stream, host_capabilities,
};
use ros_sys::mountinfo;

pub const BUSYBOX: &str = "/bin/busybox";
pub const SIGTERM: i32 = 15;
pub const SIGKILL: i32 = 9;

pub struct Host {
    pub dir: PathBuf,
    pub runtime: Runtime,
    _keep: tempfile::TempDir,
}

pub fn prepare_host() -> Result<Host> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make / private")?;
    // A machine has one hierarchy, with the options of its last mount: another one would take them away.
    let mounted = mountinfo::own().into_iter().find(|entry| entry.kind == "cgroup2");
    let (source, flags) = match &mounted {
        Some(entry) => (entry.point.as_path(), MsFlags::MS_BIND),
        None => (Path::new("cgroup2"), MsFlags::empty()),
    };
    mount(Some(source), "/sys/fs/cgroup", Some("cgroup2"), flags, none).context("mount cgroup2")?;
    let keep = tempfile::tempdir()?;
    let dir = keep.path().to_owned();
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), none)?;
    mount(none, &dir, none, MsFlags::MS_SHARED, none)?;
    make_layer(&dir.join("layer"))?;
    let runtime = Runtime::new(&dir.join("run"), &std::env::current_exe()?);
    Ok(Host { dir, runtime, _keep: keep })
}

pub fn make_layer(layer: &Path) -> Result<()> {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(layer.join(folder))?;
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox"))?;
    for applet in [
        "sh", "true", "cat", "sleep", "echo", "id", "ls", "mount", "mkdir", "stty", "yes", "head",
        "kill", "mknod", "pwd", "trap", "grep", "touch", "env", "unshare", "chown", "test",
        "readlink",
    ] {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet))?;
    }
    fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    )?;
    fs::write(layer.join("etc/group"), "root:x:0:\nann:x:1000:\naudio:x:29:ann\n")?;
    fs::write(layer.join("etc/nsswitch.conf"), "passwd: trap\n")?;
    fs::write(layer.join("etc/mark"), "container\n")?;
    fs::write(layer.join("bin/plain"), "no program")?;
    Ok(())
}

impl Host {
    pub fn request(&self, id: &str, args: &[&str]) -> ShimRequest {
        let own = self.dir.join("containers").join(id);
        for folder in ["upper", "work"] {
            fs::create_dir_all(own.join(folder)).unwrap();
        }
        ShimRequest {
            id: id.into(),
            root: Root {
                lower: vec![self.dir.join("layer")],
                upper: own.join("upper"),
                work: own.join("work"),
            },
            mounts: Vec::new(),
            spec: spec(&self.input(id, args)),
            users: None,
            user: String::new(),
            group_add: Vec::new(),
            tty: false,
            open_stdin: false,
            stdin_once: false,
            log: Some(Log { path: own.join("c.log"), max_size: 1 << 20, max_files: 2 }),
            record: Some(own),
        }
    }

    pub fn input(&self, id: &str, args: &[&str]) -> SpecInput {
        SpecInput {
            id: id.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            hostname: "box".into(),
            available: host_capabilities(),
            cgroup_parent: "/ros-runtime-test".into(),
            ..SpecInput::default()
        }
    }

    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.dir.join("containers").join(id).join("c.log"))
            .unwrap_or_default();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| value(line)["log"].as_str().unwrap().to_owned()).collect()
    }

    /// Runs it to its end: exit code and log.
    pub async fn run(&self, request: &ShimRequest) -> Result<(i32, String)> {
        let process = self.runtime.create(request).await?;
        process.start().await?;
        let exit = process.wait().await?;
        process.delete().await?;
        Ok((exit.code, self.log(&request.id)))
    }

    pub async fn sh(&self, id: &str, script: &str) -> Result<(i32, String)> {
        self.run(&self.request(id, &["sh", "-c", script])).await
    }

    /// A container that sleeps.
    pub async fn sleeper(&self, request: ShimRequest) -> Result<Process> {
        let process = self.runtime.create(&request).await?;
        process.start().await?;
        Ok(process)
    }

    pub async fn sweep(&self) -> Result<()> {
        for id in self.runtime.list()? {
            if let Some(process) = self.runtime.reattach(&id).await? {
                process.delete().await?;
            }
        }
        let cgroups = Path::new("/sys/fs/cgroup/ros-runtime-test");
        let left = fs::read_dir(cgroups)
            .map(|all| all.flatten().filter(|e| e.path().is_dir()).count())
            .unwrap_or(0);
        ensure!(left == 0, "{left} cgroups are left");
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir("/sys/fs/cgroup/ros-runtime-test");
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}

/// The spec, without device rules where the kernel does not let libcontainer load them: it raises a limit for that.
pub fn spec(input: &SpecInput) -> oci_spec::runtime::Spec {
    let mut spec = ros_runtime::spec(input);
    if !has_sys_resource()
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_resources(None);
    }
    spec
}

pub fn has_sys_resource() -> bool {
    host_capabilities().contains(&oci_spec::runtime::Capability::SysResource)
}

pub fn exec(id: &str, args: &[&str]) -> ExecRequest {
    ExecRequest {
        id: id.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        privileged: false,
        tty: false,
        open_stdin: false,
    }
}

/// Everything on both streams, until the end.
pub async fn output(stream: &mut AttachStream) -> Result<(String, String)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(frame) = stream.next().await? {
        match frame.stream {
            Stream::Stdout => out.extend(frame.bytes),
            Stream::Stderr => err.extend(frame.bytes),
        }
    }
    Ok((String::from_utf8(out)?, String::from_utf8(err)?))
}

/// Until the output holds `words`.
pub async fn expect(stream: &mut AttachStream, words: &str) -> Result<String> {
    let mut seen = String::new();
    while !seen.contains(words) {
        match stream.next().await? {
            Some(frame) => seen.push_str(&String::from_utf8_lossy(&frame.bytes)),
            None => bail!("{words:?} never came, only {seen:?}"),
        }
    }
    Ok(seen)
}

pub async fn exec_output(process: &Process, request: &ExecRequest) -> Result<(i32, String)> {
    let exec = process.exec(request).await?;
    let mut stream = exec.attach(false).await?;
    exec.start().await?;
    let (out, err) = output(&mut stream).await?;
    let exit = exec.wait().await?;
    exec.delete().await?;
    Ok((exit.code, out + &err))
}

pub fn bind(source: &Path, target: &str, propagation: Propagation) -> Mount {
    let kind = MountKind::Bind { source: source.to_owned(), recursive: true, propagation };
    Mount { target: target.into(), kind, read_only: false, mapped: false }
}

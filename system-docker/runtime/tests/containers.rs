//! Containers for real: this program is the daemon of its own tests, and, started as `<it> shim <dir>`, the shim.
//!
//! Needs root and a static busybox. Works in a mount namespace of its own with a cgroup v2 hierarchy, so that it runs
//! on a host with hybrid cgroups too; limits are left to the tests in a machine, because such a hierarchy has no
//! controllers.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use ros_runtime::{
    AttachStream, ExecRequest, Log, Mount, MountKind, Namespace, Namespaces, Phase, Process,
    Propagation, Root, Runtime, RuntimeError, ShimRequest, SpecInput, Stream, host_capabilities,
};

const BUSYBOX: &str = "/bin/busybox";
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

type Test = for<'a> fn(&'a Host) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), (|host| Box::pin($name(host))) as Test)),*] };
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", dir] => return ros_runtime::shim::main(Path::new(dir)),
        ["daemon", dir] => return daemon(Path::new(dir)),
        _ => {}
    }
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    match prepare_host().and_then(|host| run(&host, &wanted)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("containers are made by root");
    }
    (!Path::new(BUSYBOX).exists()).then_some("there is no /bin/busybox (Debian: busybox-static)")
}

fn run(host: &Host, wanted: &[&String]) -> Result<usize> {
    let tests = tests![
        exit_codes,
        output_comes_on_its_stream_and_in_the_log,
        stdin_reaches_the_process_and_ends,
        a_missing_command_and_one_that_cannot_run,
        a_missing_source_is_a_bad_mount,
        signals_end_it,
        exec_sees_the_container_s_root,
        exec_has_the_container_s_confinement,
        exec_errors,
        a_terminal_and_its_size,
        users_are_the_container_s,
        binds_read_only_tmpfs_and_devices,
        device_rules_are_enforced,
        the_host_s_dev_can_be_bound,
        propagation_both_ways,
        namespaces_of_the_host,
        pause_and_resume,
        what_is_left_behind_is_killed,
        a_client_that_reads_nothing_holds_nobody_up,
        the_container_outlives_its_daemon,
        a_dead_shim_is_noticed,
        what_it_costs,
    ];
    if !has_sys_resource() {
        println!("without CAP_SYS_RESOURCE: device rules are left out");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed = 0;
    for (name, test) in tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w)))
    {
        let result = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), test(host))
                .await
                .context("took longer than 30 s")?
        });
        match result {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED: {error:#}");
            }
        }
        runtime.block_on(host.sweep())?;
    }
    Ok(failed)
}

struct Host {
    dir: PathBuf,
    runtime: Runtime,
    _keep: tempfile::TempDir,
}

fn prepare_host() -> Result<Host> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make / private")?;
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).context("unmount /sys/fs/cgroup")?;
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)
        .context("mount cgroup2")?;
    let keep = tempfile::tempdir()?;
    let dir = keep.path().to_owned();
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), none)?;
    mount(none, &dir, none, MsFlags::MS_SHARED, none)?;
    make_layer(&dir.join("layer"))?;
    let runtime = Runtime::new(&dir.join("run"), &std::env::current_exe()?);
    Ok(Host { dir, runtime, _keep: keep })
}

fn make_layer(layer: &Path) -> Result<()> {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(layer.join(folder))?;
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox"))?;
    for applet in [
        "sh", "true", "cat", "sleep", "echo", "id", "ls", "mount", "mkdir", "stty", "yes", "head",
        "kill", "mknod", "pwd", "trap", "grep", "touch", "env", "unshare",
    ] {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet))?;
    }
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
    fn request(&self, id: &str, args: &[&str]) -> ShimRequest {
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
            user: String::new(),
            group_add: Vec::new(),
            tty: false,
            open_stdin: false,
            stdin_once: false,
            log: Some(Log { path: own.join("c.log"), max_size: 1 << 20, max_files: 2 }),
            record: Some(own),
        }
    }

    fn input(&self, id: &str, args: &[&str]) -> SpecInput {
        SpecInput {
            id: id.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            hostname: "box".into(),
            available: host_capabilities(),
            cgroup_parent: "/ros-runtime-test".into(),
            ..SpecInput::default()
        }
    }

    fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.dir.join("containers").join(id).join("c.log"))
            .unwrap_or_default();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| value(line)["log"].as_str().unwrap().to_owned()).collect()
    }

    /// Runs it to its end: exit code and log.
    async fn run(&self, request: &ShimRequest) -> Result<(i32, String)> {
        let process = self.runtime.create(request).await?;
        process.start().await?;
        let exit = process.wait().await?;
        process.delete().await?;
        Ok((exit.code, self.log(&request.id)))
    }

    async fn sh(&self, id: &str, script: &str) -> Result<(i32, String)> {
        self.run(&self.request(id, &["sh", "-c", script])).await
    }

    /// A container that sleeps.
    async fn sleeper(&self, request: ShimRequest) -> Result<Process> {
        let process = self.runtime.create(&request).await?;
        process.start().await?;
        Ok(process)
    }

    async fn sweep(&self) -> Result<()> {
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
fn spec(input: &SpecInput) -> oci_spec::runtime::Spec {
    let mut spec = ros_runtime::spec(input);
    if !has_sys_resource()
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_resources(None);
    }
    spec
}

fn has_sys_resource() -> bool {
    host_capabilities().contains(&oci_spec::runtime::Capability::SysResource)
}

fn exec(id: &str, args: &[&str]) -> ExecRequest {
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
async fn output(stream: &mut AttachStream) -> Result<(String, String)> {
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
async fn expect(stream: &mut AttachStream, words: &str) -> Result<String> {
    let mut seen = String::new();
    while !seen.contains(words) {
        match stream.next().await? {
            Some(frame) => seen.push_str(&String::from_utf8_lossy(&frame.bytes)),
            None => bail!("{words:?} never came, only {seen:?}"),
        }
    }
    Ok(seen)
}

async fn exec_output(process: &Process, request: &ExecRequest) -> Result<(i32, String)> {
    let exec = process.exec(request).await?;
    let mut stream = exec.attach(false).await?;
    exec.start().await?;
    let (out, err) = output(&mut stream).await?;
    let exit = exec.wait().await?;
    exec.delete().await?;
    Ok((exit.code, out + &err))
}

fn bind(source: &Path, target: &str, propagation: Propagation) -> Mount {
    let kind = MountKind::Bind { source: source.to_owned(), recursive: true, propagation };
    Mount { target: target.into(), kind, read_only: false }
}

async fn exit_codes(host: &Host) -> Result<()> {
    for (id, script, code) in
        [("a0", "true", 0), ("a5", "exit 5", 5), ("a137", "sh -c 'kill -9 $$'; exit $?", 137)]
    {
        ensure!(host.sh(id, script).await?.0 == code, "{script}");
        let exit = fs::read_to_string(host.dir.join("containers").join(id).join("exit.json"))?;
        ensure!(exit.contains(&format!("\"code\":{code}")), "{exit}");
    }
    Ok(())
}

async fn output_comes_on_its_stream_and_in_the_log(host: &Host) -> Result<()> {
    let process = host
        .runtime
        .create(&host.request("o", &["sh", "-c", "echo out; echo err >&2; printf rest"]))
        .await?;
    let (mut one, mut two) = (process.attach(false).await?, process.attach(false).await?);
    process.start().await?;
    for stream in [&mut one, &mut two] {
        ensure!(output(stream).await? == ("out\nrest".into(), "err\n".into()));
    }
    process.wait().await?;
    let log = host.log("o");
    ensure!(log.contains("out\n") && log.contains("err\n") && log.ends_with("rest"), "{log:?}");
    ensure!(process.wait().await?.code == 0, "asking again is answered");
    process.delete().await?;
    process.delete().await?;
    ensure!(host.runtime.reattach("o").await?.is_none());
    Ok(())
}

async fn stdin_reaches_the_process_and_ends(host: &Host) -> Result<()> {
    let mut request = host.request("i", &["cat"]);
    request.open_stdin = true;
    let process = host.runtime.create(&request).await?;
    let mut stream = process.attach(true).await?;
    process.start().await?;
    let much = "0123456789\n".repeat(40_000);
    let (mut reader, mut writer) = stream_halves(&mut stream, &process).await?;
    let write = async {
        writer.write(much.as_bytes()).await?;
        writer.close_stdin().await
    };
    let read = async {
        let mut got = 0;
        while let Some(frame) = reader.next().await? {
            got += frame.bytes.len();
        }
        std::io::Result::Ok(got)
    };
    let (written, got) = tokio::join!(write, read);
    written?;
    ensure!(got? == much.len());
    ensure!(process.wait().await?.code == 0);
    Ok(())
}

/// The stream itself would do; this makes sure that another client may come and go meanwhile.
async fn stream_halves(
    stream: &mut AttachStream,
    process: &Process,
) -> Result<(ros_runtime::AttachReader, ros_runtime::AttachWriter)> {
    let second = process.attach(true).await?;
    let first = std::mem::replace(stream, process.attach(false).await?);
    drop(second);
    Ok(first.split())
}

async fn a_missing_command_and_one_that_cannot_run(host: &Host) -> Result<()> {
    let table = [
        ("m1", "nothing", 127),
        ("m2", "/bin/nothing", 127),
        ("m3", "/bin/plain", 126),
        ("m4", "/etc", 126),
    ];
    for (id, command, code) in table {
        let error = host
            .runtime
            .create(&host.request(id, &[command]))
            .await
            .err()
            .context("was created")?;
        ensure!(error.exit_code() == code, "{command}: {error}");
        ensure!(host.runtime.reattach(id).await?.is_none(), "something is left of {id}");
    }
    Ok(())
}

async fn a_missing_source_is_a_bad_mount(host: &Host) -> Result<()> {
    let mut request = host.request("bm", &["true"]);
    request.mounts = vec![bind(Path::new("/nonexistent"), "/x", Propagation::Rprivate)];
    let error = host.runtime.create(&request).await.err().context("was created")?;
    ensure!(matches!(error, RuntimeError::BadMount(_)), "{error}");
    let mut request = host.request("bm", &["true"]);
    request.user = "nobody-here".into();
    let error = host.runtime.create(&request).await.err().context("was created")?;
    ensure!(matches!(error, RuntimeError::BadUser(_)), "{error}");
    Ok(())
}

async fn signals_end_it(host: &Host) -> Result<()> {
    let script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    for (id, signal, code) in [("s15", SIGTERM, 7), ("s9", SIGKILL, 137)] {
        let process = host.runtime.create(&host.request(id, &["sh", "-c", script])).await?;
        let mut stream = process.attach(false).await?;
        process.start().await?;
        expect(&mut stream, "ready").await?;
        ensure!(process.status().await?.phase == Phase::Running);
        process.kill(signal, false).await?;
        ensure!(process.wait().await?.code == code);
        let error = process.kill(signal, false).await.err().context("killed twice")?;
        ensure!(matches!(error, RuntimeError::Gone(_)), "{error}");
    }
    Ok(())
}

async fn exec_sees_the_container_s_root(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("x", &["sleep", "100"])).await?;
    let (code, text) =
        exec_output(&process, &exec("e1", &["sh", "-c", "cat /etc/mark; echo $HOME; exit 3"]))
            .await?;
    ensure!((code, text.as_str()) == (3, "container\n/root\n"), "{code} {text:?}");
    let mut request = exec("e2", &["sh", "-c", "id -u; id -G; pwd; echo $HOME $A"]);
    (request.user, request.cwd, request.env) = ("ann".into(), "/tmp".into(), vec!["A=b".into()]);
    let (_, text) = exec_output(&process, &request).await?;
    ensure!(text == "1000\n1000 29\n/tmp\n/home/ann b\n", "{text:?}");
    let mut request = exec("e3", &["cat"]);
    request.open_stdin = true;
    let cat = process.exec(&request).await?;
    let mut stream = cat.attach(true).await?;
    cat.start().await?;
    ensure!(cat.pid() > 0);
    stream.write(b"hello").await?;
    stream.close_stdin().await?;
    ensure!(output(&mut stream).await?.0 == "hello");
    cat.delete().await?;
    let left = fs::read_dir(host.dir.join("run/x/state/x"))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("tenant"))
        .count();
    ensure!(left == 0, "{left} sockets are left");
    Ok(())
}

async fn exec_has_the_container_s_confinement(host: &Host) -> Result<()> {
    let script = "grep -E '^(Cap|Seccomp:|NoNewPrivs|SigIgn|SigBlk)' /proc/self/status; true";
    for nnp in [false, true] {
        let id = format!("cf{nnp}");
        let mut request = host.request(&id, &["sh", "-c", &format!("{script}; sleep 100")]);
        let input = SpecInput {
            no_new_privileges: nnp,
            ..host.input(&id, &["sh", "-c", &format!("{script}; sleep 100")])
        };
        request.spec = spec(&input);
        let process = host.runtime.create(&request).await?;
        let mut stream = process.attach(false).await?;
        process.start().await?;
        let of_init = expect(&mut stream, "Seccomp:").await?;
        let (_, of_exec) = exec_output(&process, &exec("e", &["sh", "-c", script])).await?;
        ensure!(of_init == of_exec, "init {of_init}\nexec {of_exec}");
        ensure!(of_exec.contains("Seccomp:\t2"), "{of_exec}");
        let ignored =
            of_exec.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).context("SigIgn")?;
        ensure!(
            u64::from_str_radix(ignored, 16)? & (1 << 12) == 0,
            "SIGPIPE is ignored: {ignored}"
        );
        ensure!(of_exec.contains("SigBlk:\t0000000000000000"), "{of_exec}");
        let (code, text) = exec_output(&process, &exec("u", &["unshare", "-m", "true"])).await?;
        ensure!(code != 0, "{text}");
        let mut request = exec("p", &["sh", "-c", script]);
        request.privileged = true;
        let (_, text) = exec_output(&process, &request).await?;
        ensure!(text.contains("Seccomp:\t0"), "{text}");
    }
    Ok(())
}

async fn exec_errors(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("xe", &["sleep", "100"])).await?;
    for (id, command, code) in [("e1", "nothing", 127), ("e2", "/bin/plain", 126)] {
        let exec = process.exec(&exec(id, &[command])).await?;
        let error = exec.start().await.err().context("was started")?;
        ensure!(error.exit_code() == code, "{command}: {error}");
        ensure!(exec.wait().await?.code == code);
        exec.delete().await?;
    }
    let mut request = exec("e3", &["true"]);
    request.cwd = "/none".into();
    let error = exec_output(&process, &request).await.err().context("was started")?;
    ensure!(error.to_string().contains("/none"), "{error}");
    let waiting = process.exec(&exec("e4", &["true"])).await?;
    process.delete().await?;
    ensure!(waiting.start().await.is_err(), "an exec does not outlive its container");
    ensure!(process.exec(&exec("e5", &["true"])).await.is_err());
    Ok(())
}

async fn a_terminal_and_its_size(host: &Host) -> Result<()> {
    let mut request =
        host.request("t", &["sh", "-c", "stty size; read a; stty size; echo got $a; exit 4"]);
    (request.tty, request.open_stdin) = (true, true);
    request.spec = spec(&SpecInput {
        terminal: true,
        ..host.input("t", &["sh", "-c", "read a; stty size; echo got $a; read b; exit 4"])
    });
    let process = host.runtime.create(&request).await?;
    let mut stream = process.attach(true).await?;
    process.start().await?;
    process.resize(33, 111).await?;
    stream.write(b"x\n").await?;
    expect(&mut stream, "33 111\r\ngot x").await?;
    let mut request = exec("e", &["sh", "-c", "read a; stty size; exit 6"]);
    (request.tty, request.open_stdin) = (true, true);
    let exec = process.exec(&request).await?;
    let mut exec_stream = exec.attach(true).await?;
    exec.start().await?;
    exec.resize(20, 40).await?;
    exec_stream.write(b"\n").await?;
    expect(&mut exec_stream, "20 40").await?;
    ensure!(exec.wait().await?.code == 6);
    stream.write(b"\n").await?;
    ensure!(process.wait().await?.code == 4);
    ensure!(host.log("t").contains("got x\r\n"));
    Ok(())
}

async fn users_are_the_container_s(host: &Host) -> Result<()> {
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

async fn binds_read_only_tmpfs_and_devices(host: &Host) -> Result<()> {
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

async fn device_rules_are_enforced(host: &Host) -> Result<()> {
    if has_sys_resource() {
        let (code, text) = host
            .sh("dr", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg && exit 4; cat /dev/null")
            .await?;
        ensure!(code == 0, "{code}: {text}");
    }
    Ok(())
}

async fn the_host_s_dev_can_be_bound(host: &Host) -> Result<()> {
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

async fn propagation_both_ways(host: &Host) -> Result<()> {
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

async fn namespaces_of_the_host(host: &Host) -> Result<()> {
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

async fn pause_and_resume(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("z", &["sleep", "100"])).await?;
    process.pause().await?;
    ensure!(process.status().await?.phase == Phase::Paused);
    ensure!(process.pause().await.is_err());
    process.resume().await?;
    ensure!(process.status().await?.phase == Phase::Running);
    ensure!(process.pids()? == [process.pid()]);
    process.stats()?;
    process.pause().await?;
    process.kill(SIGKILL, false).await?;
    ensure!(process.wait().await?.code == 137);
    Ok(())
}

async fn what_is_left_behind_is_killed(host: &Host) -> Result<()> {
    let script = "(trap '' HUP TERM; sleep 100) & exit 2";
    let mut request = host.request("k", &["sh", "-c", script]);
    let namespaces = Namespaces { pid: Namespace::Host, ..Namespaces::default() };
    request.spec = spec(&SpecInput { namespaces, ..host.input("k", &["sh", "-c", script]) });
    let begin = Instant::now();
    let (code, _) = host.run(&request).await?;
    ensure!(
        code == 2 && begin.elapsed() < Duration::from_secs(2),
        "{code} after {:?}",
        begin.elapsed()
    );
    Ok(())
}

async fn a_client_that_reads_nothing_holds_nobody_up(host: &Host) -> Result<()> {
    let process = host
        .runtime
        .create(&host.request("q", &["sh", "-c", "yes | head -c 3000000; echo; echo end"]))
        .await?;
    let silent = process.attach(false).await?;
    process.start().await?;
    let exit = tokio::time::timeout(Duration::from_secs(15), process.wait()).await??;
    ensure!(exit.code == 0);
    ensure!(host.log("q").ends_with("end\n"));
    drop(silent);
    Ok(())
}

/// `<this> daemon <dir>`: makes a container, starts it, and waits to be killed.
fn daemon(dir: &Path) -> ExitCode {
    let work = async {
        let request: ShimRequest = serde_json::from_slice(&fs::read(dir.join("daemon.json"))?)?;
        let process =
            Runtime::new(&dir.join("run"), &std::env::current_exe()?).create(&request).await?;
        process.start().await?;
        println!("started");
        std::future::pending::<()>().await;
        anyhow::Ok(())
    };
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(work))
    {
        Ok(Ok(())) => ExitCode::SUCCESS,
        failed => {
            println!("{failed:?}");
            ExitCode::FAILURE
        }
    }
}

async fn the_container_outlives_its_daemon(host: &Host) -> Result<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let script =
        "trap 'exit 9' TERM; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done";
    fs::write(
        host.dir.join("daemon.json"),
        serde_json::to_vec(&host.request("l", &["sh", "-c", script]))?,
    )?;
    let mut daemon = tokio::process::Command::new(std::env::current_exe()?)
        .arg("daemon")
        .arg(&host.dir)
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().context("stdout")?).read_line(&mut line).await?;
    ensure!(line == "started\n", "{line}");
    daemon.kill().await?;
    let process = host.runtime.reattach("l").await?.context("the container is gone")?;
    ensure!(process.status().await?.phase == Phase::Running && process.pid() > 0);
    let mut stream = process.attach(false).await?;
    expect(&mut stream, "line").await?;
    let before = host.log("l").len();
    expect(&mut stream, "\n").await?;
    expect(&mut stream, "line").await?;
    ensure!(host.log("l").len() > before, "the log goes on");
    process.kill(SIGTERM, false).await?;
    ensure!(process.wait().await?.code == 9);
    Ok(())
}

async fn a_dead_shim_is_noticed(host: &Host) -> Result<()> {
    let process = host.sleeper(host.request("g", &["sleep", "100"])).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let shim =
        status.lines().find_map(|line| line.strip_prefix("PPid:\t")).context("PPid")?.parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    let process = host.runtime.reattach("g").await?.context("gone")?;
    while process.status().await?.phase != Phase::Orphaned {
        tokio::task::yield_now().await;
    }
    process.kill(SIGKILL, false).await?;
    ensure!(process.wait().await?.code == 137);
    process.delete().await?;
    ensure!(process.wait().await.is_err());
    Ok(())
}

async fn what_it_costs(host: &Host) -> Result<()> {
    let mut times = Vec::new();
    for number in 0..20 {
        let request = host.request(&format!("c{number}"), &["true"]);
        let begin = Instant::now();
        let process = host.runtime.create(&request).await?;
        process.start().await?;
        process.wait().await?;
        process.delete().await?;
        times.push(begin.elapsed());
    }
    times.sort();
    let process = host.sleeper(host.request("mem", &["sleep", "100"])).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).context("PPid")?;
    let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup"))?;
    let private: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    println!(
        "     create, start, wait, delete: median {:?}; shim private {private} kB",
        times[times.len() / 2]
    );
    Ok(())
}

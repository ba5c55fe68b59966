//! A daemon of its own for each case, and images to give it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::guest::output_within;
use ros_tests::registry::{Registry, free_port};
use serde_json::Value;

/// No command of these cases takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes what the daemon needs, and starts it as a child: as the first process it would be an init. One that was killed
/// is started again.
const START: &str = r#"
if [ -n "$OWN_NETWORK" ]; then
  ip link set lo up
  mount -t sysfs sysfs /sys
  # As where nobody loaded br_netfilter: here it may be part of the kernel.
  echo 0 2>/dev/null > /proc/sys/net/bridge/bridge-nf-call-iptables
fi
# A machine has one hierarchy, with the options of its last mount.
options=$(awk '$3 == "cgroup2" {print $4; exit}' /proc/mounts)
umount -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 -o "${options:-rw}" cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mkdir -p /run/ros
cp "$1" /run/ros/registries.json
program=$2 dir=$3
shift 3
setpriv --dump | grep -q '^Capability bounding set:.*sys_resource' || set -- --without-device-rules "$@"
daemon() { "$program" daemon --root "$dir/docker" --run /run/system-docker --socket "$dir/docker.sock" "$@"; }
daemon "$@"
while [ $? = 137 ]; do daemon "$@"; done
"#;

/// One case: its folder, its registry, its daemon. Dropped, all of it ends.
pub struct Site {
    pub dir: PathBuf,
    pub registry: Registry,
    /// More options of the daemon.
    pub options: Vec<String>,
    /// Whether its network is its own: bridges and ports are nobody else's then, and the registry is out of reach.
    pub own_network: bool,
    daemon: Option<Child>,
}

impl Site {
    /// A registry, and no daemon yet.
    pub fn new(name: &str) -> Result<Self> {
        let dir = artifacts::checkout().join("target/test/engine").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let registry = Registry::start(&dir.join("registry"), free_port()?)?;
        Ok(Self { dir, registry, options: Vec::new(), own_network: false, daemon: None })
    }

    /// The program under test: from the folder `ROS_PROGRAMS`, else of the same build as this test.
    pub fn program() -> Result<PathBuf> {
        let beside = || PathBuf::from(env!("CARGO_BIN_EXE_ros-vm")).with_file_name("");
        let folder = std::env::var_os("ROS_PROGRAMS").map_or_else(beside, PathBuf::from);
        let path = folder.join("system-docker");
        ensure!(path.exists(), "{} is not there: run `make build`", path.display());
        Ok(path)
    }

    /// Starts the daemon with what it is told of registries, and waits until it answers.
    pub fn start(&mut self, registries: &Value) -> Result<()> {
        let told = self.dir.join("registries.json");
        fs::write(&told, registries.to_string())?;
        let log =
            fs::File::options().append(true).create(true).open(self.dir.join("daemon.log"))?;
        let mut command = Command::new("unshare");
        command
            .args(self.own_network.then_some("--net"))
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
            ])
            .args(["sh", "-c", START, "daemon"])
            .args([&told, &Self::program()?, &self.dir])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if self.own_network {
            command.env("OWN_NETWORK", "1");
        }
        self.daemon = Some(command.spawn().context("start unshare")?);
        let log = self.dir.join("daemon.log");
        self.answers().with_context(|| format!("see {}", log.display()))
    }

    /// The daemon itself, by the number that it has outside of its namespace.
    pub fn daemon_pid(&self) -> Result<u32> {
        let unshare = self.daemon.as_ref().context("no daemon runs")?.id();
        let shell = *children(unshare)?.first().context("unshare has no child")?;
        let is_daemon = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').nth(1) == Some("daemon")
        };
        children(shell)?.into_iter().find(is_daemon).context("the daemon does not run")
    }

    /// Waits until it answers.
    pub fn answers(&self) -> Result<()> {
        within(Duration::from_secs(20), "the daemon answers", || self.docker(&["version"]).is_ok())
    }

    /// Ends the daemon and all that runs under it.
    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = fs::remove_file(self.dir.join("docker.sock"));
    }

    /// A command of the docker CLI that has to succeed; its output, trimmed.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command.args(["-H", &format!("unix://{}/docker.sock", self.dir.display())]).args(args);
        command.env("HOME", &self.dir).env_remove("DOCKER_HOST");
        told(command)
    }

    /// One that has to fail; what it says.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        match self.docker(args) {
            Ok(said) => anyhow::bail!("docker {args:?} succeeded: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// `system-docker check`: whether all is whole, and what it says.
    pub fn check(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(Self::program()?);
        command.arg("check").args(["--registry", &self.host()]).args(args);
        command.arg("--root").arg(self.dir.join("docker"));
        let output = output_within(command, LIMIT)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        ensure!(wrong.is_empty(), "check: {wrong}");
        Ok((output.status.success(), said))
    }

    /// The registry's host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.registry.port)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for what has to come.
pub fn until(what: &str, come: impl FnMut() -> bool) -> Result<()> {
    within(LIMIT, what, come)
}

fn within(limit: Duration, what: &str, mut come: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !come() {
        ensure!(Instant::now() < end, "it did not come: {what}");
        // What is asked for answers at once: without a pause this would be a busy loop.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Processes whose parent is `pid`.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

/// The output of a command that has to succeed.
pub fn told(command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = output_within(command, LIMIT)?;
    let (said, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{shown} failed ({}):\n{said}{wrong}", output.status);
    Ok(said.trim().to_owned())
}

/// Makes an image of the static busybox, a file `/word` and `blob` (as many random bytes, in a layer of its own) and
/// gives it to a registry; layers are compressed by `packer` (`gzip -n`, `zstd`, `cat`) and called `kind`.
pub fn publish(host: &str, name: &str, blob: u64, packer: &str, kind: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = r#"
set -e
mkdir -p a/bin b oci/blobs/sha256
cp "$(command -v busybox)" a/bin/busybox
ln -s busybox a/bin/sh; ln -s busybox a/bin/cat
head -c "$BLOB" /dev/urandom > b/blob
echo a word of "$NAME" > b/word
put() { h=$(sha256sum < "$1" | cut -d' ' -f1); mv "$1" "oci/blobs/sha256/$h"; echo "$h"; }
layers= diffs=
for tree in a b; do
  tar -C $tree --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf layer .
  diffs="$diffs${diffs:+,}\"sha256:$(sha256sum < layer | cut -d' ' -f1)\""
  $PACKER < layer > packed
  size=$(stat -c %s packed)
  layers="$layers${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar$KIND\",\"digest\":\"sha256:$(put packed)\",\"size\":$size}"
done
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":[%s]}}' "$diffs" > config
size=$(stat -c %s config)
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' "$(put config)" "$size" "$layers" > manifest
size=$(stat -c %s manifest)
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s}]}' "$(put manifest)" "$size" > oci/index.json
printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
skopeo copy -q --preserve-digests --dest-tls-verify=false oci:oci "docker://$HOST/$NAME"
"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir.path());
    command.env("HOST", host).env("NAME", name).env("BLOB", blob.to_string());
    command.env("PACKER", packer).env("KIND", kind);
    told(command).map(|_| ())
}

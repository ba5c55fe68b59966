//! One machine with its disk, its registry and its key: what every case starts from.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ros_tests::artifacts;
use ros_tests::bench::Bench;
use ros_tests::guest::{Guest, Journal};
use ros_tests::machine::{Direct, Machine, Spec};
use ros_tests::registry::{Registry, free_port};
use serde_json::Value;

/// How long a boot may take until ssh answers.
pub const BOOT: Duration = Duration::from_secs(180);
/// How long three failing boots and the way back may take.
pub const WAY_BACK: Duration = Duration::from_secs(480);

/// Bytes of a socket's path: 108 (unix(7)), less what ssh puts behind it until the socket is there.
const LONGEST_LINE: usize = 85;

/// What the Makefile gives to the kernels of emulated machines.
const EMULATED: &str = "norandmaps cryptomgr.notests mitigations=off init_on_alloc=0";

/// What a case has.
pub struct Site {
    pub dir: PathBuf,
    pub guest: Guest,
    pub registry: Registry,
    /// Port of the registry as the machine knows it.
    pub registry_port: u16,
    pub public_key: String,
}

impl Site {
    /// A fresh folder for the case `name`, with a registry that has every release.
    pub fn new(name: &str) -> Result<Self> {
        let dir = artifacts::checkout().join("target/test").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let key = dir.join("id_ed25519");
        let public_key = artifacts::ssh_key(&key)?;
        let registry_port = free_port()?;
        let storage = dir.join("registry");
        std::os::unix::fs::symlink(artifacts::registry_storage(), &storage)?;
        let registry = Registry::start(&storage, registry_port)?;
        let mut guest = Guest::new(free_port()?, &key);
        guest.line = Some(dir.join("line")).filter(|line| line.as_os_str().len() < LONGEST_LINE);
        guest.journal = Some(Journal::new(&dir.join("commands.log")));
        Ok(Self { dir, guest, registry, registry_port, public_key })
    }

    /// Copies of releases for this case alone.
    pub fn bench(&self) -> Result<Bench> {
        let beside = || PathBuf::from(env!("CARGO_BIN_EXE_ros-vm")).with_file_name("");
        let programs = std::env::var_os("ROS_PROGRAMS").map_or_else(beside, PathBuf::from);
        Bench::new(&self.dir.join("bench"), programs.join("os-images"))
    }

    /// Adds to the machine's configuration.
    pub fn configure(&self, yaml: &str) -> Result<()> {
        let file = self.dir.join("more.yml");
        fs::write(&file, format!("#cloud-config\n{yaml}"))?;
        self.guest.send(&file, "/tmp/more.yml")?;
        self.guest.ok("ros config merge -i /tmp/more.yml").map(drop)
    }

    /// A machine with an installed disk of `version` and `user_data` (appended to what every case needs).
    pub fn spec(&self, version: &str, user_data: &str) -> Result<Spec> {
        let disk = self.dir.join("disk.qcow2");
        artifacts::disk(version, "4G", &disk)?;
        let volume = self.cidata(user_data)?;
        let mut spec = Spec::new(&self.dir);
        spec.disks = vec![disk];
        spec.throwaway = true;
        // Two machines at a time on two processors: with one each, a boot takes a sixth less. Those in RAM have two.
        spec.cpus = 1;
        spec.volumes = vec![volume];
        spec.ssh_port = Some(self.guest.port);
        Ok(spec)
    }

    /// A machine that starts from the live kernel and initrd, with these disks.
    pub fn ram_spec(&self, disks: Vec<PathBuf>, append: &str) -> Result<Spec> {
        let images = artifacts::images();
        let mut spec = Spec::new(&self.dir);
        spec.disks = disks;
        spec.volumes = vec![self.cidata("")?];
        spec.ssh_port = Some(self.guest.port);
        spec.memory_mib = 1024;
        spec.direct = Some(Direct {
            kernel: images.join("vmlinuz"),
            initrd: images.join("initrd-live"),
            append: format!("console=ttyS0 panic=5 {EMULATED} {append}"),
        });
        Ok(spec)
    }

    /// The instance data volume.
    pub fn cidata(&self, user_data: &str) -> Result<PathBuf> {
        let volume = self.dir.join("cidata.img");
        let host = format!("10.0.2.2:{}", self.registry_port);
        let text = format!(
            "#cloud-config\n{user_data}\nros:\n  upgrade: {{repository: '{host}/os'}}\n  registries: {{'{host}': {{plain_http: true}}}}\n"
        );
        artifacts::cidata(&text, "test-1", &self.public_key, &volume)?;
        Ok(volume)
    }

    /// Starts `spec` and waits for ssh; returns the boot id too.
    pub fn boot(&self, spec: Spec) -> Result<(Machine, String)> {
        let machine = Machine::start(spec)?;
        let id = self.guest.wait(BOOT).with_context(|| {
            format!("serial line:\n{}", ros_tests::machine::tail(&machine.serial(), 60))
        })?;
        Ok((machine, id))
    }

    /// The answer of a `ros` command that must succeed, as JSON.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.guest.ok(command)?;
        serde_json::from_str(&text).with_context(|| format!("{command}: {text}"))
    }

    /// `ros os status`, whose exit code says whether what was asked for runs, for good.
    pub fn status(&self) -> Result<Value> {
        let ran = self.guest.run("ros os status --format json")?;
        let status: Value =
            serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
        let runs =
            status["asked"].is_null() || status["asked"]["digest"] == status["running"]["digest"];
        let as_asked = runs && status["switching"].is_null();
        ensure!((ran.status == 0) == as_asked, "exit code {} for {status}", ran.status);
        Ok(status)
    }

    /// The running version.
    pub fn version(&self) -> Result<String> {
        self.guest.ok("ros os version")
    }

    /// All services that are switched on are ready.
    pub fn nobody_is_sick(&self) -> Result<()> {
        let all = self.json("ros service list --format json")?;
        let sick = |service: &&Value| service["enabled"] == true && service["ready"] != true;
        let sick = all.as_array().context("no list")?.iter().find(sick);
        sick.map_or(Ok(()), |service| bail!("not ready: {service}"))
    }

    /// Waits until every service is ready (the boot was reported good or sick).
    pub fn settled(&self) -> Result<Value> {
        self.guest.ok("for i in $(seq 120); do [ -e /run/ros/services.json ] && exit 0; sleep 0.5; done; exit 1")?;
        self.json("cat /run/ros/services.json")
    }
}

//! One virtual machine, from power on to power off. Its whole serial output is kept in a file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::artifacts;

/// What the machine starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS and the disk's boot sector.
    #[default]
    Bios,
    /// OVMF and the EFI system partition.
    Uefi,
}

/// Kernel and initrd given directly, without a boot loader.
#[derive(Clone, Debug)]
pub struct Direct {
    /// `vmlinuz`.
    pub kernel: PathBuf,
    /// `initrd`.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub append: String,
}

/// How soon QEMU ends when it does not like its command line.
const AT_ONCE: Duration = Duration::from_millis(300);

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Folder for its sockets and logs.
    pub dir: PathBuf,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Firmware.
    pub firmware: Firmware,
    /// Disk images (qcow2, or raw when the name ends so), first is the boot disk.
    pub disks: Vec<PathBuf>,
    /// Where every write and flush of the boot disk is recorded, in the format of [`crate::powercut::log`].
    pub recording: Option<PathBuf>,
    /// The host keeps what the machine flushes in its page cache: for a disk that nobody needs after the test.
    pub throwaway: bool,
    /// Raw read-only volumes, such as `cidata`.
    pub volumes: Vec<PathBuf>,
    /// Kernel and initrd given directly.
    pub direct: Option<Direct>,
    /// Port on the host's loopback that reaches the machine's ssh; none = no network card.
    pub ssh_port: Option<u16>,
    /// Further network cards, in order.
    pub cards: Vec<Card>,
    /// Whether it has a hardware watchdog.
    pub watchdog: bool,
    /// What the firmware says, in the words of `-smbios`.
    pub smbios: Vec<String>,
    /// Whether to use KVM (see [`kvm_works`]).
    pub kvm: bool,
}

/// A network card beside the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// In the same network as the first: both on one hub.
    Same,
    /// In a network of its own, where clouds' address 169.254.169.254 is this port of the host's loopback. Nothing else is
    /// reached over it.
    Metadata(u16),
}

/// The address of the card at `index`, from 0: the first has QEMU's own.
#[must_use]
pub fn hardware_address(index: usize) -> String {
    format!("52:54:00:12:34:{:02x}", 0x56 + index)
}

impl Spec {
    /// 512 MiB, two processors, BIOS, a network card, a watchdog, no disk, emulated.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            memory_mib: 512,
            cpus: 2,
            firmware: Firmware::Bios,
            disks: Vec::new(),
            recording: None,
            throwaway: false,
            volumes: Vec::new(),
            direct: None,
            ssh_port: None,
            cards: Vec::new(),
            watchdog: true,
            smbios: Vec::new(),
            kvm: false,
        }
    }

    /// Where the serial output goes.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// QEMU's control socket.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// The QEMU command line, without the serial line: the caller decides where that goes.
    ///
    /// # Errors
    /// When the UEFI firmware is not installed or its variables cannot be copied.
    pub fn command(&self) -> Result<Command> {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulated, a plain processor is the fast one: with all that QEMU can emulate a boot takes up to twice as long, and
        // one after a reset still more.
        // It has the instruction for random numbers, as every one since 2012.
        let emulated = ("tcg,thread=multi", "qemu64,+rdrand");
        let (accel, cpu) = if self.kvm { ("kvm", "max") } else { emulated };
        qemu.args(["-machine", "pc", "-accel", accel, "-cpu", cpu, "-smp", &self.cpus.to_string()]);
        qemu.args([
            "-m",
            &self.memory_mib.to_string(),
            "-display",
            "none",
            "-vga",
            "none",
            "-nodefaults",
        ]);
        if self.watchdog {
            qemu.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        qemu.args(["-device", "virtio-rng-pci"]);
        qemu.arg("-qmp").arg(format!("unix:{},server,nowait", self.qmp_socket().display()));
        self.add_disks(&mut qemu);
        for volume in &self.volumes {
            qemu.arg("-drive")
                .arg(format!("if=virtio,format=raw,readonly=on,file={}", volume.display()));
        }
        if let Some(direct) = &self.direct {
            qemu.arg("-kernel").arg(&direct.kernel).arg("-initrd").arg(&direct.initrd);
            qemu.args(["-append", &direct.append]);
        }
        if let Some(port) = self.ssh_port {
            self.add_cards(port, &mut qemu);
        }
        for words in &self.smbios {
            qemu.args(["-smbios", words]);
        }
        if self.firmware == Firmware::Uefi {
            self.add_uefi(&mut qemu)?;
        }
        Ok(qemu)
    }

    fn add_disks(&self, qemu: &mut Command) {
        let mut disks = self.disks.iter();
        if let Some((log, disk)) = self.recording.as_ref().zip(self.disks.first()) {
            disks.next();
            // Flushes are recorded above these two; what the host does at them would only take time.
            let file = |path: &Path| {
                format!("cache.no-flush=on,file.driver=file,file.filename={}", path.display())
            };
            let format = format_of(disk);
            qemu.arg("-blockdev")
                .arg(format!("driver={format},node-name=disk,discard=unmap,{}", file(disk)));
            qemu.arg("-blockdev").arg(format!("driver=raw,node-name=log,{}", file(log)));
            qemu.args(["-blockdev", "driver=blklogwrites,node-name=recorded,file=disk,log=log"]);
            // With a cache that the guest must flush: its flushes are what the recording is for.
            // A kernel that is given directly is the first thing to boot by itself.
            let first = if self.direct.is_none() { ",bootindex=0" } else { "" };
            let device = format!("virtio-blk-pci,drive=recorded,write-cache=on{first}");
            qemu.args(["-device", &device]);
        }
        for disk in disks {
            qemu.arg("-drive").arg(format!(
                "if=virtio,format={},cache={},discard=unmap,file={}",
                format_of(disk),
                if self.throwaway { "unsafe" } else { "writeback" },
                disk.display()
            ));
        }
    }

    fn add_cards(&self, port: u16, qemu: &mut Command) {
        let user = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22");
        qemu.args(["-netdev", &user]);
        if !self.cards.contains(&Card::Same) {
            qemu.args(["-device", &card("n0", 0)]);
        } else {
            qemu.args(["-netdev", "hubport,id=hub,hubid=0,netdev=n0", "-netdev"]);
            qemu.args(["hubport,id=h0,hubid=0", "-device", &card("h0", 0)]);
        }
        for (index, kind) in (1..).zip(&self.cards) {
            let name = format!("c{index}");
            let net = match kind {
                Card::Same => format!("hubport,id={name},hubid=0"),
                Card::Metadata(port) => format!(
                    "user,id={name},net=169.254.0.0/16,restrict=on,\
                     guestfwd=tcp:169.254.169.254:80-cmd:/bin/busybox nc 127.0.0.1 {port}"
                ),
            };
            qemu.args(["-netdev", &net, "-device", &card(&name, index)]);
        }
    }

    fn add_uefi(&self, qemu: &mut Command) -> Result<()> {
        let pairs = [
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ];
        let (code, vars) = pairs
            .into_iter()
            .find(|(code, _)| Path::new(code).exists())
            .context("OVMF is not installed: run scripts/setup")?;
        let own = self.dir.join("uefi-vars.fd");
        if !own.exists() {
            fs::copy(vars, &own).with_context(|| format!("copy {vars}"))?;
        }
        qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={code}"));
        qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", own.display()));
        Ok(())
    }
}

fn card(net: &str, index: usize) -> String {
    format!("virtio-net-pci,netdev={net},romfile=,mac={}", hardware_address(index))
}

fn format_of(disk: &Path) -> &'static str {
    if disk.extension().is_some_and(|ending| ending == "raw") { "raw" } else { "qcow2" }
}

/// A running machine; dropped, it is powered off hard.
#[derive(Debug)]
pub struct Machine {
    /// What it was started from.
    pub spec: Spec,
    child: Child,
    serial: Arc<Serial>,
}

#[derive(Debug, Default)]
struct Serial {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

impl Machine {
    /// Powers the machine on.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(spec: Spec) -> Result<Self> {
        fs::create_dir_all(&spec.dir)?;
        let mut qemu = spec.command()?;
        qemu.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
        qemu.stderr(File::create(spec.dir.join("qemu.log"))?).process_group(0);
        let mut child = qemu.spawn().context("start qemu-system-x86_64")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let serial = Arc::new(Serial::default());
        let log = fs::OpenOptions::new().create(true).append(true).open(spec.serial_log())?;
        let reader = Arc::clone(&serial);
        std::thread::spawn(move || reader.fill(output, log));
        let machine = Self { spec, child, serial };
        let log = machine.spec.dir.join("qemu.log");
        ensure!(!machine.ended_at_once()?, "QEMU ended: {}", fs::read_to_string(log)?);
        Ok(machine)
    }

    /// Whether QEMU ended, as it does at once when it does not like its command line.
    fn ended_at_once(&self) -> Result<bool> {
        let state = self.serial.lock();
        let waited = self.serial.changed.wait_timeout_while(state, AT_ONCE, |state| !state.1);
        Ok(waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0.1)
    }

    /// All serial output so far.
    #[must_use]
    pub fn serial(&self) -> String {
        self.serial.lock().0.clone()
    }

    /// Waits until the serial output, from byte `from` on, has `text`; returns the place after it.
    ///
    /// # Errors
    /// When the time is over or the machine ended first; with the tail of the output.
    pub fn wait_serial(&self, text: &str, from: usize, limit: Duration) -> Result<usize> {
        let end = Instant::now() + limit;
        let mut state = self.serial.lock();
        loop {
            if let Some(at) = state.0.get(from..).and_then(|new| new.find(text)) {
                return Ok(from + at + text.len());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.1 {
                let why = if state.1 { "the machine ended" } else { "time is over" };
                bail!(
                    "{why} before {text:?} came over the serial line; its end:\n{}",
                    tail(&state.0, 40)
                );
            }
            let waited = self.serial.changed.wait_timeout(state, left);
            state = waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0;
        }
    }

    /// Waits until the machine powers itself off.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut state = self.serial.lock();
        while !state.1 {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "still on after {limit:?}; its end:\n{}", tail(&state.0, 40));
            let waited = self.serial.changed.wait_timeout(state, left);
            state = waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0;
        }
        drop(state);
        self.child.wait().context("wait for QEMU")?;
        Ok(())
    }

    /// Presses the ACPI power button.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn press_power(&self) -> Result<()> {
        qmp(&self.spec.qmp_socket(), "system_powerdown", &json!({})).map(drop)
    }

    /// Presses reset.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn reset(&self) -> Result<()> {
        qmp(&self.spec.qmp_socket(), "system_reset", &json!({})).map(drop)
    }

    /// Plugs the network cable of the card at `index` (see [`hardware_address`]) in or out, when [`Card::Same`] is there.
    ///
    /// # Errors
    /// When QEMU does not answer, or there is no such card.
    pub fn cable(&self, index: usize, plugged: bool) -> Result<()> {
        let name = if index == 0 { "h0".to_owned() } else { format!("c{index}") };
        let what = json!({ "name": name, "up": plugged });
        qmp(&self.spec.qmp_socket(), "set_link", &what).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serial {
    fn lock(&self) -> std::sync::MutexGuard<'_, (String, bool)> {
        self.text.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn fill(&self, mut from: impl Read, mut log: File) {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut state = self.lock();
            state.0.push_str(&String::from_utf8_lossy(&buffer[..count]));
            state.1 = count == 0;
            self.changed.notify_all();
            let _ = log.write_all(&buffer[..count]);
            if count == 0 {
                return;
            }
        }
    }
}

/// Sends one command to QEMU's control socket and returns the answer.
///
/// # Errors
/// When the socket cannot be reached or QEMU refuses.
pub fn qmp(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    lines.next().context("QEMU did not greet")??;
    for (name, arguments) in [("qmp_capabilities", &json!({})), (command, arguments)] {
        writeln!(stream, "{}", json!({ "execute": name, "arguments": arguments }))?;
        let answer = loop {
            let line: Value = serde_json::from_str(&lines.next().context("QEMU hung up")??)?;
            if line.get("event").is_none() {
                break line;
            }
        };
        ensure!(answer.get("error").is_none(), "QEMU refused {name}: {answer}");
        if name == command {
            return Ok(answer["return"].clone());
        }
    }
    bail!("no command was sent")
}

/// Whether a guest really runs under KVM here: a `/dev/kvm` that opens may still be unable to run one, so a
/// kernel is started and its first line is waited for.
#[must_use]
pub fn kvm_works() -> bool {
    if std::env::var_os("ROS_NO_KVM").is_some() || File::open("/dev/kvm").is_err() {
        return false;
    }
    let kernel = artifacts::images().join("vmlinuz");
    let Ok(dir) = tempfile::tempdir() else { return false };
    let mut spec = Spec::new(dir.path());
    spec.kvm = true;
    let append = "console=ttyS0 earlyprintk=serial panic=-1".to_owned();
    spec.direct = Some(Direct { initrd: kernel.clone(), kernel, append });
    Machine::start(spec)
        .and_then(|machine| machine.wait_serial("Freeing initrd memory", 0, Duration::from_secs(5)))
        .is_ok()
}

/// The last `count` lines.
#[must_use]
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

//! One virtual machine, from power on to power off. Its whole serial output is kept in a file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
/// The kernel's last word before the power goes; without it the emulator ended because the machine was reset.
const OFF: &str = "reboot: Power down";

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
///
/// Each boot has an emulator of its own: one that was reset keeps what it translated, and a kernel that is unpacked over it
/// comes up to 20 s of processor time later. Only a recording goes on in the same one.
#[derive(Debug)]
pub struct Machine {
    /// What it was started from.
    pub spec: Spec,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    serial: Mutex<Serial>,
    changed: Condvar,
    /// The emulator; none when nobody wants the machine any more.
    qemu: Mutex<Option<Child>>,
}

#[derive(Debug, Default)]
struct Serial {
    text: String,
    ended: bool,
}

impl Machine {
    /// Powers the machine on.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(spec: Spec) -> Result<Self> {
        fs::create_dir_all(&spec.dir)?;
        let (qemu, output) = boot(&spec)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(spec.serial_log())?;
        let shared = Arc::new(Shared {
            serial: Mutex::default(),
            changed: Condvar::new(),
            qemu: Mutex::new(Some(qemu)),
        });
        let (reader, its) = (Arc::clone(&shared), spec.clone());
        std::thread::spawn(move || reader.follow(&its, output, log));
        let machine = Self { spec, shared };
        let log = machine.spec.dir.join("qemu.log");
        ensure!(!machine.ended_at_once()?, "QEMU ended: {}", fs::read_to_string(log)?);
        Ok(machine)
    }

    /// Whether QEMU ended, as it does at once when it does not like its command line.
    fn ended_at_once(&self) -> Result<bool> {
        let state = self.shared.serial();
        let waited = self.shared.changed.wait_timeout_while(state, AT_ONCE, |state| !state.ended);
        Ok(waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0.ended)
    }

    /// All serial output so far.
    #[must_use]
    pub fn serial(&self) -> String {
        self.shared.serial().text.clone()
    }

    /// Waits until the serial output, from byte `from` on, has `text`; returns the place after it.
    ///
    /// # Errors
    /// When the time is over or the machine ended first; with the tail of the output.
    pub fn wait_serial(&self, text: &str, from: usize, limit: Duration) -> Result<usize> {
        let end = Instant::now() + limit;
        let mut state = self.shared.serial();
        loop {
            if let Some(at) = state.text.get(from..).and_then(|new| new.find(text)) {
                return Ok(from + at + text.len());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                let why = if state.ended { "the machine ended" } else { "time is over" };
                bail!(
                    "{why} before {text:?} came over the serial line; its end:\n{}",
                    tail(&state.text, 40)
                );
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0;
        }
    }

    /// Waits until the machine powers itself off.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut state = self.shared.serial();
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "still on after {limit:?}; its end:\n{}",
                tail(&state.text, 40)
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.map_err(|_| anyhow::anyhow!("the serial reader died"))?.0;
        }
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
        if let Some(mut qemu) = self.shared.qemu().take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}

/// Starts an emulator, and returns its serial line, too.
fn boot(spec: &Spec) -> Result<(Child, ChildStdout)> {
    let mut command = spec.command()?;
    command.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
    if spec.recording.is_none() {
        command.arg("-no-reboot");
    }
    command.stderr(File::create(spec.dir.join("qemu.log"))?).process_group(0);
    let mut qemu = command.spawn().context("start qemu-system-x86_64")?;
    let output = qemu.stdout.take().context("QEMU has no output")?;
    Ok((qemu, output))
}

impl Shared {
    fn serial(&self) -> MutexGuard<'_, Serial> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn qemu(&self) -> MutexGuard<'_, Option<Child>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what comes over the serial line, from boot to boot.
    fn follow(&self, spec: &Spec, mut output: ChildStdout, mut log: File) {
        loop {
            let from = self.serial().text.len();
            self.fill(output, &mut log);
            let was_reset = !self.serial().text[from..].contains(OFF);
            match self.after(spec, was_reset) {
                Ok(Some(next)) => output = next,
                Ok(None) => break,
                Err(error) => {
                    self.serial().text += &format!("{error:#}");
                    break;
                }
            }
        }
        self.serial().ended = true;
        self.changed.notify_all();
    }

    /// What comes after an emulator that ended: the serial line of another, when the machine was reset.
    fn after(&self, spec: &Spec, was_reset: bool) -> Result<Option<ChildStdout>> {
        let mut slot = self.qemu();
        let Some(mut qemu) = slot.take() else { return Ok(None) };
        if !qemu.wait().context("wait for QEMU")?.success() || !was_reset {
            return Ok(None);
        }
        let (qemu, output) = boot(spec)?;
        *slot = Some(qemu);
        Ok(Some(output))
    }

    fn fill(&self, mut from: impl Read, log: &mut File) {
        let mut buffer = [0; 4096];
        while let Some(count) = from.read(&mut buffer).ok().filter(|count| *count > 0) {
            self.serial().text += &String::from_utf8_lossy(&buffer[..count]);
            self.changed.notify_all();
            let _ = log.write_all(&buffer[..count]);
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

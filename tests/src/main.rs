//! `ros-vm`: the machine behind `make run`, `make ssh`, `make stop` and `make clean-vm`. One machine, kept in one
//! folder: disk, key, logs, sockets and the process ids of what runs for it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use ros_tests::artifacts;
use ros_tests::guest::Guest;
use ros_tests::machine::{self, Firmware, Spec};
use ros_tests::powercut::torture::{self, Order};
use ros_tests::registry::{self, Registry};

const USER_DATA: &str = "#cloud-config\nhostname: ros\n";
/// How long a machine may take until ssh answers; the first boot under emulation takes a fraction of it.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long an orderly power off may take.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(about = "The virtual machine of `make run`")]
struct Cli {
    /// Folder that holds the machine.
    #[arg(long, default_value = "target/vm")]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Boots the machine; goes on with its disk if it has one.
    Run(Run),
    /// Runs a command inside as root, or opens a shell; returns the command's exit status.
    Ssh {
        /// Port of the machine's ssh.
        #[arg(long, default_value_t = 2222)]
        port: u16,
        /// The command; a shell without one.
        command: Vec<String>,
    },
    /// Puts releases into the local registry, and leaves it running.
    Push {
        /// The image builder.
        #[arg(long)]
        builder: PathBuf,
        /// Port of the registry on the loopback.
        #[arg(long, default_value_t = 5000)]
        registry_port: u16,
        /// Versions.
        versions: Vec<String>,
    },
    /// Cuts the power of a recorded machine at many places, and says what was lost.
    Torture(Torture),
    /// Powers the machine off and ends its registry.
    Stop,
    /// Forgets the disk, the key and the logs.
    Clean,
    /// Keeps the host-side socket of system-docker connected (started by `run`).
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        port: u16,
    },
}

#[derive(clap::Args)]
struct Run {
    /// RAM in MiB.
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// Size of a new disk.
    #[arg(long, default_value = "4G")]
    disk_size: String,
    /// A cloud-config file for the first boot.
    #[arg(long)]
    cloud_config: Option<PathBuf>,
    /// Release on a new disk.
    #[arg(long, default_value = "v1.0")]
    release: String,
    /// Firmware.
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareArg,
    /// Port of the machine's ssh on the loopback.
    #[arg(long, default_value_t = 2222)]
    ssh_port: u16,
    /// Port of the registry on the loopback.
    #[arg(long, default_value_t = 5000)]
    registry_port: u16,
    /// Return as soon as ssh answers.
    #[arg(long)]
    detach: bool,
}

#[derive(clap::Args)]
struct Torture {
    /// Cuts in all.
    #[arg(long, default_value_t = 500)]
    cuts: usize,
    /// How many of them are booted.
    #[arg(long, default_value_t = 50)]
    boots: usize,
    /// Chooses the cuts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these scenarios, and those that make their disks.
    #[arg(long)]
    only: Vec<String>,
    /// A document whose figures are replaced.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FirmwareArg {
    Bios,
    Uefi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ros-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    fs::create_dir_all(&cli.dir)?;
    let home = Home { dir: cli.dir.canonicalize()? };
    match &cli.verb {
        Verb::Run(run) => home.run(run),
        Verb::Ssh { port, command } => home.ssh(*port, &command.join(" ")),
        Verb::Push { builder, registry_port, versions } => {
            home.push(builder, *registry_port, versions)
        }
        Verb::Torture(order) => torture(&home.dir, order),
        Verb::Stop => home.stop().map(|()| ExitCode::SUCCESS),
        Verb::Clean => {
            home.stop()?;
            fs::remove_dir_all(&home.dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Forward { port } => home.forward(*port),
    }
}

/// The tables on standard output; the last line has the figures.
fn torture(dir: &Path, asked: &Torture) -> Result<ExitCode> {
    let order = Order {
        dir: dir.join("powercut"),
        cuts: asked.cuts,
        boots: asked.boots,
        seed: asked.seed,
        only: asked.only.clone(),
    };
    let report = torture::run(&order)?;
    if let Some(path) = &asked.report {
        report.put_into(path)?;
    }
    println!("{}\n{}", report.table(), report.line());
    Ok(if report.lost() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The machine's folder.
struct Home {
    dir: PathBuf,
}

impl Home {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn guest(&self, port: u16) -> Guest {
        Guest::new(port, &self.file("id_ed25519"))
    }

    fn run(&self, run: &Run) -> Result<ExitCode> {
        ensure!(!self.alive("qemu"), "the machine runs already: `make ssh`, or `make stop` first");
        let spec = self.prepare(run)?;
        self.start_registry(run.registry_port)?;
        let mut qemu = spec.command()?;
        qemu.arg("-pidfile").arg(self.file("qemu.pid"));
        if run.detach { self.run_detached(run, qemu) } else { self.run_here(run, qemu) }
    }

    fn prepare(&self, run: &Run) -> Result<Spec> {
        let public = artifacts::ssh_key(&self.file("id_ed25519"))?;
        let disk = self.file("disk.qcow2");
        if !disk.exists() {
            artifacts::own_disk(&run.release, &run.disk_size, &disk)?;
        }
        let user_data = match &run.cloud_config {
            Some(path) => {
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
            }
            None => USER_DATA.to_owned(),
        };
        artifacts::cidata(&user_data, "ros-vm", &public, &self.file("cidata.img"))?;
        let mut spec = Spec::new(&self.dir);
        spec.memory_mib = run.memory;
        spec.disks = vec![disk];
        spec.volumes = vec![self.file("cidata.img")];
        spec.ssh_port = Some(run.ssh_port);
        spec.firmware = match run.firmware {
            FirmwareArg::Bios => Firmware::Bios,
            FirmwareArg::Uefi => Firmware::Uefi,
        };
        spec.kvm = machine::kvm_works();
        eprintln!(
            "ros-vm: {} MiB, {}",
            run.memory,
            if spec.kvm { "KVM" } else { "emulated (no usable KVM here)" }
        );
        Ok(spec)
    }

    /// On this terminal: the serial line, logged as well. Ctrl-A X ends QEMU, Ctrl-C goes to the machine.
    fn run_here(&self, run: &Run, mut qemu: Command) -> Result<ExitCode> {
        self.start_forward(run.ssh_port)?;
        self.hint(run);
        let log = self.file("serial.log");
        qemu.arg("-chardev").arg(format!("stdio,id=s,mux=on,signal=off,logfile={}", log.display()));
        qemu.args(["-serial", "chardev:s", "-mon", "chardev=s"]);
        let status = qemu.status().context("start qemu-system-x86_64")?;
        self.stop()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn run_detached(&self, run: &Run, mut qemu: Command) -> Result<ExitCode> {
        qemu.arg("-serial")
            .arg(format!("file:{}", self.file("serial.log").display()))
            .arg("-daemonize");
        artifacts::run(&mut qemu)?;
        let up = self.guest(run.ssh_port).wait(BOOT_LIMIT);
        if let Err(error) = up {
            let serial = fs::read(self.file("serial.log")).unwrap_or_default();
            let end = machine::tail(&String::from_utf8_lossy(&serial), 40);
            return Err(
                error.context(format!("the machine did not come up; its serial line ends:\n{end}"))
            );
        }
        self.start_forward(run.ssh_port)?;
        self.hint(run);
        Ok(ExitCode::SUCCESS)
    }

    fn hint(&self, run: &Run) {
        let key = self.file("id_ed25519");
        println!("ssh:           ssh -i {} -p {} ros@127.0.0.1", key.display(), run.ssh_port);
        println!("serial log:    {}", self.file("serial.log").display());
        println!("system-docker: DOCKER_HOST=unix://{}", self.file("system-docker.sock").display());
        println!(
            "Inside, type:  sudo ros os list      sudo ros os upgrade -i os:v1.2      sudo ros os rollback"
        );
        println!("From here:     make ssh CMD='ros os list'      make stop      make clean-vm");
        if !run.detach {
            println!("Leave with Ctrl-A X; `make run` goes on with the same disk.");
        }
    }

    fn ssh(&self, port: u16, command: &str) -> Result<ExitCode> {
        let guest = self.guest(port);
        let mut ssh = guest.ssh();
        if command.is_empty() {
            ssh.arg("-t");
        } else {
            ssh.arg(format!("sudo -n sh -c '{}'", command.replace('\'', r"'\''")));
        }
        let status = ssh.status().context("start ssh")?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)))
    }

    fn push(&self, builder: &Path, port: u16, versions: &[String]) -> Result<ExitCode> {
        self.start_registry(port)?;
        let mut push = Command::new(builder);
        push.arg("--out").arg(artifacts::images()).args([
            "push",
            "--registry",
            &format!("127.0.0.1:{port}"),
        ]);
        let status =
            push.args(versions).status().with_context(|| format!("start {}", builder.display()))?;
        ensure!(status.success(), "the releases could not be pushed");
        Ok(ExitCode::SUCCESS)
    }

    fn start_registry(&self, port: u16) -> Result<()> {
        if self.alive("registry") {
            return Ok(());
        }
        let mut command = Registry::command(&self.file("registry"), port)?;
        command.process_group(0);
        let child = registry::serving(command, port, registry::START)?;
        self.note("registry", child.id())
    }

    fn start_forward(&self, port: u16) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--dir").arg(&self.dir).args(["forward", "--port", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().context("start the socket forwarder")?;
        self.note("forward", child.id())
    }

    /// An ssh tunnel from `system-docker.sock` to the machine's own, made again after each reboot, until QEMU ends.
    fn forward(&self, port: u16) -> Result<ExitCode> {
        let guest = self.guest(port);
        let socket = self.file("system-docker.sock");
        loop {
            let mut ssh = guest.ssh();
            ssh.args([
                "-N",
                "-o",
                "StreamLocalBindUnlink=yes",
                "-o",
                "ExitOnForwardFailure=yes",
                "-L",
            ]);
            ssh.arg(format!("{}:{}", socket.display(), ros_api::paths::SYSTEM_DOCKER_SOCKET));
            ssh.status().context("start ssh")?;
            std::thread::sleep(Duration::from_secs(1));
            if !self.alive("qemu") && Path::new(&self.file("qemu.pid")).exists() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Presses the power button, and pulls the plug only when the machine does not power itself off.
    fn stop(&self) -> Result<()> {
        if self.alive("qemu")
            && machine::qmp(&self.file("qmp.sock"), "system_powerdown", &serde_json::json!({}))
                .is_ok()
        {
            self.wait_gone("qemu", POWER_OFF_LIMIT);
        }
        for name in ["forward", "qemu", "registry"] {
            if self.alive(name) {
                self.end(name)?;
            }
            let _ = fs::remove_file(self.file(&format!("{name}.pid")));
        }
        let _ = fs::remove_file(self.file("system-docker.sock"));
        Ok(())
    }

    /// Ends a process of ours, and the ssh that a forwarder has started, by process group where it leads one.
    fn end(&self, name: &str) -> Result<()> {
        let Some(pid) = self.pid(name).and_then(rustix::process::Pid::from_raw) else {
            return Ok(());
        };
        let signal = rustix::process::Signal::TERM;
        if name == "forward" {
            rustix::process::kill_process_group(pid, signal)?;
        } else {
            rustix::process::kill_process(pid, signal)?;
        }
        self.wait_gone(name, Duration::from_secs(5));
        Ok(())
    }

    fn wait_gone(&self, name: &str, limit: Duration) {
        let end = Instant::now() + limit;
        while self.alive(name) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn note(&self, name: &str, pid: u32) -> Result<()> {
        Ok(fs::write(self.file(&format!("{name}.pid")), pid.to_string())?)
    }

    fn pid(&self, name: &str) -> Option<i32> {
        fs::read_to_string(self.file(&format!("{name}.pid"))).ok()?.trim().parse().ok()
    }

    /// Whether the process of that name runs, and is still ours: a number may have been given away again.
    fn alive(&self, name: &str) -> bool {
        let Some(pid) = self.pid(name) else { return false };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        ["qemu-system", "docker-registry", "ros-vm"].iter().any(|program| line.contains(program))
    }
}

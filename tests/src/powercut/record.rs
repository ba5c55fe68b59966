//! Recording: a machine goes through the scenarios, and somebody on it writes files all the while: one kind with fsync,
//! which must outlive every later cut, and one kind without, which a cut must lose, or else the check proves nothing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::check::Seen;
use super::log::{Growing, Log};
use super::replay::{Replay, copy_sparse};
use super::scenario::{Scenario, Step};
use crate::artifacts;
use crate::guest::Guest;
use crate::machine::{Machine, Spec};
use crate::registry::{Registry, free_port};

/// How long a boot may take until ssh answers, three failing tries and the way back included.
pub const BOOT: Duration = Duration::from_secs(600);
/// How long the witness may take for its next record.
const RECORD: Duration = Duration::from_secs(60);
/// Where the witness writes, on the machine and on its STATE partition.
const WITNESS: &str = "/var/lib/witness";
const ON_STATE: &str = "/lib/witness";
/// Writes one record with fsync and one without, and says so, until the line is cut.
const SCRIPT: &str = "\
mkdir -p $DIR/fsync $DIR/toy
i=0
while :; do
  i=$((i+1))
  echo $NAME-$i | dd of=$DIR/fsync/$NAME-$i conv=fsync 2>/dev/null || exit 1
  echo fsync/$NAME-$i
  echo $NAME-$i > $DIR/toy/$NAME-$i
  echo toy/$NAME-$i
  sleep 1
done";

/// What every machine here is given: a registry, a key, instance data.
#[derive(Debug)]
pub struct Bench {
    /// Folder of everything.
    pub dir: PathBuf,
    /// How to reach the machine.
    pub guest: Guest,
    registry: Registry,
    public_key: String,
}

/// A file that was said to be on the disk when the log had so many entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Entries of the log.
    pub entries: u64,
    /// `fsync/…` or `toy/…`; its content is the name.
    pub file: String,
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    /// The raw disk after it.
    pub disk: PathBuf,
    /// All that was written and flushed.
    pub log: Log,
    /// Which entries of it each scenario wrote, in their order: the power off is the last one's.
    pub stretches: Vec<Range<usize>>,
    /// What the witness said, in order.
    pub claims: Vec<Claim>,
}

impl Bench {
    /// Everything is in `dir`, which is made.
    ///
    /// # Errors
    /// When the registry cannot be started or a file not be made.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let key = dir.join("id_ed25519");
        let public_key = artifacts::ssh_key(&key)?;
        let storage = dir.join("registry");
        if !storage.exists() {
            std::os::unix::fs::symlink(artifacts::registry_storage(), &storage)?;
        }
        let registry = Registry::start(&storage, free_port()?)?;
        let guest = Guest::new(free_port()?, &key);
        let bench = Self { dir: dir.to_owned(), guest, registry, public_key };
        let host = format!("10.0.2.2:{}", bench.registry.port);
        let text = format!(
            "#cloud-config\nhostname: torture\nros:\n  upgrade: {{repository: '{host}/os'}}\n  registries: {{'{host}': {{plain_http: true}}}}\n"
        );
        artifacts::cidata(&text, "torture-1", &bench.public_key, &bench.volume())?;
        Ok(bench)
    }

    fn volume(&self) -> PathBuf {
        self.dir.join("cidata.img")
    }

    /// A machine with this disk, its logs in `dir`.
    #[must_use]
    pub fn spec(&self, dir: &Path, disk: &Path) -> Spec {
        let mut spec = Spec::new(dir);
        spec.disks = vec![disk.to_owned()];
        spec.volumes = vec![self.volume()];
        spec.ssh_port = Some(self.guest.port);
        // As in the other tests: a boot takes a sixth less than with two.
        spec.cpus = 1;
        spec
    }

    /// Waits until every service is ready.
    ///
    /// # Errors
    /// When ssh does not answer in time, or bring-up does not end.
    pub fn settled(&self, machine: &Machine, before: &str) -> Result<String> {
        let boot = self.guest.wait_boot(before, BOOT).with_context(|| {
            format!("serial line:\n{}", crate::machine::tail(&machine.serial(), 40))
        })?;
        self.guest.ok(
            "for i in $(seq 240); do [ -e /run/ros/services.json ] && exit 0; sleep 0.5; done; exit 1",
        )?;
        Ok(boot)
    }

    /// Goes through `scenarios` with the raw disk `base`; `dir` is where the recording is kept.
    ///
    /// # Errors
    /// When a step fails, or the log does not give the disk that the machine left.
    pub fn record(&self, scenarios: &[Scenario], base: &Path, dir: &Path) -> Result<Recording> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let (disk, log) = (dir.join("disk.raw"), dir.join("log"));
        copy_sparse(base, &disk)?;
        File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut spec = self.spec(dir, &disk);
        spec.recording = Some(log.clone());
        let mut session = Session {
            bench: self,
            log: Growing(log.clone()),
            machine: None,
            boot: String::new(),
            witness: None,
            claims: Vec::new(),
            boots: 0,
        };
        let mut ends = Vec::new();
        for Scenario { name, steps, .. } in scenarios {
            eprintln!("{name}: recording");
            for step in *steps {
                session.step(*step, &spec).with_context(|| format!("{name}: {step:?}"))?;
            }
            ends.push(usize::try_from(session.log.count()?)?);
        }
        session.down().context("power off")?;
        let claims = std::mem::take(&mut session.claims);
        let log = Log::read(&log)?;
        let replayed = Replay::start(&log, base, &dir.join("replayed.raw"))?.finish()?;
        same(&replayed, &disk).context("the log does not give the disk that the machine left")?;
        fs::remove_file(replayed)?;
        ends.pop();
        let begins = std::iter::once(0).chain(ends.clone());
        let ends = ends.into_iter().chain([log.entries.len()]);
        let stretches = begins.zip(ends).map(|(begin, end)| begin..end).collect();
        Ok(Recording { disk, log, stretches, claims })
    }
}

/// The witness of one boot.
struct Witness {
    ssh: Child,
    said: Receiver<Claim>,
}

/// A scenario under way.
struct Session<'a> {
    bench: &'a Bench,
    log: Growing,
    machine: Option<Machine>,
    boot: String,
    witness: Option<Witness>,
    claims: Vec<Claim>,
    boots: usize,
}

impl Session<'_> {
    fn step(&mut self, step: Step, spec: &Spec) -> Result<()> {
        match step {
            Step::Up => {
                self.machine = Some(Machine::start(spec.clone())?);
                self.settle()
            }
            Step::Witness(count) => self.listen(count),
            Step::Run(command) => self.bench.guest.ok(command).map(drop),
            Step::Reboots(command) => {
                let ran = self.bench.guest.run(command)?;
                // The machine may cut the line by rebooting before the command ends.
                ensure!(ran.status == 0 || ran.status == 255, "{ran:?}");
                self.settle()
            }
        }
    }

    /// Presses the power button and waits until the machine is off.
    fn down(&mut self) -> Result<()> {
        self.hear_out();
        let machine = self.machine.as_mut().context("the machine is not on")?;
        machine.press_power()?;
        machine.wait_off(BOOT)
    }

    fn settle(&mut self) -> Result<()> {
        let machine = self.machine.as_ref().context("the machine is not on")?;
        self.boot = self.bench.settled(machine, &self.boot)?;
        self.hear_out();
        self.boots += 1;
        self.witness = Some(Witness::start(&self.bench.guest, self.boots, self.log.clone())?);
        Ok(())
    }

    /// Waits for `count` more records with fsync.
    fn listen(&mut self, count: usize) -> Result<()> {
        let witness = self.witness.as_ref().context("nobody writes")?;
        let mut left = count;
        while left > 0 {
            let claim = witness.said.recv_timeout(RECORD).context("the witness is silent")?;
            left -= usize::from(claim.file.starts_with("fsync/"));
            self.claims.push(claim);
        }
        Ok(())
    }

    /// The records of a boot that has ended, or ends now.
    fn hear_out(&mut self) {
        let Some(mut witness) = self.witness.take() else { return };
        let _ = witness.ssh.kill();
        let _ = witness.ssh.wait();
        // Until the reader has seen the line's end.
        self.claims.extend(witness.said.iter());
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.hear_out();
    }
}

impl Witness {
    fn start(guest: &Guest, boot: usize, log: Growing) -> Result<Self> {
        let script = format!("DIR={WITNESS} NAME={boot}\n{SCRIPT}");
        let mut ssh = guest.ssh();
        ssh.arg(format!("sudo -n sh -c '{script}'"));
        ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ssh = ssh.spawn().context("start ssh")?;
        let lines = BufReader::new(ssh.stdout.take().context("ssh has no output")?).lines();
        let (say, said) = channel();
        std::thread::spawn(move || {
            for file in lines.map_while(Result::ok) {
                // Read after the line came: what it says is in these entries.
                let Ok(entries) = log.count() else { return };
                if say.send(Claim { entries, file }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { ssh, said })
    }
}

impl Recording {
    /// Whether what was said to be on the disk before the cut is there: the files with fsync, and those without.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn broken(&self, at: usize, seen: &Seen, kind: &str) -> Result<Vec<&Claim>> {
        let mut broken = Vec::new();
        for claim in &self.claims {
            if claim.entries > at as u64 || !claim.file.starts_with(kind) {
                continue;
            }
            let name = claim.file.split_once('/').map_or("", |(_, name)| name);
            let found = seen.file(&format!("{ON_STATE}/{}", claim.file))?;
            if found.as_deref() != Some(format!("{name}\n").as_bytes()) {
                broken.push(claim);
            }
        }
        Ok(broken)
    }
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let mut compare = std::process::Command::new("qemu-img");
    artifacts::run(compare.args(["compare", "-q", "-f", "raw", "-F", "raw"]).arg(one).arg(other))
}

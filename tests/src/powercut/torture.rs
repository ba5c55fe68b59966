//! The whole test: a machine is recorded as it goes through the scenarios, cut, looked at, and a sample is booted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use super::check::{Seen, check};
use super::cut::{Cut, Kept, choose};
use super::log::Entry;
use super::record::{BOOT, Bench, Recording};
use super::replay::Replay;
use super::report::{Outcome, Report, Row};
use super::scenario::{ALL, Change, Scenario};
use crate::artifacts;
use crate::machine::Machine;

/// Room on the disk beyond what was installed, so that the first boot has something to grow to.
const DISK_SIZE: &str = "1280M";
/// So many lost disks of a scenario are kept to be looked at.
const KEPT_DISKS: usize = 3;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Folder of everything; emptied.
    pub dir: PathBuf,
    /// Cuts in all.
    pub cuts: usize,
    /// How many of them are booted.
    pub boots: usize,
    /// Chooses the cuts.
    pub seed: u64,
    /// Only the scenarios of these names, and those before them that make their disk; none: all.
    pub only: Vec<String>,
}

/// Does it.
///
/// # Errors
/// When the test itself cannot be done; lost disks are no error, they are in the report.
pub fn run(order: &Order) -> Result<Report> {
    let _ = fs::remove_dir_all(&order.dir);
    let bench = Bench::new(&order.dir)?;
    let scenarios = wanted(&order.only)?;
    let pristine = installed(&order.dir)?;
    let recording = bench.record(scenarios, &pristine, &order.dir.join("recording"))?;
    let state = super::check::table::read(&recording.disk)?.state;
    let beside = |entry: &Entry| {
        entry.length > 0 && !(state.start..state.start + state.size).contains(&entry.offset)
    };
    let entries = &recording.log.entries;
    let mut replay = Replay::start(&recording.log, &pristine, &order.dir.join("durable.raw"))?;
    let mut report = Report { seed: order.seed, rows: Vec::new() };
    for (index, (scenario, stretch)) in scenarios.iter().zip(&recording.stretches).enumerate() {
        let share = |whole: usize| {
            (whole * (index + 1) / scenarios.len()) - whole * index / scenarios.len()
        };
        let mut rng = Rng::with_seed(order.seed.wrapping_add(index as u64));
        let cuts = choose(entries, stretch.clone(), beside, share(order.cuts), &mut rng);
        let dir = order.dir.join(scenario.name);
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut torture = Torture {
            bench: &bench,
            scenario,
            recording: &recording,
            pristine: &pristine,
            dir: &dir,
            row: Row::new(scenario.name, &entries[stretch.clone()]),
        };
        torture.run(&mut replay, &cuts, share(order.boots))?;
        report.rows.push(torture.row);
    }
    Ok(report)
}

/// The scenarios up to the last that is asked for.
fn wanted(only: &[String]) -> Result<&'static [Scenario]> {
    let mut last = if only.is_empty() { ALL.len() } else { 0 };
    for name in only {
        let place = ALL.iter().position(|scenario| scenario.name == name);
        last = last.max(place.with_context(|| format!("no scenario {name}"))? + 1);
    }
    Ok(&ALL[..last])
}

/// A raw disk of v1.0, larger than it was made.
fn installed(dir: &Path) -> Result<PathBuf> {
    let (overlay, disk) = (dir.join("installed.qcow2"), dir.join("installed.raw"));
    artifacts::disk("v1.0", DISK_SIZE, &overlay)?;
    let mut convert = std::process::Command::new("qemu-img");
    artifacts::run(convert.args(["convert", "-O", "raw"]).arg(&overlay).arg(&disk))?;
    Ok(disk)
}

/// One scenario's cuts.
struct Torture<'a> {
    bench: &'a Bench,
    scenario: &'a Scenario,
    recording: &'a Recording,
    pristine: &'a Path,
    dir: &'a Path,
    row: Row,
}

impl Torture<'_> {
    fn run(&mut self, replay: &mut Replay, cuts: &[Cut], boots: usize) -> Result<()> {
        let entries = self.row.entries;
        ensure!(!cuts.is_empty(), "{entries} entries were recorded, and no cut was chosen");
        let disk = self.dir.join("cut.raw");
        for (number, cut) in cuts.iter().enumerate() {
            replay.cut(cut, &disk)?;
            let outcome = self.look(cut, &disk);
            self.row.count(cut, &outcome);
            let sampled = (number + 1) * boots / cuts.len() > number * boots / cuts.len();
            let outcome = match outcome {
                Outcome::Lost(why) => Outcome::Lost(why),
                _ if sampled => {
                    replay.cut(cut, &disk)?;
                    self.boot(cut, &disk)
                }
                whole => whole,
            };
            if let Outcome::Lost(why) = &outcome {
                eprintln!("{}: LOST at {cut:?}: {why}", self.scenario.name);
                if self.row.lost.len() < KEPT_DISKS {
                    replay.cut(cut, &self.dir.join(format!("lost-{}.raw", cut.at)))?;
                }
                self.row.lost.push((*cut, why.clone()));
            }
            if (number + 1) % 10 == 0 || number + 1 == cuts.len() {
                eprintln!("{}: {}", self.scenario.name, self.row.progress());
            }
        }
        fs::remove_file(&disk)?;
        Ok(())
    }

    /// Looks at a disk without booting it.
    fn look(&mut self, cut: &Cut, disk: &Path) -> Outcome {
        let looked = self.whole(cut.at, disk).and_then(|seen| {
            let toys = self.recording.broken(cut.at, &seen, "toy/")?.len();
            self.row.toys_lost += usize::from(toys > 0);
            self.side(&seen)
        });
        looked.unwrap_or_else(|error| Outcome::Lost(format!("{error:#}")))
    }

    /// What is on a disk that is whole, and has all that was on it for sure.
    fn whole(&self, at: usize, disk: &Path) -> Result<Seen> {
        let scratch = tempfile::tempdir_in(self.dir)?;
        let seen = check(disk, self.pristine, scratch.path())?;
        if let [first, rest @ ..] = self.recording.broken(at, &seen, "fsync/")?.as_slice() {
            bail!("{first:?} and {} more were written with fsync and are gone", rest.len());
        }
        Ok(seen)
    }

    fn side(&self, seen: &Seen) -> Result<Outcome> {
        let version = seen.next.as_str();
        Ok(match self.scenario.change {
            Change::Version { old, .. } if version == old => Outcome::Old,
            Change::Version { new, .. } if version == new => Outcome::New,
            Change::Grows { version: only } if version == only => {
                let grown = seen.state_size > before(self.pristine)?;
                if grown { Outcome::New } else { Outcome::Old }
            }
            Change::Prunes { version: only, gone } if version == only => {
                let there = seen.installed.iter().any(|installed| installed == gone);
                if there { Outcome::Old } else { Outcome::New }
            }
            _ => bail!("{version} would boot next"),
        })
    }

    /// Boots a disk: it comes up, every service is ready, the same command succeeds, and after an orderly power off the
    /// disk is still whole.
    fn boot(&mut self, cut: &Cut, disk: &Path) -> Outcome {
        self.row.booted += 1;
        let dir = self.dir.join("boot");
        let booted = self.up_and_down(cut, disk, &dir);
        let looked = booted.and_then(|()| {
            let seen = self.whole(cut.at, disk)?;
            ensure!(!seen.trial, "a trial is still on after a boot with all services ready");
            self.side(&seen)
        });
        let why = |error| format!("booted: {error:#}");
        looked.unwrap_or_else(|error| Outcome::Lost(why(error)))
    }

    fn up_and_down(&self, cut: &Cut, disk: &Path, dir: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(dir);
        let machine = Machine::start(self.bench.spec(dir, disk))?;
        self.bench.settled(&machine, "")?;
        let guest = &self.bench.guest;
        let version = guest.ok("ros os version")?;
        let host = guest.ok("hostname")?;
        ensure!(host == "torture", "the host is called {host:?}: its configuration is gone");
        let services = guest.ok("ros service list --format json")?;
        ensure!(!services.contains("\"ready\":false"), "not all are ready: {services}");
        let before = self.scenario.change.may_be_before(&version);
        if let Some(again) = self.scenario.again.filter(|_| before) {
            let ran = guest.run(again)?;
            ensure!(ran.status == 0, "after {cut:?}, {again:?}: {ran:?}");
        }
        machine.press_power()?;
        machine.wait_off(BOOT)
    }
}

/// Bytes of STATE as it was installed.
fn before(pristine: &Path) -> Result<u64> {
    Ok(super::check::table::read(pristine)?.state.size)
}

/// The words that name a cut in a report.
#[must_use]
pub fn shown(cut: &Cut) -> String {
    match cut.kept {
        Kept::Half(seed) | Kept::Torn(seed) => {
            format!("after {} ({}, {seed})", cut.at, cut.kept.word())
        }
        kept => format!("after {} ({})", cut.at, kept.word()),
    }
}

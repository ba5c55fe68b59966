//! `/var/lib/ros/history/<number>.json`: a receipt for every change of the OS that was begun: what was asked for, what
//! it took, and what became of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::generation::Status;
use ros_api::{Digest, Generation, durable, paths};
use serde::{Deserialize, Serialize};

use super::asked::{now, now_ms};
use super::kexec::Platform;
use super::live::steps::Act;
use super::signature::Signed;

/// Receipts that are kept.
const KEPT: usize = 100;

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// From 1 up.
    pub number: u32,
    /// The command's word: `upgrade`, `rollback`, `try`.
    pub by: String,
    /// Version that ran.
    pub from: String,
    /// Version that was asked for.
    pub to: String,
    /// The generation that it is.
    pub generation: u32,
    /// Digest of the release image.
    pub digest: Digest,
    /// The least that had to restart.
    pub class: String,
    /// Whether the machine was booted for it.
    pub reboot: bool,
    /// Whether that was without firmware and boot loader.
    #[serde(default)]
    pub kexec: bool,
    /// When services began to stop for the boot, in milliseconds since the epoch.
    #[serde(default)]
    pub down_from_ms: Option<u64>,
    /// How long it took from then until the verdict over the boot.
    #[serde(default)]
    pub down_ms: Option<u64>,
    /// When it was begun, in seconds since the epoch.
    pub asked: u64,
    /// Bytes that the plan said would be fetched.
    pub predicted: u64,
    /// Bytes that were fetched, when that is known.
    pub fetched: Option<u64>,
    /// Who signed it, when somebody wanted to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// Services that were replaced.
    pub services: Vec<Served>,
    /// When it was over.
    pub ended: Option<u64>,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A service that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// How.
    pub how: Act,
    /// Milliseconds in which it did not serve, at most; measured.
    pub gap_ms: u64,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It is not over.
    Pending,
    /// What was asked for runs and is healthy.
    Good,
    /// It was sick: what ran before runs again.
    PutBack {
        /// Why.
        reason: String,
    },
    /// It was not carried through, and nothing is known against it.
    CutShort {
        /// What came in between.
        reason: String,
    },
}

impl Verdict {
    /// The one word that lists show.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Good => "good",
            Self::PutBack { .. } => "put-back",
            Self::CutShort { .. } => "cut-short",
        }
    }

    /// Why; empty when there is nothing to say.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Pending | Self::Good => "",
            Self::PutBack { reason } | Self::CutShort { reason } => reason,
        }
    }
}

/// How long something will be gone, by what it took here before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// A service, or the machine.
    pub what: String,
    /// Milliseconds, the median; none when it was not done here yet.
    pub ms: Option<u64>,
    /// How often it was done before.
    pub times: usize,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, ms, times } = self;
        match ms {
            None => write!(f, "{what}: not known, it was not done here yet"),
            Some(ms) if *times == 1 => write!(f, "{what} {ms} ms, as once before"),
            Some(ms) => write!(f, "{what} {ms} ms, as {times} times before"),
        }
    }
}

/// What `replaced` (by name) and a boot, if there is one, will be gone for: a pure function of the receipts.
#[must_use]
pub fn expected(
    receipts: &[Receipt],
    replaced: &[(String, Act)],
    boot: bool,
    kexec: bool,
) -> Vec<Expected> {
    let of = |what: &str, mut took: Vec<u64>| {
        took.sort_unstable();
        let ms = took.get(took.len() / 2).copied();
        Expected { what: what.to_owned(), ms, times: took.len() }
    };
    if boot {
        let same = |receipt: &&Receipt| receipt.reboot && receipt.kexec == kexec;
        return vec![of(
            "the machine",
            receipts.iter().filter(same).filter_map(|r| r.down_ms).collect(),
        )];
    }
    let gaps = |name: &str, act: Act| {
        let all = receipts.iter().flat_map(|receipt| &receipt.services);
        all.filter(|served| served.name == name && served.how == act)
            .map(|served| served.gap_ms)
            .collect()
    };
    replaced.iter().map(|(name, act)| of(name, gaps(name, *act))).collect()
}

/// What a machine knows of the generation that a pending receipt is about.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its status; none when it is gone.
    pub status: Option<&'a Status>,
    /// It runs.
    pub runs: bool,
    /// It boots next, on trial, or is switched to now.
    pub awaited: bool,
}

/// What became of it; none while that is open.
#[must_use]
pub fn verdict(known: Known<'_>) -> Option<Verdict> {
    match known.status {
        _ if known.awaited => None,
        Some(Status::Failed { reason }) => Some(Verdict::PutBack { reason: reason.clone() }),
        Some(Status::Good) if known.runs => Some(Verdict::Good),
        Some(Status::Trial) if known.runs => None,
        _ => Some(Verdict::CutShort { reason: "something else was booted".into() }),
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct History {
    root: PathBuf,
}

impl History {
    /// The one at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// This machine's.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::at(Path::new(paths::HISTORY))
    }

    /// All that can be read, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<Receipt>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", self.root.display()))?,
        };
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        let files = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| !name.starts_with('.')));
        let mut all: Vec<Receipt> = files.filter_map(|entry| read(entry.path())).collect();
        all.sort_by_key(|receipt| receipt.number);
        Ok(all)
    }

    /// Begins a receipt: gives it its number, keeps it, and lets those go that are too old.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, mut receipt: Receipt) -> Result<Receipt> {
        fs::create_dir_all(&self.root)
            .with_context(|| format!("create {}", self.root.display()))?;
        let all = self.list()?;
        receipt.number = all.last().map_or(0, |last| last.number) + 1;
        self.put(&receipt)?;
        for old in all.iter().rev().skip(KEPT - 1) {
            let _ = fs::remove_file(self.path(old.number));
        }
        Ok(receipt)
    }

    /// Replaces a receipt.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, receipt: &Receipt) -> Result<()> {
        Ok(durable::write(&self.path(receipt.number), &serde_json::to_vec_pretty(receipt)?, 0o644)?)
    }

    /// The latest receipt about a generation that is not over.
    #[must_use]
    pub fn pending(&self, generation: u32) -> Option<Receipt> {
        let all = self.list().ok()?;
        all.into_iter().rev().find(|r| r.generation == generation && r.verdict == Verdict::Pending)
    }

    /// Writes down what became of every receipt that is open and need not be.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn settle(&self, installed: &[Generation], running: u32, awaited: &[u32]) -> Result<()> {
        for mut receipt in self.list()? {
            if receipt.verdict != Verdict::Pending {
                continue;
            }
            let generation = installed.iter().find(|g| g.number == receipt.generation);
            let known = Known {
                status: generation.map(|generation| &generation.status),
                runs: receipt.generation == running,
                awaited: awaited.contains(&receipt.generation),
            };
            if let Some(verdict) = verdict(known) {
                (receipt.verdict, receipt.ended) = (verdict, Some(now()));
                receipt.down_ms = receipt.down_from_ms.map(|from| now_ms().saturating_sub(from));
                receipt.kexec &= !known.runs || Platform::of_machine().was_kexec();
                self.put(&receipt)?;
            }
        }
        Ok(())
    }

    /// The machine goes down now, for the change that is not over if there is one.
    ///
    /// # Errors
    /// When the receipt cannot be written.
    pub fn goes_down(&self) -> Result<()> {
        let pending = |receipt: &Receipt| receipt.reboot && receipt.verdict == Verdict::Pending;
        match self.list()?.into_iter().rev().find(pending) {
            Some(receipt) if receipt.down_from_ms.is_none() => {
                self.put(&Receipt { down_from_ms: Some(now_ms()), ..receipt })
            }
            _ => Ok(()),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.root.join(format!("{number}.json"))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    /// One that is not over.
    pub fn receipt(generation: u32) -> Receipt {
        Receipt {
            number: 0,
            by: "upgrade".into(),
            from: "v1".into(),
            to: "v2".into(),
            generation,
            digest: Digest::of(b"m"),
            class: "service".into(),
            reboot: false,
            kexec: false,
            down_from_ms: None,
            down_ms: None,
            asked: 1,
            predicted: 10,
            fetched: Some(10),
            signed: None,
            services: vec![Served { name: "ntp".into(), how: Act::HandOver, gap_ms: 7 }],
            ended: None,
            verdict: Verdict::Pending,
        }
    }

    #[test]
    fn a_verdict_follows_from_what_the_generation_became() {
        let failed = Status::Failed { reason: "ntp".into() };
        let put_back = Verdict::PutBack { reason: "ntp".into() };
        let cut = Verdict::CutShort { reason: "something else was booted".into() };
        let table = [
            (Some(&Status::Good), true, false, Some(Verdict::Good)),
            (Some(&Status::Good), false, false, Some(cut.clone())),
            (Some(&Status::Good), true, true, None),
            (Some(&Status::Trial), true, false, None),
            (Some(&Status::Staged), false, false, Some(cut.clone())),
            (Some(&failed), false, false, Some(put_back)),
            (None, false, false, Some(cut)),
        ];
        for (status, runs, awaited, expected) in table {
            let known = Known { status, runs, awaited };
            assert_eq!(verdict(known), expected, "{known:?}");
        }
    }

    #[test]
    fn receipts_are_kept_and_settled() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::at(&dir.path().join("history"));
        assert!(history.list().unwrap().is_empty());
        for generation in [2, 1] {
            history.begin(receipt(generation)).unwrap();
        }
        assert_eq!(history.pending(2).unwrap().number, 1);
        let failed = Status::Failed { reason: "ntp".into() };
        let machine = machine(&[("v1", Status::Good), ("v2", failed)]);
        history.settle(&machine.installed, 1, &[]).unwrap();
        let words: Vec<&str> = history.list().unwrap().iter().map(|r| r.verdict.word()).collect();
        assert_eq!(words, ["put-back", "good"]);
        assert!(history.list().unwrap()[0].ended.is_some());
        assert_eq!(history.pending(2), None);
    }

    #[test]
    fn how_long_a_boot_took_is_counted_from_the_first_shutdown() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::at(dir.path());
        history.goes_down().unwrap();
        history.begin(Receipt { reboot: true, kexec: true, ..receipt(2) }).unwrap();
        history.goes_down().unwrap();
        let from = history.pending(2).unwrap().down_from_ms;
        assert!(from.is_some());
        history.goes_down().unwrap();
        assert_eq!(
            history.pending(2).unwrap().down_from_ms,
            from,
            "a try that failed is part of it"
        );
        let machine = machine(&[("v1", Status::Good), ("v2", Status::Good)]);
        history.settle(&machine.installed, 2, &[]).unwrap();
        let settled = history.list().unwrap().remove(0);
        assert!(settled.down_ms.is_some());
        assert!(!settled.kexec, "this test does not run on a machine that was booted so");
    }

    #[test]
    fn only_the_latest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::at(dir.path());
        for _ in 0..KEPT + 3 {
            history.begin(receipt(1)).unwrap();
        }
        let numbers: Vec<u32> = history.list().unwrap().iter().map(|r| r.number).collect();
        assert_eq!((numbers.len(), numbers[0]), (KEPT, 4));
    }

    #[test]
    fn what_it_took_before_is_what_is_expected() {
        let done = |gap_ms, down_ms: Option<u64>, kexec| Receipt {
            reboot: down_ms.is_some(),
            kexec,
            down_ms,
            services: vec![Served { name: "ntp".into(), how: Act::Restart, gap_ms }],
            ..receipt(1)
        };
        let all =
            [done(900, None, false), done(700, Some(9000), true), done(800, Some(20_000), false)];
        let said = |replaced: &[(&str, Act)], boot, kexec| {
            let replaced: Vec<(String, Act)> =
                replaced.iter().map(|(name, act)| ((*name).to_owned(), *act)).collect();
            let expected = expected(&all, &replaced, boot, kexec);
            expected.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said(&[("ntp", Act::Restart)], false, false), "ntp 800 ms, as 3 times before");
        assert_eq!(
            said(&[("ntp", Act::Overlap)], false, false),
            "ntp: not known, it was not done here yet"
        );
        assert_eq!(said(&[], true, true), "the machine 9000 ms, as once before");
        assert_eq!(said(&[], false, false), "");
    }
}

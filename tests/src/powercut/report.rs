//! What came out, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cut::Cut;
use super::log::{Entry, Kind};
use super::torture::shown;

/// What stands before the figures in a document.
const MARK: &str = "<!-- figures: written by `make torture` -->\n";

/// What a cut left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The machine as it was, whole.
    Old,
    /// The machine as it was to be, whole.
    New,
    /// Neither.
    Lost(String),
}

/// One scenario's outcome.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scenario.
    pub name: &'static str,
    /// Requests that were recorded.
    pub entries: usize,
    /// Flushes among them.
    pub flushes: usize,
    /// Bytes written.
    pub written: u64,
    /// Cuts by what was kept: old, new, lost.
    pub kinds: BTreeMap<&'static str, [usize; 3]>,
    /// Machines booted.
    pub booted: usize,
    /// Cuts that lost what the writer without fsync had written.
    pub toys_lost: usize,
    /// What was lost, and why.
    pub lost: Vec<(Cut, String)>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What chose the cuts.
    pub seed: u64,
    /// One a scenario.
    pub rows: Vec<Row>,
}

impl Row {
    /// Nothing cut yet.
    #[must_use]
    pub fn new(name: &'static str, entries: &[Entry]) -> Self {
        let written = entries.iter().filter(|entry| matches!(entry.kind, Kind::Write(_)));
        Self {
            name,
            entries: entries.len(),
            flushes: entries.iter().filter(|entry| entry.flush).count(),
            written: written.map(|entry| entry.length).sum(),
            kinds: BTreeMap::new(),
            booted: 0,
            toys_lost: 0,
            lost: Vec::new(),
        }
    }

    /// Counts what looking at a cut's disk found.
    pub fn count(&mut self, cut: &Cut, outcome: &Outcome) {
        let column = match outcome {
            Outcome::Old => 0,
            Outcome::New => 1,
            Outcome::Lost(_) => 2,
        };
        self.kinds.entry(cut.kept.word()).or_default()[column] += 1;
    }

    /// Old, new and lost. A disk that was whole to look at and did not boot is lost.
    #[must_use]
    pub fn totals(&self) -> [usize; 3] {
        let mut all = self
            .kinds
            .values()
            .fold([0; 3], |sum, kind| [sum[0] + kind[0], sum[1] + kind[1], sum[2] + kind[2]]);
        all[2] = self.lost.len();
        all
    }

    /// One line.
    #[must_use]
    pub fn progress(&self) -> String {
        let cuts: usize = self.kinds.values().flatten().sum();
        let [old, new, lost] = self.totals();
        format!("{cuts} cuts, {old} old, {new} new, {lost} lost; {} booted", self.booted)
    }
}

impl Report {
    /// Cuts.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.rows.iter().flat_map(|row| row.kinds.values().flatten()).sum()
    }

    /// Cuts that lost something.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.rows.iter().map(|row| row.lost.len()).sum()
    }

    /// Cuts that lost what was written without fsync.
    #[must_use]
    pub fn toys_lost(&self) -> usize {
        self.rows.iter().map(|row| row.toys_lost).sum()
    }

    /// The last line.
    #[must_use]
    pub fn line(&self) -> String {
        let totals = self.rows.iter().map(Row::totals);
        let [old, new, lost] =
            totals.fold([0; 3], |sum, row| [sum[0] + row[0], sum[1] + row[1], sum[2] + row[2]]);
        format!("{} cuts: {old} old, {new} new, {lost} lost", self.cuts())
    }

    /// Replaces the figures of the document at `path`: all that comes after the mark.
    ///
    /// # Errors
    /// When it cannot be read or written, or has no mark.
    pub fn put_into(&self, path: &Path) -> Result<()> {
        let old = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let (text, _) = old.split_once(MARK).context("the document has no place for figures")?;
        let command = format!(
            "make torture CUTS={} BOOTS={} SEED={}",
            self.cuts(),
            self.rows.iter().map(|row| row.booted).sum::<usize>(),
            self.seed
        );
        let text = format!("{text}{MARK}\n`{command}`: **{}**.\n\n{}", self.line(), self.table());
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// The tables, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| scenario | requests | flushes | written | cuts | old | new | lost | booted | lost without fsync |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in &self.rows {
            let [old, new, lost] = row.totals();
            let cuts: usize = row.kinds.values().flatten().sum();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} MiB | {cuts} | {old} | {new} | {lost} | {} | {} |",
                row.name,
                row.entries,
                row.flushes,
                row.written >> 20,
                row.booted,
                row.toys_lost
            );
        }
        text +=
            "\n| scenario | unflushed writes kept | old | new | lost |\n|---|---|--:|--:|--:|\n";
        for row in &self.rows {
            for (kind, [old, new, lost]) in &row.kinds {
                let _ = writeln!(text, "| {} | {kind} | {old} | {new} | {lost} |", row.name);
            }
        }
        for (name, (cut, why)) in
            self.rows.iter().flat_map(|row| row.lost.iter().map(|lost| (row.name, lost)))
        {
            let _ = writeln!(text, "\nLost: {name} {}: {why}", shown(cut));
        }
        text
    }
}

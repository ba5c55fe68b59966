//! `ros os bisect GOOD BAD -- CHECK`: which release broke something. Goes to the release in the middle, runs the check,
//! and so on; a boot in between does not stop it: the console goes on with it when the machine is up.
//!
//! ```text
//!  good ──────── ? ─ ? ─ ? ──────── bad        /var/lib/ros/bisect.json: what is known, and the check
//!                    └─ go there ─► CHECK: 0 good · 125 cannot be told · else bad; one that does not come up is bad
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ros_api::{durable, paths};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::upgrade::{self, How};
use super::{list, version};

const LOCK: &str = "/run/ros/bisect.lock";
/// The check's exit code for "cannot be told", as git has it.
const SKIP: i32 = 125;

/// What the check said about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// It holds.
    Good,
    /// It does not.
    Bad,
    /// That cannot be told.
    Skip,
}

/// A search that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    /// The version that ran when it began, and will at the end.
    pub home: String,
    /// Versions from the good one to the bad one, both included.
    pub versions: Vec<String>,
    /// What is known.
    pub said: BTreeMap<String, Said>,
    /// Program and arguments.
    pub check: Vec<String>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Go there and check.
    Try(&'a str),
    /// The first that is bad, the last that is good, and those in between that cannot be told.
    Found(&'a str, &'a str, Vec<&'a str>),
}

fn path() -> PathBuf {
    Path::new(paths::ROS).join("bisect.json")
}

impl Bisect {
    /// Between two versions, of those that there are.
    ///
    /// # Errors
    /// When one of them is none of those, or nothing lies between them.
    pub fn new(
        home: &str,
        good: &str,
        bad: &str,
        there: &[String],
        check: &[String],
    ) -> Result<Self> {
        for end in [good, bad] {
            ensure!(there.iter().any(|v| v == end), "{end} is no version: see `ros os list`");
        }
        ensure!(good != bad, "the good version and the bad one are the same");
        let mut versions = there.to_vec();
        versions.sort_by(|a, b| version::compare(a, b));
        let at = |end: &str| versions.iter().position(|v| v == end).unwrap_or(0);
        let (first, last) = (at(good).min(at(bad)), at(good).max(at(bad)));
        let mut versions = versions[first..=last].to_vec();
        if versions.first().is_some_and(|first| first == bad) {
            versions.reverse();
        }
        let said = BTreeMap::from([(good.to_owned(), Said::Good), (bad.to_owned(), Said::Bad)]);
        Ok(Self { home: home.to_owned(), versions, said, check: check.to_vec() })
    }

    /// What is to be done next.
    #[must_use]
    pub fn next(&self) -> Next<'_> {
        let said = |version: &String| self.said.get(version).copied();
        let last_good =
            self.versions.iter().rposition(|v| said(v) == Some(Said::Good)).unwrap_or(0);
        let after = &self.versions[last_good + 1..];
        let first_bad = after.iter().position(|v| said(v) == Some(Said::Bad)).unwrap_or(0);
        let between = &after[..first_bad];
        let open: Vec<&str> =
            between.iter().filter(|v| said(v).is_none()).map(String::as_str).collect();
        match open.get(open.len() / 2) {
            Some(version) => Next::Try(version),
            None => {
                let skipped = between.iter().map(String::as_str).collect();
                let bad = after.get(first_bad).map_or("", String::as_str);
                Next::Found(bad, &self.versions[last_good], skipped)
            }
        }
    }

    /// For people.
    fn text(&self) -> String {
        match self.next() {
            Next::Try(version) => format!("{version} is to be tried"),
            Next::Found(bad, good, skipped) if skipped.is_empty() => {
                format!("{bad} is the first bad version; {good} is good")
            }
            Next::Found(bad, good, skipped) => format!(
                "{bad} is bad and {good} is good; of those in between it cannot be told: {}",
                skipped.join(", ")
            ),
        }
    }

    fn read() -> Result<Option<Self>> {
        let path = path();
        match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.with_context(|| format!("read {}", path.display()))?;
                let state = serde_json::from_slice(&text);
                state.map(Some).with_context(|| format!("parse {}", path.display()))
            }
        }
    }

    fn write(&self) -> Result<()> {
        Ok(durable::write(&path(), &serde_json::to_vec_pretty(self)?, 0o644)?)
    }
}

fn outcome_path() -> PathBuf {
    Path::new(paths::ROS).join("log/bisect.txt")
}

/// Whether one is under way.
#[must_use]
pub fn is_under_way() -> bool {
    path().exists()
}

/// Begins a search, and carries it on until it is over or the machine boots.
///
/// # Errors
/// When another is under way, or a version is none.
pub async fn begin(good: &str, bad: &str, check: &[String]) -> Result<()> {
    if is_under_way() {
        bail!("a search is under way: `ros os bisect --go-on` goes on with it, --stop ends it");
    }
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    let there = list::remote(&machine).await?;
    // Words and pre-releases only where they are named.
    let counts = |v: &String| version::is_release(v) || v == good || v == bad;
    let entries = list::entries(&machine, &there).into_iter().map(|entry| entry.version);
    let there: Vec<String> = entries.filter(counts).collect();
    Bisect::new(machine.version(), good, bad, &there, check)?.write()?;
    go_on().await
}

/// Goes on with the search that is under way. Another process that does so already is left alone.
///
/// # Errors
/// When there is none, or the machine cannot be changed.
pub async fn go_on() -> Result<()> {
    let lock = File::create(LOCK).with_context(|| format!("open {LOCK}: are you root?"))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("somebody is at it already");
        return Ok(());
    }
    let mut state = Bisect::read()?.context("no search is under way")?;
    loop {
        let version = match state.next() {
            Next::Try(version) => version.to_owned(),
            Next::Found(..) => {
                let found = state.text() + "\n";
                print!("{found}");
                durable::write(&outcome_path(), found.as_bytes(), 0o644)?;
                stop()?;
                return back_to(&state.home).await;
            }
        };
        let said = match go_to(&version).await {
            Ok(()) => run(&state.check)?,
            Err(error) => {
                eprintln!("{version}: {error:#}");
                Said::Bad
            }
        };
        eprintln!("{version} is {}", serde_json::to_string(&said)?.trim_matches('"'));
        state.said.insert(version, said);
        state.write()?;
    }
}

/// Forgets the search; what runs goes on.
///
/// # Errors
/// When the file cannot be removed.
pub fn stop() -> Result<()> {
    let path = path();
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    Ok(durable::sync_parent(&path)?)
}

/// Where a search stands, or what the last one found.
///
/// # Errors
/// When nothing was ever searched.
pub fn text() -> Result<String> {
    match Bisect::read()? {
        Some(state) => Ok(format!("under way: {}\n", state.text())),
        None => std::fs::read_to_string(outcome_path())
            .context("nothing was searched here: `ros os bisect GOOD BAD -- CHECK` does"),
    }
}

async fn go_to(version: &str) -> Result<()> {
    let machine = Machine::read()?;
    if machine.version() == version {
        return Ok(());
    }
    let how = How { yes: true, allow_downgrade: true, ..How::default() };
    // A boot ends this process; the console begins it anew.
    upgrade::upgrade(version, &how).await?;
    wait_for_boot(version).await
}

/// When it is by a boot, there is nothing more to do here.
async fn wait_for_boot(version: &str) -> Result<()> {
    if Machine::read()?.version() == version {
        return Ok(());
    }
    std::future::pending().await
}

async fn back_to(home: &str) -> Result<()> {
    if Machine::read()?.version() == home {
        return Ok(());
    }
    let how = How { yes: true, ..How::default() };
    upgrade::rollback(Some(home), &how).await
}

fn run(check: &[String]) -> Result<Said> {
    let (program, arguments) = check.split_first().context("no check")?;
    let status = Command::new(program).args(arguments).status();
    let status = status.with_context(|| format!("run {program}"))?;
    Ok(match status.code() {
        Some(0) => Said::Good,
        Some(SKIP) => Said::Skip,
        _ => Said::Bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(n: usize) -> Vec<String> {
        (0..n).map(|minor| format!("v1.{minor}")).collect()
    }

    #[test]
    fn the_first_bad_one_is_found_whichever_it_is() {
        let there = versions(12);
        for (good, bad) in [(0, 11), (11, 0)] {
            for first_bad in 1..12 {
                let distance = |v: usize| if good == 0 { v } else { 11 - v };
                let ends = (&there[good], &there[bad]);
                let mut bisect = Bisect::new("v1.0", ends.0, ends.1, &there, &[]).unwrap();
                let mut steps = 0;
                let found = loop {
                    let Next::Try(version) = bisect.next() else { break bisect.next() };
                    let at = there.iter().position(|v| v == version).unwrap();
                    let said = if distance(at) < first_bad { Said::Good } else { Said::Bad };
                    let version = version.to_owned();
                    bisect.said.insert(version, said);
                    steps += 1;
                };
                let at = |n: usize| if good == 0 { n } else { 11 - n };
                let expected = (there[at(first_bad)].as_str(), there[at(first_bad - 1)].as_str());
                assert_eq!(found, Next::Found(expected.0, expected.1, vec![]));
                assert!(steps <= 4, "{steps} steps for 10 versions");
            }
        }
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let there = versions(4);
        let mut bisect = Bisect::new("v1.0", "v1.0", "v1.3", &there, &[]).unwrap();
        while let Next::Try(version) = bisect.next() {
            let version = version.to_owned();
            bisect.said.insert(version, Said::Skip);
        }
        assert_eq!(bisect.next(), Next::Found("v1.3", "v1.0", vec!["v1.1", "v1.2"]));
        assert!(bisect.text().contains("cannot be told: v1.1, v1.2"), "{}", bisect.text());
    }

    #[test]
    fn ends_that_are_none_are_refused() {
        let there = versions(3);
        for (good, bad) in [("v1.0", "v9"), ("v9", "v1.0"), ("v1.1", "v1.1")] {
            assert!(Bisect::new("v1.0", good, bad, &there, &[]).is_err(), "{good} {bad}");
        }
    }

    #[test]
    fn the_check_is_a_program_with_gits_exit_codes() {
        let says = |code: &str| run(&["sh".into(), "-c".into(), format!("exit {code}")]).unwrap();
        assert_eq!([says("0"), says("1"), says("125")], [Said::Good, Said::Bad, Said::Skip]);
        assert!(run(&["/nonexistent".into()]).is_err());
    }
}

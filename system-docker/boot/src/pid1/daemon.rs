//! Which daemon PID 1 keeps, and the trial of another one. Drawn in [`ros_api::init`].
//!
//! What is tried is never trusted: it is dropped by itself when it ends [`ENDS`] times, or when nobody says in time that
//! it is to be kept. Whatever happens to whoever asked for the trial, the daemon that was good runs again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ros_api::init::{DaemonReport, DaemonTrial, Dropped, ENDS};
use ros_api::{durable, paths};

use super::log;
use super::restart::Exit;
use crate::kmsg;

/// Nobody may ask for a longer trial.
const LONGEST: Duration = Duration::from_secs(3600);

/// Where it is written down.
#[derive(Clone, Debug)]
struct Places {
    link: PathBuf,
    report: PathBuf,
    generations: PathBuf,
}

/// The daemon's program.
#[derive(Debug)]
pub struct Daemon {
    places: Places,
    trial: Option<Trial>,
    report: DaemonReport,
}

/// One that is tried.
#[derive(Debug)]
struct Trial {
    generation: u32,
    /// What the link was.
    from: PathBuf,
    until: Instant,
    ends: u32,
    last: String,
    /// How long the log was when it began.
    log: u64,
}

impl Daemon {
    /// This machine's.
    pub fn of_machine() -> Self {
        Self::at(Places {
            link: paths::RUN_DAEMON.into(),
            report: paths::DAEMON_REPORT.into(),
            generations: paths::GENERATIONS.into(),
        })
    }

    fn at(places: Places) -> Self {
        Self { places, trial: None, report: DaemonReport::default() }
    }

    /// What is to be run; none when only the boot set's own is left.
    pub fn program(&self) -> Option<PathBuf> {
        fs::read_link(&self.places.link).ok().filter(|program| program.exists())
    }

    /// Whether what runs is on trial.
    pub fn on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// It was started, as process `pid`.
    pub fn started(&mut self, pid: Option<i32>) {
        self.report.pid = pid;
        self.write();
    }

    /// Has the daemon of `generation` be the next that is started; whether that is news.
    pub fn try_next(&mut self, generation: u32, limit: Duration) -> bool {
        if self.trial.as_ref().is_some_and(|trial| trial.generation == generation) {
            return false;
        }
        let program =
            self.places.generations.join(generation.to_string()).join("bin/system-docker");
        // Another one that is on trial is none to go back to.
        let good = self.trial.take().map(|trial| trial.from);
        let Some(from) = good.or_else(|| fs::read_link(&self.places.link).ok()) else {
            kmsg::error(&format!("{} is no link: no other daemon", self.places.link.display()));
            return false;
        };
        if !program.is_file() {
            kmsg::error(&format!("{} is not there: no other daemon", program.display()));
            return false;
        }
        if !self.point(&program) {
            return false;
        }
        let until = Instant::now() + limit.min(LONGEST);
        let log = log::length();
        self.trial = Some(Trial { generation, from, until, ends: 0, last: String::new(), log });
        // The one that still runs is not what was asked for.
        (self.report.dropped, self.report.pid) = (None, None);
        self.write();
        true
    }

    /// The one on trial is kept.
    pub fn keep(&mut self) {
        self.trial = None;
        self.write();
    }

    /// The daemon ended, and nobody asked for that; whether it was on trial and is dropped now.
    pub fn ended(&mut self, exit: Exit) -> bool {
        let Some(trial) = &mut self.trial else {
            self.started(None);
            return false;
        };
        trial.ends += 1;
        trial.last = match log::last_line(trial.log) {
            said if said.is_empty() => exit.to_string(),
            said => format!("{exit}: {said}"),
        };
        let (ends, last) = (trial.ends, trial.last.clone());
        self.report.pid = None;
        self.write();
        ends >= ENDS && self.drop_it(&format!("{last} ({ends} times)"))
    }

    /// Goes back to the one before the trial; whether there is one.
    pub fn drop_it(&mut self, reason: &str) -> bool {
        let Some(trial) = self.trial.take() else { return false };
        kmsg::error(&format!("the daemon of generation {} is dropped: {reason}", trial.generation));
        self.point(&trial.from);
        self.report.dropped =
            Some(Dropped { generation: trial.generation, reason: reason.to_owned() });
        self.report.pid = None;
        self.write();
        true
    }

    /// When somebody must have said that it is kept.
    pub fn until(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.until)
    }

    fn point(&self, program: &Path) -> bool {
        let pointed = durable::point(&self.places.link, program);
        pointed.map_err(|e| kmsg::error(&e.to_string())).is_ok()
    }

    fn write(&mut self) {
        self.report.generation = self
            .program()
            .and_then(|program| program.parent()?.parent()?.file_name()?.to_str()?.parse().ok());
        self.report.trial = self.trial.as_ref().map(|trial| DaemonTrial {
            generation: trial.generation,
            ends: trial.ends,
            last: trial.last.clone(),
        });
        let text = serde_json::to_vec(&self.report).unwrap_or_default();
        if let Err(e) = durable::write(&self.places.report, &text, 0o644) {
            kmsg::warn(&e.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with two generations, whose first has the daemon that runs.
    fn machine(dir: &Path) -> Daemon {
        let places = Places {
            link: dir.join("daemon"),
            report: dir.join("daemon.json"),
            generations: dir.to_owned(),
        };
        for generation in ["1", "2", "3"] {
            let bin = dir.join(generation).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("system-docker"), "").unwrap();
        }
        durable::point(&places.link, &dir.join("1/bin/system-docker")).unwrap();
        let mut daemon = Daemon::at(places);
        daemon.started(Some(7));
        daemon
    }

    fn said(daemon: &Daemon) -> DaemonReport {
        DaemonReport::read_at(&daemon.places.report).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn one_that_is_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = machine(dir.path());
        assert_eq!((said(&daemon).generation, said(&daemon).pid), (Some(1), Some(7)));
        assert!(daemon.try_next(2, LIMIT) && daemon.on_trial());
        assert_eq!(said(&daemon).pid, None, "the old one runs still, and is not the one on trial");
        assert!(!daemon.try_next(2, LIMIT), "asked again, nothing is begun anew");
        daemon.started(Some(8));
        assert_eq!(said(&daemon).trial.unwrap().generation, 2);
        daemon.keep();
        assert_eq!(daemon.until(), None);
        assert!(!daemon.ended(Exit::Code(1)), "it is as any other now");
        assert!(!daemon.drop_it("late"));
        assert_eq!(daemon.program().unwrap(), dir.path().join("2/bin/system-docker"));
        assert_eq!((said(&daemon).generation, said(&daemon).trial), (Some(2), None));
    }

    #[test]
    fn one_that_ends_again_and_again_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = machine(dir.path());
        daemon.try_next(2, LIMIT);
        let dropped: Vec<bool> = (0..ENDS).map(|_| daemon.ended(Exit::Code(3))).collect();
        assert_eq!(dropped, [false, false, true]);
        assert_eq!(daemon.program().unwrap(), dir.path().join("1/bin/system-docker"));
        let said = said(&daemon);
        let reason = said.dropped.unwrap().reason;
        assert!(reason.contains("ended with 3") && reason.contains("3 times"), "{reason}");
        assert_eq!((said.generation, said.trial), (Some(1), None));
    }

    #[test]
    fn what_is_gone_back_to_is_never_one_on_trial() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = machine(dir.path());
        daemon.try_next(2, LIMIT);
        daemon.try_next(3, LIMIT);
        assert!(daemon.drop_it("asked for"));
        assert_eq!(daemon.program().unwrap(), dir.path().join("1/bin/system-docker"));
        assert_eq!(said(&daemon).dropped.unwrap().generation, 3);
    }

    #[test]
    fn one_that_is_not_there_is_not_tried() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = machine(dir.path());
        assert!(!daemon.try_next(9, LIMIT) && !daemon.on_trial());
        assert_eq!(said(&daemon).generation, Some(1));
    }
}

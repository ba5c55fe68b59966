//! What may be asked of PID 1, and what it tells about the daemon that it keeps.
//!
//! Which daemon that is, says the link [`crate::paths::RUN_DAEMON`], switched by rename. Another one is tried under the
//! running containers:
//!
//! ```text
//!  try-daemon 2 90    link → 2; the daemon is ended, the other started with `--take-over`
//!  keep-daemon        it is kept
//!  drop-daemon        link → what it was; the other is killed, the old one started
//!  nobody asks        it ended ENDS times, or nobody said keep within 90 s: dropped all the same
//! ```
//!
//! How it stands is in [`crate::paths::DAEMON_REPORT`]. All of it is of one boot: a power cut forgets it.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A daemon on trial that ended so often is dropped.
pub const ENDS: u32 = 3;

/// What may be asked of PID 1 through [`crate::paths::INIT_CONTROL`]; one a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitRequest {
    /// Orderly reboot.
    Reboot,
    /// Orderly reboot, into a generation's kernel without firmware and boot loader when that can be had.
    Kexec {
        /// The generation.
        generation: u32,
    },
    /// Orderly power off.
    Poweroff,
    /// Orderly halt.
    Halt,
    /// End the daemon and start it again; containers keep running.
    RestartDaemon,
    /// Replace the daemon by another generation's.
    TryDaemon {
        /// The generation.
        generation: u32,
        /// It is dropped when nobody keeps it within so many seconds.
        seconds: u32,
    },
    /// The daemon on trial is kept.
    KeepDaemon,
    /// The daemon on trial is dropped.
    DropDaemon,
}

/// Those that are one word.
const WORDS: [(InitRequest, &str); 6] = [
    (InitRequest::Reboot, "reboot"),
    (InitRequest::Poweroff, "poweroff"),
    (InitRequest::Halt, "halt"),
    (InitRequest::RestartDaemon, "restart-daemon"),
    (InitRequest::KeepDaemon, "keep-daemon"),
    (InitRequest::DropDaemon, "drop-daemon"),
];
const TRY: &str = "try-daemon";
const KEXEC: &str = "kexec";

impl InitRequest {
    /// The request that `line` asks for.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [TRY, generation, seconds] => Some(Self::TryDaemon {
                generation: generation.parse().ok()?,
                seconds: seconds.parse().ok()?,
            }),
            [KEXEC, generation] => Some(Self::Kexec { generation: generation.parse().ok()? }),
            [word] => WORDS.iter().find(|(_, known)| known == word).map(|(request, _)| *request),
            _ => None,
        }
    }
}

impl fmt::Display for InitRequest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TryDaemon { generation, seconds } => {
                return write!(to, "{TRY} {generation} {seconds}");
            }
            Self::Kexec { generation } => return write!(to, "{KEXEC} {generation}"),
            _ => {}
        }
        let word = WORDS.iter().find(|(request, _)| request == self).map_or("", |(_, word)| *word);
        to.write_str(word)
    }
}

/// `/run/ros/daemon.json`: which daemon runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Generation whose daemon it is; none when it is the boot set's own.
    pub generation: Option<u32>,
    /// Its process; none while it does not run.
    pub pid: Option<i32>,
    /// It is on trial.
    pub trial: Option<DaemonTrial>,
    /// The one that was dropped last.
    pub dropped: Option<Dropped>,
}

/// A daemon on trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonTrial {
    /// Its generation.
    pub generation: u32,
    /// How often it ended.
    pub ends: u32,
    /// How it ended last; empty when it did not.
    pub last: String,
}

/// A daemon that was tried and is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its generation.
    pub generation: u32,
    /// Why.
    pub reason: String,
}

impl DaemonReport {
    /// What PID 1 says now; none when it does not say, such as one of a release that did not yet.
    #[must_use]
    pub fn read() -> Option<Self> {
        Self::read_at(Path::new(crate::paths::DAEMON_REPORT))
    }

    /// The same, from another place.
    #[must_use]
    pub fn read_at(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let tried = InitRequest::TryDaemon { generation: 12, seconds: 90 };
        let kexec = InitRequest::Kexec { generation: 2 };
        for request in WORDS.map(|(request, _)| request).into_iter().chain([tried, kexec]) {
            assert_eq!(InitRequest::parse(&format!("{request}\n")), Some(request));
        }
        for wrong in ["", "reboot now", "try-daemon", "try-daemon x 9", "try-daemon 1 2 3"] {
            assert_eq!(InitRequest::parse(wrong), None, "{wrong:?}");
        }
    }
}

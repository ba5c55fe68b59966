//! What a machine does while its disk is recorded. Data: another scenario is another entry in [`ALL`].
//!
//! One machine goes through all of them: each begins where the one before it ended, the first with an installed disk that
//! was never booted.

/// One stretch of the recording.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, also of its folder.
    pub name: &'static str,
    /// What is done. The last scenario is followed by an orderly power off.
    pub steps: &'static [Step],
    /// What tells the machine before from the machine after.
    pub change: Change,
    /// A command that must succeed on a machine that a cut left as it was before.
    pub again: Option<&'static str>,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Powers on and waits until every service is ready.
    Up,
    /// Waits until so many more records were written with fsync.
    Witness(usize),
    /// Runs a command that must succeed.
    Run(&'static str),
    /// Runs a command that reboots the machine, and waits until every service is ready again.
    Reboots(&'static str),
}

/// How old and new are told apart. A disk that is neither is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By the version that boots next.
    Version {
        /// Before.
        old: &'static str,
        /// After.
        new: &'static str,
    },
    /// The version stays, STATE grows to the disk.
    Grows {
        /// The version.
        version: &'static str,
    },
    /// The version stays, another one goes.
    Prunes {
        /// The version.
        version: &'static str,
        /// The one that goes.
        gone: &'static str,
    },
}

impl Change {
    /// Whether a machine that runs `version` may be as it was before.
    #[must_use]
    pub fn may_be_before(&self, version: &str) -> bool {
        match self {
            Self::Version { old, .. } => *old == version,
            Self::Grows { version: only } | Self::Prunes { version: only, .. } => *only == version,
        }
    }
}

/// All scenarios, in the order in which they follow each other.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "first-boot",
        steps: &[Step::Up, Step::Witness(3)],
        change: Change::Grows { version: "v1.0" },
        again: None,
    },
    Scenario {
        name: "upgrade",
        steps: &[Step::Reboots("ros os upgrade -f -i os:v1.2"), Step::Witness(2)],
        change: Change::Version { old: "v1.0", new: "v1.2" },
        again: Some("ros os upgrade -f --stage -i os:v1.2"),
    },
    Scenario {
        name: "rollback",
        steps: &[Step::Reboots("ros os rollback -f"), Step::Witness(2)],
        change: Change::Version { old: "v1.2", new: "v1.0" },
        // On trial, and called off again.
        again: Some("ros os rollback -f --no-reboot v1.0 && ros os upgrade -f -i os:v1.2"),
    },
    // A third generation is the newest, whose number is kept: so the second may go, with its boot set and its images.
    Scenario {
        name: "prune",
        steps: &[
            Step::Run("ros os upgrade -f --stage -i os:v1.1"),
            Step::Run("ros os prune --keep 1"),
            Step::Witness(2),
        ],
        change: Change::Prunes { version: "v1.0", gone: "v1.2" },
        again: Some("ros os prune --keep 1"),
    },
];

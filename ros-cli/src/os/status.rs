//! `ros os status`: what runs, what was asked for, and why they differ if they do.

use std::fmt::Write;

use ros_api::generation::Status;
use serde::Serialize;

use super::asked::Asked;
use super::automatic::Look;
use super::machine::Machine;
use super::signature::Signed;
use super::trust::Trust;

/// The status.
#[derive(Clone, Debug, Serialize)]
pub struct OsStatus {
    /// What runs.
    pub running: RunningNow,
    /// Who signed what runs, when somebody wanted to know.
    pub signed: Option<Signed>,
    /// The generation that boots when no trial is on.
    pub default: Option<u32>,
    /// The generation on trial.
    pub trial: Option<TrialNow>,
    /// The generation that services are being switched to.
    pub switching: Option<u32>,
    /// What was asked for last.
    pub asked: Option<Asked>,
    /// The release that failed last, and why.
    pub last_failure: Option<Failure>,
    /// The last look for a newer release, when the machine looks by itself.
    pub look: Option<Look>,
    /// What is held.
    pub pins: Vec<String>,
    /// Version that boots next.
    pub next_boot: Option<String>,
    /// Why what was asked for failed.
    #[serde(skip)]
    asked_failure: Option<String>,
    /// What the disk lost of it.
    #[serde(skip)]
    asked_damage: Option<String>,
}

/// What runs.
#[derive(Clone, Debug, Serialize)]
pub struct RunningNow {
    generation: u32,
    version: String,
    state: String,
    digest: Option<String>,
}

/// A trial.
#[derive(Clone, Debug, Serialize)]
pub struct TrialNow {
    generation: u32,
    tries_left: u32,
}

/// A failure.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    version: String,
    generation: u32,
    reason: String,
}

impl OsStatus {
    /// The machine's.
    #[must_use]
    pub fn of(machine: &Machine, asked: Option<Asked>) -> Self {
        let current = machine.current();
        let trial =
            machine.trial().map(|(generation, tries_left)| TrialNow { generation, tries_left });
        let failure =
            machine.installed.iter().rev().find_map(|generation| match &generation.status {
                Status::Failed { reason } => Some(Failure {
                    version: generation.version.clone(),
                    generation: generation.number,
                    reason: reason.clone(),
                }),
                _ => None,
            });
        let next =
            trial.as_ref().filter(|trial| trial.tries_left > 0).map(|trial| trial.generation);
        let next = next.or_else(|| machine.default_generation());
        let version = |number: u32| {
            machine.installed.iter().find(|g| g.number == number).map(|g| g.version.clone())
        };
        let asked_failure = asked.as_ref().and_then(|asked| {
            let failed = machine.installed.iter().find(|g| g.number == asked.generation)?;
            match &failed.status {
                Status::Failed { reason } => Some(reason.clone()),
                _ => None,
            }
        });
        let asked_damage =
            asked.as_ref().and_then(|asked| machine.damaged.get(&asked.generation)).cloned();
        Self {
            asked_failure,
            asked_damage,
            running: RunningNow {
                generation: machine.running.generation,
                version: machine.version().to_owned(),
                state: current.map_or("-", |generation| generation.status.word()).to_owned(),
                digest: current.map(|generation| generation.digest.to_string()),
            },
            signed: None,
            look: None,
            default: machine.default_generation(),
            trial,
            switching: None,
            asked,
            last_failure: failure,
            pins: machine.pins.words(),
            next_boot: next.and_then(version),
        }
    }

    /// The same, while services are being switched to generation `to`.
    #[must_use]
    pub fn switching(self, to: Option<u32>) -> Self {
        Self { switching: to, ..self }
    }

    /// The same, with what is remembered of signatures.
    #[must_use]
    pub fn signed(self, trust: &Trust) -> Self {
        let digest = self.running.digest.as_ref().and_then(|digest| digest.parse().ok());
        let signed = digest.and_then(|digest| trust.signed.get(&digest)).cloned();
        Self { signed, ..self }
    }

    /// The same, with the last look for a newer release.
    #[must_use]
    pub fn looked(self, look: Option<Look>) -> Self {
        Self { look, ..self }
    }

    /// Whether what was asked for runs, as far as it is settled.
    #[must_use]
    pub fn is_as_asked(&self) -> bool {
        let asked = self.asked.as_ref().map(|asked| asked.digest.to_string());
        self.switching.is_none() && (asked.is_none() || asked == self.running.digest)
    }

    /// What became of what was asked for.
    fn became(&self, asked: &Asked) -> String {
        let on_trial = |trial: &TrialNow| trial.generation == asked.generation;
        match (&self.trial, &self.asked_failure) {
            _ if self.is_as_asked() => "it runs".into(),
            _ if self.switching == Some(asked.generation) => {
                "services are being replaced; if that was cut short, the same command goes on"
                    .into()
            }
            (Some(trial), _) if on_trial(trial) && trial.tries_left > 0 => {
                "it boots next, on trial".into()
            }
            (_, Some(reason)) => {
                format!("it failed, and {} came back: {reason}", self.running.version)
            }
            _ => match &self.asked_damage {
                Some(damage) => format!(
                    "it is damaged, and {} runs in its place: {damage}; `ros os upgrade -i os:{}` brings it again",
                    self.running.version, asked.version
                ),
                None => format!("it does not run; {} does", self.running.version),
            },
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            let _ = writeln!(text, "{what:<10} {value}");
        };
        let RunningNow { generation, version, state, .. } = &self.running;
        line("running", format!("{version} (generation {generation}, {state})"));
        if let Some(signed) = &self.signed {
            line("signed", signed.to_string());
        }
        if let Some(asked) = &self.asked {
            let Asked { version, generation, by, .. } = asked;
            let became = self.became(asked);
            line("asked", format!("{version} (generation {generation}, by {by}): {became}"));
        }
        let awaits_boot = |trial: &&TrialNow| trial.generation == *generation;
        if self.trial.as_ref().filter(awaits_boot).is_some_and(|trial| trial.tries_left > 0) {
            line("trial", "at the next boot: its PID 1 is new".into());
        } else if let Some(trial) = &self.trial {
            line(
                "trial",
                format!("generation {}, {} tries left", trial.generation, trial.tries_left),
            );
        }
        if let Some(failure) = &self.last_failure {
            line(
                "failed",
                format!(
                    "{} (generation {}): {}",
                    failure.version, failure.generation, failure.reason
                ),
            );
        }
        if let Some(look) = self.look.as_ref().filter(|look| look.round > 0) {
            line("by itself", look.said.clone());
        }
        if !self.pins.is_empty() {
            line("pinned", self.pins.join(", "));
        }
        if let Some(next) = &self.next_boot {
            line("next boot", next.clone());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ros_api::Digest;

    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn what_was_asked_for_is_told_apart() {
        let table = [
            (1, Status::Good, false, "it runs"),
            (2, Status::Trial, true, "it boots next, on trial"),
            (2, Status::Staged, false, "it does not run; v1.0 does"),
        ];
        for (generation, status, on_trial, expected) in table {
            let mut machine = machine(&[("v1.0", Status::Good), ("v1.1", status)]);
            if on_trial && let Some(env) = &mut machine.env {
                env.set_trial(generation);
            }
            let version = if generation == 1 { "v1.0" } else { "v1.1" };
            let asked = Asked {
                by: "upgrade".into(),
                version: version.into(),
                digest: Digest::of(version.as_bytes()),
                generation,
                time: 0,
            };
            let text = OsStatus::of(&machine, Some(asked)).text();
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }

    #[test]
    fn it_says_why_the_machine_went_back() {
        let machine = machine(&[
            ("v1.0", Status::Good),
            ("v1.5", Status::Failed { reason: "ntp: ended with 1".into() }),
        ]);
        let asked = Asked {
            by: "upgrade".into(),
            version: "v1.5".into(),
            digest: Digest::of(b"v1.5"),
            generation: 2,
            time: 0,
        };
        let status = OsStatus::of(&machine, Some(asked));
        assert!(!status.is_as_asked());
        let text = status.text();
        for part in [
            "running    v1.0 (generation 1, good)",
            "it failed, and v1.0 came back: ntp: ended",
            "ntp: ended with 1",
            "next boot  v1.0",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}

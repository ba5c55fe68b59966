//! When a job that ended is started again: a pure decision.
//!
//! | job      | ended with 0        | ended otherwise                                   |
//! |----------|---------------------|---------------------------------------------------|
//! | daemon   | again, with back-off| again, with back-off, for ever                    |
//! | bring-up | done                | again, with back-off, [`BRING_UP_TRIES`] times    |
//! | shell    | the machine reboots | killed by a signal: again; else reboot            |

use std::time::Duration;

use super::jobs::Kind;

/// How often bring-up is tried in all.
pub const BRING_UP_TRIES: u32 = 5;
/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// Whoever ran so long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(30);

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Exit code.
    Code(i32),
    /// Signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(to, "ended with {code}"),
            Self::Signal(signal) => write!(to, "was killed by signal {signal}"),
        }
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Started again after so long.
    Again(Duration),
    /// Its work is done.
    Done,
    /// Tried often enough.
    GiveUp,
    /// The machine reboots.
    Reboot,
}

/// How often in a row it failed, now that it ended after `ran`. A bring-up that took its time to fail has failed all the
/// same: a daemon that never answers must not keep a trial alive for ever.
#[must_use]
pub fn failures(kind: Kind, before: u32, ran: Duration) -> u32 {
    let forgiven = kind != Kind::BringUp && ran >= STEADY;
    if forgiven { 1 } else { before.saturating_add(1) }
}

/// `failures` includes the present one.
#[must_use]
pub fn decide(kind: Kind, exit: Exit, failures: u32) -> Next {
    match (kind, exit) {
        (Kind::BringUp, Exit::Code(0)) => Next::Done,
        (Kind::BringUp, _) if failures >= BRING_UP_TRIES => Next::GiveUp,
        (Kind::Shell, Exit::Code(_)) => Next::Reboot,
        _ => Next::Again(pause(failures)),
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    FIRST.saturating_mul(doubled).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_started_again() {
        let ms = |ms| Next::Again(Duration::from_millis(ms));
        let table = [
            (Kind::Daemon, Exit::Code(0), 1, ms(200)),
            (Kind::Daemon, Exit::Signal(9), 2, ms(400)),
            (Kind::Daemon, Exit::Code(1), 4000, ms(10_000)),
            (Kind::BringUp, Exit::Code(0), 1, Next::Done),
            (Kind::BringUp, Exit::Code(1), 4, ms(1600)),
            (Kind::BringUp, Exit::Signal(11), 5, Next::GiveUp),
            (Kind::Shell, Exit::Code(127), 1, Next::Reboot),
            (Kind::Shell, Exit::Signal(9), 1, ms(200)),
        ];
        for (kind, exit, count, expected) in table {
            assert_eq!(decide(kind, exit, count), expected, "{kind:?} {exit} {count}");
        }
    }

    #[test]
    fn a_long_run_is_forgiven() {
        assert_eq!(failures(Kind::Daemon, 7, Duration::from_secs(31)), 1);
        assert_eq!(failures(Kind::Daemon, 7, Duration::from_secs(1)), 8);
        assert_eq!(failures(Kind::BringUp, 3, Duration::from_secs(60)), 4, "its work has an end");
    }
}

//! PID 1. The boot stage first ([`crate::stage`]), then one loop that wakes only for a cause: a child that
//! ended, a signal, a word on the control FIFO, a restart that is due, the watchdog's feeding time.
//!
//! ```text
//!  boot stage ──ready──► [ daemon + bring-up ] ──request, signal──► shutdown ─► reboot(2)
//!      │                        ▲ restarted, see `restart`               ▲
//!      ├─recovery─► [ shell ] ──┼──────────exit──────────────────────────┤
//!      └─failed──► anyone there? ── Enter ─► [ shell ] ─────exit─────────┤
//!                       └── nobody: reboot ──────────────────────────────┘
//! ```
//!
//! This is the only place that waits on children once the boot stage is over. It never panics; should it do
//! so all the same, the machine reboots at once and says why.

mod daemon;
mod failure;
mod jobs;
mod kexec;
mod log;
mod reap;
mod restart;
mod shutdown;
mod supervise;

use rustix::system::{RebootCommand, reboot};

use crate::kmsg;
use crate::stage::{self, Outcome};
use jobs::Work;

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Starts again; into a loaded kexec kernel when there is one.
    Reboot,
    /// Starts again, straight into this generation's kernel when that can be loaded.
    Kexec(u32),
    /// Starts again, and this boot counts as one that did not work: no clean-up that would forgive it.
    RebootCounted,
    /// Power off.
    Poweroff,
    /// Stays, stopped.
    Halt,
}

impl std::fmt::Display for End {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Reboot => "reboot",
            Self::Kexec(_) => "reboot by kexec",
            Self::RebootCounted => "reboot after a failed boot",
            Self::Poweroff => "power-off",
            Self::Halt => "halt",
        })
    }
}

/// PID 1's whole life. As any other process it says what it is and exits.
pub fn main() -> ! {
    if !rustix::process::getpid().is_init() {
        eprintln!(
            "init: only the kernel starts this; to end the machine: ros reboot, ros poweroff"
        );
        std::process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| {
        kmsg::error(&format!("PID 1 failed, rebooting: {panic}"));
        rustix::fs::sync();
        let _ = reboot(RebootCommand::Restart);
    }));
    // Ctrl-Alt-Del is a signal to PID 1, not an immediate reset.
    let _ = reboot(RebootCommand::CadOff);
    let booted = stage::run();
    let work = match &booted.outcome {
        Outcome::Ready => Work::System,
        Outcome::Recovery => Work::Shell,
        Outcome::Failed(_) => Work::Failure,
    };
    supervise::run(booted, work)
}

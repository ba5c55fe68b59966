//! Child processes: `Command` lets a child inherit the parent's blocked signals, and PID 1 blocks them all.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Has the child start with no signal blocked.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: the hook runs between fork and exec and makes one system call, sigprocmask, which is
    // async-signal-safe; it neither allocates nor locks.
    unsafe { command.pre_exec(none_blocked) }
}

fn none_blocked() -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

//! Signal dispositions: Rust's start-up code ignores SIGPIPE, and what is ignored stays so across exec.

use std::io;

use nix::sys::signal::{SigHandler, Signal, signal};

/// Gives SIGPIPE its default again, in a process that is about to execute another program.
///
/// # Errors
/// Never in practice.
pub fn default_sigpipe() -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

//! When there is no system to start. With `ros.on_failure=shell` (the default) whoever presses Enter on the
//! console within [`SHELL_WAIT`] gets a shell; nobody does on an unattended machine, which reboots then, and
//! so lets the boot loader go back to the generation that was good. With `reboot` it does so after
//! [`REBOOT_WAIT`], long enough to be read.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::args::{Args, OnFailure};
use crate::child::wait_readable;
use crate::console;
use crate::watchdog::Watchdog;

const SHELL_WAIT: Duration = Duration::from_secs(60);
const REBOOT_WAIT: Duration = Duration::from_secs(10);

/// Tells, waits; whether somebody wants the shell.
pub fn somebody_is_there(args: &Args, why: &str, watchdog: &mut Watchdog) -> bool {
    let (shell, wait) = match args.on_failure {
        OnFailure::Shell => (true, SHELL_WAIT),
        OnFailure::Reboot => (false, REBOOT_WAIT),
    };
    let seconds = wait.as_secs();
    let offer = if shell {
        format!("Press Enter for a shell; reboot in {seconds} s.")
    } else {
        format!("Reboot in {seconds} s.")
    };
    console::say(&format!("\r\nros: this machine could not boot.\r\n  {why}\r\n{offer}\r"));
    wait_for_key(wait, watchdog) && shell
}

/// Whether anything was typed; feeds meanwhile.
fn wait_for_key(wait: Duration, watchdog: &mut Watchdog) -> bool {
    let terminal = console::open().ok();
    let deadline = Instant::now() + wait;
    loop {
        watchdog.feed();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds: Vec<_> =
            terminal.iter().map(|terminal| PollFd::new(terminal, PollFlags::IN)).collect();
        if wait_readable(&mut fds, Some(left.min(watchdog.interval()))).is_err() {
            return false;
        }
        if fds.iter().any(|fd| fd.revents().contains(PollFlags::IN)) {
            return terminal.is_some_and(|terminal| {
                let mut line = [0u8; 256];
                std::io::Read::read(&mut &terminal, &mut line).is_ok_and(|length| length > 0)
            });
        }
    }
}

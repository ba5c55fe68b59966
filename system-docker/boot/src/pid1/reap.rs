//! Waiting on children: the one place that does, for the loop and for the shutdown.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::restart::Exit;
use crate::child::wait_readable;
use crate::kmsg;
use crate::watchdog::Watchdog;

/// What there is to reap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This one ended.
    Dead(Pid, Exit),
    /// There are children, all alive.
    Alive,
    /// There is no process but PID 1: every other one has it as an ancestor.
    NoneLeft,
}

/// Takes one child that ended, own or orphan.
pub fn one() -> Reaped {
    loop {
        let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
            Ok(WaitStatus::StillAlive) => return Reaped::Alive,
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::ECHILD) => return Reaped::NoneLeft,
            Err(e) => {
                kmsg::error(&format!("waitpid: {e}"));
                return Reaped::Alive;
            }
        };
        if let Some(pid) = Pid::from_raw(pid.as_raw()) {
            return Reaped::Dead(pid, exit);
        }
    }
}

/// What a wait for children needs.
pub struct Children<'a> {
    /// Tells of children that ended.
    pub signals: Option<&'a SignalFd>,
    /// Fed meanwhile.
    pub watchdog: &'a mut Watchdog,
}

impl Children<'_> {
    /// Reaps until `done` says so or nothing is left; how `done`'s process ended does not matter here.
    /// `false` when `limit` came first.
    pub fn wait(&mut self, limit: Duration, mut done: impl FnMut(Reaped) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            self.watchdog.feed();
            let reaped = one();
            if done(reaped) || reaped == Reaped::NoneLeft {
                return true;
            }
            if matches!(reaped, Reaped::Dead(..)) {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.sleep(left);
        }
    }

    /// Until something is signalled; without a signal descriptor, a moment.
    fn sleep(&self, left: Duration) {
        let longest = if self.signals.is_some() {
            self.watchdog.interval()
        } else {
            Duration::from_millis(100)
        };
        let mut fds: Vec<_> = self
            .signals
            .iter()
            .map(|it| PollFd::from_borrowed_fd(it.as_fd(), PollFlags::IN))
            .collect();
        if let Err(e) = wait_readable(&mut fds, Some(left.min(longest))) {
            kmsg::error(&format!("poll: {e}"));
        }
        while let Some(Ok(Some(_))) = self.signals.map(SignalFd::read_signal) {}
    }
}

//! Programs that a step runs and waits for. The watchdog is fed meanwhile, so a long file-system check is
//! not taken for a hang.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ros_api::durable::named;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::watchdog::Watchdog;

/// Search path of everything that PID 1 starts.
pub const PATH: &str = "/run/ros/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a step's program writes; read when it has ended.
const OUTPUT: &str = "/run/.step-output";

/// How a program ended, and what it said.
pub struct Ended {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output and error, in order.
    pub output: String,
}

impl Ended {
    /// The exit code; a signal is 128 + its number, as shells have it.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// The last line with something on it.
    pub fn last_line(&self) -> &str {
        self.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("")
    }
}

/// A command with PID 1's environment: nothing inherited from the kernel's command line, `HOME` always set.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", "/")
        .env("PATH", PATH)
        .env("TERM", "linux")
        .current_dir("/")
        .stdin(Stdio::null());
    ros_sys::spawn::unblock_signals(&mut command);
    command
}

/// Runs `command` to its end, or kills it after `limit`.
///
/// # Errors
/// When it cannot be started, or did not end in time.
pub fn run(
    command: &mut Command,
    watchdog: &mut Watchdog,
    limit: Option<Duration>,
) -> io::Result<Ended> {
    let path = Path::new(OUTPUT);
    let output = File::create(path).map_err(|e| named("create", path, &e))?;
    let errors = output.try_clone()?;
    let program = command.get_program().to_owned();
    let started = command.stdout(output).stderr(errors).spawn();
    let mut child = started.map_err(|e| named("run", Path::new(&program), &e))?;
    let status = wait(&mut child, watchdog, limit.map(|limit| Instant::now() + limit))?;
    let output = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let _ = fs::remove_file(path);
    match status {
        Some(status) => Ok(Ended { status, output }),
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} did not end in time and was killed", Path::new(&program).display()),
        )),
    }
}

/// Waits, feeding; `None` when the deadline came first and the child was killed.
fn wait(
    child: &mut Child,
    watchdog: &mut Watchdog,
    deadline: Option<Instant>,
) -> io::Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        watchdog.feed();
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        let left = deadline
            .map_or(watchdog.interval(), |deadline| watchdog.interval().min(deadline - now));
        wait_readable(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(left))?;
    }
}

/// `poll`, where an interrupted wait is simply over.
///
/// # Errors
/// As poll says.
pub fn wait_readable(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    let timeout = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

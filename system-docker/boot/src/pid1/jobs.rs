//! The programs that PID 1 keeps: how each is started, and what is known of it while it runs.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ros_api::durable::named;
use ros_api::paths;
use rustix::process::{Pid, Signal, kill_process};

use super::daemon::Daemon;
use super::{log, restart};
use crate::{child, console};

/// What PID 1 is there for in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The daemon and bring-up.
    System,
    /// A recovery shell.
    Shell,
    /// The boot failed.
    Failure,
}

/// The kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `system-docker daemon`
    Daemon,
    /// `ros bring-up`
    BringUp,
    /// A shell on the console.
    Shell,
}

impl Kind {
    /// For the kernel log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon => "the daemon",
            Self::BringUp => "bring-up",
            Self::Shell => "the shell",
        }
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug)]
enum State {
    Running { pid: Pid, since: Instant },
    Due { at: Instant },
    Ended,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// What it is.
    pub kind: Kind,
    state: State,
    failures: u32,
    /// It was asked to end, only to be started again.
    renewed: bool,
}

/// After so many failures in a row the initrd's own daemon is tried, every other time.
const SPARE_AFTER: u32 = 3;

impl Job {
    /// A job that is due now.
    pub fn new(kind: Kind) -> Self {
        Self { kind, state: State::Due { at: Instant::now() }, failures: 0, renewed: false }
    }

    /// Its process.
    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// When it has to be started.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the program cannot be run; then it is due again after a pause, or given up.
    pub fn start(&mut self, daemon: &Daemon) -> Result<(), (io::Error, restart::Next)> {
        let mut command = self.command(daemon);
        let program = command.get_program().to_owned();
        match command.spawn() {
            Ok(child) => {
                self.state = State::Running { pid: Pid::from_child(&child), since: Instant::now() };
                Ok(())
            }
            Err(e) => Err((
                named("run", Path::new(&program), &e),
                self.next(restart::Exit::Code(127), Duration::ZERO),
            )),
        }
    }

    /// Its process ended: what is next.
    pub fn ended(&mut self, exit: restart::Exit) -> restart::Next {
        if std::mem::take(&mut self.renewed) {
            self.state = State::Due { at: Instant::now() };
            return restart::Next::Again(Duration::ZERO);
        }
        let ran = match self.state {
            State::Running { since, .. } => since.elapsed(),
            _ => Duration::ZERO,
        };
        self.next(exit, ran)
    }

    /// It is ended by `signal`, and started again at once.
    pub fn replace(&mut self, signal: Signal) {
        self.failures = 0;
        match self.pid() {
            Some(pid) => {
                self.renewed = true;
                let _ = kill_process(pid, signal);
            }
            None => self.state = State::Due { at: Instant::now() },
        }
    }

    /// What ended and what is started next are not the same: it has not failed yet, and is due at once.
    pub fn begin_anew(&mut self) {
        (self.failures, self.renewed) = (0, true);
    }

    /// Whether its next end was asked for.
    pub fn is_renewed(&self) -> bool {
        self.renewed
    }

    fn next(&mut self, exit: restart::Exit, ran: Duration) -> restart::Next {
        self.failures = restart::failures(self.kind, self.failures, ran);
        let next = restart::decide(self.kind, exit, self.failures);
        self.state = match next {
            restart::Next::Again(pause) => State::Due { at: Instant::now() + pause },
            _ => State::Ended,
        };
        next
    }

    fn command(&self, daemon: &Daemon) -> Command {
        match self.kind {
            Kind::Daemon => self.daemon(daemon),
            Kind::BringUp => bring("bring-up"),
            Kind::Shell => shell(),
        }
    }

    fn daemon(&self, daemon: &Daemon) -> Command {
        let on_trial = daemon.on_trial();
        let spare = !on_trial && self.failures >= SPARE_AFTER && self.failures % 2 == 1;
        let installed = daemon.program().filter(|_| !spare);
        let mut command = child::command(installed.unwrap_or_else(|| "/proc/self/exe".into()));
        let (output, errors) = log::open();
        command.arg("daemon").stdout(output).stderr(errors);
        if on_trial {
            command.arg("--take-over");
        }
        command
    }
}

/// `ros bring-up`, `ros bring-down`: they talk on the console.
pub fn bring(verb: &str) -> Command {
    let mut command = child::command(Path::new(paths::RUN_BIN).join("ros"));
    command.arg(verb).stdout(console::output()).stderr(console::output());
    command
}

/// A shell that owns the console's terminal: `^C` and job control work.
fn shell() -> Command {
    let mut command = child::command("/bin/busybox");
    command.args(["setsid", "-c", "/bin/busybox", "sh"]).env("PS1", "ros recovery # ");
    if let Ok(terminal) = console::open() {
        if let (Ok(input), Ok(output)) = (terminal.try_clone(), terminal.try_clone()) {
            command.stdin(input).stdout(output).stderr(terminal);
        }
    }
    command
}

//! The loop. Everything that happens is an [`Event`]; between two events PID 1 sleeps in one `poll`.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ros_api::boot::Reached;
use ros_api::durable::named;
use ros_api::init::InitRequest;
use ros_api::paths;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::Signal as Kill;

use super::daemon::Daemon;
use super::jobs::{Job, Kind, Work};
use super::reap::{self, Children, Reaped};
use super::restart::Next;
use super::{End, failure, log, shutdown};
use crate::child::wait_readable;
use crate::clock::since_kernel_ms;
use crate::kmsg;
use crate::stage::{self, Booted, Outcome};
use crate::steps;

/// Signals that mean something to PID 1.
const SIGNALS: [Signal; 6] = [
    Signal::SIGCHLD,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPWR,
];

/// Runs until the machine ends.
pub fn run(booted: Booted, work: Work) -> ! {
    let signals = block_signals().map_err(|e| kmsg::error(&format!("no signals: {e}"))).ok();
    let control = open_control().map_err(|e| kmsg::warn(&format!("no requests: {e}"))).ok();
    let (daemon, jobs, line) = (Daemon::of_machine(), Vec::new(), String::new());
    let mut supervisor = Supervisor { booted, signals, control, jobs, daemon, line };
    let end = supervisor.begin(work).unwrap_or_else(|| supervisor.forever());
    let bring_down =
        supervisor.jobs.iter().any(|job| job.kind == Kind::BringUp) && end != End::RebootCounted;
    let running = |kind| supervisor.jobs.iter().find(|job| job.kind == kind).and_then(Job::pid);
    let stop = shutdown::Stop {
        shell: running(Kind::Shell),
        bring_up: running(Kind::BringUp),
        bring_down,
        daemon: running(Kind::Daemon),
    };
    let watchdog = &mut supervisor.booted.machine.watchdog;
    shutdown::run(end, stop, Children { signals: supervisor.signals.as_ref(), watchdog })
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in SIGNALS {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Opened for both ways: so it is never at its end when a writer leaves.
fn open_control() -> io::Result<std::fs::File> {
    steps::control()?;
    let path = Path::new(paths::INIT_CONTROL);
    let flags = OFlags::NONBLOCK.bits() as i32;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    opened.map_err(|e| named("open", path, &e))
}

struct Supervisor {
    booted: Booted,
    signals: Option<SignalFd>,
    control: Option<std::fs::File>,
    jobs: Vec<Job>,
    daemon: Daemon,
    /// A request that is not complete yet.
    line: String,
}

impl Supervisor {
    /// Sets the jobs up; an end when there is nothing to do.
    fn begin(&mut self, work: Work) -> Option<End> {
        match work {
            Work::System => self.jobs = vec![Job::new(Kind::Daemon), Job::new(Kind::BringUp)],
            Work::Shell => self.offer_shell("Recovery. STATE is not mounted. `exit` reboots."),
            Work::Failure => {
                self.report();
                let Outcome::Failed(why) = &self.booted.outcome else {
                    return Some(End::RebootCounted);
                };
                let machine = &mut self.booted.machine;
                if !failure::somebody_is_there(&machine.args, why, &mut machine.watchdog) {
                    return Some(End::RebootCounted);
                }
                self.offer_shell("`exit` reboots.");
            }
        }
        None
    }

    fn offer_shell(&mut self, word: &str) {
        self.report();
        crate::console::say(&format!("\r\nros: {word}\r"));
        self.jobs = vec![Job::new(Kind::Shell)];
    }

    fn forever(&mut self) -> End {
        // Orphans of the boot stage: their signals came before anyone listened.
        let _ = self.reap();
        loop {
            if let Some(end) = self.start_due() {
                return end;
            }
            self.sleep();
            self.booted.machine.watchdog.feed();
            log::bound();
            self.drop_overdue();
            if let Some(end) =
                self.read_signals().or_else(|| self.reap()).or_else(|| self.read_control())
            {
                return end;
            }
        }
    }

    /// Starts what is due.
    fn start_due(&mut self) -> Option<End> {
        for index in 0..self.jobs.len() {
            if self.jobs[index].due().is_none_or(|at| at > Instant::now()) {
                continue;
            }
            let kind = self.jobs[index].kind;
            match self.jobs[index].start(&self.daemon) {
                Ok(()) => self.started(kind),
                Err((e, next)) => {
                    kmsg::error(&e.to_string());
                    if let Some(end) = self.decided(kind, next) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    /// The daemon's first start is a milestone: it is recorded, and ends the boot report.
    fn started(&mut self, kind: Kind) {
        if kind != Kind::Daemon {
            return;
        }
        let job = self.jobs.iter().find(|job| job.kind == kind);
        self.daemon.started(job.and_then(Job::pid).map(|pid| pid.as_raw_nonzero().get()));
        if self.booted.report.daemon_ms != 0 {
            return;
        }
        self.booted.report.daemon_ms = since_kernel_ms();
        self.report();
        let (ms, generation) =
            (self.booted.report.daemon_ms, self.booted.machine.generation.unwrap_or(0));
        kmsg::info(&format!(
            "generation {generation}: the daemon was started {ms} ms after the kernel"
        ));
        if let Err(e) = steps::record(generation, Reached::Daemon, "") {
            kmsg::warn(&e.to_string());
        }
    }

    fn report(&self) {
        if let Err(e) = stage::write_report(&self.booted.report) {
            kmsg::warn(&e.to_string());
        }
    }

    fn sleep(&self) {
        let due = self.jobs.iter().filter_map(Job::due).chain(self.daemon.until()).min();
        let due = due.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = [due, self.booted.machine.watchdog.tick()].into_iter().flatten().min();
        // Without a signal descriptor children are looked for once a second: slow, but alive.
        let limit =
            if self.signals.is_some() { limit } else { limit.or(Some(Duration::from_secs(1))) };
        let fds = [self.signals.as_ref().map(AsFd::as_fd), self.control.as_ref().map(AsFd::as_fd)];
        let mut fds: Vec<_> = fds
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if let Err(e) = wait_readable(&mut fds, limit) {
            kmsg::error(&format!("poll: {e}"));
        }
    }

    fn read_signals(&mut self) -> Option<End> {
        let signals = self.signals.as_mut()?;
        let mut end = None;
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = Signal::try_from(info.ssi_signo as i32).ok();
            end = end.or(signal.and_then(meaning).inspect(|end| {
                kmsg::warn(&format!(
                    "{} from process {}: {end}",
                    signal.map_or("", Signal::as_str),
                    info.ssi_pid
                ));
            }));
        }
        end
    }

    /// Takes every child that ended, its own or one that was left to it.
    fn reap(&mut self) -> Option<End> {
        let mut end = None;
        while let Reaped::Dead(pid, exit) = reap::one() {
            let job = self.jobs.iter_mut().find(|job| job.pid() == Some(pid));
            let Some(job) = job else { continue };
            let kind = job.kind;
            if kind == Kind::Daemon && !job.is_renewed() && self.daemon.ended(exit) {
                job.begin_anew();
            }
            let next = job.ended(exit);
            match (kind, next) {
                (_, Next::Done) => kmsg::info(&format!("{} is done", kind.name())),
                (Kind::Shell, _) => {}
                _ => kmsg::warn(&format!("{} {exit}", kind.name())),
            }
            end = end.or(self.decided(kind, next));
        }
        end
    }

    fn decided(&mut self, kind: Kind, next: Next) -> Option<End> {
        match next {
            Next::Again(_) | Next::Done => None,
            Next::Reboot => Some(End::Reboot),
            Next::GiveUp => {
                kmsg::error(&format!("{} failed too often and is given up", kind.name()));
                self.give_up()
            }
        }
    }

    /// A trial that cannot even be brought up goes back to what was good; another generation stays as it
    /// is, for someone to look at.
    fn give_up(&self) -> Option<End> {
        let generation = self.booted.machine.generation?;
        let env = ros_api::boot::BootEnv::read(Path::new(paths::GRUB_ENV)).ok()?;
        let (trial, _) = env.trial()?;
        if trial != generation {
            return None;
        }
        let why =
            format!("generation {generation} is on trial and its services could not be brought up");
        kmsg::error(&format!("{why}: rebooting"));
        if let Err(e) = steps::record(generation, Reached::Sick, &why) {
            kmsg::warn(&e.to_string());
        }
        Some(End::RebootCounted)
    }

    fn read_control(&mut self) -> Option<End> {
        let mut buffer = [0u8; 512];
        while let Ok(length @ 1..) = self.control.as_mut()?.read(&mut buffer) {
            self.line.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let mut end = None;
        while let Some((word, rest)) = self.line.split_once('\n') {
            let (word, rest) = (word.trim().to_owned(), rest.to_owned());
            self.line = rest;
            end = end.or(self.request(&word));
        }
        if self.line.len() > 4096 {
            self.line.clear();
        }
        end
    }

    fn request(&mut self, word: &str) -> Option<End> {
        if word.is_empty() {
            return None;
        }
        kmsg::warn(&format!("requested: {word}"));
        match InitRequest::parse(word) {
            Some(InitRequest::Reboot) => Some(End::Reboot),
            Some(InitRequest::Kexec { generation }) => Some(End::Kexec(generation)),
            Some(InitRequest::Poweroff) => Some(End::Poweroff),
            Some(InitRequest::Halt) => Some(End::Halt),
            Some(InitRequest::RestartDaemon) => {
                self.replace_daemon(Kill::TERM);
                None
            }
            Some(InitRequest::TryDaemon { generation, seconds }) => {
                let limit = Duration::from_secs(seconds.into());
                if self.daemon.try_next(generation, limit) {
                    self.replace_daemon(Kill::TERM);
                }
                None
            }
            Some(InitRequest::KeepDaemon) => {
                self.daemon.keep();
                None
            }
            Some(InitRequest::DropDaemon) => {
                self.drop_daemon("it was asked for");
                None
            }
            None => {
                kmsg::warn(&format!("{word:?} is not a request that PID 1 knows"));
                None
            }
        }
    }
}

impl Supervisor {
    fn replace_daemon(&mut self, signal: Kill) {
        self.jobs
            .iter_mut()
            .filter(|job| job.kind == Kind::Daemon)
            .for_each(|job| job.replace(signal));
    }

    /// One that was dropped is not asked: it may hang. Its containers do not notice.
    fn drop_daemon(&mut self, reason: &str) {
        if self.daemon.drop_it(reason) {
            self.replace_daemon(Kill::KILL);
        }
    }

    fn drop_overdue(&mut self) {
        if self.daemon.until().is_some_and(|until| until <= Instant::now()) {
            self.drop_daemon("nobody said in time that it is to be kept");
        }
    }
}

fn meaning(signal: Signal) -> Option<End> {
    match signal {
        Signal::SIGINT | Signal::SIGTERM => Some(End::Reboot),
        Signal::SIGUSR1 => Some(End::Halt),
        Signal::SIGUSR2 | Signal::SIGPWR => Some(End::Poweroff),
        _ => None,
    }
}

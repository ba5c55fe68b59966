//! The shim's loop: one `poll` over clients, streams and signals. It sleeps unless one of them has something, or a
//! deadline comes.
//!
//! ```text
//!  created ──start──► running ──init ended──► draining ──streams ended, or 2 s──► closing ──clients served──► exit
//!     └────delete─────────────────────────────────┘       log, clean-up, exit.json
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, wait};

use super::container::Container;
use super::exec::Exec;
use super::log::JsonLog;
use super::peer::{Mode, Peer, Said};
use super::record;
use super::stdio::{Read, Stdio};
use crate::RuntimeError;
use crate::stats::oom_kills;
use crate::wire::{Answer, Command, Exit, Phase, Status, Stream};

/// How long output may come after the end: processes outside the container can hold a stream open.
const DRAIN: Duration = Duration::from_secs(2);
/// How long clients may take to read their last words.
const LINGER: Duration = Duration::from_secs(5);

/// What this shim is for.
pub(super) enum Job {
    Container(Box<Container>),
    Exec(Box<Exec>),
}

/// Everything the loop owns.
pub(super) struct Shim {
    pub(super) dir: PathBuf,
    pub(super) record: Option<PathBuf>,
    pub(super) job: Job,
    pub(super) stdio: Stdio,
    pub(super) log: Option<JsonLog>,
    pub(super) stdin_once: bool,
    listener: UnixListener,
    signals: SignalFd,
    /// The container's init, while an exec waits to be started.
    init: Option<OwnedFd>,
    peers: Vec<Peer>,
    pid: i32,
    stage: Stage,
    started_at: i64,
    buffer: Box<[u8]>,
}

enum Stage {
    Created,
    Running { paused: bool },
    Draining { ended: Ended, until: Instant },
    Closing { exit: Exit, until: Instant },
}

#[derive(Clone, Copy)]
struct Ended {
    code: i32,
    signal: Option<i32>,
    at: i64,
}

#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Init,
    Output(Stream),
    Stdin,
    Peer(usize),
}

impl Shim {
    pub(super) fn new(
        dir: &Path,
        job: Job,
        stdio: Stdio,
        listener: UnixListener,
    ) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        listener.set_nonblocking(true)?;
        let (pid, init) = match &job {
            Job::Container(container) => (container.pid, None),
            Job::Exec(exec) => (0, rustix::process::Pid::from_raw(exec.init.pid)),
        };
        let init = init.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            record: None,
            job,
            stdio,
            log: None,
            stdin_once: false,
            listener,
            signals,
            init,
            peers: Vec::new(),
            pid,
            stage: Stage::Created,
            started_at: 0,
            buffer: vec![0; 32 * 1024].into_boxed_slice(),
        })
    }

    pub(super) fn status(&self) -> Status {
        let phase = match self.stage {
            Stage::Created => Phase::Created,
            Stage::Running { paused: false } => Phase::Running,
            Stage::Running { paused: true } => Phase::Paused,
            Stage::Draining { .. } | Stage::Closing { .. } => Phase::Exited,
        };
        Status { phase, pid: self.pid }
    }

    /// Until everything is over.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // The process may have ended before SIGCHLD was looked at.
        self.reap();
        while !self.is_over() {
            for (source, events) in self.wait_for_something()? {
                self.serve(source, events);
            }
            self.pass_time();
            self.peers.retain(|peer| !peer.gone);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Closing { until, .. } => {
                Instant::now() >= *until || !self.peers.iter().any(Peer::has_outgoing)
            }
            _ => false,
        }
    }

    fn wait_for_something(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::with_capacity(6 + self.peers.len());
        let mut fds = Vec::with_capacity(6 + self.peers.len());
        self.interests(&mut |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        });
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = sources.into_iter().zip(&fds).map(|(source, fd)| (source, fd.revents()));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn interests<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        if let (Stage::Created, Some(init)) = (&self.stage, &self.init) {
            add(Source::Init, init.as_fd(), PollFlags::IN);
        }
        if !self.peers.iter().any(Peer::is_full) {
            for (stream, fd) in
                [(Stream::Stdout, &self.stdio.stdout), (Stream::Stderr, &self.stdio.stderr)]
            {
                if let Some(fd) = fd {
                    add(Source::Output(stream), fd.as_fd(), PollFlags::IN);
                }
            }
        }
        if let Some(stdin) = self.stdio.stdin.as_ref().filter(|_| self.stdio.has_pending_stdin()) {
            add(Source::Stdin, stdin.as_fd(), PollFlags::OUT);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, peer.has_outgoing());
            events.set(
                PollFlags::IN,
                !peer.finished && (!peer.is_attached() || self.stdio.takes_stdin()),
            );
            // Without an interest a hang-up would be told again and again: only of a client that has said everything
            // is it news.
            if !events.is_empty() || peer.finished {
                add(Source::Peer(index), peer.stream.as_fd(), events);
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let stage = match &self.stage {
            Stage::Draining { until, .. } | Stage::Closing { until, .. } => Some(*until),
            _ => None,
        };
        let next = self.peers.iter().filter_map(Peer::deadline).chain(stage).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn serve(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Init => self.end_before_start(),
            Source::Output(stream) => {
                self.forward(stream);
            }
            Source::Stdin => self.stdio.pump(),
            Source::Peer(index) => self.serve_peer(index, events),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            match Peer::new(stream) {
                Ok(peer) => self.peers.push(peer),
                Err(e) => eprintln!("accept: {e}"),
            }
        }
    }

    fn serve_peer(&mut self, index: usize, events: PollFlags) {
        if events.contains(PollFlags::OUT) {
            self.peers[index].send();
        }
        if events.contains(PollFlags::IN) {
            self.peers[index].receive(&mut self.buffer);
            while !self.peers[index].gone
                && let Some(said) = self.peers[index].next()
            {
                self.hear(index, said);
            }
        }
        let peer = &mut self.peers[index];
        match peer.mode {
            Mode::Attached { stdin } if peer.finished => {
                peer.gone |= events.intersects(PollFlags::HUP | PollFlags::ERR);
                peer.mode = Mode::Attached { stdin: false };
                if stdin && self.stdin_once {
                    self.stdio.close_stdin();
                }
            }
            Mode::Attached { .. } => {}
            _ => peer.gone |= peer.finished || events.contains(PollFlags::ERR),
        }
    }

    fn hear(&mut self, index: usize, said: Said) {
        match said {
            Said::Stdin(bytes) => self.stdio.feed(&bytes),
            Said::CloseStdin => self.stdio.close_stdin(),
            Said::Nonsense => self.peers[index].gone = true,
            Said::Command(command) => {
                let answer = self.obey(index, &command);
                if let Some(answer) = answer {
                    self.peers[index].answer(&answer);
                }
                if let (Command::Attach { stdin }, Mode::Commands) =
                    (&command, self.peers[index].mode)
                {
                    self.peers[index].mode = Mode::Attached { stdin: *stdin };
                }
            }
        }
    }

    /// Does what is asked; no answer means later.
    fn obey(&mut self, index: usize, command: &Command) -> Option<Answer> {
        let done = |result: Result<(), RuntimeError>| {
            Some(result.map_or_else(Answer::Failed, |()| Answer::Done))
        };
        match command {
            Command::Start => {
                Some(self.start().map_or_else(Answer::Failed, |()| Answer::Status(self.status())))
            }
            Command::State => Some(Answer::Status(self.status())),
            Command::Kill { signal, all } => done(self.kill(*signal, *all)),
            Command::Resize { rows, cols } => done(self.stdio.resize(*rows, *cols)),
            Command::Pause => done(self.freeze(true)),
            Command::Resume => done(self.freeze(false)),
            Command::Attach { .. } => Some(Answer::Done),
            Command::Wait => self.wait_answer(index),
            Command::Delete => {
                self.end_now();
                self.wait_answer(index)
            }
        }
    }

    fn wait_answer(&mut self, index: usize) -> Option<Answer> {
        if let Stage::Closing { exit, .. } = &self.stage {
            return Some(Answer::Exit(*exit));
        }
        self.peers[index].mode = Mode::Waits;
        None
    }

    fn start(&mut self) -> Result<(), RuntimeError> {
        if !matches!(self.stage, Stage::Created) {
            return Err(RuntimeError::WrongState("started already".into()));
        }
        match &mut self.job {
            Job::Container(container) => container.start()?,
            Job::Exec(exec) => match exec.start() {
                Ok((pid, stdio)) => (self.pid, self.stdio) = (pid, stdio),
                Err(error) => {
                    let ended = Ended { code: error.exit_code(), signal: None, at: now() };
                    self.drain(ended);
                    return Err(error);
                }
            },
        }
        self.started_at = now();
        self.stage = Stage::Running { paused: false };
        self.reap();
        Ok(())
    }

    fn kill(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let gone = || RuntimeError::Gone(self.pid.to_string());
        if self.pid == 0 || matches!(self.stage, Stage::Draining { .. } | Stage::Closing { .. }) {
            return Err(gone());
        }
        if let (Job::Container(container), true) = (&self.job, all) {
            return Ok(record::signal_cgroup(&container.cgroup, signal)?);
        }
        let signal = Signal::try_from(signal)
            .map_err(|e| RuntimeError::Refused(format!("signal {signal}: {e}")))?;
        nix::sys::signal::kill(Pid::from_raw(self.pid), signal).map_err(|_| gone())
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), RuntimeError> {
        let (Job::Container(container), Stage::Running { paused }) = (&self.job, &mut self.stage)
        else {
            return Err(RuntimeError::WrongState("not running".into()));
        };
        if *paused == frozen {
            return Err(RuntimeError::WrongState(
                if frozen { "paused already" } else { "not paused" }.into(),
            ));
        }
        container.freeze(frozen)?;
        *paused = frozen;
        Ok(())
    }

    /// Kills whatever is there; the rest follows from its end.
    fn end_now(&mut self) {
        match (&self.job, &self.stage) {
            (_, Stage::Draining { .. } | Stage::Closing { .. }) => {}
            (Job::Exec(_), Stage::Created) => self.end_before_start(),
            (Job::Container(container), _) => {
                if let Err(e) = record::kill_cgroup(&container.cgroup) {
                    eprintln!("kill the cgroup: {e}");
                }
            }
            (Job::Exec(_), Stage::Running { .. }) => {
                // If it ended meanwhile, that is what was asked for.
                let _ = nix::sys::signal::kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            }
        }
    }

    fn end_before_start(&mut self) {
        self.drain(Ended { code: 137, signal: Some(9), at: now() });
    }

    /// Waits on every child that has ended; orphans of the container are among them, because the shim adopts them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() != self.pid {
                continue;
            }
            let signal = status.terminating_signal();
            let code = status.exit_status().unwrap_or_else(|| 128 + signal.unwrap_or(0));
            if let Job::Container(container) = &self.job
                && let Err(e) = record::kill_cgroup(&container.cgroup)
            {
                eprintln!("kill the cgroup: {e}");
            }
            self.drain(Ended { code, signal, at: now() });
        }
    }

    fn drain(&mut self, ended: Ended) {
        self.stdio.stdin = None;
        self.stage = Stage::Draining { ended, until: Instant::now() + DRAIN };
    }

    /// Passes on one piece of output: to the log first, which no client can hold up for long.
    fn forward(&mut self, stream: Stream) -> bool {
        let length = match self.stdio.read(stream, &mut self.buffer) {
            Read::Some(length) => length,
            Read::Later | Read::End => return false,
        };
        let bytes = &self.buffer[..length];
        if let Some(log) = &mut self.log
            && let Err(e) = log.write(stream, bytes)
        {
            eprintln!("log: {e}");
        }
        for peer in self.peers.iter_mut().filter(|peer| peer.is_attached()) {
            peer.output(stream, bytes);
        }
        true
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        for peer in &mut self.peers {
            peer.gone |= peer.deadline().is_some_and(|deadline| now >= deadline);
        }
        if let Stage::Draining { ended, until } = self.stage
            && (self.stdio.is_drained() || now >= until)
        {
            self.finish(ended);
        }
    }

    /// After the last output: everything is put away, then everyone is told.
    fn finish(&mut self, ended: Ended) {
        if let Some(log) = &mut self.log
            && let Err(e) = log.flush()
        {
            eprintln!("log: {e}");
        }
        let cgroup = match &self.job {
            Job::Container(container) => &container.cgroup,
            Job::Exec(exec) => &exec.cgroup,
        };
        let exit = Exit {
            code: ended.code,
            signal: ended.signal,
            oom_killed: oom_kills(cgroup) > 0,
            started_at: self.started_at,
            finished_at: ended.at,
        };
        if let Job::Container(container) = &self.job {
            container.clean_up();
        }
        for dir in [Some(&self.dir), self.record.as_ref()].into_iter().flatten() {
            if let Err(e) = write_exit(dir, &exit) {
                eprintln!("{e}");
            }
        }
        self.stage = Stage::Closing { exit, until: Instant::now() + LINGER };
        for peer in &mut self.peers {
            match peer.mode {
                Mode::Waits => peer.answer(&Answer::Exit(exit)),
                Mode::Attached { .. } => peer.send(),
                Mode::Commands => {}
            }
        }
    }
}

fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    ros_api::durable::write(&dir.join("exit.json"), &serde_json::to_vec(exit)?, 0o644)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

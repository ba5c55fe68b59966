//! The daemon's side: starts shims, finds them again, talks to them. Keeps no state of its own that matters: everything
//! about a process is asked of its shim or read from its folder, so a new daemon knows as much as the old one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::shim::record::{self, ProcessRecord};
use crate::stats::{self, Stats};
use crate::wire::{
    self, Answer, CLOSE_STDIN, Command, Exit, Frame, MAX_FRAME, Phase, STDIN, Status,
};
use crate::{ExecRequest, RuntimeError, ShimRequest};

/// How long a shim may take to prepare a container, or to clean up a killed one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts shims and finds them again.
#[derive(Clone, Debug)]
pub struct Runtime {
    run_dir: PathBuf,
    exe: PathBuf,
}

/// A container's init, or an exec. Cheap to clone; every call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    dir: PathBuf,
    exe: PathBuf,
    cgroup: PathBuf,
    pid: AtomicI32,
}

impl Runtime {
    /// `run_dir` holds one folder a container (a tmpfs: it must not outlive a boot); `exe shim <dir>` must
    /// come to [`crate::shim::main`]. Filters that shims of an earlier daemon compiled are forgotten: theirs was
    /// perhaps another program.
    #[must_use]
    pub fn new(run_dir: &Path, exe: &Path) -> Self {
        // What is not there, or cannot be removed, is only read again.
        let _ = fs::remove_dir_all(run_dir.join(record::FILTERS));
        Self { run_dir: run_dir.to_owned(), exe: exe.to_owned() }
    }

    /// Makes a container: root, mounts, namespaces, cgroup, and the process waiting to be started.
    ///
    /// # Errors
    /// Nothing of it is left then.
    pub async fn create(&self, request: &ShimRequest) -> Result<Process, RuntimeError> {
        let dir = self.dir(&request.id)?;
        let process = Process::at(&request.id, &dir, &self.exe, record::cgroup(&request.spec));
        process.spawn("request.json", request).await?;
        Ok(process)
    }

    /// Finds a container that an earlier daemon made; none when there is no trace of it.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub async fn reattach(&self, id: &str) -> Result<Option<Process>, RuntimeError> {
        let dir = self.dir(id)?;
        let request: ShimRequest = match fs::read(dir.join("request.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let process = Process::at(id, &dir, &self.exe, record::cgroup(&request.spec));
        process.recall_pid();
        Ok(Some(process))
    }

    /// Ids of every container that has a folder.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn list(&self) -> Result<Vec<String>, RuntimeError> {
        let entries = match fs::read_dir(&self.run_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let ids = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join("request.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok());
        Ok(ids.collect())
    }

    fn dir(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        Ok(self.run_dir.join(checked_id(id)?))
    }
}

impl Process {
    fn at(id: &str, dir: &Path, exe: &Path, cgroup: PathBuf) -> Self {
        let (id, dir, exe) = (id.to_owned(), dir.to_owned(), exe.to_owned());
        Self { inner: Arc::new(Inner { id, dir, exe, cgroup, pid: AtomicI32::new(0) }) }
    }

    /// Container id, or exec id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Process id on the host; 0 for an exec that is not started yet.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.pid.load(Ordering::Relaxed)
    }

    /// Folder of the container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    /// Runs the command; returns its pid.
    ///
    /// # Errors
    /// For an exec this is where a missing command shows; a container's shows in [`Runtime::create`].
    pub async fn start(&self) -> Result<i32, RuntimeError> {
        match self.ask(&Command::Start).await? {
            Answer::Status(status) => {
                self.inner.pid.store(status.pid, Ordering::Relaxed);
                Ok(status.pid)
            }
            answer => Err(unexpected(answer)),
        }
    }

    /// Phase and pid, asked now.
    ///
    /// # Errors
    /// When there is no trace of the process.
    pub async fn status(&self) -> Result<Status, RuntimeError> {
        match self.ask(&Command::State).await {
            Ok(Answer::Status(status)) => Ok(status),
            Ok(answer) => Err(unexpected(answer)),
            Err(error) => self.status_without_shim().ok_or(error),
        }
    }

    /// Sends a signal, to every process of the container when `all`.
    ///
    /// # Errors
    /// `Gone` when it has ended.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        match self.ask(&Command::Kill { signal, all }).await {
            Ok(answer) => done(answer),
            Err(error) => match self.orphan() {
                Some(pidfd) => self.kill_orphan(&pidfd, signal, all),
                None => Err(error),
            },
        }
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause(&self) -> Result<(), RuntimeError> {
        done(self.ask(&Command::Pause).await?)
    }

    /// Thaws them.
    ///
    /// # Errors
    /// When it is not paused.
    pub async fn resume(&self) -> Result<(), RuntimeError> {
        done(self.ask(&Command::Resume).await?)
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// When it has no terminal.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        done(self.ask(&Command::Resize { rows, cols }).await?)
    }

    /// Output from now on, and the way to stdin when `stdin`. Attach before [`Process::start`] to miss nothing.
    /// A client that leaves its buffer full for seconds is dropped; one that is slow is waited for.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn attach(&self, stdin: bool) -> Result<AttachStream, RuntimeError> {
        let mut connection = self.connect().await?;
        done(exchange(&mut connection, &Command::Attach { stdin }).await?)?;
        let (read, write) = connection.into_inner().into_split();
        Ok(AttachStream { reader: AttachReader::new(read), writer: AttachWriter { to: write } })
    }

    /// Waits until it has ended and its root is unmounted. After a shim's death the code is 137.
    ///
    /// # Errors
    /// When there is no trace of the process.
    pub async fn wait(&self) -> Result<Exit, RuntimeError> {
        if let Ok(mut connection) = self.connect().await
            && let Ok(Answer::Exit(exit)) = exchange(&mut connection, &Command::Wait).await
        {
            return Ok(exit);
        }
        if let Some(exit) = self.recorded_exit() {
            return Ok(exit);
        }
        if let Some(pidfd) = self.orphan() {
            tokio::task::spawn_blocking(move || until_ended(&pidfd))
                .await
                .map_err(io::Error::other)??;
        }
        if self.inner.dir.exists() {
            return Ok(self.recorded_exit().unwrap_or_else(|| Exit::unknown(now())));
        }
        Err(RuntimeError::Gone(self.inner.id.clone()))
    }

    /// One more process in this container, prepared: attach, then [`Process::start`] it.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn exec(&self, request: &ExecRequest) -> Result<Process, RuntimeError> {
        let dir = self.inner.dir.join("exec").join(checked_id(&request.id)?);
        let process = Self::at(&request.id, &dir, &self.inner.exe, self.inner.cgroup.clone());
        process.spawn("exec.json", request).await?;
        Ok(process)
    }

    /// An exec that an earlier daemon started in this container; none when there is no trace of it.
    #[must_use]
    pub fn reattach_exec(&self, id: &str) -> Option<Process> {
        let dir = self.inner.dir.join("exec").join(checked_id(id).ok()?);
        let process = Self::at(id, &dir, &self.inner.exe, self.inner.cgroup.clone());
        process.recall_pid();
        dir.join("exec.json").exists().then_some(process)
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub fn stats(&self) -> Result<Stats, RuntimeError> {
        Ok(stats::read(&self.inner.cgroup)?)
    }

    /// Process ids of the container, in the host's numbering.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub fn pids(&self) -> Result<Vec<i32>, RuntimeError> {
        Ok(stats::pids(&self.inner.cgroup)?)
    }

    /// Kills what still runs and removes every trace under the run folder. Deleting twice is no error.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn delete(&self) -> Result<(), RuntimeError> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(&Command::Delete)).await;
        let is_exec = self.inner.dir.join("exec.json").exists();
        if !matches!(asked, Ok(Ok(_))) && !is_exec {
            record::sweep(&self.inner.dir, &self.inner.cgroup)?;
        }
        match fs::remove_dir_all(&self.inner.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Writes the request, starts the shim on it, waits for its report.
    async fn spawn<T: Serialize>(&self, name: &str, request: &T) -> Result<(), RuntimeError> {
        let dir = &self.inner.dir;
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::WrongState(format!("there already: {}", dir.display())));
            }
            made => made?,
        }
        let report = self.launch(name, request).await;
        match report {
            Ok(Answer::Status(status)) => {
                self.inner.pid.store(status.pid, Ordering::Relaxed);
                Ok(())
            }
            failed => {
                let error = failed.map_or_else(|e| e, unexpected);
                fs::remove_dir_all(dir)?;
                Err(error)
            }
        }
    }

    async fn launch<T: Serialize>(&self, name: &str, request: &T) -> Result<Answer, RuntimeError> {
        let dir = &self.inner.dir;
        fs::write(dir.join(name), serde_json::to_vec(request).map_err(io::Error::from)?)?;
        let mut shim = tokio::process::Command::new(&self.inner.exe)
            .arg("shim")
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("shim.log"))?)
            .spawn()
            .map_err(|e| RuntimeError::Shim(format!("start {}: {e}", self.inner.exe.display())))?;
        let mut report = Vec::new();
        let read = match shim.stdout.take() {
            Some(mut pipe) => tokio::time::timeout(PATIENCE, pipe.read_to_end(&mut report)).await,
            None => Ok(Ok(0)),
        };
        if read.is_err() {
            shim.start_kill()?;
        }
        // The shim is a child as long as this daemon lives; whoever adopts it later reaps it then.
        tokio::spawn(async move { shim.wait().await });
        read.map_err(|_| {
            RuntimeError::Shim(format!("no report within {} s", PATIENCE.as_secs()))
        })??;
        serde_json::from_slice(&report).map_err(|_| {
            let said = fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
            RuntimeError::Shim(format!("died early: {}", said.trim()))
        })
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, RuntimeError> {
        let gone = || RuntimeError::Gone(self.inner.id.clone());
        // Through the folder's descriptor, because a socket's address has at most 107 bytes.
        let dir = File::open(&self.inner.dir).map_err(|_| gone())?;
        let address = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
        Ok(BufReader::new(UnixStream::connect(address).await.map_err(|_| gone())?))
    }

    async fn ask(&self, command: &Command) -> Result<Answer, RuntimeError> {
        let mut connection = self.connect().await?;
        match exchange(&mut connection, command).await? {
            Answer::Failed(error) => Err(error),
            answer => Ok(answer),
        }
    }

    fn recall_pid(&self) {
        if let Some(record) = ProcessRecord::read(&self.inner.dir) {
            self.inner.pid.store(record.pid, Ordering::Relaxed);
        }
    }

    fn recorded_exit(&self) -> Option<Exit> {
        serde_json::from_slice(&fs::read(self.inner.dir.join("exit.json")).ok()?).ok()
    }

    fn status_without_shim(&self) -> Option<Status> {
        if self.orphan().is_some() {
            return Some(Status { phase: Phase::Orphaned, pid: self.pid() });
        }
        self.inner.dir.exists().then_some(Status { phase: Phase::Exited, pid: self.pid() })
    }

    /// The process itself, when it lives and no shim answers for it. The start time tells it from another process
    /// that was given the same number.
    fn orphan(&self) -> Option<OwnedFd> {
        let record = ProcessRecord::read(&self.inner.dir)?;
        let pidfd = pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::NONBLOCK).ok()?;
        record.is_alive().then_some(pidfd)
    }

    fn kill_orphan(&self, pidfd: &OwnedFd, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let number = signal;
        if all {
            return Ok(record::signal_cgroup(&self.inner.cgroup, number)?);
        }
        let signal = Signal::from_named_raw(number).ok_or_else(|| {
            RuntimeError::Refused(format!("signal {number} cannot be sent without the shim"))
        })?;
        pidfd_send_signal(pidfd, signal).map_err(|_| RuntimeError::Gone(self.inner.id.clone()))
    }
}

/// A pidfd becomes readable when its process ends.
fn until_ended(pidfd: &OwnedFd) -> io::Result<()> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    while poll(&mut fds, None)? == 0 {}
    Ok(())
}

/// A connection that breaks means that the process ended, and its shim after it.
async fn exchange(
    connection: &mut BufReader<UnixStream>,
    command: &Command,
) -> Result<Answer, RuntimeError> {
    let gone = || RuntimeError::Gone("its shim has ended".into());
    let mut line = serde_json::to_string(command).map_err(io::Error::from)?;
    line.push('\n');
    connection.get_mut().write_all(line.as_bytes()).await.map_err(|_| gone())?;
    line.clear();
    if connection.read_line(&mut line).await.map_err(|_| gone())? == 0 {
        return Err(gone());
    }
    Ok(serde_json::from_str(&line).map_err(io::Error::from)?)
}

fn done(answer: Answer) -> Result<(), RuntimeError> {
    match answer {
        Answer::Done => Ok(()),
        answer => Err(unexpected(answer)),
    }
}

fn unexpected(answer: Answer) -> RuntimeError {
    match answer {
        Answer::Failed(error) => error,
        answer => RuntimeError::Shim(format!("unexpected answer {answer:?}")),
    }
}

/// An id names a folder: one path component of harmless characters.
fn checked_id(id: &str) -> Result<&str, RuntimeError> {
    let ok = !id.is_empty()
        && id.len() <= 128
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if ok { Ok(id) } else { Err(RuntimeError::Refused(format!("{id:?} is not an id"))) }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// An attached client: frames out, stdin in.
#[derive(Debug)]
pub struct AttachStream {
    reader: AttachReader,
    writer: AttachWriter,
}

impl AttachStream {
    /// Both halves, for two tasks.
    #[must_use]
    pub fn split(self) -> (AttachReader, AttachWriter) {
        (self.reader, self.writer)
    }

    /// See [`AttachReader::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        self.reader.next().await
    }

    /// See [`AttachWriter::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write(bytes).await
    }

    /// See [`AttachWriter::close_stdin`].
    ///
    /// # Errors
    /// As there.
    pub async fn close_stdin(&mut self) -> io::Result<()> {
        self.writer.close_stdin().await
    }
}

/// The output half.
#[derive(Debug)]
pub struct AttachReader {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl AttachReader {
    fn new(from: OwnedReadHalf) -> Self {
        Self { from, buffer: Vec::new() }
    }

    /// The next piece of output; none at the end. Safe to cancel, so it may stand in a `select!`.
    ///
    /// # Errors
    /// When the shim died within a frame, or the connection broke.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = wire::take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

/// The stdin half. Dropping both halves detaches.
#[derive(Debug)]
pub struct AttachWriter {
    to: OwnedWriteHalf,
}

impl AttachWriter {
    /// Bytes for stdin; waits while the process does not read.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MAX_FRAME) {
            self.to.write_all(&wire::head(STDIN, part.len())).await?;
            self.to.write_all(part).await?;
        }
        Ok(())
    }

    /// No more stdin: the process reads end-of-file.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn close_stdin(&mut self) -> io::Result<()> {
        self.to.write_all(&wire::head(CLOSE_STDIN, 0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_folder() {
        for good in ["a", "0123abc", "a_b.c-d"] {
            assert!(checked_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", ".hidden", "a b"] {
            assert!(checked_id(bad).is_err(), "{bad}");
        }
    }
}

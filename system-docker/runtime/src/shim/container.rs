//! Makes, starts and cleans up one container by libcontainer, which changes the process that calls it (folder, oom
//! score, dumpable) and forks without executing: only ever called in a shim, which has one thread.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::Container as LibContainer;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{LinuxSeccomp, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use super::executor::{self, Command, Confine};
use super::record::{self, ProcessRecord};
use super::stdio::{self, Console, Stdio};
use super::users::{self, Users};
use super::{mounts, user};
use crate::{RuntimeError, ShimRequest};

/// How long a command may take to begin, before its start is answered all the same.
const BEGIN: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// A container that was made.
pub(super) struct Container {
    inner: LibContainer,
    dir: PathBuf,
    pub(super) cgroup: PathBuf,
    pub(super) pid: i32,
    /// Ours, and the process's until it executes its command.
    begun: Option<(OwnedFd, OwnedFd)>,
}

pub(super) fn create(
    dir: &Path,
    request: &ShimRequest,
) -> Result<(Container, Stdio), RuntimeError> {
    let cgroup = record::cgroup(&request.spec);
    let made = prepare_and_create(dir, request, &cgroup);
    if made.is_err() {
        clean_up(dir, &cgroup);
    }
    made
}

fn prepare_and_create(
    dir: &Path,
    request: &ShimRequest,
    cgroup: &Path,
) -> Result<(Container, Stdio), RuntimeError> {
    let root = dir.join("root");
    let users = request.users.map(Users::new).transpose()?;
    let late = mounts::build(&request.root, &root, &request.mounts, users.as_ref())?;
    let mut spec = request.spec.clone();
    adapt(&mut spec, request, &root, users.as_ref())?;
    let command = Command { confine: confine(&mut spec, dir)?, enter: None };
    spec.save(dir.join("config.json"))
        .map_err(|e| RuntimeError::Refused(format!("write config.json: {e}")))?;
    let begun = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let (inner, stdio) = call_libcontainer(dir, request, &spec, command)?;
    let pid = inner
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| RuntimeError::Refused("no pid".into()))?;
    mounts::attach_late(&late, pid, users.as_ref())?;
    ProcessRecord::of(pid).and_then(|record| record.write(dir))?;
    let (dir, cgroup) = (dir.to_owned(), cgroup.to_owned());
    Ok((Container { inner, dir, cgroup, pid, begun: Some(begun) }, stdio))
}

/// What could not be known before the root was mounted.
fn adapt(
    spec: &mut Spec,
    request: &ShimRequest,
    root: &Path,
    users: Option<&Users>,
) -> Result<(), RuntimeError> {
    if mounts::reach_host(&request.mounts)
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_rootfs_propagation(Some("shared".into()));
    }
    let Some(process) = spec.process_mut() else {
        return Err(RuntimeError::Refused("no process in the spec".into()));
    };
    mounts::make_folder(root, process.cwd(), users)?;
    user::apply(process, &request.user, &request.group_add, root)
}

/// Takes the filter, and what depends on it, out of what libcontainer is told.
fn confine(spec: &mut Spec, dir: &Path) -> Result<Option<Confine>, RuntimeError> {
    let filter = spec.linux_mut().as_mut().and_then(|linux| {
        let filter = linux.seccomp().clone();
        linux.set_seccomp(None::<LinuxSeccomp>);
        filter
    });
    match (filter, spec.process_mut()) {
        (Some(filter), Some(process)) => {
            Confine::take(process, Some(&filter), &record::filters(dir)).map(Some)
        }
        _ => Ok(None),
    }
}

fn call_libcontainer(
    dir: &Path,
    request: &ShimRequest,
    spec: &Spec,
    command: Command,
) -> Result<(LibContainer, Stdio), RuntimeError> {
    let state = dir.join("state");
    fs::create_dir_all(&state)?;
    let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_executor(command)
        .with_root_path(&state)
        .map_err(|e| failed(&e))?;
    if request.tty {
        let console = Console::listen(dir)?;
        let builder = builder.with_console_socket(Some(&console.path));
        let made = builder.as_init(dir).with_systemd(false).build().map_err(|e| failed(&e))?;
        return Ok((made, console.receive()?));
    }
    let owner = spec.process().as_ref().map(|process| users::owner(spec, process.user()));
    let (stdio, ends) = stdio::pipes(request.open_stdin, owner.unwrap_or_default())?;
    let builder = builder.with_stdin(ends.stdin).with_stdout(ends.stdout).with_stderr(ends.stderr);
    let made = builder
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|e| failed(&e))?;
    Ok((made, stdio))
}

/// libcontainer's errors name their cause in their sources only.
pub(super) fn failed(error: &dyn std::error::Error) -> RuntimeError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    executor::from_libcontainer(&text)
}

impl Container {
    /// Answers when the command has begun, or has failed to.
    pub(super) fn start(&mut self) -> Result<(), RuntimeError> {
        self.inner.start().map_err(|e| failed(&e))?;
        if let Some((reader, writer)) = self.begun.take() {
            drop(writer);
            let mut fds = [PollFd::new(&reader, PollFlags::IN)];
            // Executing closes the other end. Waiting longer would be of no use to anybody.
            let _ = poll(&mut fds, Some(&BEGIN));
        }
        Ok(())
    }

    /// Freezes or thaws, and says so in libcontainer's state, which an exec looks at.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.cgroup.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    pub(super) fn clean_up(&self) {
        clean_up(&self.dir, &self.cgroup);
    }
}

/// Removes what is left of a container but its folder: processes, cgroup, root, libcontainer's state. Goes on after an
/// error, and tells it.
fn clean_up(dir: &Path, cgroup: &Path) {
    let tell = |what: &str, done: io::Result<()>| match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => eprintln!("{what}: {e}"),
        _ => {}
    };
    tell("kill the cgroup", record::kill_cgroup(cgroup));
    super::reap_all();
    tell("remove the cgroup", record::remove_cgroup(cgroup));
    mounts::unmount_root(&dir.join("root"));
    tell("remove state", fs::remove_dir_all(dir.join("state")));
}

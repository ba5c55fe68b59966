//! The last steps inside the container, between libcontainer's set-up and the command: finds the command, and undoes
//! what the shim must not pass on. Runs in the container's process, which was forked and not yet executed.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use libcontainer::capabilities::{CapabilityExt, drop_privileges, reset_effective};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_keepcaps;
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Process, Spec, User};
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, fchown, stat};
use rustix::stdio::stdin;
use rustix::termios::isatty;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::RuntimeError;
use crate::seccomp::program;
use crate::spec::{PATH, capability_sets, host_capabilities};

/// What libcontainer leaves to us.
#[derive(Clone, Default)]
pub(super) struct Command {
    /// What libcontainer is not told, to be set last; none: it was told all.
    pub(super) confine: Option<Confine>,
    /// An exec's user namespace, which libcontainer does not enter.
    pub(super) enter: Option<Enter>,
}

/// Filter and capabilities. libcontainer would compile each container's filter anew, reads masked comparisons the wrong way
/// round, and drops an exec's; and loading one needs a capability, so that both are set here.
#[derive(Clone)]
pub(super) struct Confine {
    /// From [`crate::seccomp::program`].
    pub(super) filter: Option<Vec<u8>>,
    pub(super) capabilities: LinuxCapabilities,
    /// Needs no capability to load the filter.
    pub(super) no_new_privileges: bool,
}

impl Confine {
    /// For a container or an exec with this filter; what libcontainer is not to be told any more goes out of `process`.
    pub(super) fn take(
        process: &mut Process,
        filter: Option<&LinuxSeccomp>,
        known: &Path,
    ) -> Result<Self, RuntimeError> {
        let capabilities = process.capabilities().clone();
        process.set_capabilities(None::<LinuxCapabilities>);
        Ok(Self {
            filter: filter.map(|filter| program(filter, known)).transpose()?,
            capabilities: capabilities.unwrap_or_else(|| capability_sets(host_capabilities())),
            no_new_privileges: process.no_new_privileges() == Some(true),
        })
    }

    fn apply(&self) -> Result<(), RuntimeError> {
        // As late as it can be: a filter may refuse what dropping takes.
        if !self.no_new_privileges {
            self.load()?;
        }
        drop_privileges(&self.capabilities, create_syscall().as_ref())
            .map_err(|e| RuntimeError::Refused(format!("drop capabilities: {e}")))?;
        if self.no_new_privileges {
            self.load()?;
        }
        Ok(())
    }

    fn load(&self) -> Result<(), RuntimeError> {
        self.filter
            .as_deref()
            .map_or(Ok(()), ros_sys::seccomp::load)
            .map_err(|e| RuntimeError::Refused(format!("load the seccomp filter: {e}")))
    }

    /// Does `what` with no more capabilities than the command will have, in a process that still has them all.
    fn within<T>(&self, what: impl FnOnce() -> T) -> rustix::io::Result<T> {
        let all = rustix::thread::capabilities(None)?;
        let few = self.capabilities.effective().iter().flatten().map(|one| one.to_cap().bitmask());
        let few = CapabilitySet::from_bits_truncate(few.fold(0, |sum, bit| sum | bit));
        let effective = all.effective & few;
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..all })?;
        let done = what();
        rustix::thread::set_capabilities(None, all)?;
        Ok(done)
    }
}

/// The user namespace of a container, and who the process will be there.
#[derive(Clone)]
pub(super) struct Enter {
    pub(super) namespace: Arc<OwnedFd>,
    /// User and group, as the host knows them.
    pub(super) owner: (u32, u32),
    pub(super) user: User,
}

impl Enter {
    /// Until here the process had the host's ids and every capability; from here on, the container's.
    fn enter(&self) -> Result<(), RuntimeError> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            RuntimeError::Refused(format!("{what}: {error}"))
        };
        // A terminal was made by the host's root. It is the process's to open again.
        if isatty(stdin()) {
            let uid = Some(rustix::fs::Uid::from_raw(self.owner.0));
            fchown(stdin(), uid, None).map_err(|e| failed("give the terminal away", &e))?;
        }
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER)
            .map_err(|e| failed("enter the user namespace", &e))?;
        self.become_user().map_err(|e| failed("set user and groups", &e))?;
        reset_effective(create_syscall().as_ref()).map_err(|e| failed("keep capabilities", &e))
    }

    fn become_user(&self) -> nix::Result<()> {
        let groups = self.user.additional_gids().iter().flatten();
        setgroups(&groups.map(|gid| Gid::from_raw(*gid)).collect::<Vec<_>>())?;
        // What is to be dropped is dropped afterwards.
        set_keepcaps(true)?;
        let (uid, gid) = (Uid::from_raw(self.user.uid()), Gid::from_raw(self.user.gid()));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }
}

impl Executor for Command {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let found = match &self.confine {
            // In the host's user namespace, who the command will be is not known yet.
            Some(confine) if self.enter.is_none() => {
                let found = confine.within(|| find(spec));
                found.unwrap_or_else(|e| Err(RuntimeError::Refused(format!("capabilities: {e}"))))
            }
            _ => find(spec),
        };
        found
            .map(|_| ())
            .map_err(|error| ExecutorValidationError::ArgValidationError(wrapped(&error)))
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let error = match self.run(spec) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // Nobody listens any more but whoever reads the container's output.
        eprintln!("{error}");
        std::process::exit(error.exit_code());
    }
}

impl Command {
    fn run(&self, spec: &Spec) -> Result<Infallible, RuntimeError> {
        let path = find(spec)?;
        let refused = |what: &str, error: String| RuntimeError::Refused(format!("{what}: {error}"));
        ros_sys::signal::default_sigpipe().map_err(|e| refused("reset SIGPIPE", e.to_string()))?;
        SigSet::empty().thread_set_mask().map_err(|e| refused("unblock signals", e.to_string()))?;
        self.enter.as_ref().map_or(Ok(()), Enter::enter)?;
        self.confine.as_ref().map_or(Ok(()), Confine::apply)?;
        let args: Vec<CString> =
            args(spec).iter().filter_map(|arg| CString::new(arg.as_bytes()).ok()).collect();
        let file = CString::new(path.as_str()).map_err(|e| refused("command", e.to_string()))?;
        nix::unistd::execv(&file, &args).map_err(|errno| failed(&path, errno))
    }
}

fn failed(path: &str, errno: Errno) -> RuntimeError {
    match errno {
        // Also what the kernel says when the interpreter of a script is missing.
        Errno::ENOENT | Errno::ENOTDIR => RuntimeError::CommandNotFound(path.to_owned()),
        _ => RuntimeError::NotExecutable(format!("{path}: {errno}")),
    }
}

fn args(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

/// The command's file: as given when it has a slash, else the first in PATH that can be executed.
fn find(spec: &Spec) -> Result<String, RuntimeError> {
    let name = args(spec).first().map(String::as_str).unwrap_or_default();
    if name.contains('/') {
        return executable(name).map(|()| name.to_owned());
    }
    let env =
        spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let path =
        env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(&PATH["PATH=".len()..]);
    let mut error = RuntimeError::CommandNotFound(name.to_owned());
    if name.is_empty() {
        return Err(error);
    }
    for folder in path.split(':') {
        let candidate = format!("{}/{name}", if folder.is_empty() { "." } else { folder });
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e @ RuntimeError::NotExecutable(_)) => error = e,
            Err(_) => {}
        }
    }
    Err(error)
}

fn executable(path: &str) -> Result<(), RuntimeError> {
    let stat = stat(path).map_err(|_| RuntimeError::CommandNotFound(path.to_owned()))?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    let allowed =
        accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok() && stat.st_mode & 0o111 != 0;
    if is_file && allowed { Ok(()) } else { Err(RuntimeError::NotExecutable(path.to_owned())) }
}

/// libcontainer carries errors across its processes as text, so ours travels as JSON within it.
fn wrapped(error: &RuntimeError) -> String {
    serde_json::to_string(error).unwrap_or_default()
}

/// The error in libcontainer's words: ours when it is in there, else by the table.
pub(super) fn from_libcontainer(text: &str) -> RuntimeError {
    if let Some(start) = text.find("{\"kind\":") {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
        if let Some(Ok(error)) = values.next() {
            return error;
        }
    }
    type Make = fn(String) -> RuntimeError;
    let table: [(&str, Make); 3] = [
        ("cwd", RuntimeError::BadWorkdir),
        ("incorrect container status", RuntimeError::WrongState),
        ("failed to prepare rootfs", RuntimeError::BadMount),
    ];
    let lower = text.to_lowercase();
    let found = table.iter().find(|(words, _)| lower.contains(words));
    found.map_or(RuntimeError::Refused as Make, |(_, make)| *make)(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_errors_survive_libcontainer() {
        for error in [
            RuntimeError::CommandNotFound("a \"b\"".into()),
            RuntimeError::NotExecutable("/x".into()),
        ] {
            let text = format!(
                "failed to create container: exec process failed with error {} and so on\0",
                wrapped(&error)
            );
            assert_eq!(from_libcontainer(&text), error);
        }
    }

    #[test]
    fn its_own_errors_go_by_a_table() {
        let table = [
            ("Incorrect container status: Stopped", "container is"),
            ("failed to prepare rootfs", "mount"),
            ("something else {\"kind\":1}", "something else"),
        ];
        for (text, start) in table {
            assert!(from_libcontainer(text).to_string().starts_with(start), "{text}");
        }
    }
}

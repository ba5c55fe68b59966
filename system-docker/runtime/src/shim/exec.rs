//! One more process in a running container, by libcontainer's tenant builder. What an exec is not given by it (see
//! [`Confine`]) is added here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{FlockOperation, flock};

use super::container::failed;
use super::executor::{Command, Confine, Enter};
use super::mounts::is_folder_inside;
use super::record::{self, ProcessRecord};
use super::stdio::{self, Console, Stdio};
use super::{user, users};
use crate::spec::{capability_sets, host_capabilities, overlay_environment};
use crate::{ExecRequest, RuntimeError, ShimRequest};

/// An exec that can be started.
pub(super) struct Exec {
    dir: PathBuf,
    container_dir: PathBuf,
    container_id: String,
    request: ExecRequest,
    /// As the daemon asked for it: with the filter and the capabilities.
    asked: Spec,
    /// As libcontainer was told: with user, environment and working directory as they are.
    spec: Spec,
    pub(super) cgroup: PathBuf,
    pub(super) init: ProcessRecord,
}

/// Reads what is asked and what container it is asked of.
pub(super) fn prepare(dir: &Path, request: ExecRequest) -> Result<Exec, RuntimeError> {
    let container_dir = dir.ancestors().nth(2).unwrap_or(dir).to_owned();
    let text = fs::read(container_dir.join("request.json"))?;
    let container: ShimRequest = serde_json::from_slice(&text).map_err(io::Error::from)?;
    let spec = Spec::load(container_dir.join("config.json")).map_err(|e| failed(&e))?;
    let init = ProcessRecord::read(&container_dir).filter(|init| init.is_alive());
    let init = init.ok_or_else(|| RuntimeError::WrongState("not running".into()))?;
    let cgroup = record::cgroup(&spec);
    Ok(Exec {
        dir: dir.to_owned(),
        container_dir,
        container_id: container.id,
        request,
        asked: container.spec,
        spec,
        cgroup,
        init,
    })
}

impl Exec {
    /// Runs it; returns its pid and streams.
    pub(super) fn start(&self) -> Result<(i32, Stdio), RuntimeError> {
        let root = PathBuf::from(format!("/proc/{}/root", self.init.pid));
        let (process, mut command) = self.process(&root)?;
        let owner = users::owner(&self.spec, process.user());
        command.enter = self.user_namespace(&process, owner)?;
        let file = self.dir.join("oci-process.json");
        fs::write(&file, serde_json::to_vec(&process).map_err(io::Error::from)?)?;
        // One at a time, because libcontainer leaves sockets behind that cannot be told from those of another exec.
        let lock = File::create(self.container_dir.join("exec.lock"))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from)?;
        let started = self.call_libcontainer(&file, command, owner);
        self.remove_tenant_sockets()?;
        let (pid, stdio) = started?;
        // One that has ended already needs no record.
        if let Ok(record) = ProcessRecord::of(pid) {
            record.write(&self.dir)?;
        }
        Ok((pid, stdio))
    }

    fn process(&self, root: &Path) -> Result<(Process, Command), RuntimeError> {
        let mut process = self.spec.process().clone().unwrap_or_default();
        let environment =
            overlay_environment(process.env().as_deref().unwrap_or_default(), &self.request.env);
        process.set_env(Some(environment)).set_args(Some(self.request.args.clone()));
        process.set_terminal(Some(self.request.tty));
        if !self.request.cwd.is_empty() {
            process.set_cwd(self.request.cwd.clone().into());
        }
        if !is_folder_inside(root, process.cwd()) {
            return Err(RuntimeError::BadWorkdir(format!(
                "{}: no such directory",
                process.cwd().display()
            )));
        }
        if !self.request.user.is_empty() {
            user::apply(&mut process, &self.request.user, &[], root)?;
        }
        let confine = Some(self.confinement(&mut process)?);
        Ok((process, Command { confine, enter: None }))
    }

    /// What is to be set last, taken out of `process`.
    fn confinement(&self, process: &mut Process) -> Result<Confine, RuntimeError> {
        let of_container = self.asked.process().as_ref();
        let mut capabilities = of_container.and_then(|process| process.capabilities().clone());
        let filter = self.asked.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        if self.request.privileged {
            process.set_no_new_privileges(None);
            capabilities = Some(capability_sets(host_capabilities()));
        }
        process.set_capabilities(capabilities);
        let filter = filter.filter(|_| !self.request.privileged);
        Confine::take(process, filter, &record::filters(&self.container_dir))
    }

    /// The container's user namespace, when it has one of its own.
    fn user_namespace(
        &self,
        process: &Process,
        owner: (u32, u32),
    ) -> Result<Option<Enter>, RuntimeError> {
        let linux = self.spec.linux().as_ref();
        if linux.is_none_or(|linux| linux.uid_mappings().is_none()) {
            return Ok(None);
        }
        let namespace = File::open(format!("/proc/{}/ns/user", self.init.pid))?;
        let (namespace, user) = (Arc::new(namespace.into()), process.user().clone());
        Ok(Some(Enter { namespace, owner, user }))
    }

    fn call_libcontainer(
        &self,
        process: &Path,
        command: Command,
        owner: (u32, u32),
    ) -> Result<(i32, Stdio), RuntimeError> {
        let builder = ContainerBuilder::new(self.container_id.clone(), SyscallType::default())
            .with_executor(command)
            .with_root_path(self.container_dir.join("state"))
            .map_err(|e| failed(&e))?;
        if self.request.tty {
            let console = Console::listen(&self.dir)?;
            let tenant = builder.with_console_socket(Some(&console.path)).as_tenant();
            let pid = tenant
                .with_process(Some(process))
                .with_detach(true)
                .build()
                .map_err(|e| failed(&e))?;
            return Ok((pid.as_raw(), console.receive()?));
        }
        let (stdio, ends) = stdio::pipes(self.request.open_stdin, owner)?;
        let builder =
            builder.with_stdin(ends.stdin).with_stdout(ends.stdout).with_stderr(ends.stderr);
        let tenant = builder.as_tenant().with_process(Some(process)).with_detach(true);
        Ok((tenant.build().map_err(|e| failed(&e))?.as_raw(), stdio))
    }

    fn remove_tenant_sockets(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.container_dir.join("state").join(&self.container_id))?
            .filter_map(Result::ok)
        {
            if entry.file_name().to_string_lossy().starts_with("tenant-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

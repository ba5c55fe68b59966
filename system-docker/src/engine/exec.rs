//! Exec: one more process in a running container. Prepared at create, run at start, forgotten with its container.

use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::ExecConfig;
use ros_runtime::{AttachStream, ExecRequest, Process, RuntimeError};
use serde_json::{Value, json};

use super::container::Container;
use super::error::{ApiError, Result};
use super::{Engine, new_id};

/// Ended execs that are remembered, so that their exit code can be asked for.
const REMEMBERED: usize = 512;

/// One exec.
#[derive(Debug)]
pub struct Exec {
    /// 64 hex digits.
    pub id: String,
    /// Where it runs.
    pub container: Arc<Container>,
    config: ExecConfig,
    /// A lock because start and inspect come from different requests; never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    pid: i32,
    exit_code: Option<i32>,
    started: bool,
}

impl Exec {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a terminal.
    pub fn tty(&self) -> bool {
        self.config.tty.unwrap_or(false)
    }

    /// The bytes that detach from it.
    pub fn detach_keys(&self) -> Result<Vec<u8>> {
        super::attach::detach_keys(self.config.detach_keys.as_deref().unwrap_or_default())
    }

    /// What its creator wanted attached: stdin, stdout, stderr.
    pub fn attached(&self) -> (bool, bool, bool) {
        let config = &self.config;
        let wants = |flag: Option<bool>| flag.unwrap_or(false);
        (wants(config.attach_stdin), wants(config.attach_stdout), wants(config.attach_stderr))
    }

    /// As Docker shows it.
    pub fn inspect(&self) -> Value {
        let state = self.state();
        let words = self.config.cmd.clone().unwrap_or_default();
        json!({
            "ID": self.id, "ContainerID": self.container.id, "CanRemove": false,
            "DetachKeys": self.config.detach_keys.clone().unwrap_or_default(),
            "Running": state.process.is_some() && state.exit_code.is_none() && state.started,
            "ExitCode": state.exit_code, "Pid": state.pid,
            "OpenStdin": self.attached().0, "OpenStdout": self.attached().1, "OpenStderr": self.attached().2,
            "ProcessConfig": {
                "tty": self.tty(), "entrypoint": words.first().cloned().unwrap_or_default(),
                "arguments": words.get(1..).unwrap_or_default(), "privileged": self.config.privileged.unwrap_or(false),
                "user": self.config.user.clone().unwrap_or_default(),
            },
        })
    }

    /// Sets its terminal's size.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        let process = self.state().process.clone();
        let process = process
            .ok_or_else(|| ApiError::conflict(format!("exec {} is not running", self.id)))?;
        Ok(process.resize(rows, cols).await?)
    }
}

impl Engine {
    /// Notes an exec; nothing runs yet.
    pub fn create_exec(&self, container: &Arc<Container>, config: ExecConfig) -> Result<String> {
        container.running()?;
        if matches!(container.record().state, super::State::Running { paused: true, .. }) {
            return Err(ApiError::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(ApiError::bad("No exec command specified"));
        }
        super::attach::detach_keys(config.detach_keys.as_deref().unwrap_or_default())?;
        let id = new_id()?;
        let words = config.cmd.clone().unwrap_or_default().join(" ");
        let exec = Exec {
            id: id.clone(),
            container: Arc::clone(container),
            config,
            state: Mutex::default(),
        };
        let mut all = self.execs();
        if all.len() >= REMEMBERED {
            all.retain(|_, exec| exec.state().exit_code.is_none());
        }
        all.insert(id.clone(), Arc::new(exec));
        drop(all);
        self.events().container(
            container,
            &format!("exec_create: {words}"),
            &[("execID", id.clone())],
        );
        Ok(id)
    }

    /// An exec by id.
    pub fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.execs()
            .get(id)
            .cloned()
            .ok_or_else(|| ApiError::missing(format!("No such exec instance: {id}")))
    }

    /// Runs it; its streams when `attached`.
    pub async fn start_exec(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        attached: bool,
    ) -> Result<Option<AttachStream>> {
        let container = exec.container.running()?;
        if std::mem::replace(&mut exec.state().started, true) {
            return Err(ApiError::conflict(format!("exec {} has already run", exec.id)));
        }
        let started = self.run_exec(exec, &container, attached).await;
        if started.is_err() {
            // Docker tells no reasons apart here.
            exec.state().exit_code = Some(126);
        }
        started.map_err(|error| {
            // A process that has ended has no namespaces any more.
            if std::fs::read_link(format!("/proc/{}/ns/mnt", container.pid())).is_err() {
                let id = &exec.container.id;
                return ApiError::conflict(format!("container {id} is not running"));
            }
            let mut refusal = ApiError::from(error);
            refusal.message = format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {}",
                refusal.message
            );
            refusal
        })
    }

    async fn run_exec(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        container: &Process,
        attached: bool,
    ) -> std::result::Result<Option<AttachStream>, RuntimeError> {
        let config = &exec.config;
        let request = ExecRequest {
            id: exec.id.clone(),
            args: config.cmd.clone().unwrap_or_default(),
            env: config.env.clone().unwrap_or_default(),
            cwd: config.working_dir.clone().unwrap_or_default(),
            user: config.user.clone().unwrap_or_default(),
            privileged: config.privileged.unwrap_or(false),
            tty: exec.tty(),
            open_stdin: config.attach_stdin.unwrap_or(false),
        };
        let process = container.exec(&request).await?;
        exec.state().process = Some(process.clone());
        let stream = if attached { Some(process.attach(request.open_stdin).await?) } else { None };
        match process.start().await {
            Ok(pid) => exec.state().pid = pid,
            Err(error) => {
                process.delete().await?;
                return Err(error);
            }
        }
        self.events().container(&exec.container, "exec_start", &[("execID", exec.id.clone())]);
        tokio::spawn(Arc::clone(self).watch_exec(Arc::clone(exec), process));
        Ok(stream)
    }

    async fn watch_exec(self: Arc<Self>, exec: Arc<Exec>, process: Process) {
        let code = process.wait().await.map_or(137, |exit| exit.code);
        exec.state().exit_code = Some(code);
        let attributes = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
        self.events().container(&exec.container, "exec_die", &attributes);
        if let Err(error) = process.delete().await {
            tracing::debug!("exec {}: {error}", exec.id);
        }
    }

    /// Ids of the execs that run in a container.
    pub(super) fn exec_ids(&self, container: &Container) -> Vec<String> {
        let live = |exec: &&Arc<Exec>| {
            exec.container.id == container.id && exec.state().exit_code.is_none()
        };
        self.execs().values().filter(live).map(|exec| exec.id.clone()).collect()
    }
}

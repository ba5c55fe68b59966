//! One container: its record on disk and what is known of it now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bollard_stubs::models::{ContainerConfig, HostConfig, RestartPolicyNameEnum};
use ros_api::{Digest, durable, labels};
use ros_runtime::{AttachStream, Exit, IdRange, Process};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::error::{ApiError, Result};
use super::health::Health;
use super::mounts::MountPoint;
use super::networks::Attachment;

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum State {
    /// Never started.
    Created,
    /// Runs.
    Running {
        /// On the host.
        pid: i32,
        /// Nanoseconds since the epoch.
        started_at: i64,
        /// Frozen.
        paused: bool,
    },
    /// Ended, and will be started again.
    Restarting {
        /// How it ended.
        exit: Exit,
    },
    /// Ended.
    Exited {
        /// How.
        exit: Exit,
        /// Why it could not be started, if it could not.
        error: String,
    },
}

impl State {
    /// Docker's word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { paused: true, .. } => "paused",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Exited { .. } => "exited",
        }
    }

    /// Whether its process lives.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// How it ended last.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Restarting { exit } | Self::Exited { exit, .. } => Some(*exit),
            _ => None,
        }
    }
}

/// `container.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Without `/`.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// Image id.
    pub image: Digest,
    /// The name that was asked for.
    pub image_name: String,
    /// Command, environment, labels…, the image's merged in.
    pub config: ContainerConfig,
    /// Limits, namespaces, mounts as asked for.
    pub host_config: HostConfig,
    /// Mounts resolved.
    pub mounts: Vec<MountPoint>,
    /// Networks it is in.
    #[serde(default)]
    pub network: Attachment,
    /// Its ids outside of its own user namespace, when it has one.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Life.
    pub state: State,
    /// How often its policy started it again.
    pub restart_count: u32,
    /// Stopped by somebody: its policy rests until somebody starts it.
    pub stopped: bool,
    /// Boot in which it was last started.
    #[serde(default)]
    pub boot_id: String,
}

impl Record {
    /// A label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether it is a service of the OS, which `ros` starts and no policy at boot.
    pub fn is_service(&self) -> bool {
        self.label(labels::SERVICE_NAME).is_some()
    }

    /// Whether it goes away when it ends.
    pub fn auto_remove(&self) -> bool {
        self.host_config.auto_remove.unwrap_or(false)
    }

    /// Whether it has a terminal.
    pub fn tty(&self) -> bool {
        self.config.tty.unwrap_or(false)
    }

    /// Its restart policy and the most restarts it allows (0: any number).
    pub fn restart_policy(&self) -> (RestartPolicyNameEnum, i64) {
        let policy = self.host_config.restart_policy.clone().unwrap_or_default();
        (
            policy.name.unwrap_or(RestartPolicyNameEnum::EMPTY),
            policy.maximum_retry_count.unwrap_or(0),
        )
    }
}

/// Somebody who attached before there was a process.
pub struct Waiting {
    /// Wants to write stdin.
    pub stdin: bool,
    /// Where the stream goes.
    pub to: oneshot::Sender<AttachStream>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    dir: PathBuf,
    record: Mutex<Arc<Record>>,
    process: Mutex<Option<Process>>,
    health: Mutex<Option<Health>>,
    waiting: Mutex<Vec<Waiting>>,
    /// One verb at a time.
    pub verbs: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
    exits: watch::Sender<(u64, Option<Exit>)>,
    removed: watch::Sender<bool>,
}

impl Container {
    /// A container whose record is (or will be) in `dir`.
    pub fn new(dir: PathBuf, record: Record) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            record: Mutex::new(Arc::new(record)),
            process: Mutex::default(),
            health: Mutex::default(),
            waiting: Mutex::default(),
            verbs: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
            exits: watch::Sender::new((0, None)),
            removed: watch::Sender::new(false),
        }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.id))
    }

    /// The record as it is now: a snapshot and no guard, so that two in one expression do not wait for each other.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&lock(&self.record))
    }

    /// Its process, while it has one.
    pub fn process(&self) -> Option<Process> {
        lock(&self.process).clone()
    }

    /// Sets or forgets its process.
    pub fn set_process(&self, process: Option<Process>) {
        *lock(&self.process) = process;
    }

    /// Its process, or the refusal that it does not run.
    pub fn running(&self) -> Result<Process> {
        let running = self.record().state.is_running();
        let process = self.process().filter(|_| running);
        process.ok_or_else(|| ApiError::conflict(format!("container {} is not running", self.id)))
    }

    /// Health; `None` without a health check.
    pub fn health(&self) -> MutexGuard<'_, Option<Health>> {
        lock(&self.health)
    }

    /// Those who wait for a process to attach to.
    pub fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        lock(&self.waiting)
    }

    /// Changes the record, writes it, and tells who waits for a change.
    pub fn change<T>(&self, edit: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = lock(&self.record);
        let answer = edit(Arc::make_mut(&mut record));
        let text = serde_json::to_vec(&**record).map_err(|e| ApiError::internal(e.to_string()))?;
        drop(record);
        let written = durable::write(&self.dir.join("container.json"), &text, 0o600);
        self.changed.send_modify(|count| *count += 1);
        written?;
        Ok(answer)
    }

    /// Ends whenever the record changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes who waits, without a change of the record (health).
    pub fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// How often its process ended since this daemon began, and how the last time.
    pub fn exits(&self) -> watch::Receiver<(u64, Option<Exit>)> {
        self.exits.subscribe()
    }

    /// Tells that its process ended.
    pub fn tell_exit(&self, exit: Exit) {
        self.exits.send_modify(|(count, last)| {
            *count += 1;
            *last = Some(exit);
        });
    }

    /// Becomes true when the container is gone.
    pub fn removal(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    /// Tells that the container is gone.
    pub fn tell_removed(&self) {
        self.removed.send_replace(true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every container with a readable record. One without is a leftover of a create or remove that was cut short.
pub fn read_all(dir: &Path) -> anyhow::Result<BTreeMap<String, Arc<Container>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?.flatten() {
        let text = fs::read(entry.path().join("container.json"));
        let record = text
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
        match record {
            Ok(record) => {
                all.insert(record.id.clone(), Arc::new(Container::new(entry.path(), record)));
            }
            Err(_) if !entry.path().join("container.json").exists() => {
                let _ = fs::remove_dir_all(entry.path());
            }
            Err(error) => tracing::warn!("{} is left alone: {error}", entry.path().display()),
        }
    }
    Ok(all)
}

#[cfg(test)]
impl Record {
    /// A created container of an image without content.
    pub fn example() -> Self {
        Self {
            id: "0".repeat(64),
            name: "example".into(),
            created: 1,
            image: Digest::of(b"image"),
            image_name: "busybox".into(),
            config: ContainerConfig::default(),
            host_config: HostConfig::default(),
            mounts: Vec::new(),
            network: Attachment::default(),
            users: None,
            state: State::Created,
            restart_count: 0,
            stopped: false,
            boot_id: String::new(),
        }
    }
}

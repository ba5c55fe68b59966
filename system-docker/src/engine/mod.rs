//! The engine: containers, execs, volumes, networks and images, one verb a file. Knows nothing of HTTP.
//!
//! ```text
//!            create            start                      exit, policy says no
//!   (none) ─────────► Created ───────► Running ◄───────► Paused
//!                        ▲   start        │ exit
//!                        └── Exited ◄─────┤◄── stop, kill
//!                              ▲          ▼ exit, policy says again
//!                              └──── Restarting ──► Running
//! ```
//!
//! A container's record is changed in memory under its lock, never across an await, and written durably before
//! the verb answers. `Container::verbs` lets one verb at a time work on a container.

pub mod archive;
pub mod attach;
pub mod commit;
pub mod container;
pub mod create;
pub mod error;
pub mod events;
pub mod exec;
pub mod exit;
pub mod filters;
pub mod health;
pub mod images;
pub mod info;
pub mod inspect;
pub mod instructions;
pub mod kill;
pub mod limits;
pub mod list;
pub mod logs;
pub mod mounts;
pub mod networks;
pub mod recover;
pub mod remove;
pub mod request;
pub mod signal;
pub mod start;
pub mod stats;
pub mod stop;
pub mod time;
pub mod top;
pub mod update;
pub mod users;
pub mod volumes;
pub mod wait;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use ros_image::Store;
use ros_runtime::Runtime;

pub use container::{Container, Record, State};
pub use error::{ApiError, Result};

/// Parent of the containers' cgroups: [`ros_runtime::SpecInput::cgroup_parent`]'s default.
const CGROUP: &str = "/sys/fs/cgroup/system-docker";

/// What its daemon was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether device programs are loaded.
    pub device_rules: bool,
    /// Mode of a container that names none: `host` or `bridge`.
    pub default_network: String,
    /// Whether a container that says nothing has a user namespace.
    pub remap: users::Remap,
}

/// The engine. One a process.
#[derive(Debug)]
pub struct Engine {
    root: PathBuf,
    store: Store,
    runtime: Runtime,
    limits: limits::Limits,
    /// By id. A lock because handlers run concurrently; never held across an await.
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// By exec id; the same.
    execs: Mutex<HashMap<String, Arc<exec::Exec>>>,
    networks: networks::Networks,
    /// Mode of a container that names none: `host` or `bridge`.
    default_network: String,
    /// Whether a container that says nothing has a user namespace.
    remap: users::Remap,
    /// Volumes with options, and the containers that start or run with each. Held while one is mounted or unmounted.
    mounting: tokio::sync::Mutex<volumes::Users>,
    events: events::Bus,
    boot_id: String,
}

impl Engine {
    /// Opens the store and the containers' records under `root`.
    pub fn open(
        root: &Path,
        run: &Path,
        exe: &Path,
        options: &Options,
    ) -> anyhow::Result<Arc<Self>> {
        for dir in ["containers", "volumes"] {
            fs::create_dir_all(root.join(dir))
                .with_context(|| format!("create {}", root.join(dir).display()))?;
        }
        fs::create_dir_all(run).with_context(|| format!("create {}", run.display()))?;
        // Every container's cgroup is made below it, by shims that would trip over each other making it.
        if let Err(error) = fs::create_dir_all(CGROUP) {
            tracing::warn!("create {CGROUP}: {error}");
        }
        let containers = container::read_all(&root.join("containers"))?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            store: Store::open(root)?,
            runtime: Runtime::new(run, exe),
            limits: limits::Limits::of_host(options.device_rules),
            containers: Mutex::new(containers),
            execs: Mutex::default(),
            mounting: tokio::sync::Mutex::default(),
            networks: networks::Networks::open(root)?,
            default_network: options.default_network.clone(),
            remap: options.remap,
            events: events::Bus::default(),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }))
    }

    /// The container of a name, an id, or an unambiguous prefix of one.
    pub fn container(&self, name: &str) -> Result<Arc<Container>> {
        let all = self.containers();
        if let Some(container) = all.get(name) {
            return Ok(Arc::clone(container));
        }
        let plain = name.trim_start_matches('/');
        if let Some(container) = all.values().find(|container| container.record().name == plain) {
            return Ok(Arc::clone(container));
        }
        let mut found =
            all.values().filter(|container| !name.is_empty() && container.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => {
                Err(ApiError::bad(format!("multiple IDs found with provided prefix: {name}")))
            }
            _ => Err(ApiError::missing(format!("No such container: {name}"))),
        }
    }

    pub(super) fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<exec::Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens, from now on.
    pub fn events(&self) -> &events::Bus {
        &self.events
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }
}

/// 64 random hex digits.
pub(super) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let count = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| ApiError::internal(format!("random numbers: {e}")))?;
    debug_assert_eq!(count, bytes.len());
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

//! `version`, `info`, `system df`.

use rustix::system::uname;
use serde_json::{Value, json};

use super::Engine;
use super::container::State;
use super::error::Result;
use super::time::{now, rfc3339};

/// The API version that is spoken, and the oldest that is understood.
pub const API_VERSION: &str = "1.47";
/// Docker's CLI asks for nothing older.
pub const MIN_API_VERSION: &str = "1.24";

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

fn kernel() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// `version`.
pub fn version() -> Value {
    json!({
        "Platform": { "Name": "ros system-docker" }, "Version": VERSION, "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION, "GitCommit": "", "GoVersion": "", "Os": "linux", "Arch": "amd64",
        "KernelVersion": kernel(), "BuildTime": "",
        "Components": [{ "Name": "Engine", "Version": VERSION, "Details": {
            "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION, "Os": "linux", "Arch": "amd64",
            "KernelVersion": kernel(), "GitCommit": "", "GoVersion": "", "BuildTime": "", "Experimental": "false",
        } }],
    })
}

impl Engine {
    /// `info`.
    pub fn info(&self) -> Result<Value> {
        let images = self.store.images()?.len();
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.containers().values() {
            match container.record().state {
                State::Running { paused: true, .. } => paused += 1,
                State::Running { .. } => running += 1,
                _ => stopped += 1,
            }
        }
        let limited = |controller| self.limits.has(controller);
        let host = uname().nodename().to_string_lossy().into_owned();
        let mut info = json!({
            "ID": self.boot_id, "Name": host, "ServerVersion": VERSION, "Containers": running + paused + stopped,
            "ContainersRunning": running, "ContainersPaused": paused, "ContainersStopped": stopped, "Images": images,
            "Driver": "overlay2", "DriverStatus": [["Layers", "hard-linked trees over a pool of objects"]],
            "DockerRootDir": self.root, "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "2",
            "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file"] },
        });
        merge(
            &mut info,
            json!({
                "KernelVersion": kernel(), "OperatingSystem": "ros", "OSVersion": "", "OSType": "linux",
                "Architecture": "x86_64", "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
                "MemTotal": memory(), "SystemTime": rfc3339(now()), "LiveRestoreEnabled": true,
                "DefaultRuntime": "runc", "Runtimes": { "runc": { "path": "system-docker shim" } },
            }),
        );
        merge(
            &mut info,
            json!({
                "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
                "MemoryLimit": limited("memory"), "SwapLimit": limited("memory"), "PidsLimit": limited("pids"),
                "CPUShares": limited("cpu"), "CPUSet": limited("cpuset"),
                "CpuCfsPeriod": limited("cpu"), "CpuCfsQuota": limited("cpu"), "IPv4Forwarding": true, "OomKillDisable": false,
                "Swarm": { "LocalNodeState": "inactive" }, "IndexServerAddress": "", "RegistryConfig": null,
                "Labels": [], "ExperimentalBuild": false, "Debug": false, "NFd": 0, "NGoroutines": 0, "Warnings": [],
                "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "InitBinary": "", "GenericResources": null,
            }),
        );
        Ok(info)
    }

    /// `system df`.
    pub fn disk_usage(&self) -> Result<Value> {
        let none = super::list::Filters::default();
        let images = self.images(&none)?;
        let size: u64 = images.iter().filter_map(|image| image["Size"].as_u64()).sum();
        Ok(json!({
            "LayersSize": size, "Images": images, "Containers": self.list(true, 0, &none)?, "Volumes": self.volumes_with_usage()?,
            "BuildCache": [],
        }))
    }
}

/// Bytes of RAM.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// Adds the keys of `more` (an object) to `to`.
fn merge(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}

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
                "InitBinary": "", "GenericResources": null,
            }),
        );
        merge(&mut info, proxies());
        Ok(info)
    }

    /// `system df`.
    pub fn disk_usage(&self) -> Result<Value> {
        let none = super::filters::Filters::default();
        let images = self.images(&none, true)?;
        let mut containers = self.list(true, 0, &none)?;
        self.put_sizes(&mut containers);
        Ok(json!({
            "LayersSize": self.layers_size()?, "Images": images, "Containers": containers, "Volumes": self.volumes_with_usage()?,
            "BuildCache": [],
        }))
    }
}

/// The proxies that pulls go through, their passwords left out.
fn proxies() -> Value {
    let proxies = super::images::configured().unwrap_or_default().proxies.effective();
    let shown = |url: Option<String>| without_password(&url.unwrap_or_default());
    json!({
        "HttpProxy": shown(proxies.http_proxy), "HttpsProxy": shown(proxies.https_proxy),
        "NoProxy": proxies.no_proxy.unwrap_or_default(),
    })
}

/// `http://user:secret@host` as Docker shows it.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        for (url, shown) in [
            ("", ""),
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://u:secret@proxy:3128", "http://xxxxx:xxxxx@proxy:3128"),
            ("u:s@cret@proxy", "http://xxxxx:xxxxx@proxy"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}

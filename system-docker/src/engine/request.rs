//! From a container's record to what the runtime is asked: a pure translation, but for what devices and processes say.

use std::path::{Path, PathBuf};

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum};
use ros_api::paths;
use ros_runtime::{
    Device, DeviceRule, Log, Namespace, Namespaces, Root, Seccomp, ShimRequest, SpecInput, device,
    devices_under, host_capabilities, spec,
};

use rustix::system::uname;

use super::Engine;
use super::container::{Container, Record};
use super::error::{ApiError, Result};
use super::limits;
use super::mounts::{Kind, MountPoint};
use super::networks::asked::Mode;

/// A log grows to 10 MiB, and three files of it are kept, unless asked otherwise.
const LOG_SIZE: u64 = 10 << 20;
const LOG_FILES: u32 = 3;
/// Docker's place for the init of a container that asks for one.
const INIT: &str = "/sbin/docker-init";
/// Docker's sizes of `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;

impl Engine {
    /// What the shim is told to run.
    pub(super) fn shim_request(
        &self,
        container: &Container,
        record: &Record,
        lower: Vec<PathBuf>,
    ) -> Result<ShimRequest> {
        let dir = container.dir();
        let mut mounts: Vec<MountPoint> = record.mounts.clone();
        mounts.extend(self.own_files(container, record)?);
        if record.host_config.init == Some(true) {
            mounts.push(init_mount()?);
        }
        mounts.extend(command_line(record));
        mounts.sort_by_key(|mount| mount.target.components().count());
        mounts.iter().try_for_each(MountPoint::prepare)?;
        Ok(ShimRequest {
            id: record.id.clone(),
            root: Root { lower, upper: dir.join("upper"), work: dir.join("work") },
            mounts: mounts.iter().map(|mount| mount.to_mount(dir)).collect(),
            spec: spec(&self.spec_input(record)?),
            users: record.users,
            user: record.config.user.clone().unwrap_or_default(),
            group_add: record.host_config.group_add.clone().unwrap_or_default(),
            tty: record.tty(),
            open_stdin: record.config.open_stdin.unwrap_or(false),
            stdin_once: record.config.stdin_once.unwrap_or(false),
            log: log(container, &record.host_config)?,
            record: Some(dir.to_owned()),
        })
    }

    /// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` of the container, made anew at each start. A service of the
    /// OS has none: its image says itself where they are.
    fn own_files(&self, container: &Container, record: &Record) -> Result<Vec<MountPoint>> {
        if record.is_service() {
            return Ok(Vec::new());
        }
        let dir = self.network_files(container, record)?;
        let mut mounts = Vec::new();
        for file in super::networks::files::FILES {
            let target = Path::new("/etc").join(file);
            let source = dir.join(file);
            if !record.mounts.iter().any(|mount| target.starts_with(&mount.target)) {
                let mode = String::new();
                mounts.push(MountPoint {
                    kind: Kind::Bind,
                    name: String::new(),
                    source,
                    target,
                    mode,
                    read_only: false,
                    propagation: ros_runtime::Propagation::Rprivate,
                    recursive: false,
                    create: false,
                });
            }
        }
        Ok(mounts)
    }

    fn spec_input(&self, record: &Record) -> Result<SpecInput> {
        let host = &record.host_config;
        let config = &record.config;
        let mut args = config.entrypoint.clone().unwrap_or_default();
        args.extend(config.cmd.clone().unwrap_or_default());
        if args.is_empty() {
            return Err(ApiError::bad("no command specified"));
        }
        if host.init == Some(true) {
            args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
        }
        let privileged = host.privileged.unwrap_or(false);
        let namespaces = self.namespaces(host)?;
        let mut env = config.env.clone().unwrap_or_default();
        env.retain(|entry| entry.contains('='));
        if namespaces.uts != Namespace::Host
            && !env.iter().any(|entry| entry.starts_with("HOSTNAME="))
        {
            env.push(format!("HOSTNAME={}", hostname(record)));
        }
        for link in self.links(record)? {
            env.extend(link.variables(&record.name));
        }
        let security = Security::parse(host, privileged)?;
        Ok(SpecInput {
            id: record.id.clone(),
            args,
            env,
            cwd: config.working_dir.clone().unwrap_or_default(),
            hostname: hostname(record),
            domainname: config.domainname.clone().unwrap_or_default(),
            terminal: record.tty(),
            privileged,
            cap_add: host.cap_add.clone().unwrap_or_default(),
            cap_drop: host.cap_drop.clone().unwrap_or_default(),
            available: host_capabilities(),
            no_new_privileges: security.no_new_privileges,
            seccomp: security.seccomp,
            namespaces,
            users: record.users,
            read_only: host.readonly_rootfs.unwrap_or(false),
            masked_paths: security.masked_paths.or_else(|| host.masked_paths.clone()),
            readonly_paths: security.readonly_paths.or_else(|| host.readonly_paths.clone()),
            devices: devices(record, privileged)?,
            device_rules: rules(host)?,
            confine_devices: self.limits.device_rules,
            resources: self.limits.possible(limits::resources(host)?).0,
            rlimits: limits::rlimits(host)?,
            kernel: uname().release().to_string_lossy().into_owned(),
            sysctls: host.sysctls.clone().unwrap_or_default().into_iter().collect(),
            oom_score_adj: host.oom_score_adj.and_then(|score| score.try_into().ok()).unwrap_or(0),
            shm_size: host
                .shm_size
                .and_then(|size| size.try_into().ok())
                .filter(|size| *size > 0)
                .unwrap_or(SHM_SIZE),
            ..SpecInput::default()
        })
    }

    fn namespaces(&self, host: &HostConfig) -> Result<Namespaces> {
        Ok(Namespaces {
            pid: self.namespace(host.pid_mode.as_deref(), "pid")?,
            ipc: self.namespace(host.ipc_mode.as_deref(), "ipc")?,
            uts: self.uts(host)?,
            net: self.network(host.network_mode.as_deref())?,
            cgroup: match host.cgroupns_mode {
                Some(HostConfigCgroupnsModeEnum::HOST) => Namespace::Host,
                None | Some(HostConfigCgroupnsModeEnum::EMPTY) if host.privileged == Some(true) => {
                    Namespace::Host
                }
                _ => Namespace::Own,
            },
        })
    }

    /// Host name and network go together, as in Docker.
    fn uts(&self, host: &HostConfig) -> Result<Namespace> {
        match host.uts_mode.as_deref() {
            Some("host") => Ok(Namespace::Host),
            other => self.namespace(other, "uts"),
        }
    }

    fn network(&self, mode: Option<&str>) -> Result<Namespace> {
        match Mode::parse(mode) {
            Mode::Host => Ok(Namespace::Host),
            Mode::None | Mode::Networks(_) => Ok(Namespace::Own),
            Mode::Container(_) => self.namespace(mode, "net"),
        }
    }

    fn namespace(&self, mode: Option<&str>, kind: &str) -> Result<Namespace> {
        match mode.unwrap_or_default() {
            "" | "private" | "shareable" | "none" => Ok(Namespace::Own),
            "host" => Ok(Namespace::Host),
            mode => match mode.strip_prefix("container:") {
                Some(name) => {
                    let other = self.container(name)?.running()?;
                    Ok(Namespace::Path(format!("/proc/{}/ns/{kind}", other.pid()).into()))
                }
                None => Err(ApiError::bad(format!(
                    "{kind} mode {mode:?} is not available: use host, none or container:NAME"
                ))),
            },
        }
    }
}

/// This program under the name by which it is a container's init.
fn init_mount() -> Result<MountPoint> {
    Ok(own_mount(std::env::current_exe()?, INIT.into()))
}

/// What the container sees of a kernel command line that has secrets in it.
fn command_line(record: &Record) -> Option<MountPoint> {
    let (source, target) = (Path::new(paths::RUN_CMDLINE_PUBLIC), Path::new("/proc/cmdline"));
    let theirs = record.mounts.iter().any(|mount| target.starts_with(&mount.target));
    (source.exists() && !theirs).then(|| own_mount(source.into(), target.into()))
}

/// A file of ours in a container.
fn own_mount(source: PathBuf, target: PathBuf) -> MountPoint {
    MountPoint {
        kind: Kind::Bind,
        name: String::new(),
        source,
        target,
        mode: String::new(),
        read_only: true,
        propagation: ros_runtime::Propagation::Rprivate,
        recursive: false,
        create: false,
    }
}

/// The container's host name.
pub fn hostname(record: &Record) -> String {
    let own = record.config.hostname.clone().filter(|name| !name.is_empty());
    own.unwrap_or_else(|| record.id[..12].to_owned())
}

/// Options of Docker's json-file driver that change nothing here.
const NO_EFFECT: [&str; 8] =
    ["compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"];

/// Refuses a log driver or an option that there is not; warns of an option that changes nothing.
pub fn log_options(host: &HostConfig) -> Result<Vec<String>> {
    let config = host.log_config.clone().unwrap_or_default();
    let driver = match config.typ.as_deref().unwrap_or_default() {
        "" => "json-file",
        known @ ("json-file" | "local" | "none") => known,
        other => {
            return Err(ApiError::bad(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let mut names: Vec<String> = config.config.unwrap_or_default().into_keys().collect();
    names.sort();
    let mut warnings = Vec::new();
    for name in names {
        match name.as_str() {
            "max-size" | "max-file" => {}
            other if NO_EFFECT.contains(&other) => {
                warnings.push(format!("The log option {name} changes nothing here."));
            }
            _ => {
                let message = format!("unknown log opt '{name}' for {driver} log driver");
                return Err(ApiError::bad(message));
            }
        }
    }
    Ok(warnings)
}

fn log(container: &Container, host: &HostConfig) -> Result<Option<Log>> {
    let config = host.log_config.clone().unwrap_or_default();
    let options = config.config.unwrap_or_default();
    if config.typ.as_deref() == Some("none") {
        return Ok(None);
    }
    let max_size = options.get("max-size").map_or(Some(LOG_SIZE), |text| size(text));
    let max_files = options.get("max-file").map_or(Some(LOG_FILES), |text| text.parse().ok());
    match (max_size, max_files) {
        (Some(max_size), Some(max_files)) => {
            Ok(Some(Log { path: container.log_path(), max_size, max_files }))
        }
        _ => Err(ApiError::bad(
            "log options max-size and max-file: expected a size such as 10m, and a number",
        )),
    }
}

/// `10m`, `64k`, `1g`; -1 is "no bound", which is 0 here.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    if text == "-1" {
        return Some(0);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

struct Security {
    no_new_privileges: bool,
    seccomp: Seccomp,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
}

impl Security {
    fn parse(host: &HostConfig, privileged: bool) -> Result<Self> {
        let seccomp = if privileged { Seccomp::Unconfined } else { Seccomp::Default };
        let mut security =
            Self { no_new_privileges: false, seccomp, masked_paths: None, readonly_paths: None };
        for option in host.security_opt.iter().flatten() {
            let (name, value) = option.split_once([':', '=']).unwrap_or((option, "true"));
            match (name, value) {
                ("no-new-privileges", value) => security.no_new_privileges = value == "true",
                ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin") => security.seccomp = Seccomp::Default,
                ("seccomp", profile) => {
                    let parsed = profile.parse().map_err(|e| {
                        ApiError::bad(format!("invalid --security-opt seccomp: {e}"))
                    })?;
                    security.seccomp = Seccomp::Profile(Box::new(parsed));
                }
                ("systempaths", "unconfined") => {
                    security.masked_paths = Some(Vec::new());
                    security.readonly_paths = Some(Vec::new());
                }
                ("apparmor" | "label", _) => {}
                _ => return Err(ApiError::bad(format!("invalid --security-opt: {option:?}"))),
            }
        }
        Ok(security)
    }
}

fn devices(record: &Record, privileged: bool) -> Result<Vec<Device>> {
    let dev_is_mounted = record.mounts.iter().any(|mount| mount.target == Path::new("/dev"));
    if privileged {
        let root = Path::new("/dev");
        return Ok(if dev_is_mounted { Vec::new() } else { devices_under(root, root, "rwm")? });
    }
    let mut all = Vec::new();
    for mapping in record.host_config.devices.iter().flatten() {
        let host = mapping.path_on_host.clone().unwrap_or_default();
        let inside = mapping
            .path_in_container
            .clone()
            .filter(|path| !path.is_empty())
            .unwrap_or(host.clone());
        let access = mapping
            .cgroup_permissions
            .clone()
            .filter(|text| !text.is_empty())
            .unwrap_or("rwm".into());
        let wrong =
            |e: std::io::Error| ApiError::bad(format!("error gathering device information: {e}"));
        if Path::new(&host).is_dir() {
            all.extend(
                devices_under(Path::new(&host), Path::new(&inside), &access).map_err(wrong)?,
            );
        } else {
            all.push(device(Path::new(&host), Path::new(&inside), &access).map_err(wrong)?);
        }
    }
    Ok(all)
}

/// Rules of the device cgroup.
pub fn rules(host: &HostConfig) -> Result<Vec<DeviceRule>> {
    host.device_cgroup_rules
        .iter()
        .flatten()
        .map(|rule| rule.parse().map_err(ApiError::bad))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("10m", Some(10 << 20)),
            ("512", Some(512)),
            ("1g", Some(1 << 30)),
            ("x", None),
            ("-1", Some(0)),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}

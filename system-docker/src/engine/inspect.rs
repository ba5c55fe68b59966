//! `inspect` of a container: all that is known, in Docker's shape.

use serde_json::{Value, json};

use super::container::{Container, Record, State};
use super::mounts::{Kind, MountPoint};
use super::networks::show;
use super::time::rfc3339;
use super::{Engine, request};

impl Engine {
    /// The container as Docker shows it.
    pub fn inspect(&self, container: &Container) -> Value {
        let record = container.record();
        let mut words = record.config.entrypoint.iter().chain(&record.config.cmd).flatten();
        let path = words.next().cloned().unwrap_or_default();
        let arguments: Vec<&String> = words.collect();
        let own = |file: &str| {
            if record.is_service() { Value::from("") } else { json!(container.dir().join(file)) }
        };
        json!({
            "Id": record.id, "Created": rfc3339(record.created), "Path": path, "Args": arguments,
            "State": state(container, &record), "Image": record.image.to_string(),
            "ResolvConfPath": own("resolv.conf"), "HostnamePath": own("hostname"), "HostsPath": own("hosts"),
            "LogPath": container.log_path(), "Name": format!("/{}", record.name), "RestartCount": record.restart_count,
            "Driver": "overlay2", "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "",
            "ExecIDs": self.exec_ids(container), "HostConfig": host_config(&record),
            "GraphDriver": { "Name": "overlay2", "Data": { "UpperDir": container.dir().join("upper") } },
            "Mounts": mounts(&record), "Config": config(&record),
            "NetworkSettings": show::settings(&record, pid(&record)),
        })
    }
}

fn pid(record: &Record) -> i32 {
    match record.state {
        State::Running { pid, .. } => pid,
        _ => 0,
    }
}

fn state(container: &Container, record: &Record) -> Value {
    let (pid, started) = match record.state {
        State::Running { pid, started_at, .. } => (pid, started_at),
        _ => (0, record.state.exit().map_or(0, |exit| exit.started_at)),
    };
    let exit = record.state.exit().unwrap_or_default();
    let error = match &record.state {
        State::Exited { error, .. } => error.as_str(),
        _ => "",
    };
    let word = record.state.word();
    let mut state = json!({
        "Status": word, "Running": record.state.is_running() || word == "restarting", "Paused": word == "paused",
        "Restarting": word == "restarting", "OOMKilled": exit.oom_killed, "Dead": false, "Pid": pid,
        "ExitCode": exit.code, "Error": error, "StartedAt": rfc3339(started), "FinishedAt": rfc3339(exit.finished_at),
    });
    if let Some(health) = container.health().as_ref() {
        state["Health"] = json!({ "Status": health.status, "FailingStreak": health.failing_streak, "Log": health.log });
    }
    state
}

/// What was asked for, with the values that hold where nothing was.
fn host_config(record: &Record) -> Value {
    let mut host = json!(record.host_config);
    let mut default = |key: &str, value: Value| {
        if host[key].is_null() || host[key] == "" {
            host[key] = value;
        }
    };
    default("NetworkMode", "host".into());
    default("IpcMode", "private".into());
    default("CgroupnsMode", "private".into());
    default("RestartPolicy", json!({ "Name": "no", "MaximumRetryCount": 0 }));
    default("LogConfig", json!({ "Type": "json-file", "Config": {} }));
    default("ShmSize", json!(64 << 20));
    default("Runtime", "runc".into());
    for key in ["Privileged", "ReadonlyRootfs", "AutoRemove", "PublishAllPorts"] {
        default(key, false.into());
    }
    if host["LogConfig"]["Type"] == "" {
        host["LogConfig"]["Type"] = "json-file".into();
    }
    host
}

fn config(record: &Record) -> Value {
    let mut config = json!(record.config);
    config["Hostname"] = request::hostname(record).into();
    config["Image"] = record.image_name.clone().into();
    for key in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
        if config[key].is_null() {
            config[key] = false.into();
        }
    }
    for key in ["Domainname", "User", "WorkingDir"] {
        if config[key].is_null() {
            config[key] = "".into();
        }
    }
    if let Some(volumes) = &record.config.volumes {
        config["Volumes"] = volumes
            .iter()
            .map(|path| (path.clone(), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    config
}

/// Mounts as `ps` and `inspect` show them.
pub fn mounts(record: &Record) -> Vec<Value> {
    record.mounts.iter().map(mount).collect()
}

fn mount(mount: &MountPoint) -> Value {
    let kind = match mount.kind {
        Kind::Bind => "bind",
        Kind::Volume => "volume",
        Kind::Tmpfs => "tmpfs",
    };
    let mut shown = json!({
        "Type": kind, "Source": mount.source, "Destination": mount.target, "Mode": mount.mode,
        "RW": !mount.read_only, "Propagation": mount.propagation,
    });
    if mount.kind == Kind::Volume {
        shown["Name"] = mount.name.clone().into();
        shown["Driver"] = "local".into();
        shown["Propagation"] = "".into();
    }
    shown
}

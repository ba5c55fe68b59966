//! `create`: a record and a writable layer; nothing runs.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use bollard_stubs::models::{ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig};
use ros_api::{durable, labels};
use serde_json::Value;

use super::container::{Container, Record, State};
use super::error::{ApiError, Result};
use super::time::now;
use super::{Engine, limits, mounts, new_id, request, users};

impl Engine {
    /// Makes a container; answers it and warnings.
    pub fn create(
        &self,
        name: Option<String>,
        body: ContainerCreateBody,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let image_name = body.image.clone().unwrap_or_default();
        let image = self.resolve(&image_name)?;
        let image_config = self.image_config(&image)?;
        let mut host_config = body.host_config.clone().unwrap_or_default();
        let mut warnings = Vec::new();
        check(&host_config, &mut warnings)?;
        let networking = body.networking_config.clone().unwrap_or_default();
        let network = self.attachment(&mut host_config, networking.endpoints_config.as_ref())?;
        limits::check(&host_config)?;
        let has_users = users::asked(&host_config, self.remap)?;
        warnings.extend(self.limits.possible(limits::resources(&host_config)?).1);
        let config = merged(&body, &image_config["config"]);
        if config.entrypoint.is_none() && config.cmd.is_none() {
            return Err(ApiError::bad("no command specified"));
        }
        let volumes: Vec<String> = config.volumes.clone().unwrap_or_default();
        let mut points = mounts::resolve(&host_config, &volumes)?;
        self.volumes_from(&host_config, &mut points)?;
        let id = new_id()?;
        let name = self.free_name(name, &id)?;
        if points.iter().any(|point| point.kind == mounts::Kind::Volume) {
            let service =
                config.labels.iter().flatten().any(|(name, _)| name == labels::SERVICE_NAME);
            self.provide_volumes(&mut points, &self.lower_dirs(&image, service)?)?;
        }
        let record = Record {
            id: id.clone(),
            name,
            created: now(),
            image,
            image_name,
            config,
            host_config,
            mounts: points,
            network,
            users: None,
            state: State::Created,
            restart_count: 0,
            stopped: false,
            boot_id: String::new(),
        };
        let container = self.put(record, has_users)?;
        self.events().container(&container, "create", &[]);
        Ok((container, warnings))
    }

    /// Adds the mounts of the containers that `--volumes-from` names; what is there already stays.
    fn volumes_from(&self, host: &HostConfig, points: &mut Vec<mounts::MountPoint>) -> Result<()> {
        for text in host.volumes_from.iter().flatten() {
            let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
            if !matches!(mode, "rw" | "ro" | "z" | "Z" | "") {
                return Err(ApiError::bad(format!(
                    "invalid mode in volumes-from {text:?}: {mode:?}"
                )));
            }
            let theirs = self.container(name)?.record().mounts.clone();
            for mut mount in theirs {
                if !points.iter().any(|own| own.target == mount.target) {
                    mount.read_only |= mode == "ro";
                    points.push(mount);
                }
            }
        }
        Ok(())
    }

    /// Gives it its ids, and writes it down; whoever looks for it meanwhile finds it.
    fn put(&self, mut record: Record, has_users: bool) -> Result<Arc<Container>> {
        let dir = self.dir(&record.id);
        for part in ["upper", "work"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let mut all = self.containers();
        if has_users {
            let taken = all.values().filter_map(|container| container.record().users);
            record.users = Some(users::free(taken)?);
        }
        let container = Arc::new(Container::new(dir.clone(), record));
        all.insert(container.id.clone(), Arc::clone(&container));
        drop(all);
        let written = container.change(|_| ()).and_then(|()| Ok(durable::sync_parent(&dir)?));
        if let Err(error) = written {
            self.containers().remove(&container.id);
            return Err(error);
        }
        Ok(container)
    }

    fn free_name(&self, asked: Option<String>, id: &str) -> Result<String> {
        let Some(name) = asked.filter(|name| !name.is_empty()) else { return Ok(given_name(id)) };
        let name = name.trim_start_matches('/').to_owned();
        self.check_name(&name)?;
        Ok(name)
    }

    /// Refuses a name that is none, or taken.
    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() < 2 || !starts_well || !name.chars().all(ok) {
            return Err(ApiError::bad(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let taken = self
            .containers()
            .values()
            .find(|container| container.record().name == name)
            .map(|c| c.id.clone());
        match taken {
            Some(id) => Err(ApiError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            None => Ok(()),
        }
    }
}

/// Two words that are easy to say, and four digits of the id.
fn given_name(id: &str) -> String {
    const FIRST: [&str; 16] = [
        "amber", "brisk", "calm", "deft", "eager", "fair", "glad", "hazel", "keen", "light",
        "mild", "neat", "plain", "quick", "sound", "warm",
    ];
    const SECOND: [&str; 16] = [
        "ash", "beech", "cedar", "elm", "fir", "gorse", "heath", "iris", "juniper", "larch",
        "maple", "oak", "pine", "rowan", "sorrel", "yew",
    ];
    let digit =
        |at: usize| id[at..=at].chars().next().and_then(|c| c.to_digit(16)).unwrap_or(0) as usize;
    format!("{}_{}_{}", FIRST[digit(0)], SECOND[digit(1)], &id[2..6])
}

/// Refuses what cannot be given, warns of what has no effect.
fn check(host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let unknown =
        host.cap_add.iter().chain(&host.cap_drop).flatten().find(|name| !is_capability(name));
    if let Some(name) = unknown {
        return Err(ApiError::bad(format!("invalid capability: {name:?}")));
    }
    request::rules(host)?;
    warnings.extend(request::log_options(host)?);
    let on_host = host.network_mode.as_deref() == Some("host");
    if on_host && host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) {
        warnings.push("Published ports are discarded when using host network mode".into());
    }
    if host.device_requests.as_ref().is_some_and(|requests| !requests.is_empty()) {
        return Err(ApiError::bad("device requests (--gpus) are not available: name the devices"));
    }
    if host.runtime.as_deref().is_some_and(|name| !name.is_empty() && name != "runc") {
        return Err(ApiError::bad(
            "unknown or invalid runtime name: there is only one runtime here",
        ));
    }
    Ok(())
}

fn is_capability(name: &str) -> bool {
    let name = name.trim_start_matches("CAP_").to_ascii_uppercase();
    let known = include_str!("capabilities.txt");
    name == "ALL" || known.split_whitespace().any(|word| word == name)
}

/// The image's configuration under what was asked for, by Docker's rules: a new entry point drops the image's command.
fn merged(body: &ContainerCreateBody, image: &Value) -> ContainerConfig {
    let texts = |key: &str| -> Option<Vec<String>> {
        serde_json::from_value(image[key].clone()).ok().flatten()
    };
    let text = |key: &str| image[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let filled = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let entrypoint = filled(&body.entrypoint);
    let cmd = filled(&body.cmd).or_else(|| if entrypoint.is_none() { texts("Cmd") } else { None });
    // `--entrypoint ""` arrives as one empty word and takes the image's away.
    let entrypoint = match entrypoint {
        Some(words) if words == [""] => None,
        Some(words) => Some(words),
        None => texts("Entrypoint"),
    };
    let mut labels: HashMap<String, String> =
        serde_json::from_value(image["Labels"].clone()).unwrap_or_default();
    labels.extend(body.labels.clone().unwrap_or_default());
    let mut volumes: Vec<String> =
        image["Volumes"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    volumes.extend(body.volumes.clone().unwrap_or_default());
    let mut exposed: Vec<String> = image["ExposedPorts"]
        .as_object()
        .map(|map| map.keys().cloned().collect())
        .unwrap_or_default();
    exposed.extend(body.exposed_ports.clone().unwrap_or_default());
    exposed.sort();
    exposed.dedup();
    ContainerConfig {
        hostname: body.hostname.clone(),
        domainname: body.domainname.clone(),
        user: body.user.clone().filter(|user| !user.is_empty()).or_else(|| text("User")),
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        tty: body.tty,
        open_stdin: body.open_stdin,
        stdin_once: body.stdin_once,
        env: Some(environment(
            texts("Env").unwrap_or_default(),
            body.env.clone().unwrap_or_default(),
        )),
        cmd,
        healthcheck: health(body.healthcheck.clone(), image),
        image: body.image.clone(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: body
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .or_else(|| text("WorkingDir")),
        entrypoint,
        labels: Some(labels),
        stop_signal: body.stop_signal.clone().or_else(|| text("StopSignal")),
        stop_timeout: body.stop_timeout,
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        ..Default::default()
    }
}

/// The image's variables, replaced by name. A name without `=` stays as it is: it takes a variable away at start.
fn environment(image: Vec<String>, asked: Vec<String>) -> Vec<String> {
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let replaced: Vec<String> = asked.iter().map(name).collect();
    let mut all: Vec<String> =
        image.into_iter().filter(|entry| !replaced.contains(&name(entry))).collect();
    all.extend(asked);
    all
}

/// The image's health check, each part replaced by what was asked for.
fn health(asked: Option<HealthConfig>, image: &Value) -> Option<HealthConfig> {
    let own: Option<HealthConfig> =
        serde_json::from_value(image["Healthcheck"].clone()).ok().flatten();
    match (asked, own) {
        (Some(asked), Some(own)) => Some(HealthConfig {
            test: asked.test.filter(|test| !test.is_empty()).or(own.test),
            interval: asked.interval.filter(|n| *n > 0).or(own.interval),
            timeout: asked.timeout.filter(|n| *n > 0).or(own.timeout),
            retries: asked.retries.filter(|n| *n > 0).or(own.retries),
            start_period: asked.start_period.filter(|n| *n > 0).or(own.start_period),
            start_interval: asked.start_interval.filter(|n| *n > 0).or(own.start_interval),
        }),
        (asked, own) => asked.or(own),
    }
}

/// What is read of a body before anything is made.
#[cfg(fuzzing)]
pub fn fuzz(body: &ContainerCreateBody) -> Result<()> {
    let host = body.host_config.clone().unwrap_or_default();
    check(&host, &mut Vec::new())?;
    super::networks::ports::check(&host)?;
    limits::check(&host)?;
    limits::resources(&host)?;
    super::users::asked(&host, super::users::Remap::Auto)?;
    let config = merged(body, &Value::Null);
    mounts::resolve(&host, &config.volumes.unwrap_or_default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_entry_point_drops_the_images_command() {
        let image = serde_json::json!({"Cmd": ["a"], "Entrypoint": ["e"], "Env": ["X=1", "Y=2"]});
        let body = |entrypoint: Option<&str>, cmd: Option<&str>| ContainerCreateBody {
            entrypoint: entrypoint.map(|word| vec![word.to_owned()]),
            cmd: cmd.map(|word| vec![word.to_owned()]),
            env: Some(vec!["Y=3".into(), "X".into()]),
            ..Default::default()
        };
        let table = [
            (None, None, Some("e"), Some("a")),
            (None, Some("c"), Some("e"), Some("c")),
            (Some("n"), None, Some("n"), None),
            (Some(""), Some("c"), None, Some("c")),
        ];
        for (entrypoint, cmd, expected_entrypoint, expected_cmd) in table {
            let config = merged(&body(entrypoint, cmd), &image);
            let first = |list: &Option<Vec<String>>| list.as_ref().map(|list| list[0].clone());
            assert_eq!(first(&config.entrypoint).as_deref(), expected_entrypoint);
            assert_eq!(first(&config.cmd).as_deref(), expected_cmd);
            assert_eq!(config.env.unwrap(), ["Y=3", "X"]);
        }
    }
}

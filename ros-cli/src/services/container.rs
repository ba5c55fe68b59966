//! What the daemon is asked to create for a service: a pure translation of a [`ServiceSpec`].
//!
//! Nothing is granted that is not named: every capability is dropped before `cap_add`, the network is
//! `none` unless asked for, and no process gains privileges by `exec`. Only `privileged` lifts that.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    RestartPolicy, RestartPolicyNameEnum,
};
use ros_api::service::{Healthcheck, parse_duration_ms};
use ros_api::{Digest, Release, ServiceSpec, labels, paths};

/// Raised when this translation changes what it makes of the same definition.
const TRANSLATION: u32 = 1;

/// Grace of a service that does not state one.
const GRACE_MS: u64 = 10_000;
/// Health window of a service that does not state one.
const WINDOW_MS: u64 = 30_000;

/// A service and the image it runs.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, and its container's.
    pub name: String,
    /// Name the daemon knows the image by.
    pub image: String,
    /// What the image is, so that a changed one is noticed: a digest.
    pub content: String,
    /// Its definition.
    pub spec: ServiceSpec,
}

impl Service {
    /// Digest of all that makes its container what it is.
    #[must_use]
    pub fn hash(&self) -> String {
        let spec = serde_json::to_string(&self.spec).unwrap_or_default();
        Digest::of(format!("{TRANSLATION}\n{}\n{spec}\n", self.content).as_bytes()).to_string()
    }

    /// How long it may take to stop.
    #[must_use]
    pub fn grace_ms(&self) -> u64 {
        grace_ms(&self.spec)
    }

    /// How long it is watched after it was replaced.
    #[must_use]
    pub fn window_ms(&self) -> u64 {
        duration(self.spec.ros.health_window.as_deref()).unwrap_or(WINDOW_MS)
    }

    /// How long it may take to become ready: its window, or the start period of its health check where that is longer.
    #[must_use]
    pub fn ready_ms(&self) -> u64 {
        let check = self.spec.healthcheck.as_ref();
        let start_period = check.and_then(|check| duration(check.start_period.as_deref()));
        self.window_ms().max(start_period.unwrap_or(0))
    }

    /// The request that creates its container.
    ///
    /// # Errors
    /// When a key cannot be understood; which one is in the message.
    pub fn create_body(&self, generation: u32) -> Result<ContainerCreateBody> {
        let spec = &self.spec;
        let mut all_labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
        all_labels.insert(labels::SERVICE_NAME.into(), self.name.clone());
        all_labels.insert(labels::GENERATION.into(), generation.to_string());
        all_labels.insert(labels::SPEC_HASH.into(), self.hash());
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: list(&spec.command),
            entrypoint: list(&spec.entrypoint),
            env: list(
                &spec
                    .environment
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>(),
            ),
            user: spec.user.clone(),
            labels: Some(all_labels),
            stop_signal: spec.stop_signal.clone(),
            stop_timeout: Some(self.grace_ms().div_ceil(1000).try_into().unwrap_or(i64::MAX)),
            healthcheck: spec.healthcheck.as_ref().map(health_config).transpose()?,
            host_config: Some(self.host_config()?),
            ..Default::default()
        })
    }

    fn host_config(&self) -> Result<HostConfig> {
        let spec = &self.spec;
        let cgroupns = match spec.cgroup.as_deref() {
            Some("host") => HostConfigCgroupnsModeEnum::HOST,
            _ => HostConfigCgroupnsModeEnum::PRIVATE,
        };
        Ok(HostConfig {
            network_mode: Some(spec.network_mode.clone().unwrap_or_else(|| "none".into())),
            pid_mode: spec.pid.clone(),
            ipc_mode: Some(spec.ipc.clone().unwrap_or_else(|| "private".into())),
            uts_mode: spec.uts.clone(),
            cgroupns_mode: Some(cgroupns),
            privileged: Some(spec.privileged),
            cap_drop: (!spec.privileged).then(|| vec!["ALL".into()]),
            cap_add: list(&spec.cap_add),
            devices: some(
                spec.devices.iter().map(|device| device_mapping(device)).collect::<Result<_>>()?,
            ),
            device_cgroup_rules: list(&spec.device_cgroup_rules),
            binds: list(&spec.volumes),
            tmpfs: (!spec.tmpfs.is_empty())
                .then(|| spec.tmpfs.iter().map(|mount| tmpfs(mount)).collect()),
            readonly_rootfs: Some(spec.read_only),
            security_opt: some(security_opt(spec)),
            restart_policy: Some(restart_policy(spec)?),
            ..Default::default()
        })
    }
}

/// What makes a service's image another one: its digest, and `ros` when that is mounted into it to run there. A oneshot
/// has had its effect: that another `ros` would do it next time is no change.
#[must_use]
pub fn content(image: String, spec: &ServiceSpec, release: &Release) -> String {
    let ros = format!("{}/ros:", paths::RUN_BIN);
    let runs_ros = !spec.ros.oneshot && spec.volumes.iter().any(|mount| mount.starts_with(&ros));
    match release.programs.get("ros").filter(|_| runs_ros) {
        Some(program) => format!("{image} {program}"),
        None => image,
    }
}

/// How long a service of this definition may take to stop.
#[must_use]
pub fn grace_ms(spec: &ServiceSpec) -> u64 {
    duration(spec.stop_grace_period.as_deref()).unwrap_or(GRACE_MS)
}

fn duration(text: Option<&str>) -> Option<u64> {
    text.and_then(parse_duration_ms)
}

fn list(items: &[String]) -> Option<Vec<String>> {
    some(items.to_vec())
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn health_config(check: &Healthcheck) -> Result<HealthConfig> {
    let nanoseconds = |name: &str, text: &Option<String>| -> Result<Option<i64>> {
        let Some(text) = text else { return Ok(None) };
        let ms = parse_duration_ms(text)
            .with_context(|| format!("healthcheck.{name}: {text:?} is not a duration"))?;
        Ok(Some(i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)))
    };
    Ok(HealthConfig {
        test: list(&check.test),
        interval: nanoseconds("interval", &check.interval)?,
        timeout: nanoseconds("timeout", &check.timeout)?,
        retries: check.retries.map(i64::from),
        start_period: nanoseconds("start_period", &check.start_period)?,
        start_interval: nanoseconds("start_interval", &check.start_interval)?,
    })
}

/// `host[:container[:rwm]]`.
fn device_mapping(text: &str) -> Result<DeviceMapping> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, inside] if inside.starts_with('/') => (host, inside, "rwm"),
        [host, permissions] => (host, host, permissions),
        [host, inside, permissions] => (host, inside, permissions),
        _ => bail!("devices: {text:?}: expected host[:container[:rwm]]"),
    };
    if !host.starts_with('/') || !permissions.chars().all(|c| "rwm".contains(c)) {
        bail!("devices: {text:?}: expected host[:container[:rwm]]");
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.into()),
        path_in_container: Some(inside.into()),
        cgroup_permissions: Some(permissions.into()),
    })
}

/// `path[:options]`.
fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_owned(), options.to_owned())
}

fn security_opt(spec: &ServiceSpec) -> Vec<String> {
    let mut options = spec.security_opt.clone();
    let stated = options.iter().any(|option| option.starts_with("no-new-privileges"));
    if !spec.privileged && !stated {
        options.push("no-new-privileges:true".into());
    }
    options
}

/// A service that ends is started again, unless it is a oneshot or says otherwise.
fn restart_policy(spec: &ServiceSpec) -> Result<RestartPolicy> {
    let default = if spec.ros.oneshot { "no" } else { "unless-stopped" };
    let text = spec.restart.as_deref().unwrap_or(default);
    let (word, count) = match text.split_once(':') {
        Some((word, count)) => (word, Some(count)),
        None => (text, None),
    };
    let name = match word {
        "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        _ => bail!("restart: {text:?}: expected no, always, on-failure[:N] or unless-stopped"),
    };
    let maximum_retry_count = match count {
        Some(count) if name == RestartPolicyNameEnum::ON_FAILURE => Some(
            count
                .parse()
                .with_context(|| format!("restart: {text:?}: {count:?} is not a number"))?,
        ),
        Some(_) => bail!("restart: {text:?}: only on-failure takes a number"),
        None => None,
    };
    Ok(RestartPolicy { name: Some(name), maximum_retry_count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Service {
        Service {
            name: "x".into(),
            image: "os-x@sha256:1".into(),
            content: "sha256:1".into(),
            spec: serde_yaml::from_str(yaml).unwrap(),
        }
    }

    fn host(yaml: &str) -> HostConfig {
        service(yaml).create_body(1).unwrap().host_config.unwrap()
    }

    #[test]
    fn nothing_is_granted_that_is_not_named() {
        let bare = host("{}");
        assert_eq!(bare.cap_drop, Some(vec!["ALL".into()]));
        assert_eq!(bare.cap_add, None);
        assert_eq!(bare.network_mode.as_deref(), Some("none"));
        assert_eq!(bare.privileged, Some(false));
        assert_eq!(bare.security_opt, Some(vec!["no-new-privileges:true".into()]));
        assert_eq!((bare.pid_mode, bare.devices, bare.binds), (None, None, None));
    }

    #[test]
    fn only_a_privileged_service_keeps_all_capabilities() {
        let console = host("privileged: true\npid: host\nuts: host\n");
        assert_eq!((console.cap_drop, console.security_opt), (None, None));
        assert_eq!(console.pid_mode.as_deref(), Some("host"));
        let stated = host("security_opt: ['no-new-privileges:false']\n");
        assert_eq!(stated.security_opt, Some(vec!["no-new-privileges:false".into()]));
    }

    #[test]
    fn restart_policies_are_dockers() {
        use RestartPolicyNameEnum as Name;
        let table = [
            ("{}", Some((Name::UNLESS_STOPPED, None))),
            ("x-ros: {oneshot: true}", Some((Name::NO, None))),
            ("restart: always", Some((Name::ALWAYS, None))),
            ("restart: on-failure:3", Some((Name::ON_FAILURE, Some(3)))),
            ("restart: on-failure:x", None),
            ("restart: always:3", None),
            ("restart: sometimes", None),
        ];
        for (yaml, expected) in table {
            let policy =
                service(yaml).create_body(1).ok().and_then(|body| body.host_config?.restart_policy);
            assert_eq!(
                policy.map(|p| (p.name.unwrap(), p.maximum_retry_count)),
                expected,
                "{yaml}"
            );
        }
    }

    #[test]
    fn devices_are_dockers() {
        let table = [
            ("/dev/a", Some(("/dev/a", "/dev/a", "rwm"))),
            ("/dev/a:r", Some(("/dev/a", "/dev/a", "r"))),
            ("/dev/a:/dev/b", Some(("/dev/a", "/dev/b", "rwm"))),
            ("/dev/a:/dev/b:rw", Some(("/dev/a", "/dev/b", "rw"))),
            ("a", None),
            ("/dev/a:/dev/b:x", None),
            ("/a:/b:r:w", None),
        ];
        for (text, expected) in table {
            let mapping = device_mapping(text).ok();
            let parts = mapping.as_ref().map(|m| {
                let text = |part: &Option<String>| part.clone().unwrap();
                (text(&m.path_on_host), text(&m.path_in_container), text(&m.cgroup_permissions))
            });
            assert_eq!(parts, expected.map(|(a, b, c)| (a.into(), b.into(), c.into())), "{text}");
        }
    }

    #[test]
    fn the_rest_is_carried_over() {
        let body = service(
            "healthcheck: {test: [CMD, true], interval: 30s, start_interval: 200ms, retries: 3}\n\
             tmpfs: [/run, '/tmp:size=1m']\nvolumes: ['/dev:/dev:rslave', 'data:/data']\nread_only: true\n\
             cap_add: [NET_ADMIN]\nenvironment: {A: b}\nstop_grace_period: 1500ms\nlabels: {a: b}\n",
        )
        .create_body(7)
        .unwrap();
        let health = body.healthcheck.unwrap();
        assert_eq!(
            (health.interval, health.start_interval),
            (Some(30_000_000_000), Some(200_000_000))
        );
        assert_eq!(body.stop_timeout, Some(2));
        assert_eq!(body.env, Some(vec!["A=b".into()]));
        let labels = body.labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels[labels::GENERATION].as_str()), ("b", "7"));
        let host = body.host_config.unwrap();
        assert_eq!(host.binds, Some(vec!["/dev:/dev:rslave".into(), "data:/data".into()]));
        assert_eq!(host.tmpfs.unwrap()["/tmp"], "size=1m");
        assert_eq!(
            (host.readonly_rootfs, host.cap_add),
            (Some(true), Some(vec!["NET_ADMIN".into()]))
        );
    }

    #[test]
    fn the_hash_tells_what_would_run_not_who_asked() {
        let one = service("cap_add: [A]");
        let mut other = one.clone();
        other.image = "another-name".into();
        assert_eq!(one.hash(), other.hash());
        other.content = "sha256:2".into();
        assert_ne!(one.hash(), other.hash());
        assert_ne!(one.hash(), service("cap_add: [B]").hash());
    }

    #[test]
    fn another_ros_is_a_change_of_what_runs_it_all_the_time() {
        let old = crate::os::machine::tests::release("v1", "b", &[]);
        let mut new = old.clone();
        new.programs.insert("ros".into(), Digest::of(b"other"));
        let ros = "volumes: ['/run/ros/bin/ros:/usr/bin/ros:ro']";
        for (yaml, changes) in [
            (ros.to_owned(), true),
            (format!("{ros}\nx-ros: {{oneshot: true}}"), false),
            ("volumes: ['/run/ros:/run/ros']".to_owned(), false),
        ] {
            let spec = service(&yaml).spec;
            let of = |release| content("sha256:1".into(), &spec, release);
            assert_eq!(of(&old) != of(&new), changes, "{yaml}");
        }
    }

    #[test]
    fn times_have_defaults() {
        assert_eq!((service("{}").grace_ms(), service("{}").window_ms()), (10_000, 30_000));
        let stated = service("stop_grace_period: 3s\nx-ros: {health_window: 1m}");
        assert_eq!((stated.grace_ms(), stated.window_ms()), (3_000, 60_000));
        for (start_period, ready_ms) in [("5s", 60_000), ("3m", 180_000)] {
            let check = format!("healthcheck: {{start_period: {start_period}}}");
            let slow = service(&format!("{check}\nx-ros: {{health_window: 1m}}"));
            assert_eq!((slow.ready_ms(), slow.window_ms()), (ready_ms, 60_000), "{start_period}");
        }
    }
}

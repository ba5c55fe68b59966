//! A service's definition: the keys of a Compose service that a system service needs, plus `x-ros`.
//! An image carries it as JSON in the label [`crate::labels::SERVICE`]; `image.yml` has it as YAML.
//!
//! Unlike Compose, *nothing* is granted that is not named: all capabilities are dropped, then `cap_add`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One service. Durations are Compose's (`500ms`, `5s`, `1m30s`): see [`parse_duration_ms`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSpec {
    /// Overrides the image's command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Overrides the image's entry point.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Added to the image's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// `user[:group]`; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `none` (default) or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<String>,
    /// `host`, or its own (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<String>,
    /// `host`, or its own (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc: Option<String>,
    /// `host`, or its own (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uts: Option<String>,
    /// `host`, or its own (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Everything: only for a service that hands the whole machine to its user (the console).
    pub privileged: bool,
    /// Capabilities without `CAP_`; all others are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// `host[:container[:rwm]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// `c 1:3 rwm`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_cgroup_rules: Vec<String>,
    /// `source:target[:options]`, options `ro`, `rshared`, `rslave`…; a source without `/` is a named volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Paths that are a tmpfs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,
    /// Root file system read-only.
    pub read_only: bool,
    /// As Docker's `--security-opt`; `no-new-privileges` is set unless `privileged`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_opt: Vec<String>,
    /// `no`, `always`, `on-failure[:N]`, `unless-stopped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// How long it may take to stop; default 10 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<String>,
    /// Signal that stops it; the image's, or SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Ready means: this passed. Without one, started means ready (for a oneshot: ended with 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Labels for the container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What Compose has no word for.
    #[serde(rename = "x-ros")]
    pub ros: RosSpec,
}

/// Compose's `healthcheck`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Healthcheck {
    /// `[CMD, arg…]` or `[CMD-SHELL, line]`.
    pub test: Vec<String>,
    /// Time between two probes once ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// A probe that takes longer has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// That many failures in a row are "unhealthy".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Failures within it do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<String>,
    /// Time between two probes within the start period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<String>,
}

/// `x-ros`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RosSpec {
    /// Which Docker runs it.
    pub scope: Scope,
    /// Starts when these are ready; a name that is not there is ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// These start when it is ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Runs to its end; ready means ended with 0. Runs again at every boot.
    pub oneshot: bool,
    /// Without it the machine is not healthy.
    pub essential: bool,
    /// How it is replaced in a running system.
    pub swap: Swap,
    /// How long it may take to become ready, and is watched after a switch; default 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_window: Option<String>,
}

/// Which Docker runs a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// system-docker.
    #[default]
    System,
    /// The user's engine.
    User,
}

/// How a service is replaced in a running system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// Stop the old, start the new.
    #[default]
    Restart,
    /// Start the new, probe it, stop the old.
    Overlap,
    /// Start the new beside the old; once it has made `/run/ros/hand-over/<name>`, the old gets SIGUSR1: it closes
    /// what it listens on, and ends when its last session did.
    HandOver,
}

/// Milliseconds of a Compose duration: `500ms`, `5s`, `1m30s`, `2h`.
#[must_use]
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_len..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_composes() {
        let table = [
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5d", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration_ms(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_spec_reads_as_compose_and_refuses_what_it_does_not_know() {
        let spec: ServiceSpec = serde_yaml::from_str(
            "cap_add: [SYS_TIME]\nx-ros: {after: [network], swap: hand-over}\n",
        )
        .unwrap();
        assert_eq!(spec.ros.swap, Swap::HandOver);
        assert!(serde_yaml::from_str::<ServiceSpec>("cap_ad: [SYS_TIME]\n").is_err());
    }
}

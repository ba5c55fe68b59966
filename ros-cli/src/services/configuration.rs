//! The machine's configuration as services see it, and the one switch that commands write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, anyhow};
use cloud_config::diagnostic::summary;
use cloud_config::{Settings, Sources};
use ros_api::paths;
use serde_json::{Value, json};

/// What is configured.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Typed.
    pub settings: Settings,
    /// What was wrong on the way, for people.
    pub warnings: Vec<String>,
}

impl Configuration {
    /// Reads all layers of this machine. Never fails: what is wrong is a warning.
    #[must_use]
    pub fn load() -> Self {
        let loaded = cloud_config::load(&Sources::machine());
        let warnings = summary(&loaded.diagnostics);
        Self { settings: loaded.settings, warnings }
    }

    /// Changes to services: `ros.services`, and `ros.services_include` as switches.
    #[must_use]
    pub fn services(&self) -> BTreeMap<String, Value> {
        let mut all = self.settings.ros.services.clone();
        for (name, enabled) in &self.settings.ros.services_include {
            let entry = all.entry(name.clone()).or_insert_with(|| json!({}));
            if let Value::Object(keys) = entry {
                keys.entry("enabled").or_insert(json!(enabled));
            }
        }
        if let (Some(enabled), None) = (self.settings.ntp.enabled, all.get("ntp")) {
            all.insert("ntp".into(), json!({ "enabled": enabled }));
        }
        all
    }
}

/// Services that `changes` ask for by name, which a release may have only for those who do.
#[must_use]
pub fn asked_for(changes: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let asked = |change: &Value| change.as_bool().or(change["enabled"].as_bool()) == Some(true);
    changes.iter().filter(|(_, change)| asked(change)).map(|(name, _)| name.clone()).collect()
}

/// Sets a switch in the user's own file.
///
/// # Errors
/// When there is no such key or the file cannot be written.
pub fn set(path: &str, value: bool) -> Result<()> {
    let written = cloud_config::edit::set(Path::new(paths::CLOUD_CONFIG), path, &value.to_string());
    written.map_err(|error| anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_switches_that_a_definition_overrides() {
        let mut configuration = Configuration::default();
        let ros = &mut configuration.settings.ros;
        ros.services_include = BTreeMap::from([("ntp".into(), false), ("mine".into(), false)]);
        ros.services = BTreeMap::from([("mine".into(), json!({"enabled": true, "image": "a"}))]);
        let services = configuration.services();
        assert_eq!(services["ntp"], json!({"enabled": false}));
        assert_eq!(services["mine"], json!({"enabled": true, "image": "a"}));
        assert_eq!(asked_for(&services), BTreeSet::from(["mine".to_owned()]));
        let switches =
            BTreeMap::from([("a", true), ("b", false)].map(|(k, v)| (k.to_owned(), json!(v))));
        assert_eq!(asked_for(&switches), BTreeSet::from(["a".to_owned()]));
    }
}

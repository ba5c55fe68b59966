//! From what an image's label and the configuration say to a [`ServiceSpec`].
//!
//! The configuration's `ros.services.<name>` is merged over the image's own definition: maps merge,
//! everything else replaces. A key that is not known, or has a value that cannot be, is left out with a
//! warning: it never stops a boot.

use ros_api::ServiceSpec;
use serde_json::{Map, Value, json};

/// `x-ros`, the one key whose own keys are looked at one by one.
const ROS: &str = "x-ros";

/// A definition, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// What can be used of it.
    pub spec: ServiceSpec,
    /// False when the configuration says `enabled: false`.
    pub enabled: bool,
    /// `image:`, for a service that is not part of the release.
    pub image: Option<String>,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

impl Definition {
    /// The definition of service `name`: its image's `label`, under the configuration's `change`.
    #[must_use]
    pub fn of(name: &str, label: Option<&str>, change: Option<&Value>) -> Self {
        let mut warnings = Vec::new();
        let mut keys = label.map_or_else(Map::new, |label| parse_label(name, label, &mut warnings));
        match change {
            Some(Value::Object(change)) => merge(&mut keys, change),
            Some(Value::Null) | None => {}
            Some(Value::Bool(enabled)) => {
                merge(&mut keys, &Map::from_iter([("enabled".into(), json!(enabled))]))
            }
            Some(_) => warnings.push(format!("services.{name}: expected a map of keys")),
        }
        let enabled = !matches!(keys.remove("enabled"), Some(Value::Bool(false)));
        let image = keys.remove("image").and_then(|image| image.as_str().map(str::to_owned));
        let spec = lenient(name, keys, &mut warnings);
        Self { spec, enabled, image, warnings }
    }
}

fn parse_label(name: &str, label: &str, warnings: &mut Vec<String>) -> Map<String, Value> {
    match serde_json::from_str(label) {
        Ok(Value::Object(keys)) => keys,
        Ok(_) => {
            warnings.push(format!("{name}: the image's definition is not a map"));
            Map::new()
        }
        Err(error) => {
            warnings.push(format!("{name}: the image's definition cannot be read: {error}"));
            Map::new()
        }
    }
}

fn merge(under: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Keeps the keys that can be read, each tried alone.
fn lenient(name: &str, keys: Map<String, Value>, warnings: &mut Vec<String>) -> ServiceSpec {
    let mut kept = Map::new();
    for (key, value) in keys {
        match value {
            Value::Object(inner) if key == ROS => {
                let readable = inner.into_iter().filter(|(sub, value)| {
                    readable(&format!("{name}.{ROS}.{sub}"), &json!({ROS: {sub: value}}), warnings)
                });
                kept.insert(key, Value::Object(readable.collect()));
            }
            value if readable(&format!("{name}.{key}"), &json!({&key: value}), warnings) => {
                kept.insert(key, value);
            }
            _ => {}
        }
    }
    serde_json::from_value(Value::Object(kept)).unwrap_or_default()
}

fn readable(path: &str, alone: &Value, warnings: &mut Vec<String>) -> bool {
    match serde_json::from_value::<ServiceSpec>(alone.clone()) {
        Ok(_) => true,
        Err(error) => {
            warnings.push(format!("services.{path} is left out: {error}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = r#"{"cap_add":["A"],"environment":{"X":"1","Y":"2"},"x-ros":{"after":["a"],"essential":true}}"#;

    fn with(change: Value) -> Definition {
        Definition::of("s", Some(LABEL), Some(&change))
    }

    #[test]
    fn maps_merge_and_lists_replace() {
        let merged =
            with(json!({"cap_add": ["B"], "environment": {"Y": "3"}, "x-ros": {"after": ["b"]}}));
        assert_eq!(merged.spec.cap_add, ["B"]);
        assert_eq!(
            (merged.spec.environment["X"].as_str(), merged.spec.environment["Y"].as_str()),
            ("1", "3")
        );
        assert_eq!(merged.spec.ros.after, ["b"]);
        assert!(merged.spec.ros.essential && merged.enabled && merged.warnings.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_left_out_with_a_warning() {
        let merged = with(
            json!({"cap_ad": ["B"], "privileged": "yes", "x-ros": {"afther": [], "oneshot": true}}),
        );
        assert_eq!(merged.warnings.len(), 3, "{:?}", merged.warnings);
        assert!(
            merged
                .warnings
                .iter()
                .any(|warning| warning.starts_with("services.s.x-ros.afther is left out: unknown"))
        );
        assert!(merged.spec.ros.oneshot && merged.spec.ros.essential && !merged.spec.privileged);
        assert_eq!(merged.spec.cap_add, ["A"]);
        assert_eq!(Definition::of("s", Some("{"), None).warnings.len(), 1);
        assert_eq!(with(json!([1])).spec.cap_add, ["A"]);
    }

    #[test]
    fn a_service_can_be_switched_off_or_brought_along() {
        assert!(!with(json!({"enabled": false})).enabled);
        assert!(!with(json!(false)).enabled);
        let own =
            Definition::of("mine", None, Some(&json!({"image": "busybox:1", "command": ["true"]})));
        assert_eq!((own.image.as_deref(), own.enabled), (Some("busybox:1"), true));
        assert_eq!(own.spec.command, ["true"]);
    }
}

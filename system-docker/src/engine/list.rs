//! `ps`: containers by filters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Engine;
use super::container::{Container, Record, State};
use super::error::{ApiError, Result};
use super::networks::show;
use super::time::now;

/// Filters as clients send them: `{"label": ["a=b"]}` or `{"label": {"a=b": true}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Parses the query's JSON; `known` are the filters that the endpoint has.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = |_| ApiError::bad(format!("invalid filters: {text}"));
        let parsed: BTreeMap<String, Value> = serde_json::from_str(text).map_err(wrong)?;
        let mut filters = BTreeMap::new();
        for (name, values) in parsed {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad(format!(
                    "invalid filter '{name}': known are {}",
                    known.join(", ")
                )));
            }
            let values = match values {
                Value::Array(list) => {
                    list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
                }
                Value::Object(map) => map.keys().cloned().collect(),
                _ => {
                    return Err(ApiError::bad(format!("invalid filter '{name}': expected a list")));
                }
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// Whether any value of the filter passes; one that is not there lets all pass.
    pub fn any(&self, name: &str, passes: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(name)
            .is_none_or(|values| values.is_empty() || values.iter().any(|value| passes(value)))
    }

    /// Whether every value of the filter passes.
    pub fn all(&self, name: &str, passes: impl Fn(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(|values| values.iter().all(|value| passes(value)))
    }

    /// Whether the labels have every one that is asked for, and none that must not be there.
    pub fn labels(&self, labels: &HashMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|own| own == value),
            None => labels.contains_key(wanted),
        };
        self.all("label", has) && self.all("label!", |unwanted| !has(unwanted))
    }

    /// The moment of `until`, in nanoseconds since the epoch: a time, or how long ago (`24h`).
    pub fn until(&self) -> Result<Option<i64>> {
        let Some(text) = self.0.get("until").and_then(|values| values.first()) else {
            return Ok(None);
        };
        let ago = || duration_of(text).map(|length| now() - length);
        let moment = ago().or_else(|| super::time::parse(text));
        let wrong = || ApiError::bad(format!("until: {text:?} is neither a time nor a duration"));
        moment.ok_or_else(wrong).map(Some)
    }

    /// Whether the labels have none of those that `label!` names.
    pub fn without_labels(&self, labels: &HashMap<String, String>) -> bool {
        self.all("label!", |unwanted| match unwanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_none_or(|own| own != value),
            None => !labels.contains_key(unwanted),
        })
    }

    /// Whether it is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Nanoseconds of `1h30m`, as Go writes durations; none when it is no duration.
fn duration_of(text: &str) -> Option<i64> {
    let mut total = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit());
        let end = unit.map_or(rest.len(), |unit| digits + unit);
        let factor = match &rest[digits..end] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(rest[..digits].parse::<i64>().ok()?.checked_mul(factor)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// Filters of `ps`.
pub const FILTERS: [&str; 12] = [
    "ancestor", "before", "exited", "health", "id", "is-task", "label", "name", "network", "since",
    "status", "volume",
];

impl Engine {
    /// Containers, newest first: running ones, or all of them.
    pub fn list(&self, all: bool, limit: usize, filters: &Filters) -> Result<Vec<Value>> {
        let mut found: Vec<Arc<Container>> = self.containers().values().cloned().collect();
        found.sort_by_key(|container| std::cmp::Reverse(container.record().created));
        const WORDS: [&str; 7] =
            ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
        let unknown = filters
            .0
            .get("status")
            .and_then(|all| all.iter().find(|one| !WORDS.contains(&one.as_str())));
        if let Some(word) = unknown {
            let known = WORDS.join(", ");
            return Err(ApiError::bad(format!(
                "invalid filter 'status={word}': known are {known}"
            )));
        }
        let all = all || limit > 0 || filters.has("status") || filters.has("exited");
        let ancestors = self.ancestors(filters);
        let created =
            |name: &str| self.container(name).map_or(0, |container| container.record().created);
        let shown = |container: &&Arc<Container>| {
            let record = container.record();
            (all || record.state.is_running() || matches!(record.state, State::Restarting { .. }))
                && passes(container, &record, filters)
                && (!filters.has("ancestor") || ancestors.contains(&record.image))
                && filters.any("before", |name| record.created < created(name))
                && filters.any("since", |name| record.created > created(name))
        };
        let most = if limit == 0 { usize::MAX } else { limit };
        Ok(found.iter().filter(shown).take(most).map(|container| summary(container)).collect())
    }

    /// Puts into each of `shown`, containers of [`Engine::list`] or one of [`Engine::inspect`], what it takes on disk: its
    /// writable layer, and with its image. Their files are looked at, so it is done only for who asks.
    pub fn put_sizes(&self, shown: &mut [Value]) {
        for one in shown {
            let Ok(container) = self.container(one["Id"].as_str().unwrap_or_default()) else {
                continue;
            };
            let own = super::remove::size_of(&container.dir().join("upper"));
            let image = self.store.image(&container.record().image).map_or(0, |image| image.size);
            one["SizeRw"] = own.into();
            one["SizeRootFs"] = (own + image).into();
        }
    }

    fn ancestors(&self, filters: &Filters) -> Vec<ros_api::Digest> {
        let names = filters.0.get("ancestor").cloned().unwrap_or_default();
        names.iter().filter_map(|name| self.resolve(name).ok()).collect()
    }
}

fn passes(container: &Container, record: &Record, filters: &Filters) -> bool {
    let labels = record.config.labels.clone().unwrap_or_default();
    let code = record.state.exit().map(|exit| exit.code.to_string());
    let health = container.health().as_ref().map_or("none", |health| health.status);
    let plain = |name: &str| {
        name.trim_start_matches('/').trim_start_matches('^').trim_end_matches('$').to_owned()
    };
    let exact =
        |name: &str| name.trim_start_matches(['/', '^']).len() < name.len() && name.ends_with('$');
    let named = |name: &str| match exact(name) {
        true => record.name == plain(name).trim_start_matches('/'),
        false => record.name.contains(plain(name).trim_start_matches('/')),
    };
    let has_volume = |name: &str| {
        record.mounts.iter().any(|mount| mount.name == name || mount.target.to_str() == Some(name))
    };
    filters.labels(&labels)
        && filters.any("status", |word| word == record.state.word())
        && filters.any("id", |id| record.id.starts_with(id))
        && filters.any("name", named)
        && filters.any("exited", |wanted| code.as_deref() == Some(wanted))
        && filters.any("health", |wanted| wanted == health)
        && filters.any("network", |wanted| show::is_in(record, wanted))
        && filters.any("volume", has_volume)
        && filters.any("is-task", |wanted| wanted == "false")
}

fn summary(container: &Container) -> Value {
    let record = container.record();
    let words: Vec<String> =
        record.config.entrypoint.iter().chain(&record.config.cmd).flatten().cloned().collect();
    let mode = record.host_config.network_mode.clone().filter(|mode| !mode.is_empty());
    json!({
        "Id": record.id, "Names": [format!("/{}", record.name)], "Image": record.image_name,
        "ImageID": record.image.to_string(), "Command": words.join(" "), "Created": record.created / 1_000_000_000,
        "Ports": show::ports_in_list(&record), "Labels": record.config.labels.clone().unwrap_or_default(),
        "State": record.state.word(), "Status": status(container, &record),
        "HostConfig": { "NetworkMode": mode.as_deref().unwrap_or("host") },
        "NetworkSettings": { "Networks": show::endpoints(&record) },
        "Mounts": super::inspect::mounts(&record),
    })
}

/// `Up 3 minutes (healthy)`, `Exited (1) 2 hours ago`.
fn status(container: &Container, record: &Record) -> String {
    let ago = |since: i64| duration((now() - since) / 1_000_000_000);
    match &record.state {
        State::Created => "Created".into(),
        State::Running { started_at, paused, .. } => {
            let health = container.health().as_ref().map(|health| match health.status {
                "starting" => " (health: starting)".to_owned(),
                word => format!(" ({word})"),
            });
            let paused = if *paused { " (Paused)" } else { "" };
            format!("Up {}{}{paused}", ago(*started_at), health.unwrap_or_default())
        }
        State::Restarting { exit } => {
            format!("Restarting ({}) {} ago", exit.code, ago(exit.finished_at))
        }
        State::Exited { exit, .. } => {
            format!("Exited ({}) {} ago", exit.code, ago(exit.finished_at))
        }
    }
}

/// As Docker's CLI words it.
fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..=0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        3600..7200 => "About an hour".into(),
        7200..172_800 => format!("{hours} hours"),
        172_800..1_209_600 => format!("{} days", hours / 24),
        1_209_600..5_184_000 => format!("{} weeks", hours / 24 / 7),
        5_184_000..63_072_000 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_both_forms() {
        let list = Filters::parse(r#"{"label":["a=b"],"status":["exited"]}"#, &FILTERS).unwrap();
        let map =
            Filters::parse(r#"{"label":{"a=b":true},"status":{"exited":true}}"#, &FILTERS).unwrap();
        assert_eq!(list, map);
        assert!(list.labels(&HashMap::from([("a".to_owned(), "b".to_owned())])));
        assert!(!list.labels(&HashMap::from([("a".to_owned(), "c".to_owned())])));
        assert!(Filters::parse(r#"{"what":["x"]}"#, &FILTERS).is_err());
        assert!(Filters::parse("[", &FILTERS).is_err());
    }

    #[test]
    fn until_is_a_time_or_a_while_ago() {
        let until = |text: &str| {
            Filters::parse(&json!({ "until": [text] }).to_string(), &["until"]).unwrap().until()
        };
        assert!(until("1h30m").unwrap().unwrap() < now() - 5_399_000_000_000);
        assert_eq!(until("1700000000").unwrap(), Some(1_700_000_000_000_000_000));
        for wrong in ["soon", "1h30", "m"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Filters::default().until().unwrap(), None);
    }

    #[test]
    fn labels_can_be_unwanted() {
        let filters = Filters::parse(r#"{"label!":["a"]}"#, &["label!"]).unwrap();
        assert!(filters.labels(&HashMap::new()));
        assert!(!filters.labels(&HashMap::from([("a".to_owned(), String::new())])));
    }

    #[test]
    fn durations_are_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (45, "45 seconds"),
            (90, "About a minute"),
            (7300, "2 hours"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }
}

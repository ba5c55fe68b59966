//! `ps`: containers by filters.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Engine;
use super::container::{Container, Record, State};
use super::error::{ApiError, Result};
use super::filters::{Filters, Patterns, Ports};
use super::networks::show;
use super::time::now;

/// Filters of `ps`.
pub const FILTERS: [&str; 14] = [
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
];

/// What is asked of a container.
struct Asked<'a> {
    filters: &'a Filters,
    names: Patterns,
    ids: Patterns,
    published: Vec<Ports>,
    exposed: Vec<Ports>,
}

impl Engine {
    /// Containers, newest first: running ones, or all of them.
    pub fn list(&self, all: bool, limit: usize, filters: &Filters) -> Result<Vec<Value>> {
        let mut found: Vec<Arc<Container>> = self.containers().values().cloned().collect();
        found.sort_by_key(|container| std::cmp::Reverse(container.record().created));
        const WORDS: [&str; 7] =
            ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
        if let Some(word) = filters.unknown("status", &WORDS) {
            let known = WORDS.join(", ");
            return Err(ApiError::bad(format!(
                "invalid filter 'status={word}': known are {known}"
            )));
        }
        let all = all || limit > 0 || filters.has("status") || filters.has("exited");
        let ancestors = self.ancestors(filters);
        let asked = Asked {
            filters,
            names: filters.patterns("name")?,
            ids: filters.patterns("id")?,
            published: filters.ports("publish")?,
            exposed: filters.ports("expose")?,
        };
        let created =
            |name: &str| self.container(name).map_or(0, |container| container.record().created);
        let shown = |container: &&Arc<Container>| {
            let record = container.record();
            (all || record.state.is_running() || matches!(record.state, State::Restarting { .. }))
                && passes(container, &record, &asked)
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
        filters.values("ancestor").iter().filter_map(|name| self.resolve(name).ok()).collect()
    }
}

fn passes(container: &Container, record: &Record, asked: &Asked<'_>) -> bool {
    let Asked { filters, names, ids, .. } = asked;
    let labels = record.config.labels.clone().unwrap_or_default();
    let code = record.state.exit().map(|exit| exit.code.to_string());
    let health = container.health().as_ref().map_or("none", |health| health.status);
    let has_volume = |name: &str| {
        record.mounts.iter().any(|mount| mount.name == name || mount.target.to_str() == Some(name))
    };
    filters.labels(&labels)
        && filters.any("status", |word| word == record.state.word())
        && ids.any(&record.id)
        && (names.any(&record.name) || names.any(&format!("/{}", record.name)))
        && has_port(record, asked)
        && filters.any("exited", |wanted| code.as_deref() == Some(wanted))
        && filters.any("health", |wanted| wanted == health)
        && filters.any("network", |wanted| show::is_in(record, wanted))
        && filters.any("volume", has_volume)
        && filters.any("is-task", |wanted| wanted == "false")
}

/// Whether it has one of the ports that are asked for, if any are.
fn has_port(record: &Record, asked: &Asked<'_>) -> bool {
    let one = |shown: &Value| {
        let has = |wanted: &[Ports], key: &str| {
            let port = shown[key].as_u64().and_then(|port| u16::try_from(port).ok());
            let protocol = shown["Type"].as_str().unwrap_or_default();
            port.is_some_and(|port| wanted.iter().any(|ports| ports.has(port, protocol)))
        };
        has(&asked.published, "PublicPort") || has(&asked.exposed, "PrivatePort")
    };
    (asked.published.is_empty() && asked.exposed.is_empty())
        || show::ports_in_list(record).iter().any(one)
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

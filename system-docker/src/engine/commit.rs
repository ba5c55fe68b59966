//! `commit` and `import`: images made here.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard_stubs::models::ContainerConfig;
use ros_api::Reference;
use ros_image::{Description, familiar};
use ros_runtime::RuntimeError;
use serde_json::{Map, Value, json};

use super::container::{Container, State};
use super::error::{ApiError, Result};
use super::time::{now, rfc3339};
use super::{Engine, instructions};

/// What `commit` and `import` are told.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name of the image; none when empty.
    pub repository: String,
    /// Its tag; `latest` when empty.
    pub tag: String,
    /// For the history.
    pub comment: String,
    /// For the history.
    pub author: String,
    /// Instructions of a Dockerfile, one a line.
    pub changes: String,
}

impl Asked {
    fn reference(&self) -> Result<Option<Reference>> {
        if self.repository.is_empty() {
            return Ok(None);
        }
        let tag = if self.tag.is_empty() { "latest" } else { &self.tag };
        let named = self.repository.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let name =
            if named { self.repository.clone() } else { format!("{}:{tag}", self.repository) };
        let wrong = |e| ApiError::bad(format!("invalid reference format: {e}"));
        familiar(&name).parse().map(Some).map_err(wrong)
    }

    fn description(&self, mut config: Value, created_by: String) -> Result<Description> {
        for line in self.changes.lines() {
            instructions::apply(&mut config, line)?;
        }
        Ok(Description {
            config,
            created: rfc3339(now()),
            author: self.author.clone(),
            comment: self.comment.clone(),
            created_by,
            reference: self.reference()?,
            container: None,
        })
    }
}

impl Engine {
    /// Makes an image of a container's own layer upon its image; `pause` freezes it meanwhile. `config` replaces what
    /// the container was given, where it says something. Answers the image's id.
    pub async fn commit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &Asked,
        config: Option<ContainerConfig>,
        pause: bool,
    ) -> Result<String> {
        let record = container.record();
        let words: Vec<String> =
            record.config.entrypoint.iter().chain(&record.config.cmd).flatten().cloned().collect();
        let mut base = image_config(&record.config);
        if let Some(config) = config {
            overlay(&mut base, image_config(&config));
        }
        let mut description = asked.description(base, words.join(" "))?;
        let mut of = image_config(&record.config);
        of["Image"] = record.image_name.clone().into();
        description.container = Some((record.id.clone(), of));
        let freeze = pause && matches!(record.state, State::Running { paused: false, .. });
        let process = container.running().ok().filter(|_| freeze);
        let mut frozen = false;
        if let Some(process) = &process {
            // One that ends meanwhile holds still by itself.
            frozen = match process.pause().await {
                Err(RuntimeError::Gone(_) | RuntimeError::WrongState(_)) => false,
                paused => paused.map(|()| true)?,
            };
        }
        let (upper, skip) = (container.dir().join("upper"), mounted(container));
        let image = record.image;
        let made = self
            .blocking(move |engine| Ok(engine.store.commit(&image, &upper, &skip, &description)?))
            .await;
        if let Some(process) = process.filter(|_| frozen) {
            match process.resume().await {
                Err(RuntimeError::Gone(_) | RuntimeError::WrongState(_)) => {}
                resumed => resumed?,
            }
        }
        let id = made?.to_string();
        self.events().container(container, "commit", &[("imageID", id.clone())]);
        self.events().other("image", "create", &id);
        Ok(id)
    }

    /// Makes an image of a tar; blocks. Answers the image's id.
    pub fn import(&self, tar: impl Read, asked: &Asked) -> Result<String> {
        let comment = format!(
            "Imported from {}",
            if asked.comment.is_empty() { "-" } else { &asked.comment }
        );
        let asked = Asked { comment, ..asked.clone() };
        let description = asked.description(json!({}), String::new())?;
        let id = self.store.import(tar, &description)?.to_string();
        self.events().other("image", "import", &id);
        Ok(id)
    }
}

/// Where something is mounted, relative to the root: what the layer has there was made for the mount.
fn mounted(container: &Container) -> Vec<PathBuf> {
    let record = container.record();
    let targets = record.mounts.iter().map(|mount| mount.target.as_path());
    let own = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/sbin/docker-init"];
    let all = targets.chain(own.iter().map(Path::new));
    all.filter_map(|path| path.strip_prefix("/").ok().map(Path::to_owned)).collect()
}

/// A container's configuration as an image has it: lists of paths and ports are objects there.
fn image_config(config: &ContainerConfig) -> Value {
    let set = |list: &Option<Vec<String>>| -> Value {
        let entries = list.iter().flatten().map(|name| (name.clone(), json!({})));
        let all: Map<String, Value> = entries.collect();
        if all.is_empty() { Value::Null } else { all.into() }
    };
    let whole = json!({
        "User": config.user, "ExposedPorts": set(&config.exposed_ports), "Env": config.env, "Cmd": config.cmd,
        "Volumes": set(&config.volumes), "WorkingDir": config.working_dir, "Entrypoint": config.entrypoint,
        "Labels": config.labels, "StopSignal": config.stop_signal, "Healthcheck": config.healthcheck,
    });
    match whole {
        Value::Object(map) => {
            map.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// Replaces what `over` says something about.
fn overlay(base: &mut Value, over: Value) {
    let Value::Object(over) = over else { return };
    for (key, value) in over {
        let says = match &value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        };
        if says {
            base[key] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_tag() {
        let name = |repository: &str, tag: &str| {
            let asked =
                Asked { repository: repository.into(), tag: tag.into(), ..Asked::default() };
            asked.reference().map(|name| name.map(|name| name.to_string()))
        };
        assert_eq!(name("", "").unwrap(), None);
        assert_eq!(name("a", "").unwrap().unwrap(), "a:latest");
        assert_eq!(name("h:5000/a", "b").unwrap().unwrap(), "h:5000/a:b");
        assert_eq!(name("a:c", "").unwrap().unwrap(), "a:c");
        assert!(name("A", "").is_err());
    }
}

//! `rm`, `container prune`, `rename`.

use std::fs;
use std::sync::Arc;

use ros_api::durable;

use super::Engine;
use super::container::{Container, State};
use super::error::{ApiError, Result};
use super::filters::Filters;

impl Engine {
    /// Removes a container: a running one only by `force`; with its anonymous `volumes` or without.
    pub async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        let _one = container.verbs.lock().await;
        if !self.containers().contains_key(&container.id) {
            return Err(ApiError::missing(format!("No such container: {}", container.id)));
        }
        let word = container.record().state.word();
        if !force && matches!(word, "running" | "paused" | "restarting") {
            return Err(ApiError::conflict(format!(
                "cannot remove container \"{}\": container is {word}: stop the container before removing or force remove",
                container.record().name
            )));
        }
        self.bring_to_end(container, Some(0), None).await?;
        self.erase(container)?;
        if volumes {
            let mounts = container.record().mounts.clone();
            self.drop_anonymous(&mounts)?;
        }
        self.events().container(container, "destroy", &[]);
        container.tell_removed();
        Ok(())
    }

    /// The record goes first: a folder without one is a leftover that the next daemon removes.
    fn erase(&self, container: &Container) -> Result<()> {
        let record = container.dir().join("container.json");
        fs::remove_file(&record)?;
        durable::sync_parent(&record)?;
        self.containers().remove(&container.id);
        fs::remove_dir_all(container.dir())?;
        Ok(())
    }

    /// Removes what does not run; services stay. Answers the ids and the bytes of their own layers.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let until = filters.until()?;
        let ended = |container: &Arc<Container>| {
            let record = container.record();
            matches!(record.state, State::Created | State::Exited { .. })
                && !record.is_service()
                && until.is_none_or(|until| record.created < until)
                && filters.labels(&record.config.labels.clone().unwrap_or_default())
        };
        let all: Vec<Arc<Container>> =
            self.containers().values().filter(|c| ended(c)).cloned().collect();
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for container in all {
            let size = size_of(&container.dir().join("upper"));
            if self.remove(&container, false, false).await.is_ok() {
                gone.push(container.id.clone());
                bytes += size;
            }
        }
        Ok((gone, bytes))
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &Container, name: &str) -> Result<()> {
        let _one = container.verbs.lock().await;
        let name = name.trim_start_matches('/').to_owned();
        if container.record().name == name {
            return Err(ApiError::bad(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.check_name(&name)?;
        let old = container.record().name.clone();
        container.change(|record| record.name = name)?;
        self.events().container(container, "rename", &[("oldName", old)]);
        Ok(())
    }
}

/// Bytes of the files below a folder; what cannot be read counts nothing.
pub(super) fn size_of(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

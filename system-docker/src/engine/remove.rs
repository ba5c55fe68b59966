//! `rm`, `container prune`, `rename`.

use std::fs;
use std::sync::Arc;

use ros_api::durable;

use super::Engine;
use super::container::{Container, State};
use super::error::{ApiError, Result};

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

    /// Removes what does not run; services stay.
    pub async fn prune_containers(&self) -> Result<Vec<String>> {
        let ended = |container: &Arc<Container>| {
            let record = container.record();
            matches!(record.state, State::Created | State::Exited { .. }) && !record.is_service()
        };
        let all: Vec<Arc<Container>> =
            self.containers().values().filter(|c| ended(c)).cloned().collect();
        let mut gone = Vec::new();
        for container in all {
            if self.remove(&container, false, false).await.is_ok() {
                gone.push(container.id.clone());
            }
        }
        Ok(gone)
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

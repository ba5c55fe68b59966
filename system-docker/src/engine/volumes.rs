//! Named volumes: folders `volumes/<name>/_data`, with `volume.json` beside the data.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use ros_api::durable;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::{ApiError, Result};
use super::list::Filters;
use super::mounts::{Kind, MountPoint};
use super::time::{now, rfc3339};
use super::{Engine, new_id};

/// `volume.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Volume {
    created: i64,
    labels: HashMap<String, String>,
    #[serde(default)]
    anonymous: bool,
}

impl Engine {
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    /// All volumes.
    pub fn volumes(&self) -> Result<Vec<Value>> {
        let mut names: Vec<String> = fs::read_dir(self.root.join("volumes"))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names.iter().filter_map(|name| self.volume(name).ok()).collect())
    }

    /// One volume as Docker shows it.
    pub fn volume(&self, name: &str) -> Result<Value> {
        let dir = self.volume_dir(name);
        if name.contains('/') || !dir.join("_data").exists() {
            return Err(ApiError::missing(format!("get {name}: no such volume")));
        }
        let volume: Volume = fs::read(dir.join("volume.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Ok(json!({
            "Name": name, "Driver": "local", "Mountpoint": dir.join("_data"), "CreatedAt": rfc3339(volume.created),
            "Labels": volume.labels, "Scope": "local", "Options": {},
        }))
    }

    /// Makes a volume; one that is there is as good. An empty name is given one.
    pub fn create_volume(&self, name: &str, labels: HashMap<String, String>) -> Result<String> {
        let anonymous = name.is_empty();
        let name = if anonymous { new_id()? } else { name.to_owned() };
        let dir = self.volume_dir(&name);
        if dir.join("_data").exists() {
            return Ok(name);
        }
        fs::create_dir_all(&dir)?;
        let record = Volume { created: now(), labels, anonymous };
        let text = serde_json::to_vec(&record).map_err(|e| ApiError::internal(e.to_string()))?;
        durable::write(&dir.join("volume.json"), &text, 0o600)?;
        fs::create_dir(dir.join("_data"))?;
        durable::sync_parent(&dir.join("_data"))?;
        self.events().other("volume", "create", &name);
        Ok(name)
    }

    /// Removes a volume and its data.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        if let Err(missing) = self.volume(name) {
            return if force { Ok(()) } else { Err(missing) };
        }
        if let Some(user) = self.volume_user(name) {
            return Err(ApiError::conflict(format!("remove {name}: volume is in use - [{user}]")));
        }
        fs::remove_dir_all(self.volume_dir(name))?;
        self.events().other("volume", "destroy", name);
        Ok(())
    }

    /// Removes volumes that no container has: the anonymous ones, or `all`.
    pub fn prune_volumes(&self, all: bool, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for volume in self.volumes()? {
            let name = volume["Name"].as_str().unwrap_or_default();
            let record = fs::read(self.volume_dir(name).join("volume.json")).unwrap_or_default();
            let anonymous =
                serde_json::from_slice::<Volume>(&record).is_ok_and(|volume| volume.anonymous);
            let labels = serde_json::from_value(volume["Labels"].clone()).unwrap_or_default();
            let chosen = (all || anonymous) && filters.labels(&labels);
            if chosen && self.volume_user(name).is_none() {
                bytes += super::remove::size_of(&self.volume_dir(name).join("_data"));
                self.remove_volume(name, true)?;
                gone.push(name.to_owned());
            }
        }
        Ok((gone, bytes))
    }

    fn volume_user(&self, name: &str) -> Option<String> {
        let has = |mount: &MountPoint| mount.kind == Kind::Volume && mount.name == name;
        let all = self.containers();
        all.values()
            .find(|container| container.record().mounts.iter().any(has))
            .map(|container| container.id.clone())
    }

    /// Makes the volumes of a new container, and gives an empty one what the image has at its place.
    pub(super) fn provide_volumes(
        &self,
        mounts: &mut [MountPoint],
        layers: &[PathBuf],
    ) -> Result<()> {
        for mount in mounts.iter_mut().filter(|mount| mount.kind == Kind::Volume) {
            mount.name = self.create_volume(&mount.name, HashMap::new())?;
            mount.source = self.volume_dir(&mount.name).join("_data");
            let empty = fs::read_dir(&mount.source)?.next().is_none();
            if empty && !mount.mode.contains("nocopy") {
                let relative = mount.target.strip_prefix("/").unwrap_or(&mount.target);
                for layer in layers.iter().rev() {
                    copy_tree(&layer.join(relative), &mount.source)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the volumes that only this container had, and that have no name of a user's.
    pub(super) fn drop_anonymous(&self, mounts: &[MountPoint]) -> Result<()> {
        for mount in mounts.iter().filter(|mount| mount.kind == Kind::Volume) {
            let record =
                fs::read(self.volume_dir(&mount.name).join("volume.json")).unwrap_or_default();
            if serde_json::from_slice::<Volume>(&record).is_ok_and(|volume| volume.anonymous) {
                self.remove_volume(&mount.name, true)?;
            }
        }
        Ok(())
    }
}

/// Copies what a layer has in the folder `from`: files, folders and links, with owner and mode. What hides something
/// (overlayfs's device 0:0) removes it.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(from) else { return Ok(()) };
    if !meta.is_dir() {
        return Ok(());
    }
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    let mut children: BTreeMap<_, _> = BTreeMap::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        children.insert(entry.file_name(), entry.path());
    }
    for (name, source) in children {
        let target = to.join(&name);
        let meta = fs::symlink_metadata(&source)?;
        if meta.is_dir() {
            match fs::create_dir(&target) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                _ => copy_tree(&source, &target)?,
            }
            continue;
        }
        let _ = fs::remove_file(&target);
        if meta.file_type().is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
        } else if meta.is_file() {
            fs::copy(&source, &target)?;
            chown(&target, Some(meta.uid()), Some(meta.gid()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
    }
    Ok(())
}

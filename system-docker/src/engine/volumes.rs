//! Named volumes: folders `volumes/<name>/_data`, with `volume.json` beside the data. One with options is a mount at
//! that place, made before the first container that has it starts and taken away after the last one ended.

mod options;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use bollard_stubs::models::VolumeCreateRequest;
use ros_api::durable;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::container::{Container, Record};
use super::error::{ApiError, Result};
use super::filters::Filters;
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
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// Pairs of a volume and a container that needs it mounted.
pub type Users = HashSet<(String, String)>;

/// Filters of `volume ls`.
pub const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
/// Filters of `volume prune`.
pub const PRUNE_FILTERS: [&str; 3] = ["all", "label", "label!"];

impl Engine {
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    fn volume_record(&self, name: &str) -> Result<Volume> {
        let dir = self.volume_dir(name);
        if name.contains('/') || name.starts_with('.') || !dir.join("_data").exists() {
            return Err(ApiError::missing(format!("get {name}: no such volume")));
        }
        let text = fs::read(dir.join("volume.json")).ok();
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    fn volume_names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join("volumes"))?.flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// All volumes that pass.
    pub fn volumes(&self, filters: &Filters) -> Result<Vec<Value>> {
        let patterns = filters.patterns("name")?;
        let passes = |name: &&String| {
            let Ok(volume) = self.volume_record(name) else { return false };
            let unused = self.volume_user(name).is_none();
            patterns.any(name)
                && filters.any("driver", |driver| driver == "local")
                && filters.any("dangling", |wanted| unused == matches!(wanted, "true" | "1"))
                && filters.labels(&volume.labels)
        };
        let names = self.volume_names()?;
        Ok(names.iter().filter(passes).filter_map(|name| self.volume(name).ok()).collect())
    }

    /// All volumes, with how much is in them and how many containers have them.
    pub fn volumes_with_usage(&self) -> Result<Vec<Value>> {
        let mut all = self.volumes(&Filters::default())?;
        for shown in &mut all {
            let name = shown["Name"].as_str().unwrap_or_default().to_owned();
            let users = self.containers().values().filter(|c| has(&c.record(), &name)).count();
            let size = size(&self.volume_dir(&name).join("_data"));
            shown["UsageData"] = json!({ "Size": size, "RefCount": users });
        }
        Ok(all)
    }

    /// One volume as Docker shows it.
    pub fn volume(&self, name: &str) -> Result<Value> {
        let volume = self.volume_record(name)?;
        let options = if volume.options.is_empty() { Value::Null } else { json!(volume.options) };
        Ok(json!({
            "Name": name, "Driver": "local", "Mountpoint": self.volume_dir(name).join("_data"),
            "CreatedAt": rfc3339(volume.created), "Labels": volume.labels, "Scope": "local", "Options": options,
        }))
    }

    /// Makes the volume that a client asks for; answers its name.
    pub fn create_volume(&self, asked: VolumeCreateRequest) -> Result<String> {
        if let Some(driver) = asked.driver.filter(|driver| !matches!(&**driver, "" | "local")) {
            return Err(ApiError::missing(format!("plugin {driver:?} not found")));
        }
        if asked.cluster_volume_spec.is_some() {
            return Err(ApiError::bad("cluster volumes are not available"));
        }
        let name = asked.name.unwrap_or_default();
        check_name(&name)?;
        let options: BTreeMap<_, _> = asked.driver_opts.unwrap_or_default().into_iter().collect();
        options::parse(&options)?;
        self.provide_volume(&name, asked.labels.unwrap_or_default(), options)
    }

    /// Makes a volume; one that is there and is not another is as good. An empty name is given one.
    fn provide_volume(
        &self,
        name: &str,
        labels: HashMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<String> {
        let anonymous = name.is_empty();
        let name = if anonymous { new_id()? } else { name.to_owned() };
        let dir = self.volume_dir(&name);
        if let Ok(own) = self.volume_record(&name) {
            return match options.is_empty() || own.options == options {
                true => Ok(name),
                false => Err(ApiError::conflict(format!(
                    "create {name}: the volume exists with other options"
                ))),
            };
        }
        fs::create_dir_all(&dir)?;
        let record = Volume { created: now(), labels, anonymous, options };
        let text = serde_json::to_vec(&record).map_err(|e| ApiError::internal(e.to_string()))?;
        durable::write(&dir.join("volume.json"), &text, 0o600)?;
        fs::create_dir(dir.join("_data"))?;
        durable::sync_parent(&dir.join("_data"))?;
        self.events().other("volume", "create", &name);
        Ok(name)
    }

    /// Removes a volume and its data.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        if let Err(missing) = self.volume_record(name) {
            return if force { Ok(()) } else { Err(missing) };
        }
        if let Some(user) = self.volume_user(name) {
            return Err(ApiError::conflict(format!("remove {name}: volume is in use - [{user}]")));
        }
        let dir = self.volume_dir(name);
        // What is mounted there is somebody else's data.
        if options::is_mounted(&dir.join("_data")) {
            options::unmount(&dir.join("_data"))?;
        }
        fs::remove_dir_all(dir)?;
        self.events().other("volume", "destroy", name);
        Ok(())
    }

    /// Removes volumes that no container has: the anonymous ones, or all of them; answers their names and how many
    /// bytes there are more.
    pub fn prune_volumes(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let all = filters.has("all") && filters.any("all", |wanted| matches!(wanted, "true" | "1"));
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for name in self.volume_names()? {
            let Ok(volume) = self.volume_record(&name) else { continue };
            if (all || volume.anonymous)
                && filters.labels(&volume.labels)
                && filters.without_labels(&volume.labels)
                && self.volume_user(&name).is_none()
            {
                bytes += size(&self.volume_dir(&name).join("_data"));
                self.remove_volume(&name, true)?;
                gone.push(name);
            }
        }
        Ok((gone, bytes))
    }

    fn volume_user(&self, name: &str) -> Option<String> {
        let all = self.containers();
        let user = all.values().find(|container| has(&container.record(), name));
        user.map(|container| container.id.clone())
    }

    /// Makes the volumes of a new container, and gives an empty one what the image has at its place.
    pub(super) fn provide_volumes(
        &self,
        mounts: &mut [MountPoint],
        layers: &[PathBuf],
    ) -> Result<()> {
        for mount in mounts.iter_mut().filter(|mount| mount.kind == Kind::Volume) {
            mount.name = self.provide_volume(&mount.name, HashMap::new(), BTreeMap::new())?;
            mount.source = self.volume_dir(&mount.name).join("_data");
            // One with options has its content only while it is mounted.
            if self.volume_record(&mount.name)?.options.is_empty() {
                fill(mount, layers)?;
            }
        }
        Ok(())
    }

    /// Mounts the volumes with options of a container that is about to start, where they are not yet.
    pub(super) async fn mount_volumes(&self, record: &Record, layers: &[PathBuf]) -> Result<()> {
        for mount in record.mounts.iter().filter(|mount| mount.kind == Kind::Volume) {
            let source = options::parse(&self.volume_record(&mount.name)?.options)?;
            let Some(source) = source else { continue };
            let mut users = self.mounting.lock().await;
            users.insert((mount.name.clone(), record.id.clone()));
            if options::is_mounted(&mount.source) {
                continue;
            }
            let (mount, layers) = (mount.clone(), layers.to_vec());
            // A server far away may let wait, but not the daemon.
            let mounted = tokio::task::spawn_blocking(move || {
                source.mount(&mount.source)?;
                fill(&mount, &layers)
            });
            mounted.await.map_err(|e| ApiError::internal(e.to_string()))?.map_err(|e| {
                ApiError::internal(format!("error while mounting volume: failed to {e}"))
            })?;
        }
        Ok(())
    }

    /// Unmounts the volumes with options of a container that ended, where nobody else has them.
    pub(super) async fn unmount_volumes(&self, container: &Container) {
        let mounts = container.record().mounts.clone();
        for mount in mounts.iter().filter(|mount| mount.kind == Kind::Volume) {
            if self.volume_record(&mount.name).is_ok_and(|volume| volume.options.is_empty()) {
                continue;
            }
            let mut users = self.mounting.lock().await;
            users.remove(&(mount.name.clone(), container.id.clone()));
            if !users.iter().any(|(volume, _)| *volume == mount.name)
                && !self.runs_with(&mount.name, &container.id)
                && options::is_mounted(&mount.source)
                && let Err(error) = options::unmount(&mount.source)
            {
                tracing::warn!("volume {}: unmount: {error}", mount.name);
            }
        }
    }

    /// Whether a container other than `but` runs with the volume: one that an earlier daemon started, too.
    fn runs_with(&self, volume: &str, but: &str) -> bool {
        self.containers().values().any(|container| {
            let record = container.record();
            record.id != but && record.state.is_running() && has(&record, volume)
        })
    }

    /// Unmounts what an earlier daemon mounted for a container that never ran.
    pub(super) fn sweep_volumes(&self) {
        for name in self.volume_names().unwrap_or_default() {
            let data = self.volume_dir(&name).join("_data");
            if self.volume_record(&name).is_ok_and(|volume| !volume.options.is_empty())
                && options::is_mounted(&data)
                && !self.runs_with(&name, "")
                && let Err(error) = options::unmount(&data)
            {
                tracing::warn!("volume {name}: unmount: {error}");
            }
        }
    }

    /// Removes the volumes that only this container had, and that have no name of a user's.
    pub(super) fn drop_anonymous(&self, mounts: &[MountPoint]) -> Result<()> {
        for mount in mounts.iter().filter(|mount| mount.kind == Kind::Volume) {
            // One that another container has too is that one's.
            if self.volume_record(&mount.name).is_ok_and(|volume| volume.anonymous)
                && self.volume_user(&mount.name).is_none()
            {
                self.remove_volume(&mount.name, true)?;
            }
        }
        Ok(())
    }
}

fn has(record: &Record, volume: &str) -> bool {
    record.mounts.iter().any(|mount| mount.kind == Kind::Volume && mount.name == volume)
}

fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.is_empty() || (name.len() >= 2 && starts_well && name.chars().all(ok)) {
        return Ok(());
    }
    Err(ApiError::bad(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name or is too short, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at least two of them"
    )))
}

/// Bytes that a tree takes on the disk.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

/// Gives an empty volume what the image has at its place.
fn fill(mount: &MountPoint, layers: &[PathBuf]) -> std::io::Result<()> {
    if mount.mode.contains("nocopy") || fs::read_dir(&mount.source)?.next().is_some() {
        return Ok(());
    }
    let relative = mount.target.strip_prefix("/").unwrap_or(&mount.target);
    layers.iter().rev().try_for_each(|layer| copy_tree(&layer.join(relative), &mount.source))
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

//! Images: what the store does, in Docker's terms, and what protects an image from removal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use ros_api::{Digest, Generations, Reference, paths};
use ros_image::{ImageRecord, LoadEvent, PullEvent, PushEvent, Registries, Removed, familiar};
use ros_sys::mountinfo;
use serde_json::{Value, json};

use super::Engine;
use super::container::Record;
use super::error::{ApiError, Result};
use super::filters::{Filters, Globs};
use super::time::{self, rfc3339};

/// How registries are reached: written by `ros` from the configuration.
const REGISTRIES: &str = "/run/ros/registries.json";

/// Filters of `images`.
pub const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

/// What a name without a registry means, unless the configuration says otherwise.
const HUB: &str = "docker.io";

/// A layer among all images.
struct LayerUse {
    /// Unpacked, in bytes.
    size: u64,
    /// How many images have it.
    images: usize,
}

impl Engine {
    /// The image that a name or an id means.
    pub(super) fn resolve(&self, name: &str) -> Result<Digest> {
        Ok(self.store.resolve(familiar(name))?)
    }

    /// The image's layers for overlayfs, topmost first, each found whole: reading them may take a while. Those of a service
    /// of the OS are not read: on a factory disk, which has no fs-verity, that would hold up every boot; `ros os verify`
    /// reads them.
    pub(super) fn lower_dirs(&self, image: &Digest, service: bool) -> Result<Vec<PathBuf>> {
        Ok(match service {
            true => self.store.lower_dirs_unread(image)?,
            false => self.store.lower_dirs(image)?,
        })
    }

    /// The same, of a container.
    pub(super) async fn layers(self: &Arc<Self>, record: &Record) -> Result<Vec<PathBuf>> {
        let (image, service) = (record.image, record.is_service());
        self.blocking(move |engine| engine.lower_dirs(&image, service)).await
    }

    /// The image's config document.
    pub(super) fn image_config(&self, id: &Digest) -> Result<Value> {
        let text = self.store.config_bytes(id)?;
        serde_json::from_slice(&text)
            .map_err(|e| ApiError::internal(format!("config of {id}: {e}")))
    }

    /// All images; with `shared`, how much of each others have too.
    pub fn images(&self, filters: &Filters, shared: bool) -> Result<Vec<Value>> {
        let images = self.store.images()?;
        let created = |name: &str| {
            let id = self.resolve(name).ok();
            id.and_then(|id| images.iter().find(|image| image.id == id))
                .map_or(0, |image| image.created)
        };
        let globs = filters.globs("reference")?;
        let named = |name: &Reference| globs.any(&name.to_string());
        let until = filters.until()?.map(|moment| moment / 1_000_000_000);
        let shown = |image: &&ImageRecord| {
            let labels = image.labels.clone().into_iter().collect();
            let dangling = image.tags().next().is_none();
            filters.labels(&labels)
                && filters.any("dangling", |wanted| matches!(wanted, "true" | "1") == dangling)
                && (!filters.has("reference") || image.tags().any(named))
                && filters.any("before", |name| image.created < created(name))
                && filters.any("since", |name| image.created > created(name))
                && until.is_none_or(|until| image.created < until)
        };
        let layers = if shared { self.layer_uses(&images)? } else { BTreeMap::new() };
        let one = |image: &ImageRecord| {
            let mut summary = self.summary(image, &globs);
            if shared {
                let of_others = |layer: &Digest| layers.get(layer).filter(|layer| layer.images > 1);
                let bytes = image.layers.iter().filter_map(of_others).map(|layer| layer.size);
                summary["SharedSize"] = json!(bytes.sum::<u64>());
            }
            summary
        };
        Ok(images.iter().filter(shown).map(one).collect())
    }

    /// Bytes of all images' layers, each counted once.
    pub fn layers_size(&self) -> Result<u64> {
        let layers = self.layer_uses(&self.store.images()?)?;
        Ok(layers.values().map(|layer| layer.size).sum())
    }

    fn layer_uses(&self, images: &[ImageRecord]) -> Result<BTreeMap<Digest, LayerUse>> {
        let mut layers = BTreeMap::new();
        for image in images {
            for diff_id in image.layers.iter().collect::<BTreeSet<_>>() {
                match layers.get_mut(diff_id) {
                    Some(LayerUse { images, .. }) => *images += 1,
                    // One that is missing is `check`'s to tell.
                    None => {
                        let size = self.store.layer_facts(diff_id).map_or(0, |facts| facts.size);
                        layers.insert(*diff_id, LayerUse { size, images: 1 });
                    }
                }
            }
        }
        Ok(layers)
    }

    /// Of its names only those that are asked for.
    fn summary(&self, image: &ImageRecord, globs: &Globs) -> Value {
        let asked = |name: &&Reference| globs.any(&name.to_string());
        let users = self
            .containers()
            .values()
            .filter(|container| container.record().image == image.id)
            .count();
        json!({
            "Id": image.id.to_string(), "ParentId": "", "Created": image.created, "Size": image.size, "SharedSize": -1,
            "RepoTags": image.tags().filter(asked).map(ToString::to_string).collect::<Vec<_>>(),
            "RepoDigests": image.digests().map(ToString::to_string).collect::<Vec<_>>(),
            "Labels": image.labels, "Containers": users,
        })
    }

    /// One image.
    pub fn inspect_image(&self, name: &str) -> Result<Value> {
        let id = self.resolve(name)?;
        let image = self.store.image(&id)?;
        let config = self.image_config(&id)?;
        let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        Ok(json!({
            "Id": id.to_string(), "Parent": text("parent"), "Comment": text("comment"), "Container": text("container"),
            "ContainerConfig": config["container_config"], "Author": text("author"), "DockerVersion": "",
            "RepoTags": image.tags().map(ToString::to_string).collect::<Vec<_>>(),
            "RepoDigests": image.digests().map(ToString::to_string).collect::<Vec<_>>(),
            "Created": config["created"].as_str().map_or_else(|| rfc3339(0), str::to_owned),
            "Architecture": text("architecture"), "Os": text("os"), "Size": image.size,
            "Config": config["config"], "GraphDriver": { "Name": "overlay2", "Data": null },
            "RootFS": { "Type": "layers", "Layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>() },
            "Metadata": { "LastTagTime": rfc3339(0) },
        }))
    }

    /// How an image came about, newest layer first.
    pub fn history(&self, name: &str) -> Result<Value> {
        let id = self.resolve(name)?;
        let image = self.store.image(&id)?;
        let config = self.image_config(&id)?;
        let tags: Vec<String> = image.tags().map(ToString::to_string).collect();
        let steps = config["history"].as_array().cloned().unwrap_or_default();
        let mut layers = image.layers.iter().rev();
        let mut entries = Vec::new();
        for (index, step) in steps.iter().rev().enumerate() {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let layer = if step["empty_layer"] == true { None } else { layers.next() };
            let size =
                layer.map_or(Ok(0), |layer| self.store.layer_facts(layer).map(|f| f.size))?;
            let created = time::parse(&text("created")).unwrap_or(0) / 1_000_000_000;
            entries.push(json!({
                "Id": if index == 0 { id.to_string() } else { "<missing>".into() },
                "Created": created, "CreatedBy": text("created_by"),
                "Tags": (index == 0 && !tags.is_empty()).then_some(&tags), "Size": size, "Comment": text("comment"),
            }));
        }
        Ok(entries.into())
    }

    /// Gives an image one more name.
    pub fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let tag = if tag.is_empty() { "latest" } else { tag };
        let reference: Reference = format!("{}:{tag}", familiar(repository))
            .parse()
            .map_err(|e| ApiError::bad(format!("invalid reference format: {e}")))?;
        let id = self.resolve(name)?;
        self.store.tag(&id, &reference)?;
        self.events().other("image", "tag", &id.to_string());
        Ok(())
    }

    /// Removes an image or one of its names, and the content that nothing needs then.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Value>> {
        let name = familiar(name);
        let id = self.resolve(name)?;
        let record = self.store.image(&id)?;
        if let Some(user) = self.image_user(&record) {
            let named = name.parse::<Reference>().is_ok_and(|name| {
                let latest = name.with_tag("latest");
                let bare = name.tag.is_none() && name.digest.is_none();
                record.references.contains(if bare { &latest } else { &name })
            });
            let others = record.tags().count() > 1;
            if !(named && others) {
                return Err(ApiError::conflict(format!(
                    "conflict: unable to delete {name} (cannot be forced) - image is being used by {user}"
                )));
            }
        }
        let removed = self.store.remove(name, force, |_| None)?;
        self.collect();
        Ok(removed.iter().map(|removed| self.told(removed)).collect())
    }

    fn told(&self, removed: &Removed) -> Value {
        match removed {
            Removed::Untagged(name) => {
                self.events().other("image", "untag", &name.to_string());
                json!({ "Untagged": name.to_string() })
            }
            Removed::Deleted(id) => {
                self.events().other("image", "delete", &id.to_string());
                json!({ "Deleted": id.to_string() })
            }
        }
    }

    /// Removes images without a name (or, with `all`, without a use); services of installed generations stay.
    pub fn prune_images(&self, all: bool, filters: &Filters) -> Result<Value> {
        let mut gone = Vec::new();
        let until = filters.until()?;
        for image in self.store.images()? {
            let dangling = image.tags().next().is_none();
            let labels = image.labels.clone().into_iter().collect();
            let chosen = filters.labels(&labels)
                && until.is_none_or(|until| image.created.saturating_mul(1_000_000_000) < until);
            if (all || dangling) && chosen && self.image_user(&image).is_none() {
                let removed = self.store.remove(&image.id.to_string(), true, |_| None)?;
                gone.extend(removed.iter().map(|removed| self.told(removed)));
            }
        }
        Ok(json!({ "ImagesDeleted": gone, "SpaceReclaimed": self.collect() }))
    }

    /// Who needs an image: a container, a generation that is installed, or a process that outlived its container, such as
    /// the shims of the user's engine after another took its place.
    fn image_user(&self, image: &ImageRecord) -> Option<String> {
        let container = {
            let all = self.containers();
            all.values()
                .find(|container| container.record().image == image.id)
                .map(|container| container.id.clone())
        };
        if let Some(id) = container {
            return Some(format!("container {}", &id[..12]));
        }
        let generations = Generations::at(Path::new(paths::GENERATIONS));
        let needs = |number: u32| {
            let release = generations.release(number).ok()?;
            let by_digest = |digest: &Digest| {
                image.came_as(digest)
                    || image.digests().any(|name| name.digest.as_ref() == Some(digest))
            };
            release
                .services
                .values()
                .any(|service| by_digest(&service.digest))
                .then_some(release.version)
        };
        let all = generations.list().unwrap_or_default();
        all.iter()
            .find_map(|generation| Some((generation.number, needs(generation.number)?)))
            .map(|(number, version)| format!("generation {number} ({version})"))
            .or_else(|| is_mounted(image).then(|| "a process whose container is gone".to_owned()))
    }

    /// Layers of containers stay, whatever became of their images' names. Answers the bytes that are free now.
    fn collect(&self) -> u64 {
        let in_use: BTreeSet<Digest> = {
            let all = self.containers();
            let images: BTreeSet<Digest> =
                all.values().map(|container| container.record().image).collect();
            images
                .iter()
                .filter_map(|id| self.store.image(id).ok())
                .flat_map(|image| image.layers)
                .collect()
        };
        match self.store.collect_garbage(&in_use) {
            Ok(reclaimed) => reclaimed.bytes,
            Err(error) => {
                tracing::warn!("collecting garbage: {error}");
                0
            }
        }
    }

    /// Fetches an image; `tell` is given Docker's progress messages.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<(String, String)>,
        tell: impl Fn(Value) + Send + Sync + Clone + 'static,
    ) -> Result<()> {
        let reference = reference(name)?;
        let registries = registries(&reference, auth)?;
        let (telling, asked) = (tell.clone(), reference.clone());
        let pulled = self
            .store
            .pull(&reference, &registries, move |event| {
                if matches!(event, PullEvent::Resolved { .. }) {
                    let status = format!("Pulling from {}", asked.repository);
                    telling(json!({ "status": status, "id": tag_of(&asked) }));
                }
                telling(progress(&event));
            })
            .await?;
        tell(json!({ "status": format!("Digest: {}", pulled.digest) }));
        let news = if pulled.fetched == 0 {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        tell(
            json!({ "status": format!("Status: {news} {reference}"), "aux": { "fetched": pulled.fetched } }),
        );
        self.events().other("image", "pull", &reference.to_string());
        Ok(())
    }

    /// Gives an image to its registry; `tell` is given Docker's progress messages.
    pub async fn push(
        &self,
        name: &str,
        tag: &str,
        auth: Option<(String, String)>,
        tell: impl Fn(Value) + Send + Sync + Clone + 'static,
    ) -> Result<()> {
        let named = reference(name)?;
        let tag = if tag.is_empty() { named.tag.as_deref().unwrap_or("latest") } else { tag };
        let named = named.with_tag(tag);
        let missing =
            |_| ApiError::missing(format!("An image does not exist locally with the tag: {name}"));
        let id = self.resolve(&named.to_string()).map_err(missing)?;
        let registries = registries(&named, auth)?;
        let host = named.registry.as_ref().or(registries.default_registry.as_ref());
        let place = format!("{}/{}", host.map_or(HUB, String::as_str), named.repository);
        tell(json!({ "status": format!("The push refers to repository [{place}]") }));
        let telling = tell.clone();
        let progress = move |event: PushEvent| telling(push_progress(&event));
        let pushed = self.store.push(&id, &named, &registries, progress).await?;
        let status = format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
        tell(json!({ "status": status }));
        tell(json!({
            "progressDetail": {},
            "aux": { "Tag": tag, "Digest": pushed.digest.to_string(), "Size": pushed.size },
        }));
        self.events().other("image", "push", &named.to_string());
        Ok(())
    }

    /// What an image is in its registry, and what a pull of it would fetch: Docker's distribution inspect, with the
    /// config's labels and the missing layers besides.
    pub async fn distribution(&self, name: &str, auth: Option<(String, String)>) -> Result<Value> {
        let reference = reference(name)?;
        let plan = self.store.plan_pull(&reference, &registries(&reference, auth)?).await?;
        let missing = plan.missing.iter().map(|layer| {
            let digest = layer.digest.to_string();
            json!({ "Digest": digest, "Size": layer.fetch, "Blob": layer.size, "Room": layer.room })
        });
        Ok(json!({
            "Descriptor": {
                "mediaType": plan.image.media_type, "digest": plan.image.digest.to_string(), "size": plan.image.size,
            },
            "Platforms": [{ "architecture": "amd64", "os": "linux" }],
            "Manifest": plan.image.manifest_digest.to_string(), "Labels": plan.labels,
            "Missing": missing.collect::<Vec<_>>(), "Fetch": plan.fetch,
        }))
    }

    /// The signatures that lie beside an image in its registry, unverified: `Payload` and `Signature`, both base64.
    pub async fn signatures(&self, name: &str) -> Result<Value> {
        let reference = reference(name)?;
        let Some(digest) = reference.digest else {
            return Err(ApiError::bad(format!(
                "{name}: signatures are of a digest: expected name@sha256:…"
            )));
        };
        let registries = registries(&reference, None)?;
        let found = ros_image::signatures_of(&reference, &digest, &registries).await?;
        let engine = base64::engine::general_purpose::STANDARD;
        let shown = found.iter().map(
            |one| json!({ "Payload": engine.encode(&one.payload), "Signature": one.signature }),
        );
        Ok(json!({ "Digest": digest.to_string(), "Signatures": shown.collect::<Vec<_>>() }))
    }

    /// Tags of a repository.
    pub async fn tags(&self, name: &str) -> Result<Value> {
        let reference = reference(name)?;
        let tags = ros_image::list_tags(&reference, &registries(&reference, None)?).await?;
        Ok(json!({ "Name": reference.name(), "Tags": tags }))
    }

    /// Loads an archive; blocks.
    pub fn load(&self, archive: impl Read, tell: impl Fn(Value)) -> Result<()> {
        let loaded = self.store.load(archive, |event| {
            if let LoadEvent::Loaded(image) = event {
                let names = image.references.iter().map(|name| format!("Loaded image: {name}\n"));
                let text: String = names.collect();
                let text =
                    if text.is_empty() { format!("Loaded image ID: {}\n", image.id) } else { text };
                tell(json!({ "stream": text }));
            }
        })?;
        loaded.iter().for_each(|image| self.events().other("image", "load", &image.id.to_string()));
        Ok(())
    }

    /// Writes an archive; blocks.
    pub fn save(&self, names: &[String], to: impl Write) -> Result<()> {
        let names: Vec<String> = names.iter().map(|name| familiar(name).to_owned()).collect();
        Ok(self.store.save(&names, to)?)
    }

    /// Refuses names that mean no image, before anything is written.
    pub fn check_images(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.resolve(name).map(|_| ()))
    }
}

/// Whether a process still has the image's topmost layer in a root file system.
fn is_mounted(image: &ImageRecord) -> bool {
    let Some(top) = image.layers.last().map(Digest::hex) else { return false };
    let shows = |text: &String| {
        text.lines().any(|line| line.contains(" - overlay ") && line.contains(&top))
    };
    mountinfo::everywhere().iter().any(shows)
}

fn reference(name: &str) -> Result<Reference> {
    familiar(name).parse().map_err(|e| ApiError::bad(format!("invalid reference format: {e}")))
}

fn tag_of(reference: &Reference) -> String {
    match (&reference.tag, reference.digest) {
        (_, Some(digest)) => digest.to_string(),
        (Some(tag), None) => tag.clone(),
        (None, None) => "latest".into(),
    }
}

/// The configuration's registries.
pub fn configured() -> Result<Registries> {
    match std::fs::read(REGISTRIES) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|e| ApiError::internal(format!("{REGISTRIES}: {e}"))),
        Err(_) => Ok(Registries::default()),
    }
}

/// The configuration's registries, with the client's own credentials for this one.
fn registries(reference: &Reference, auth: Option<(String, String)>) -> Result<Registries> {
    let mut registries = configured()?;
    let default = registries.default_registry.get_or_insert_with(|| HUB.to_owned());
    let host = reference.registry.as_ref().unwrap_or(default).clone();
    if let Some((user, password)) = auth {
        let options = registries.registries.entry(host).or_default();
        options.username = Some(user);
        options.password = Some(password);
    }
    Ok(registries)
}

/// Docker's progress message for an event of a push.
fn push_progress(event: &PushEvent) -> Value {
    let plain = |layer: &Digest, status: &str| json!({ "status": status, "progressDetail": {}, "id": layer.short() });
    match event {
        PushEvent::Preparing { layer } => plain(layer, "Preparing"),
        PushEvent::Mounted { layer, from } => plain(layer, &format!("Mounted from {from}")),
        PushEvent::Exists { layer } => plain(layer, "Layer already exists"),
        PushEvent::Pushing { layer, done, total } => {
            json!({ "status": "Pushing", "progressDetail": { "current": done, "total": total }, "id": layer.short() })
        }
        PushEvent::Pushed { layer } => plain(layer, "Pushed"),
    }
}

/// Docker's progress message for an event.
fn progress(event: &PullEvent) -> Value {
    let plain = |layer: &Digest, status: &str| json!({ "status": status, "progressDetail": {}, "id": layer.short() });
    let counted = |layer: &Digest, status: &str, done: u64, total: u64| json!({ "status": status, "progressDetail": { "current": done, "total": total }, "id": layer.short() });
    match event {
        PullEvent::Resolved { digest, layers } => {
            json!({ "status": format!("Found {layers} layers"), "aux": { "digest": digest.to_string() } })
        }
        PullEvent::Exists { layer } => plain(layer, "Already exists"),
        PullEvent::Downloading { layer, done, total } => {
            counted(layer, "Downloading", *done, *total)
        }
        PullEvent::Downloaded { layer } => plain(layer, "Download complete"),
        PullEvent::Extracting { layer, done, total } => counted(layer, "Extracting", *done, *total),
        PullEvent::Complete { layer } => plain(layer, "Pull complete"),
    }
}

impl Engine {
    /// Shared handle on the store for threads that block.
    pub fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> {
        let engine = Arc::clone(self);
        async move {
            let joined = tokio::task::spawn_blocking(move || work(&engine)).await;
            joined.map_err(|e| ApiError::internal(e.to_string()))?
        }
    }
}

//! Images made here: one more layer upon an image (commit), or a layer alone (import).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ros_api::Reference;
use serde_json::{Value, json};

use crate::layer::changes::write_changes;
use crate::store::remove_all;
use crate::{Error, ImageId, Result, Store};

/// What a new image is, besides its layers.
#[derive(Clone, Debug)]
pub struct Description {
    /// `config` of its config document: command, environment, labels…
    pub config: Value,
    /// RFC 3339.
    pub created: String,
    /// Who made it; may be empty.
    pub author: String,
    /// For the history; may be empty.
    pub comment: String,
    /// The command that made the layer, for the history.
    pub created_by: String,
    /// Its name, if it gets one.
    pub reference: Option<Reference>,
    /// The container that it was made of: its id and configuration.
    pub container: Option<(String, Value)>,
}

impl Store {
    /// An image of `parent` and the changes in the overlayfs directory `upper`, without the paths in `skip`.
    ///
    /// # Errors
    /// When the changes cannot be read or stored. No image is visible then.
    pub fn commit(
        &self,
        parent: &ImageId,
        upper: &Path,
        skip: &[PathBuf],
        description: &Description,
    ) -> Result<ImageId> {
        self.composed(Some(parent), description, |file| write_changes(upper, skip, file))
    }

    /// An image of the one layer in `tar`, compressed or not.
    ///
    /// # Errors
    /// As [`Store::import_layer`].
    pub fn import(&self, mut tar: impl Read, description: &Description) -> Result<ImageId> {
        self.composed(None, description, |file| io::copy(&mut tar, file).map(|_| ()))
    }

    fn composed(
        &self,
        parent: Option<&ImageId>,
        description: &Description,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<ImageId> {
        let _lock = self.lock_shared()?;
        // Its length bounds what it may unpack to: it is put aside first.
        let temp = self.ingest_path("compose");
        let on = |verb| Error::on(verb, &temp);
        let layer = File::create_new(&temp).map_err(on("create")).and_then(|mut file| {
            write(&mut file).and_then(|()| file.flush()).map_err(on("write"))?;
            let size = file.stream_position().map_err(on("read"))?;
            let file = File::open(&temp).map_err(on("open"))?;
            self.import_layer(file, size, None, &mut |_| ())
        });
        remove_all(&temp)?;
        let config = match parent {
            Some(parent) => self.config_bytes(parent)?,
            None => br#"{"architecture":"amd64","os":"linux"}"#.to_vec(),
        };
        let damaged = |e: serde_json::Error| Error::BadArchive { why: e.to_string() };
        let parsed = serde_json::from_slice(&config).map_err(damaged)?;
        let mut config = described(parsed, &layer?.to_string(), description);
        if let Some(parent) = parent {
            config["parent"] = parent.to_string().into();
        }
        let config = config.to_string().into_bytes();
        let manifest = self.plain_manifest(&config)?;
        let id = self.write_blob(&config)?;
        let manifest = self.write_blob(&manifest)?;
        let names: Vec<Reference> = description.reference.iter().cloned().collect();
        self.add_image(id, manifest, &names)?;
        Ok(id)
    }
}

/// The parent's config document with one more layer.
fn described(mut parent: Value, diff_id: &str, about: &Description) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut layers = list(&parent["rootfs"]["diff_ids"]);
    layers.push(diff_id.into());
    let mut history = list(&parent["history"]);
    history.push(json!({
        "created": about.created, "created_by": about.created_by, "author": about.author, "comment": about.comment,
    }));
    parent["rootfs"] = json!({ "type": "layers", "diff_ids": layers });
    parent["history"] = history.into();
    parent["config"] = about.config.clone();
    parent["created"] = about.created.clone().into();
    parent["author"] = about.author.clone().into();
    parent["comment"] = about.comment.clone().into();
    if let Some((id, config)) = &about.container {
        parent["container"] = id.clone().into();
        parent["container_config"] = config.clone();
    }
    parent
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn about(name: &str) -> Description {
        Description {
            config: json!({ "Cmd": ["sh"] }),
            created: "2024-01-01T00:00:00Z".into(),
            author: "me".into(),
            comment: "why".into(),
            created_by: "touch".into(),
            reference: Some(name.parse().unwrap()),
            container: None,
        }
    }

    #[test]
    fn an_import_and_a_commit_upon_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join("a"), b"one").unwrap();
        let mut tar = Vec::new();
        write_changes(&upper, &[], &mut tar).unwrap();
        let base = store.import(&tar[..], &about("base:1")).unwrap();
        assert_eq!(store.resolve("base:1").unwrap(), base);
        fs::write(upper.join("b"), b"two").unwrap();
        let id = store.commit(&base, &upper, &["a".into()], &about("more:1")).unwrap();
        let image = store.image(&id).unwrap();
        assert_eq!(image.layers.len(), 2);
        assert_eq!(image.size, 6);
        assert!(!store.layer_tree(&image.layers[1]).join("a").exists());
        assert_eq!(fs::read(store.layer_tree(&image.layers[1]).join("b")).unwrap(), b"two");
        assert!(store.import(&b"this is no tar"[..], &about("no:1")).is_err());
        assert!(store.resolve("no:1").is_err());
    }
}

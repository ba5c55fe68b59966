//! Garbage: what no image refers to any more. Roots are the image records, and what the caller still has
//! mounted. An object is garbage when the pool holds its only link.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ros_api::Digest;

use crate::store::remove_all;
use crate::{Error, Result, Store};

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Layers removed.
    pub layers: usize,
    /// Objects removed.
    pub objects: usize,
    /// Manifests and configs removed.
    pub blobs: usize,
    /// Bytes of the objects and blobs.
    pub bytes: u64,
    /// Content was coming in: nothing was done, try again later.
    pub busy: bool,
}

impl Store {
    /// Removes content that no image refers to. `layers_in_use` are diff IDs that stay besides, such as
    /// those of containers whose image was removed by force.
    ///
    /// # Errors
    /// When something cannot be removed; what could be is gone.
    pub fn collect_garbage(&self, layers_in_use: &BTreeSet<Digest>) -> Result<Reclaimed> {
        let Some(_alone) = self.try_lock_exclusive()? else {
            return Ok(Reclaimed { busy: true, ..Reclaimed::default() });
        };
        let mut reclaimed = Reclaimed::default();
        let mut layers: BTreeSet<String> = layers_in_use.iter().map(Digest::hex).collect();
        let mut blobs = BTreeSet::new();
        let known =
            fs::read_dir(self.path("images")).map_err(Error::on("read", &self.path("images")))?;
        let images = self.images()?;
        if known.count() > images.len() {
            // A record cannot be read: what it refers to is not known, so nothing is garbage for sure.
            tracing::warn!("nothing collected: an image record cannot be read");
            return Ok(reclaimed);
        }
        for image in images {
            layers.extend(image.layers.iter().map(Digest::hex));
            blobs.extend([image.id.hex(), image.manifest.hex()]);
        }
        sweep(&self.path("layers"), |name, path, _| {
            if layers.contains(name) {
                return Ok(());
            }
            reclaimed.layers += 1;
            // Out of sight first: a layer that is here is whole.
            let trash = self.ingest_path("trash");
            fs::rename(path, &trash).map_err(Error::on("rename", path))?;
            remove_all(&trash)
        })?;
        sweep(&self.path("blobs/sha256"), |name, path, meta| {
            if blobs.contains(name) {
                return Ok(());
            }
            reclaimed.blobs += 1;
            reclaimed.bytes += meta.len();
            remove_all(path)
        })?;
        sweep(&self.path("objects"), |_, folder, _| {
            sweep(folder, |_, path, meta| {
                if meta.nlink() > 1 {
                    return Ok(());
                }
                reclaimed.objects += 1;
                reclaimed.bytes += meta.len();
                remove_all(path)
            })
        })?;
        Ok(reclaimed)
    }
}

/// Calls `each` with the name, path and metadata of all that is in `folder`.
fn sweep(
    folder: &Path,
    mut each: impl FnMut(&str, &Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::on("read", folder))? {
        let entry = entry.map_err(Error::on("read", folder))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(Error::on("stat", &path))?;
        each(&entry.file_name().to_string_lossy(), &path, &meta)?;
    }
    Ok(())
}

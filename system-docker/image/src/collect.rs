//! Garbage: what no image refers to any more. Roots are the image records, and what the caller still has
//! mounted. An object is garbage when the pool holds its only link, and half a blob when it is a month old.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ros_api::Digest;

use crate::store::remove_all;
use crate::{Error, Result, Store};

/// What came of a blob is garbage when nobody went on with it for so long.
const GIVEN_UP: Duration = Duration::from_secs(30 * 24 * 3600);

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
            blobs.insert(image.id.hex());
            blobs.extend(image.manifests().map(Digest::hex));
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
        sweep(&self.path("ingest"), |name, path, meta| {
            let age = meta.modified().ok().and_then(|time| time.elapsed().ok());
            if !name.ends_with(".partial") || age.is_none_or(|age| age < GIVEN_UP) {
                return Ok(());
            }
            reclaimed.bytes += meta.len();
            remove_all(path)
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn half_a_blob_goes_when_nobody_goes_on_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let half = |name: &str, age: Duration| {
            let file = File::create(store.path("ingest").join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        half("a.partial", GIVEN_UP + Duration::from_secs(60));
        half("b.pieces.partial", GIVEN_UP + Duration::from_secs(60));
        half("c.partial", GIVEN_UP - Duration::from_secs(60));
        store.collect_garbage(&BTreeSet::new()).unwrap();
        let names: Vec<_> = fs::read_dir(store.path("ingest")).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(names[0].file_name(), "c.partial");
    }
}

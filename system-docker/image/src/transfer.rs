//! Images from one store into another, without an archive between them: each layer as the very stream that came in,
//! held against its digest on the way. Manifest and config are the same bytes, so the digests stay.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::thread;

use ros_api::Digest;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{Error, ImageId, Result, Store};

/// Bytes that are passed on at once.
const CHUNK: usize = 256 << 10;

impl Store {
    /// Puts the image `id` into the store `to`, with all its names. Layers that are there already stay.
    ///
    /// # Errors
    /// When it is damaged here, or cannot be written there; nothing of an incomplete layer or image is visible there.
    pub fn copy_image(&self, id: &ImageId, to: &Self) -> Result<()> {
        let (_here, _there) = (self.lock_shared()?, to.lock_shared()?);
        let record = self.image(id)?;
        for diff_id in &record.layers {
            if !to.has_layer(diff_id) {
                self.copy_layer(diff_id, to)?;
            }
        }
        to.write_blob(&self.read_blob(id)?)?;
        for manifest in record.earlier.iter().chain([&record.manifest]) {
            to.write_blob(&self.read_blob(manifest)?)?;
            to.add_image(*id, *manifest, &record.references)?;
        }
        Ok(())
    }

    fn copy_layer(&self, diff_id: &Digest, to: &Self) -> Result<()> {
        let size = self.layer_facts(diff_id)?.tar_size;
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(Error::on("open", Path::new("a pipe")))?;
        let (reader, writer) = (File::from(reader), File::from(writer));
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut writer = BufWriter::with_capacity(CHUNK, writer);
                self.export_layer(diff_id, &mut writer)?;
                let written = writer.into_inner().map_err(io::IntoInnerError::into_error);
                written.map(drop).map_err(Error::on("write", Path::new("a pipe")))
            });
            let taken = to.import_layer(reader, size, Some(diff_id), &mut |_| ());
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (taken, sent) {
                // That nobody reads any more is what the other's refusal looks like from here.
                (Err(refused), Err(Error::Io { source, .. }))
                    if source.kind() == io::ErrorKind::BrokenPipe =>
                {
                    Err(refused)
                }
                (_, Err(unreadable)) => Err(unreadable),
                (taken, Ok(())) => taken.map(drop),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Description;

    fn with_image(dir: &Path) -> (Store, ImageId) {
        let store = Store::open(dir).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(300_000);
        tar.append_data(&mut header, "a/file", &[7u8; 300_000][..]).unwrap();
        let reference = Some("os-a:v1".parse().unwrap());
        let [created, author, comment, created_by] =
            ["1970-01-01T00:00:00Z", "", "", ""].map(Into::into);
        let (config, container) = (serde_json::json!({}), None);
        let description =
            Description { config, created, author, comment, created_by, reference, container };
        let id = store.import(&tar.into_inner().unwrap()[..], &description).unwrap();
        (store, id)
    }

    #[test]
    fn a_copy_is_the_same_image_and_done_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, id) = with_image(&dir.path().join("from"));
        let to = Store::open(dir.path().join("to")).unwrap();
        for _ in 0..2 {
            from.copy_image(&id, &to).unwrap();
            assert_eq!(to.image(&id).unwrap(), from.image(&id).unwrap());
            assert_eq!(to.resolve("os-a:v1").unwrap(), id);
            let tree = &to.lower_dirs(&id).unwrap()[0];
            assert_eq!(fs::read(tree.join("a/file")).unwrap(), [7; 300_000]);
        }
    }

    #[test]
    fn what_is_damaged_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, id) = with_image(&dir.path().join("from"));
        let to = Store::open(dir.path().join("to")).unwrap();
        let diff_id = from.image(&id).unwrap().layers[0];
        let object = from.layer_tree(&diff_id).join("a/file");
        let mut content = fs::read(&object).unwrap();
        content[0] = 8;
        // In its place: the object has two names.
        fs::write(&object, content).unwrap();
        let error = from.copy_image(&id, &to).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
        assert!(!to.has_layer(&diff_id) && to.image(&id).is_err());
    }
}

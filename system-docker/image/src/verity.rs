//! fs-verity for a layer's files, where the file system can: `verity` in the layer's folder records the
//! digest of every file that has one, and [`Store::verify_layer`] measures them again. Measuring is one
//! ioctl a file and reads no content; the kernel checks content when it is read.
//!
//! ```text
//! verity  =  ( digest: 64 hex digits  SP  path in tree/  NUL )…
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ros_api::Digest;

use crate::{Error, Result, Store};

/// Switches it on for new objects; whether this file system has it.
pub(crate) fn enable(objects: impl Iterator<Item = PathBuf>) -> bool {
    for path in objects {
        let enabled = File::open(&path).and_then(|file| enable_one(&file));
        match enabled {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                tracing::debug!(path = %path.display(), error = %e, "no fs-verity here");
                return false;
            }
        }
    }
    true
}

/// A file that came in had the time of this and not its own: it is put back, for an object is named by it.
fn enable_one(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    ros_sys::verity::enable(file)?;
    let times = fs::FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?);
    file.set_times(times)
}

/// Writes `verity` of the layer in `layer`, if any file has a digest.
pub(crate) fn record(layer: &Path) -> Result<()> {
    let mut text = Vec::new();
    for (path, digest) in measure_tree(&layer.join("tree"))? {
        let Some(digest) = digest else { continue };
        text.extend_from_slice(digest.hex().as_bytes());
        text.push(b' ');
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(0);
    }
    if text.is_empty() {
        return Ok(());
    }
    let to = layer.join("verity");
    fs::write(&to, text).map_err(Error::on("write", &to))
}

impl Store {
    /// Measures a layer's files and compares them with what they were when it came in; how many were
    /// checked. None where the file system has no fs-verity.
    ///
    /// # Errors
    /// [`Error::Damaged`] for the first file that is another, is missing, or was not there.
    pub fn verify_layer(&self, diff_id: &Digest) -> Result<usize> {
        let path = self.layer_path(diff_id).join("verity");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(Error::on("read", &path))?,
        };
        let recorded = parse(&text).ok_or_else(|| Error::Damaged {
            path: path.clone(),
            why: "not a list of digests".into(),
        })?;
        let tree = self.layer_tree(diff_id);
        let mut measured = measure_tree(&tree)?;
        for (file, digest) in &recorded {
            if measured.remove(file) != Some(Some(*digest)) {
                let why = "its content is not what was installed".into();
                return Err(Error::Damaged { path: tree.join(file), why });
            }
        }
        Ok(recorded.len())
    }
}

fn parse(text: &[u8]) -> Option<BTreeMap<PathBuf, Digest>> {
    let line = |line: &[u8]| {
        let (hex, path) = line.split_at_checked(64)?;
        let digest = format!("sha256:{}", std::str::from_utf8(hex).ok()?).parse().ok()?;
        Some((PathBuf::from(OsStr::from_bytes(path.strip_prefix(b" ")?)), digest))
    };
    text.split(|&byte| byte == 0).filter(|part| !part.is_empty()).map(line).collect()
}

/// Every regular file below `tree` that is not empty, with its digest if it has one.
fn measure_tree(tree: &Path) -> Result<BTreeMap<PathBuf, Option<Digest>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = tree.join(&folder);
        for entry in fs::read_dir(&path).map_err(Error::on("read", &path))? {
            let entry = entry.map_err(Error::on("read", &path))?;
            let meta = entry.metadata().map_err(Error::on("stat", &entry.path()))?;
            let name = folder.join(entry.file_name());
            if meta.is_dir() {
                folders.push(name);
            } else if meta.is_file() && meta.len() > 0 {
                let file = File::open(entry.path()).map_err(Error::on("open", &entry.path()))?;
                found.insert(name, ros_sys::verity::measure(&file).ok().map(Digest::from_bytes));
            }
        }
    }
    Ok(found)
}

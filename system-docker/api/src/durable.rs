//! Durable or not done: files and pointers that are either wholly old or wholly new after a power cut.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// Replaces `path` with `content`: write-temp, fsync, rename, fsync the folder. `mode` is octal
/// (`0o600`).
///
/// # Errors
/// The verb and the path are in the message; `path` is unchanged then.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temp = sibling(path);
    let wrote = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temp)
            .map_err(|e| named("create", &temp, &e))?;
        file.write_all(content).map_err(|e| named("write", &temp, &e))?;
        file.sync_all().map_err(|e| named("fsync", &temp, &e))?;
        rename(&temp, path)
    })();
    if wrote.is_err() {
        let _ = fs::remove_file(&temp);
    }
    wrote
}

/// Writes `content` into the file at `path` itself: durable when it returns, torn when it is cut. For a file that does
/// not count yet, on a file system whose rename is no single write (FAT).
///
/// # Errors
/// The verb and the path are in the message.
pub fn overwrite(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(|e| named("create", path, &e))?;
    file.write_all(content).map_err(|e| named("write", path, &e))?;
    file.sync_all().map_err(|e| named("fsync", path, &e))?;
    sync_parent(path)
}

/// Points the symbolic link `link` at `target`, by rename.
///
/// # Errors
/// The verb and the path are in the message; the link is unchanged then.
pub fn point(link: &Path, target: &Path) -> io::Result<()> {
    let temp = sibling(link);
    match fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named("remove", &temp, &e)),
        _ => {}
    }
    symlink(target, &temp).map_err(|e| named("create link", &temp, &e))?;
    rename(&temp, link)
}

/// Renames and makes the rename durable.
///
/// # Errors
/// The verb and the path are in the message.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|e| named("rename onto", to, &e))?;
    sync_parent(to)
}

/// Makes the entries of the folder that holds `path` durable.
///
/// # Errors
/// The verb and the path are in the message.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| named("fsync", parent, &e))
}

/// The same error, with the verb and the path in front.
#[must_use]
pub fn named(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{verb} {}: {error}", path.display()))
}

/// `.name.new` beside `path`: hidden, and overwritten by the next try after a crash.
fn sibling(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_and_point_replace() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write(&file, b"one", 0o600).unwrap();
        write(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        overwrite(&file, b"3", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"3");
        let link = dir.path().join("current");
        point(&link, Path::new("1")).unwrap();
        point(&link, Path::new("2")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("2"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn errors_name_verb_and_path() {
        let error = write(Path::new("/nonexistent/x"), b"", 0o600).unwrap_err();
        assert!(error.to_string().starts_with("create /nonexistent/.x.new: "), "{error}");
    }
}

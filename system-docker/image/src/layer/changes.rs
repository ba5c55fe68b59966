//! An overlayfs upper directory as a layer's tar: what was added and changed as it is, what was deleted as OCI whiteouts
//! (<https://github.com/opencontainers/image-spec/blob/main/layer.md>).

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// Set on a folder that hides what the layers below have in it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Kept on files: capabilities and what users set. Others are overlayfs's own, or the machine's.
const KEPT: [&str; 2] = ["security.capability", "user."];

/// Writes the tar of `upper` without the paths in `skip` (relative to it, as are the tar's).
///
/// # Errors
/// When a file cannot be read, or the tar not be written.
pub fn write_changes(upper: &Path, skip: &[PathBuf], to: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(to);
    tar.follow_symlinks(false);
    let mut changes = Changes { tar, upper, skip, links: HashMap::new() };
    changes.folder(Path::new(""))?;
    changes.tar.into_inner()?.flush()
}

struct Changes<'a, W: Write> {
    tar: Builder<W>,
    upper: &'a Path,
    skip: &'a [PathBuf],
    /// Files with several names: the first one that was written.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Changes<'_, W> {
    /// What is in a folder, by name, so that the same changes give the same bytes.
    fn folder(&mut self, inside: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(self.upper.join(inside))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let path = inside.join(name);
            if !self.skip.contains(&path) {
                self.entry(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> io::Result<()> {
        let source = self.upper.join(path);
        let meta = source.symlink_metadata()?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            return self.marker(path, path.file_name().unwrap_or_default().as_bytes());
        }
        if kind.is_socket() {
            return Ok(());
        }
        if meta.nlink() > 1 && kind.is_file() {
            let first = self.links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.into());
            if first != path {
                let mut header = header_of(&meta, EntryType::Link);
                return self.tar.append_link(&mut header, path, first.clone());
            }
        }
        self.attributes(&source)?;
        if kind.is_dir() {
            let mut header = header_of(&meta, EntryType::Directory);
            self.tar.append_data(&mut header, path, io::empty())?;
            if is_opaque(&source) {
                self.marker(&path.join("any"), b".wh..opq")?;
            }
            self.folder(path)
        } else if kind.is_symlink() {
            let mut header = header_of(&meta, EntryType::Symlink);
            self.tar.append_link(&mut header, path, fs::read_link(&source)?)
        } else if kind.is_file() {
            let mut header = header_of(&meta, EntryType::Regular);
            header.set_size(meta.len());
            let content = fs::File::open(&source)?;
            self.tar.append_data(&mut header, path, io::Read::take(content, meta.len()))
        } else {
            let kind = match () {
                () if kind.is_fifo() => EntryType::Fifo,
                () if kind.is_block_device() => EntryType::Block,
                () => EntryType::Char,
            };
            let mut header = header_of(&meta, kind);
            header.set_device_major(rustix::fs::major(meta.rdev()))?;
            header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
            self.tar.append_data(&mut header, path, io::empty())
        }
    }

    /// An empty file beside `path` whose name says what is gone.
    fn marker(&mut self, path: &Path, gone: &[u8]) -> io::Result<()> {
        let name = [b".wh.", gone].concat();
        let path = path.with_file_name(std::ffi::OsStr::from_bytes(&name));
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    fn attributes(&mut self, source: &Path) -> io::Result<()> {
        let mut list = vec![0; 64 * 1024];
        let Ok(length) = rustix::fs::llistxattr(source, &mut list[..]) else { return Ok(()) };
        let mut found = Vec::new();
        for name in list[..length].split(|byte| *byte == 0) {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if !KEPT.iter().any(|kept| name.starts_with(kept)) {
                continue;
            }
            let mut value = vec![0; 64 * 1024];
            let size = rustix::fs::lgetxattr(source, name, &mut value[..])?;
            value.truncate(size);
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
        match found.is_empty() {
            true => Ok(()),
            false => self.tar.append_pax_extensions(
                found.iter().map(|(name, value)| (name.as_str(), value.as_slice())),
            ),
        }
    }
}

fn header_of(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_mode(meta.mode() & 0o7777);
    header.set_entry_type(kind);
    header.set_size(0);
    header
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(folder, OPAQUE, &mut value[..])
        .is_ok_and(|length| value[..length] == *b"y")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_tar_has_what_changed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path();
        fs::create_dir(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/a"), b"content").unwrap();
        fs::hard_link(upper.join("etc/a"), upper.join("etc/b")).unwrap();
        symlink("/anywhere", upper.join("link")).unwrap();
        fs::write(upper.join("etc/hosts"), b"").unwrap();
        // What overlayfs leaves of a file that is gone.
        let gone = upper.join("etc/gone");
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &gone, kind, rustix::fs::Mode::empty(), 0).unwrap();
        let mut text = Vec::new();
        write_changes(upper, &["etc/hosts".into()], &mut text).unwrap();
        let mut archive = tar::Archive::new(&text[..]);
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                (path, entry.header().entry_type(), entry.size())
            })
            .collect();
        let expected = [
            ("etc".to_owned(), EntryType::Directory, 0),
            ("etc/a".to_owned(), EntryType::Regular, 7),
            ("etc/b".to_owned(), EntryType::Link, 0),
            ("etc/.wh.gone".to_owned(), EntryType::Regular, 0),
            ("link".to_owned(), EntryType::Symlink, 0),
        ];
        assert_eq!(seen, expected);
    }
}

//! Makes a layer's tree out of hostile entries. Every path is resolved by the kernel inside the tree
//! (openat2(2), RESOLVE_IN_ROOT): a link that the archive planted leads nowhere else, and the last
//! component is never followed. Whiteouts become overlayfs's own
//! (<https://docs.kernel.org/filesystems/overlayfs.html>): a character device 0:0, and the attribute
//! `trusted.overlay.opaque`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use ros_api::object::Meta;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";

/// A path inside the tree: no empty component, no `.`, no `..`, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TreePath(Vec<Vec<u8>>);

impl TreePath {
    /// Parses an entry's name, relative to the tree's root whatever it begins with.
    pub fn parse(name: &[u8]) -> Result<Self, &'static str> {
        if name.contains(&0) {
            return Err("a NUL in the path");
        }
        let parts =
            name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        if parts.iter().any(|part| part == b"..") {
            return Err("the path leads out of the layer");
        }
        Ok(Self(parts))
    }

    fn split(&self) -> Option<(Self, &[u8])> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    fn joined(&self) -> Vec<u8> {
        if self.0.is_empty() { b".".to_vec() } else { self.0.join(&b'/') }
    }

    /// What the last component means.
    pub fn marker(&self) -> Result<Marker, &'static str> {
        let Some((parent, name)) = self.split() else { return Ok(Marker::None) };
        if name == OPAQUE {
            return Ok(Marker::Opaque(parent));
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Marker::None),
            // aufs's own book-keeping (`.wh..wh.plnk`): not a part of the image.
            Some(hidden) if hidden.starts_with(WHITEOUT) => Ok(Marker::Skip),
            Some(b"" | b"." | b"..") => Err("a whiteout of nothing"),
            Some(hidden) => {
                let mut path = parent;
                path.0.push(hidden.to_vec());
                Ok(Marker::Whiteout(path))
            }
        }
    }
}

/// The names that layers give a meaning
/// (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>).
pub(crate) enum Marker {
    None,
    Skip,
    Opaque(TreePath),
    Whiteout(TreePath),
}

/// An entry that is no regular file.
pub(crate) enum Node<'a> {
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    Device(FileType, (u32, u32)),
}

/// A tree being built. Nobody else writes to it.
pub(crate) struct Tree {
    root: Rc<OwnedFd>,
    /// The folder used last: most entries are in the same one as the entry before.
    last: Option<(TreePath, Rc<OwnedFd>)>,
    /// Times of folders, set when nothing more is put into them.
    times: BTreeMap<TreePath, (i64, u32)>,
}

impl Tree {
    /// Makes the folder `path` the tree's root.
    pub fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir(path)?;
        let root = rustix::fs::openat(CWD, path, folder_flags(), Mode::empty())?;
        rustix::fs::chmodat(&root, ".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
        Ok(Self { root: Rc::new(root), last: None, times: BTreeMap::new() })
    }

    /// Links the file `source` to `path`, over whatever the archive put there before.
    pub fn link_file(&mut self, source: &Path, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.place(path, false)?;
        rustix::fs::linkat(CWD, source, &*parent, &*name, AtFlags::empty())?;
        Ok(())
    }

    /// An empty file.
    pub fn empty_file(&mut self, path: &TreePath, meta: &Meta) -> io::Result<()> {
        let (parent, name) = self.place(path, false)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&*parent, &*name, flags, Mode::from_raw_mode(0o600))?;
        set_file_meta(&File::from(file), meta)
    }

    /// A link to what the archive put at `target`.
    pub fn hard_link(&mut self, target: &TreePath, path: &TreePath) -> io::Result<()> {
        let (target_parent, target_name) = target.split().ok_or(Errno::INVAL)?;
        let target_folder = self.open(&target_parent)?;
        let target_name = c_string(target_name)?;
        let target_stat = stat(&target_folder, &target_name)?;
        let (parent, name) = self.prepare(path)?;
        if stat(&parent, &name).is_ok_and(|here| same(&here, &target_stat)) {
            return Ok(());
        }
        let name = self.clear(path, &parent, name, false)?;
        match rustix::fs::linkat(&*target_folder, &*target_name, &*parent, &*name, AtFlags::empty())
        {
            // The file has all the links it can have: another copy looks the same.
            Err(Errno::MLINK) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from =
                    rustix::fs::openat(&*target_folder, &*target_name, flags, Mode::empty())?;
                copy_file(&File::from(from), parent.as_fd(), &name)
            }
            other => Ok(other?),
        }
    }

    /// Anything that is not a regular file.
    pub fn node(&mut self, path: &TreePath, node: &Node<'_>, meta: &Meta) -> io::Result<()> {
        if path.0.is_empty() {
            // `./` says what the root itself is like; nothing else can be there.
            let Node::Directory = node else { return Err(Errno::EXIST.into()) };
            let root = Rc::clone(&self.root);
            self.times.insert(path.clone(), meta.mtime);
            return set_meta(root.as_fd(), c".", meta, true);
        }
        let folder = matches!(node, Node::Directory);
        let (parent, name) = self.place(path, folder)?;
        match node {
            Node::Directory => {
                match rustix::fs::mkdirat(&*parent, &*name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Node::Symlink(target) => rustix::fs::symlinkat(&*c_string(target)?, &*parent, &*name)?,
            Node::Fifo => rustix::fs::mknodat(&*parent, &*name, FileType::Fifo, Mode::empty(), 0)?,
            Node::Device(kind, (major, minor)) => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(&*parent, &*name, *kind, Mode::empty(), device)?;
            }
        }
        if folder {
            self.times.insert(path.clone(), meta.mtime);
        }
        set_meta(parent.as_fd(), &name, meta, !matches!(node, Node::Symlink(_)))
    }

    /// Hides `path` of the layers below.
    pub fn whiteout(&mut self, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.prepare(path)?;
        match stat(&parent, &name) {
            // What this layer has there hides the lower one itself; a folder has to say so.
            Ok(there) if file_type(&there) == FileType::Directory => self.opaque(path),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let device: Dev = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(
                    &*parent,
                    &*name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    device,
                )?;
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Hides all that the layers below have in the folder `path`.
    pub fn opaque(&mut self, path: &TreePath) -> io::Result<()> {
        let folder = self.folder(path)?;
        let path = proc_path(folder.as_fd(), c".");
        rustix::fs::setxattr(&path, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
        Ok(())
    }

    /// Sets the folders' times. The tree is done then.
    pub fn finish(mut self) -> io::Result<()> {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            match self.open(&path) {
                Ok(folder) => {
                    rustix::fs::utimensat(&*folder, ".", &times(mtime), AtFlags::empty())?;
                }
                // Replaced by something else later on.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes room for `path`: its folder is there, and nothing of that name (but a folder, if one is to be).
    fn place(&mut self, path: &TreePath, folder: bool) -> io::Result<(Rc<OwnedFd>, CString)> {
        let (parent, name) = self.prepare(path)?;
        let name = self.clear(path, &parent, name, folder)?;
        Ok((parent, name))
    }

    fn prepare(&mut self, path: &TreePath) -> io::Result<(Rc<OwnedFd>, CString)> {
        let (parent, name) = path.split().ok_or(Errno::EXIST)?;
        let name = c_string(name)?;
        Ok((self.folder(&parent)?, name))
    }

    fn clear(
        &mut self,
        path: &TreePath,
        parent: &Rc<OwnedFd>,
        name: CString,
        folder: bool,
    ) -> io::Result<CString> {
        let there = match stat(parent, &name) {
            Err(Errno::NOENT) => return Ok(name),
            other => other?,
        };
        match file_type(&there) {
            FileType::Directory if folder => {}
            FileType::Directory => {
                self.last = None;
                self.times.retain(|known, _| !known.0.starts_with(&path.0));
                let whole = proc_path(parent.as_fd(), &name);
                std::fs::remove_dir_all(whole)?;
            }
            FileType::CharacterDevice if folder && there.st_rdev == 0 => {
                // A whiteout, then a folder in its place: nothing of the lower folder shows through.
                rustix::fs::unlinkat(&**parent, &*name, AtFlags::empty())?;
                rustix::fs::mkdirat(&**parent, &*name, Mode::from_raw_mode(0o755))?;
                self.opaque(path)?;
            }
            _ => {
                self.last = None;
                rustix::fs::unlinkat(&**parent, &*name, AtFlags::empty())?;
            }
        }
        Ok(name)
    }

    /// The folder `path`, made with those above it if need be.
    fn folder(&mut self, path: &TreePath) -> io::Result<Rc<OwnedFd>> {
        if let Some((known, folder)) = &self.last
            && known == path
        {
            return Ok(Rc::clone(folder));
        }
        let folder = match self.open(path) {
            Err(Errno::NOENT) => self.make_folder(path)?,
            other => other?,
        };
        self.last = Some((path.clone(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn make_folder(&mut self, path: &TreePath) -> io::Result<Rc<OwnedFd>> {
        let mut folder = Rc::clone(&self.root);
        for depth in 1..=path.0.len() {
            let here = TreePath(path.0[..depth].to_vec());
            folder = match self.open(&here) {
                Err(Errno::NOENT) => {
                    let name = c_string(&path.0[depth - 1])?;
                    rustix::fs::mkdirat(&*folder, &*name, Mode::from_raw_mode(0o755))?;
                    // The process's umask must not show in an image.
                    rustix::fs::chmodat(
                        &*folder,
                        &*name,
                        Mode::from_raw_mode(0o755),
                        AtFlags::empty(),
                    )?;
                    self.open(&here)?
                }
                other => other?,
            };
        }
        Ok(folder)
    }

    /// Opens a folder inside the tree.
    fn open(&self, path: &TreePath) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.0.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = path.joined();
        for _ in 0..16 {
            match rustix::fs::openat2(&*self.root, &*path, folder_flags(), Mode::empty(), resolve) {
                // Something was renamed anywhere while `..` of a link was resolved: again.
                Err(Errno::AGAIN) => {}
                other => return other.map(Rc::new),
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Gives a new regular file its owner, attributes, mode and time, in the order that loses none.
pub(crate) fn set_file_meta(file: &File, meta: &Meta) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    for (name, value) in kept_xattrs(meta) {
        let name = c_string(name)?;
        tolerate(&name, rustix::fs::fsetxattr(file, &*name, value, XattrFlags::empty()))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode as RawMode))?;
    rustix::fs::futimens(file, &times(meta.mtime))?;
    Ok(())
}

/// Whether the folder hides what the layers below have in it.
pub(crate) fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(folder, OPAQUE_XATTR, &mut value[..]).is_ok_and(|length| length > 0)
}

/// Copies a file with all that it has to `name` in `folder`.
pub(crate) fn copy_file(from: &File, folder: impl AsFd, name: &CStr) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    if file_type(&stat) != FileType::RegularFile {
        return Err(Errno::MLINK.into());
    }
    let meta = Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        xattrs: read_xattrs(from)?,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut to = File::from(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(&mut { from }, &mut to)?;
    set_file_meta(&to, &meta)
}

fn read_xattrs(file: &File) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

fn set_meta(parent: impl AsFd, name: &CStr, meta: &Meta, has_mode: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), nofollow)?;
    let path = proc_path(&parent, name);
    for (attribute, value) in kept_xattrs(meta) {
        let attribute = c_string(attribute)?;
        tolerate(
            &attribute,
            rustix::fs::lsetxattr(&path, &*attribute, value, XattrFlags::empty()),
        )?;
    }
    if has_mode {
        let mode = Mode::from_raw_mode(meta.mode as RawMode);
        rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(&parent, name, &times(meta.mtime), nofollow)?;
    Ok(())
}

/// Attributes that steer overlayfs are ours to set: an archive's would send it elsewhere.
fn kept_xattrs(meta: &Meta) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
    let steers =
        |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    meta.xattrs.iter().filter(move |(name, _)| !steers(name))
}

/// As Docker: an attribute that this file system or these privileges cannot hold is left out.
fn tolerate(name: &CStr, set: rustix::io::Result<()>) -> io::Result<()> {
    match set {
        Err(e @ (Errno::NOTSUP | Errno::PERM)) => {
            tracing::debug!(?name, error = %e, "extended attribute left out");
            Ok(())
        }
        other => Ok(other?),
    }
}

fn folder_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn stat(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL.into())
}

/// A path to `name` in an open folder, for the calls that know no folders.
fn proc_path(folder: impl AsFd, name: &CStr) -> PathBuf {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
    Path::new(&folder).join(OsStr::from_bytes(name.to_bytes()))
}

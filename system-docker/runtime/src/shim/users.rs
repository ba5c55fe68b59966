//! A container's user namespace, seen from its shim: its root outside is nobody in particular, and yet the root file
//! system belongs to it. Nothing on disk is changed for that: mounts are shown with other ids.
//!
//! ```text
//!  on disk        mount                                    outside     inside
//!  0, 1000  ──►   a copy of it, mapped (mount_setattr) ──► first,    ──►  0, 1000
//!                 the layers, and overlayfs upon them      first+1000
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::spec::IdRange;
use crate::{Root, RuntimeError};

/// Ids of a container, and a namespace that has them.
pub(super) struct Users {
    range: IdRange,
    namespace: OwnedFd,
}

impl Users {
    pub(super) fn new(range: IdRange) -> Result<Self, RuntimeError> {
        let made = ros_sys::users::namespace(range.first, range.count);
        let namespace =
            made.map_err(|e| RuntimeError::Refused(format!("make a user namespace: {e}")))?;
        Ok(Self { range, namespace })
    }

    /// The container's root, as the host knows it.
    pub(super) fn root(&self) -> u32 {
        self.range.first
    }

    /// What an id of the container is outside.
    pub(super) fn outside(&self, id: u32) -> u32 {
        self.range.first.saturating_add(id)
    }

    /// Has a tree that is attached nowhere show the container's ids.
    pub(super) fn map(&self, tree: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        let mapped = ros_sys::mount::map_ids(tree, recursive, self.namespace.as_fd());
        mapped.map_err(|e| match e.raw_os_error() {
            Some(nix::libc::EINVAL) => io::Error::other(
                "its file system cannot be shown to a user namespace (no idmapped mounts)",
            ),
            _ => e,
        })
    }

    /// The same layers by other paths, below the folder `at`, where they are mounted with the container's ids.
    pub(super) fn mapped(&self, root: &Root, at: &Path) -> io::Result<Root> {
        let lower = root.lower.iter().enumerate();
        let lower: io::Result<Vec<PathBuf>> =
            lower.map(|(number, layer)| self.mount(layer, at.join(number.to_string()))).collect();
        // overlayfs wants both on one mount.
        let (own, upper, work) = own_folder(root)?;
        let own = self.mount(own, at.join("own"))?;
        Ok(Root { lower: lower?, upper: own.join(upper), work: own.join(work) })
    }

    fn mount(&self, source: &Path, at: PathBuf) -> io::Result<PathBuf> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("show {}: {e}", source.display()));
        fs::create_dir_all(&at)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, source, flags).map_err(|e| named(e.into()))?;
        self.map(tree.as_fd(), false).map_err(named)?;
        move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(at)
    }
}

/// The folder that holds both of a container's own, and their names in it.
fn own_folder(root: &Root) -> io::Result<(&Path, &Path, &Path)> {
    let folder = root.upper.parent().filter(|folder| root.work.parent() == Some(folder));
    let names = root.upper.file_name().zip(root.work.file_name());
    match folder.zip(names) {
        Some((folder, (upper, work))) => Ok((folder, Path::new(upper), Path::new(work))),
        None => Err(io::Error::other("upper and work folder are not beside each other")),
    }
}

/// Takes the mounts below `at` away again: overlayfs has copies of its own by then.
pub(super) fn unmount_layers(at: &Path) -> io::Result<()> {
    for entry in fs::read_dir(at)? {
        umount2(&entry?.path(), MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir_all(at)
}

/// Does `work` as the owner of what the container's root owns, for nobody else can own a file there; with every
/// capability nonetheless, which the kernel takes from an fsuid that is not 0. What overlayfs does later, it does as
/// whoever mounted it.
pub(super) fn as_root<T>(
    users: Option<&Users>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(users) = users else { return work() };
    let capabilities = rustix::thread::capabilities(None)?;
    let (gid, uid) = (setfsgid(Gid::from_raw(users.root())), setfsuid(Uid::from_raw(users.root())));
    let done = rustix::thread::set_capabilities(None, capabilities).map_err(io::Error::from);
    let done = done.and_then(|()| work());
    setfsuid(uid);
    setfsgid(gid);
    done
}

/// Who the process of `spec` is outside of its user namespace.
pub(super) fn owner(spec: &Spec, user: &oci_spec::runtime::User) -> (u32, u32) {
    let linux = spec.linux().as_ref();
    let outside = |id: u32, map: Option<&Vec<LinuxIdMapping>>| {
        let first = map.and_then(|map| map.first()).map_or(0, LinuxIdMapping::host_id);
        first.saturating_add(id)
    };
    (
        outside(user.uid(), linux.and_then(|linux| linux.uid_mappings().as_ref())),
        outside(user.gid(), linux.and_then(|linux| linux.gid_mappings().as_ref())),
    )
}

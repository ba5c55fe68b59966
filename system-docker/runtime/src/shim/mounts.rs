//! The container's root and the user's mounts, in the shim's own mount namespace.
//!
//! libcontainer gives every mount the same propagation and makes device nodes in whatever is at `/dev`, so it is not
//! asked to mount anything of the user's. It finds the root with the mounts already in it and carries them along by its
//! recursive bind.
//!
//! ```text
//!  host namespace            open_tree(source) for each bind       still a peer of the host's mount
//!  unshare, all of it slave  overlay on root/, private             the host never sees these mounts
//!    early mounts            move_mount(tree, root/target)         with read-only and propagation set before
//!  libcontainer create       /proc, /dev, /sys…                    would hide what is mounted below them
//!    late mounts             setns(container), move_mount, setns   those at or below /proc, /dev, /sys
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, setns, unshare};
use ros_sys::mountinfo;
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::filesystems::{detached, mapped, owned, tmpfs};
use super::users::{Users, as_root};
use crate::{Mount, MountKind, Propagation, Root, RuntimeError};

/// What libcontainer mounts itself, and what is below it.
const LATE: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Links followed to make a mount's target; the kernel's own limit is 40.
const MOST_LINKS: u8 = 8;

/// A mount that is not attached anywhere yet.
pub(super) struct Prepared {
    target: PathBuf,
    tree: OwnedFd,
}

/// Makes the shim's mount namespace, the root at `root_dir`, and every mount but the late ones, which are returned.
pub(super) fn build(
    root: &Root,
    root_dir: &Path,
    mounts: &[Mount],
    users: Option<&Users>,
) -> Result<Vec<Prepared>, RuntimeError> {
    let prepared =
        mounts.iter().map(|mount| prepare(mount, users)).collect::<Result<Vec<_>, _>>()?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| refused("make a mount namespace", e.into()))?;
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|e| refused("leave the host's propagation", e.into()))?;
    mount_root(root, root_dir, users)?;
    let root_fd = open_root(root_dir)?;
    let (late, early): (Vec<_>, Vec<_>) =
        prepared.into_iter().partition(|mount| is_late(&mount.target));
    early.iter().try_for_each(|mount| attach(root_fd.as_fd(), mount, users))?;
    Ok(late)
}

/// As [`build`], and the late mounts too: nothing runs in it that would hide them.
pub(super) fn whole(root: &Root, at: &Path, mounts: &[Mount]) -> Result<(), RuntimeError> {
    let late = build(root, at, mounts, None)?;
    let root = open_root(at)?;
    late.iter().try_for_each(|mount| attach(root.as_fd(), mount, None))
}

/// Attaches the late mounts inside the container that `pid` is the init of.
pub(super) fn attach_late(
    late: &[Prepared],
    pid: i32,
    users: Option<&Users>,
) -> Result<(), RuntimeError> {
    if late.is_empty() {
        return Ok(());
    }
    let namespace = |path: String| File::open(&path).map_err(|e| refused(&path, e));
    let own = namespace("/proc/self/ns/mnt".into())?;
    let theirs = namespace(format!("/proc/{pid}/ns/mnt"))?;
    setns(&theirs, CloneFlags::CLONE_NEWNS)
        .map_err(|e| refused("enter the container's mounts", e.into()))?;
    let attached = open_root(Path::new("/"))
        .and_then(|root| late.iter().try_for_each(|mount| attach(root.as_fd(), mount, users)));
    setns(&own, CloneFlags::CLONE_NEWNS)
        .map_err(|e| refused("come back from the container's mounts", e.into()))?;
    attached
}

/// Takes the root away; only this shim ever saw it. First it all becomes a slave, or what is mounted below a shared
/// bind would be unmounted on the host too.
pub(super) fn unmount_root(root_dir: &Path) {
    let alone = nix::mount::mount(
        None::<&str>,
        root_dir,
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    );
    if alone.is_err() {
        return;
    }
    // Not mounted is as good as unmounted.
    let _ = nix::mount::umount2(root_dir, MntFlags::MNT_DETACH);
}

/// Makes a folder in the container: for a working directory that the image does not have.
pub(super) fn make_folder(
    root_dir: &Path,
    path: &Path,
    users: Option<&Users>,
) -> Result<(), RuntimeError> {
    let root = open_root(root_dir)?;
    let made = as_root(users, || target(root.as_fd(), path, true))
        .and_then(|fd| fstat(fd).map_err(io::Error::from));
    match made {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => Ok(()),
        Ok(_) => Err(RuntimeError::BadWorkdir(format!("{}: not a directory", path.display()))),
        Err(e) => Err(RuntimeError::BadWorkdir(format!("{}: {e}", path.display()))),
    }
}

/// Reads a file below `root`, whose links cannot lead out of it. Empty when there is none.
pub(super) fn read_inside(root: &Path, path: &str) -> String {
    const MOST: u64 = 1 << 20;
    let open = || -> io::Result<String> {
        let root = rustix::fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat2(root, path, flags, Mode::empty(), inside())?);
        let mut text = Vec::new();
        file.take(MOST).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    open().unwrap_or_default()
}

/// Whether `path` is a folder below `root`.
pub(super) fn is_folder_inside(root: &Path, path: &Path) -> bool {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|root| {
            openat2(
                root,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                inside(),
            )
        })
        .is_ok()
}

/// Whether any mount made in the container must reach the host.
pub(super) fn reach_host(mounts: &[Mount]) -> bool {
    let shared = |mount: &Mount| matches!(mount.kind, MountKind::Bind { propagation, .. } if propagation.reaches_host());
    mounts.iter().any(shared)
}

fn is_late(target: &Path) -> bool {
    LATE.iter().any(|own| target.starts_with(own))
}

fn inside() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

fn refused(what: &str, error: io::Error) -> RuntimeError {
    RuntimeError::Refused(format!("{what}: {error}"))
}

fn bad(target: &Path, what: &str) -> RuntimeError {
    RuntimeError::BadMount(format!("{}: {what}", target.display()))
}

fn open_root(dir: &Path) -> Result<OwnedFd, RuntimeError> {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| refused("open the container's root", e.into()))
}

fn prepare(mount: &Mount, users: Option<&Users>) -> Result<Prepared, RuntimeError> {
    let tree = match &mount.kind {
        MountKind::Bind { source, recursive, propagation } => {
            let tree = bind(mount, source, *recursive, *propagation)?;
            if let Some(users) = users.filter(|_| mount.mapped) {
                let mapped = users.map(tree.as_fd(), *recursive);
                mapped.map_err(|e| bad(source, &e.to_string()))?;
            }
            tree
        }
        MountKind::Tmpfs { options } => tmpfs(&owned(options, users), mount.read_only)
            .map_err(|e| bad(&mount.target, &format!("tmpfs: {e}")))?,
    };
    Ok(Prepared { target: mount.target.clone(), tree })
}

/// A copy of the host's mount at `source`, a peer of it until told otherwise.
fn bind(
    mount: &Mount,
    source: &Path,
    recursive: bool,
    propagation: Propagation,
) -> Result<OwnedFd, RuntimeError> {
    if propagation.reaches_host() && !is_shared(source) {
        return Err(bad(
            source,
            "is not on a shared mount, so nothing mounted in the container would reach the host",
        ));
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags).map_err(|e| match e {
        Errno::NOENT => bad(source, "bind source path does not exist"),
        e => bad(source, &e.to_string()),
    })?;
    let (all, kind) = match propagation {
        Propagation::Private => (false, MsFlags::MS_PRIVATE),
        Propagation::Rprivate => (true, MsFlags::MS_PRIVATE),
        Propagation::Slave => (false, MsFlags::MS_SLAVE),
        Propagation::Rslave => (true, MsFlags::MS_SLAVE),
        Propagation::Shared => (false, MsFlags::MS_SHARED),
        Propagation::Rshared => (true, MsFlags::MS_SHARED),
    };
    ros_sys::mount::set_attributes(tree.as_fd(), all && recursive, false, kind.bits())
        .and_then(|()| match mount.read_only {
            true => ros_sys::mount::set_attributes(tree.as_fd(), recursive, true, 0),
            false => Ok(()),
        })
        .map_err(|e| bad(source, &e.to_string()))?;
    Ok(tree)
}

/// Whether the mount that holds `path` shares with others.
fn is_shared(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    mountinfo::holder(&mountinfo::own(), &path).is_some_and(|mount| mount.group.is_some())
}

fn mount_root(root: &Root, root_dir: &Path, users: Option<&Users>) -> Result<(), RuntimeError> {
    fs::create_dir_all(root_dir).map_err(|e| refused("make the root's folder", e))?;
    let tree = match users {
        None => detached(root),
        Some(users) => mapped(root, &root_dir.with_file_name("layers"), users),
    };
    let tree = tree.map_err(|e| RuntimeError::BadMount(format!("root: {e}")))?;
    ros_sys::mount::set_attributes(tree.as_fd(), false, false, MsFlags::MS_PRIVATE.bits())
        .map_err(|e| refused("make the root private", e))?;
    move_mount(&tree, "", CWD, root_dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| refused("mount the root", e.into()))
}

fn attach(
    root: BorrowedFd<'_>,
    mount: &Prepared,
    users: Option<&Users>,
) -> Result<(), RuntimeError> {
    let error = |e: io::Error| bad(&mount.target, &e.to_string());
    let stat = fstat(&mount.tree).map_err(|e| error(e.into()))?;
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    let target = as_root(users, || target(root, &mount.target, is_dir)).map_err(error)?;
    let both_fds =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount.tree, "", &target, "", both_fds).map_err(|e| error(e.into()))
}

/// The file or folder at `path` below `root`, made when it is missing. Links are followed as inside a chroot, also one
/// that leads to nothing yet: what it leads to is made.
fn target(root: BorrowedFd<'_>, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    target_behind(root, path, is_dir, MOST_LINKS)
}

fn target_behind(
    root: BorrowedFd<'_>,
    path: &Path,
    is_dir: bool,
    links: u8,
) -> io::Result<OwnedFd> {
    let open = |path: &Path, flags: OFlags| {
        openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty(), inside())
    };
    match open(path, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let names: Vec<_> =
        path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let Some((last, folders)) = names.split_last() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut walked = PathBuf::from("/");
    let mut folder = open(&walked, OFlags::DIRECTORY)?;
    for name in folders {
        walked.push(name);
        folder = match open(&walked, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                mkdirat(&folder, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                open(&walked, OFlags::DIRECTORY)?
            }
            found => found?,
        };
    }
    if let Ok(link) = readlinkat(&folder, last.as_os_str(), Vec::new()) {
        let left = links.checked_sub(1).ok_or(Errno::LOOP)?;
        walked.push(Path::new(OsStr::from_bytes(link.as_bytes())));
        return target_behind(root, &walked, is_dir, left);
    }
    if is_dir {
        mkdirat(&folder, last.as_os_str(), Mode::from_raw_mode(0o755))?;
    } else {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, last.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
    }
    Ok(open(path, OFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_what_libcontainer_would_hide() {
        for (path, late) in [
            ("/dev", true),
            ("/dev/shm", true),
            ("/sys/fs/cgroup", true),
            ("/device", false),
            ("/var/dev", false),
        ] {
            assert_eq!(is_late(Path::new(path)), late, "{path}");
        }
    }

    #[test]
    fn targets_are_made_below_the_root_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/run", dir.path().join("var-run")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let root = open_root(dir.path()).unwrap();
        target(root.as_fd(), Path::new("/var-run/a/b"), true).unwrap();
        assert!(dir.path().join("run/a/b").is_dir());
        target(root.as_fd(), Path::new("/etc/file"), false).unwrap();
        assert!(dir.path().join("etc/file").is_file());
        target(root.as_fd(), Path::new("/etc/file"), false).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("out")).unwrap();
        assert_eq!(read_inside(dir.path(), "/out"), "", "a link does not lead out");
        std::os::unix::fs::symlink("/run/x/resolv.conf", dir.path().join("etc/resolv.conf"))
            .unwrap();
        target(root.as_fd(), Path::new("/etc/resolv.conf"), false).unwrap();
        assert!(dir.path().join("run/x/resolv.conf").is_file(), "made where the link leads");
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(target(root.as_fd(), Path::new("/loop"), false).is_err());
    }
}

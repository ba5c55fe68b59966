//! File systems that are attached nowhere yet: a container's root, and its tmpfs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::users::{Users, as_root, unmount_layers};
use crate::Root;

/// The root as a mount that is attached nowhere.
pub(super) fn detached(root: &Root) -> io::Result<OwnedFd> {
    if root.lower.is_empty() { plain(root) } else { overlay(root) }
}

/// The same in a user namespace: overlayfs itself cannot be mapped, but the layers below it.
pub(super) fn mapped(root: &Root, at: &Path, users: &Users) -> io::Result<OwnedFd> {
    if root.lower.is_empty() {
        let tree = plain(root)?;
        users.map(tree.as_fd(), false)?;
        return Ok(tree);
    }
    let layers = users.mapped(root, at)?;
    let tree = as_root(Some(users), || overlay(&layers))?;
    unmount_layers(at)?;
    Ok(tree)
}

fn plain(root: &Root) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, &root.upper, flags)?)
}

/// One string a layer (Linux 6.7): any number of them, and no character needs escaping.
fn overlay(root: &Root) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, path: &Path| {
        fsconfig_set_string(&context, key, path).map_err(|e| {
            let error = told(&context, e);
            io::Error::new(error.kind(), format!("{key} {}: {error}", path.display()))
        })
    };
    fsconfig_set_string(&context, "source", "overlay")?;
    root.lower.iter().try_for_each(|layer| set("lowerdir+", layer))?;
    set("upperdir", &root.upper)?;
    set("workdir", &root.work)?;
    fsconfig_create(&context).map_err(|e| told(&context, e))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// A tmpfs's options with the ids that the kernel is to be told: those outside of the container.
pub(super) fn owned(options: &[String], users: Option<&Users>) -> Vec<String> {
    let mut options: Vec<String> =
        options.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    let Some(users) = users else { return options };
    for name in ["uid=", "gid="] {
        let asked = options.iter().rev().find_map(|option| option.strip_prefix(name)?.parse().ok());
        options.retain(|option| !option.starts_with(name));
        options.push(format!("{name}{}", users.outside(asked.unwrap_or(0))));
    }
    options
}

/// A tmpfs with options as mount(8) has them.
pub(super) fn tmpfs(options: &[String], read_only: bool) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    for option in options.iter().filter(|option| !option.is_empty()) {
        match (attribute(option), option.split_once('=')) {
            (Some(attribute), _) => attributes |= attribute,
            (None, Some((key, value))) => {
                fsconfig_set_string(&context, key, value).map_err(|e| told(&context, e))?
            }
            (None, None) => fsconfig_set_flag(&context, option).map_err(|e| told(&context, e))?,
        }
    }
    fsconfig_create(&context).map_err(|e| told(&context, e))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn attribute(option: &str) -> Option<MountAttrFlags> {
    Some(match option {
        "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
        "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
        "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
        "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
        "rw" | "suid" | "dev" | "exec" | "relatime" => MountAttrFlags::empty(),
        _ => return None,
    })
}

/// The kernel's own words, which a file-system context keeps; else the error number's.
fn told(context: &OwnedFd, error: Errno) -> io::Error {
    let mut words = [0; 512];
    match rustix::io::read(context, &mut words) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&words[..length]).trim().to_owned();
            io::Error::other(format!("{error}: {text}"))
        }
        Err(_) => error.into(),
    }
}

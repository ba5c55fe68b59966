//! mount_setattr(2): read-only, propagation and shown ids for a whole tree of mounts at once, attached or not yet.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// Sets propagation (`MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, or 0: unchanged) and, when asked, read-only, of the mount
/// that `mount` is the root of; of those below it too when `recursive`.
///
/// # Errors
/// As mount_setattr(2).
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    read_only: bool,
    propagation: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    set(mount, recursive, &attributes)
}

/// Has the files of a tree that is not attached yet shown with the ids of a user namespace: what belongs to 0 on disk
/// belongs to the namespace's 0, and what that one makes belongs to 0 on disk.
///
/// # Errors
/// As mount_setattr(2); EINVAL where the file system cannot.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let userns_fd = namespace.as_raw_fd().try_into().unwrap_or_default();
    let attr_set = libc::MOUNT_ATTR_IDMAP;
    set(mount, recursive, &libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd })
}

fn set(mount: BorrowedFd<'_>, recursive: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the structure lives across the call and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_not_the_root_of_a_mount_is_refused() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(
            set_attributes(file.as_fd(), false, false, 0).is_err()
                || set_attributes(file.as_fd(), false, true, 0).is_err()
        );
    }
}

//! mount_setattr(2): read-only and propagation for a whole tree of mounts at once, attached or not yet.

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
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the structure lives across the call and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
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

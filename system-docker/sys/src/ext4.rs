//! ext4: growing a mounted file system (fs/ext4/ext4.h, `EXT4_IOC_RESIZE_FS`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod kernel {
    nix::ioctl_write_ptr!(resize_fs, b'f', 16, u64);
}

/// Grows the ext4 that `on_it` (any open file or folder of it) is on to `blocks` file-system blocks.
///
/// # Errors
/// As the kernel says: `EPERM` without `CAP_SYS_RESOURCE`, `ENOSPC` when the device is smaller.
pub fn resize(on_it: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the argument is a `__u64` that outlives the call, which is what the kernel reads.
    unsafe { kernel::resize_fs(on_it.as_raw_fd(), &blocks) }?;
    Ok(())
}

//! The watchdog device's control calls (linux/watchdog.h).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::c_int;

mod kernel {
    use super::*;

    nix::ioctl_read!(keep_alive, b'W', 5, c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, c_int);
}

/// Starts the count again.
///
/// # Errors
/// As the driver says.
pub fn feed(device: &File) -> io::Result<()> {
    let mut unused: c_int = 0;
    // SAFETY: the argument is an int that outlives the call; the driver ignores it.
    unsafe { kernel::keep_alive(device.as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// Asks for a time-out in seconds; gives the one that the driver chose.
///
/// # Errors
/// As the driver says: `EINVAL` when it is out of its range.
pub fn timeout(device: &File, seconds: u32) -> io::Result<u32> {
    let mut value = c_int::try_from(seconds).unwrap_or(c_int::MAX);
    // SAFETY: the argument is an int that outlives the call, which is what the driver reads and writes.
    unsafe { kernel::set_timeout(device.as_raw_fd(), &mut value) }?;
    Ok(u32::try_from(value).unwrap_or(seconds))
}

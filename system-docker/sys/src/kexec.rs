//! Loading a kernel that the running one starts when it ends (kexec_file_load(2)).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{SYS_kexec_file_load, c_ulong, syscall};

/// Loads `kernel` and `initrd`; the kernel reads both wholly before it answers.
///
/// # Errors
/// As the kernel says: `EPERM` when it is locked down or loading is switched off, `ENOEXEC` when it is no kernel,
/// `ENOSYS` when it cannot do this at all.
pub fn load(kernel: &File, initrd: &File, cmdline: &CStr) -> io::Result<()> {
    let length = cmdline.to_bytes_with_nul().len();
    let no_flags: c_ulong = 0;
    // SAFETY: both descriptors and the NUL-terminated text of `length` bytes outlive the call, which keeps none of them.
    let answer = unsafe {
        syscall(
            SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            length,
            cmdline.as_ptr(),
            no_flags,
        )
    };
    Errno::result(answer)?;
    Ok(())
}

//! fs-verity: a file that the kernel checks against its Merkle tree at every read, and its digest
//! (linux/fsverity.h, Documentation/filesystems/fsverity.rst). SHA-256 and 4 KiB blocks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u32 = 1;
const BLOCK: u32 = 4096;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved1: u32,
    signature: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest` with room for SHA-256.
#[repr(C)]
#[derive(Default)]
struct Measurement {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

mod kernel {
    use super::*;

    nix::ioctl_write_ptr!(enable_verity, b'f', 133, Enable);
    // The request is defined over the structure's head, without the digest that follows it.
    nix::ioctl_readwrite_bad!(
        measure_verity,
        nix::request_code_readwrite!(b'f', 134, size_of::<u32>()),
        Measurement
    );
}

/// Makes `file` (open for reading, nowhere for writing) read-only for ever, and checked at every read.
///
/// # Errors
/// `EEXIST` when it is so already; `EOPNOTSUPP` or `ENOTTY` when the file system cannot.
pub fn enable(file: &File) -> io::Result<()> {
    let argument =
        Enable { version: 1, hash_algorithm: SHA256, block_size: BLOCK, ..Enable::default() };
    // SAFETY: the argument has the kernel's layout, points to no other memory, and outlives the call.
    unsafe { kernel::enable_verity(file.as_raw_fd(), &argument) }?;
    Ok(())
}

/// The fs-verity digest of `file`.
///
/// # Errors
/// `ENODATA` when verity is not on for it; `EOPNOTSUPP` or `ENOTTY` when the file system cannot.
pub fn measure(file: &File) -> io::Result<[u8; 32]> {
    let mut measurement = Measurement { size: 32, ..Measurement::default() };
    // SAFETY: the structure has the kernel's layout, `size` says how much room its digest has, and it
    // outlives the call.
    unsafe { kernel::measure_verity(file.as_raw_fd(), &mut measurement) }?;
    if u32::from(measurement.algorithm) != SHA256 || measurement.size != 32 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(measurement.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_size() {
        assert_eq!((size_of::<Enable>(), size_of::<Measurement>()), (128, 36));
    }

    #[test]
    fn a_file_system_without_it_says_so() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(enable(&file).is_err() && measure(&file).is_err());
    }
}

//! Block devices: telling the kernel that a partition's bounds changed while its disk is in use
//! (linux/blkpg.h, linux/fs.h).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::{c_int, c_void};

/// `BLKPG_ADD_PARTITION` and `BLKPG_RESIZE_PARTITION` of linux/blkpg.h.
const ADD: c_int = 1;
const RESIZE: c_int = 3;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Request {
    operation: c_int,
    flags: c_int,
    length: c_int,
    data: *mut c_void,
}

mod kernel {
    use super::*;

    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), Request);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
}

/// Changes the length of partition `number` of `disk`; works while the partition is mounted. Bytes.
///
/// # Errors
/// As the kernel says: `EBUSY` when it would overlap another partition.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    change(disk, RESIZE, number, start, length)
}

/// Makes partition `number` of `disk` known. Bytes.
///
/// # Errors
/// As the kernel says: `EBUSY` when that number or that room is taken.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    change(disk, ADD, number, start, length)
}

/// Makes the kernel read the partition table of `disk` again.
///
/// # Errors
/// `EBUSY` when a partition of it is in use.
pub fn reread_partitions(disk: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument, and the descriptor is open for the whole call.
    unsafe { kernel::blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}

fn change(disk: &File, operation: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = Partition {
        start: start.try_into().map_err(too_large)?,
        length: length.try_into().map_err(too_large)?,
        number: number.try_into().map_err(too_large)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let request = Request {
        operation,
        flags: 0,
        length: size_of::<Partition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: `request` and the `partition` it points to have the kernel's layout and outlive the call.
    unsafe { kernel::blkpg(disk.as_raw_fd(), &request) }?;
    Ok(())
}

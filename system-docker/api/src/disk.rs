//! The disk that ros boots from, as data: the image builder and the installer make the same one, but for its UUIDs.
//!
//! ```text
//!  sector 0    GRUB's boot.img in its first 440 bytes; behind them the protective MBR
//!  1           GPT; its second copy at the end
//!  1 MiB       bios-boot    1 MiB    GRUB's core, told that it begins at sector 2048
//!  2 MiB       ROS_BOOT   512 MiB    FAT32, also the EFI system partition
//!    /EFI/BOOT/BOOTX64.EFI  /grub/{grub.cfg,grubenv,generations.cfg}  /sets/<digest>/{vmlinuz,initrd}
//!  514 MiB     ROS_STATE  the rest   ext4 with verity
//! ```

use std::io;

use crate::Release;
use crate::boot::{BootEnv, MenuEntry, menu};
use crate::paths;

const MIB: u64 = 1 << 20;
/// Bytes of a sector as the BIOS and GRUB count them.
pub const SECTOR: u64 = 512;
/// Where the partition of GRUB's core begins, in bytes.
pub const CORE_START: u64 = MIB;
/// Bytes that GRUB's core may have.
pub const CORE_SIZE: u64 = MIB;
const BOOT_SIZE: u64 = 512 * MIB;
/// Room for the second partition table.
const TAIL: u64 = MIB;
/// Smallest STATE that is worth anything.
const SMALLEST_STATE: u64 = 128 * MIB;
/// Bytes of the first sector that are code: behind them are the disk's signature and the protective MBR.
pub const BOOT_CODE: usize = 440;

/// The only generation of a new disk.
pub const FIRST: u32 = 1;

/// Numbers of the partitions.
pub const CORE: u32 = 1;
/// ROS_BOOT.
pub const BOOT: u32 = 2;
/// ROS_STATE.
pub const STATE: u32 = 3;

/// One partition. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 1 up.
    pub number: u32,
    /// Its name in the table.
    pub name: &'static str,
    /// GUID of its type.
    pub kind: &'static str,
    /// Where it begins.
    pub start: u64,
    /// Its length.
    pub length: u64,
}

/// The partitions of a disk of `size` bytes; none when they do not fit.
#[must_use]
pub fn partitions(size: u64) -> Option<[Partition; 3]> {
    let boot = CORE_START + CORE_SIZE;
    let state = boot + BOOT_SIZE;
    let length = (size / MIB * MIB).checked_sub(state + TAIL)?;
    let part = |number, name, kind, start, length| Partition { number, name, kind, start, length };
    (length >= SMALLEST_STATE).then_some([
        part(CORE, "bios-boot", "21686148-6449-6E6F-744E-656564454649", CORE_START, CORE_SIZE),
        part(BOOT, paths::BOOT_LABEL, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", boot, BOOT_SIZE),
        part(STATE, paths::STATE_LABEL, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", state, length),
    ])
}

/// Bytes of the smallest disk whose STATE has `state` bytes.
#[must_use]
pub fn smallest(state: u64) -> u64 {
    CORE_START + CORE_SIZE + BOOT_SIZE + state.max(SMALLEST_STATE).next_multiple_of(MIB) + TAIL
}

/// The files of ROS_BOOT beside the boot set: `efi` is GRUB for UEFI, `config` its `grub.cfg`, `append` what the user
/// adds to the kernel's arguments.
///
/// # Errors
/// Never: the boot loader's block has room for one number.
pub fn boot_files(
    release: &Release,
    append: &str,
    efi: Vec<u8>,
    config: Vec<u8>,
) -> io::Result<[(&'static str, Vec<u8>); 4]> {
    let mut environment = BootEnv::default();
    environment.set_default(FIRST);
    let entry = MenuEntry {
        number: FIRST,
        version: &release.version,
        status: "good",
        boot_set: &release.boot_set,
        append,
    };
    Ok([
        ("grub/grub.cfg", config),
        ("grub/grubenv", environment.to_block()?),
        ("grub/generations.cfg", menu(&[entry]).into_bytes()),
        ("EFI/BOOT/BOOTX64.EFI", efi),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_one_another_and_leave_room_for_the_second_table() {
        for size in [smallest(0), 4 << 30, (4 << 30) + 12345] {
            let all = partitions(size).unwrap();
            for (before, after) in all.iter().zip(&all[1..]) {
                assert_eq!(before.start + before.length, after.start);
                assert_eq!(after.number, before.number + 1);
            }
            assert_eq!(all[0].start, 2048 * SECTOR);
            let end = all[2].start + all[2].length;
            assert!(end + TAIL <= size && size < end + TAIL + MIB, "{size}");
            assert!(all.iter().all(|part| part.start % MIB == 0 && part.length % MIB == 0));
        }
    }

    #[test]
    fn what_is_too_small_has_none() {
        assert_eq!(partitions(smallest(0) - 1), None);
        assert_eq!(partitions(0), None);
        let state = 300 * MIB + 1;
        assert!(partitions(smallest(state)).unwrap()[2].length >= state);
    }
}

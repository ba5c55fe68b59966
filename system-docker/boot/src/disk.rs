//! A whole disk becomes one that ros boots from, see [`ros_api::disk`]. Its file systems are made and filled while it has
//! no partition table: the kernel is told of the partitions, the disk is not. The table comes after everything, and the
//! first sector last.
//!
//! ```text
//!  wipe      sector 0 … first MiB, last MiB, both ends of what were and what will be partitions     fsync
//!  reveal    BLKPG: the kernel knows vda1 vda2 vda3; on the disk is nothing
//!  (fill)    core into vda1, FAT and ext4 into vda2 and vda3, unmounted                            fsync
//!  finish    second table, fsync; first table, fsync                     still nothing: no protective MBR
//!            sector 0 = boot code + protective MBR + 55 aa, fsync        one write of one sector: now it is whole
//! ```
//!
//! Cut anywhere before the last write, firmware, GRUB and kernel find neither a partition nor a label: not half an
//! installation, but an empty disk. udev is kept from looking by the lock that it asks for
//! (<https://systemd.io/BLOCK_DEVICE_LOCKING>).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gpt::GptConfig;
use gpt::mbr::{PartRecord, ProtectiveMBR};
use gpt::partition_types::Type;
use ros_api::disk::{BOOT_CODE, Partition, SECTOR};
use ros_api::durable::named;
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::probe::Block;
use crate::steps::grow::{MIB, sector_size};
use crate::steps::staged::Staged;

/// A disk that is this program's alone.
pub struct Whole {
    block: Block,
    device: File,
    sector: u64,
}

impl Whole {
    /// The disk at `node`, which nobody uses.
    ///
    /// # Errors
    /// When it is no whole disk, or is mounted, swapped to, or part of something.
    pub fn take(node: &Path) -> io::Result<Self> {
        let is_it = |block: &Block| block.node() == node && block.partition.is_none();
        let block = Block::all().into_iter().find(is_it).ok_or_else(|| {
            io::Error::other(format!("{}: expected a whole disk", node.display()))
        })?;
        // Exclusive: the kernel refuses what it has mounted, or uses otherwise.
        drop(open(node, OFlags::EXCL)?);
        let device = open(node, OFlags::empty())?;
        flock(&device, FlockOperation::LockExclusive)
            .map_err(|e| named("lock", node, &e.into()))?;
        let sector = block.number("queue/logical_block_size")?;
        sector_size(sector)?;
        Ok(Self { block, device, sector })
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.block.size
    }

    /// Makes it an empty disk, for the kernel too. Done again it changes nothing.
    ///
    /// # Errors
    /// When it cannot be written, or a partition of it is in use.
    pub fn wipe(&mut self, new: &[Partition]) -> io::Result<()> {
        let node = self.block.node();
        let old = Block::all().into_iter().filter(|it| it.sys.parent() == Some(&self.block.sys));
        let bounds = |part: Block| Some((part.number("start").ok()? * SECTOR, part.size));
        let parts = old.filter_map(bounds).chain(new.iter().map(|part| (part.start, part.length)));
        let places = ends(self.size(), &parts.collect::<Vec<_>>());
        wipe(&mut self.device, &places).map_err(|e| named("write", &node, &e))?;
        ros_sys::block::reread_partitions(&self.device)
            .map_err(|e| named("read partitions of", &node, &e))
    }

    /// Tells the kernel of the partitions; the node of each, in order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reveal<const N: usize>(&self, parts: &[Partition; N]) -> io::Result<[PathBuf; N]> {
        let node = self.block.node();
        for part in parts {
            ros_sys::block::add_partition(&self.device, part.number, part.start, part.length)
                .map_err(|e| named(&format!("add partition {} to", part.number), &node, &e))?;
        }
        let all = Block::all();
        let find = |part: &Partition| {
            let mut found = all.iter().filter(|it| it.sys.parent() == Some(&self.block.sys));
            found.find(|it| it.partition == Some(part.number)).map(Block::node)
        };
        let missing =
            || io::Error::other(format!("new partitions of {} did not appear", node.display()));
        let nodes: Vec<PathBuf> = parts.iter().filter_map(find).collect();
        nodes.try_into().map_err(|_| missing())
    }

    /// Writes what makes it a disk that boots: the table, and last its first sector with GRUB's code.
    ///
    /// # Errors
    /// When it cannot be written; it is an empty disk then.
    pub fn finish(self, parts: &[Partition], boot_code: &[u8]) -> io::Result<()> {
        let node = self.block.node();
        let write = || {
            write_table(self.device.try_clone()?, self.sector, parts)?;
            let first = first_sector(self.size() / self.sector, boot_code)?;
            self.device.write_all_at(&first, 0)?;
            self.device.sync_all()
        };
        write().map_err(|e| named("write", &node, &e))?;
        // It says that they are in use when somebody looks at them just now: they are known already.
        let _ = ros_sys::block::reread_partitions(&self.device);
        Ok(())
    }
}

fn open(node: &Path, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let write = !flags.contains(OFlags::EXCL);
    let bits = i32::try_from((flags | OFlags::CLOEXEC).bits()).unwrap_or_default();
    let opened = options.read(true).write(write).custom_flags(bits).open(node);
    opened.map_err(|e| match e.raw_os_error() {
        Some(code) if code == nix::libc::EBUSY => io::Error::new(
            e.kind(),
            format!("{} is in use: it is mounted, or a part of something", node.display()),
        ),
        _ => named("open", node, &e),
    })
}

/// Where something may begin or end that is looked for by its first or last bytes: offset and length, the disk's own
/// beginning first.
fn ends(disk: u64, parts: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let of = |&(start, length): &(u64, u64)| {
        let edge = length.min(MIB);
        [(start, edge), ((start + length).saturating_sub(edge), edge)]
    };
    let inside = |&(start, length): &(u64, u64)| start + length <= disk;
    std::iter::once(&(0, disk))
        .chain(parts.iter().filter(|part| inside(part)))
        .flat_map(of)
        .collect()
}

/// Zeros, on the disk before the next place is begun with.
fn wipe(device: &mut File, places: &[(u64, u64)]) -> io::Result<()> {
    for (offset, length) in places {
        device.seek(SeekFrom::Start(*offset))?;
        io::copy(&mut io::repeat(0).take(*length), device)?;
        device.flush()?;
        device.sync_all()?;
    }
    Ok(())
}

/// Both copies of the table, the second first; sector 0 stays as it is.
fn write_table(device: File, sector: u64, parts: &[Partition]) -> io::Result<()> {
    let config = GptConfig::new().writable(true).logical_block_size(sector_size(sector)?);
    let mut table =
        config.create_from_device(Staged::new(device)?, None).map_err(io::Error::other)?;
    table.update_partitions(BTreeMap::new()).map_err(io::Error::other)?;
    for part in parts {
        let kind: Type = part.kind.parse().map_err(io::Error::other)?;
        let (first, length) = (part.start / sector, part.length / sector);
        table
            .add_partition_at(part.name, part.number, first, length, kind, 0)
            .map_err(io::Error::other)?;
    }
    table.write().map_err(io::Error::other)?.commit()
}

/// GRUB's code and the protective MBR of a disk with so many sectors.
fn first_sector(sectors: u64, boot_code: &[u8]) -> io::Result<[u8; SECTOR as usize]> {
    let code = boot_code.get(..BOOT_CODE).and_then(|code| code.try_into().ok());
    let code = code.ok_or_else(|| io::Error::other("GRUB's boot.img is too short"))?;
    let mut mbr = ProtectiveMBR::new();
    mbr.set_bootcode(code);
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr.set_partition(0, PartRecord::new_protective(Some(length)));
    Ok(mbr.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ros_api::disk::{partitions, smallest};

    use super::*;

    #[test]
    fn the_table_is_sound_and_there_is_none_before_the_first_sector() {
        for size in [smallest(0), smallest(0) + (3 << 20) + 512] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(size).unwrap();
            let parts = partitions(size).unwrap();
            write_table(disk.reopen().unwrap(), SECTOR, &parts).unwrap();
            let mut first = [1; 512];
            disk.as_file().read_exact_at(&mut first, 0).unwrap();
            assert_eq!(first, [0; 512], "nothing says that there is a table");
            let first = first_sector(size / SECTOR, &[0x5a; 512]).unwrap();
            assert_eq!((first[0], first[439], &first[510..]), (0x5a, 0x5a, &[0x55, 0xaa][..]));
            disk.as_file().write_all_at(&first, 0).unwrap();
            let show = |args: &[&str]| {
                let out = Command::new("sgdisk").args(args).arg(disk.path()).output().unwrap();
                String::from_utf8_lossy(&out.stdout).into_owned()
            };
            assert!(show(&["-v"]).contains("No problems found"), "{}", show(&["-v"]));
            for (option, words) in [
                ("-i1", ["BIOS boot", "'bios-boot'"]),
                ("-i2", ["EFI system", "'ROS_BOOT'"]),
                ("-i3", ["Linux filesystem", "'ROS_STATE'"]),
            ] {
                let shown = show(&[option]);
                assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
            }
        }
    }

    #[test]
    fn every_end_is_wiped_and_what_is_between_is_left() {
        let size = 16 * MIB;
        let mut disk = tempfile::tempfile().unwrap();
        disk.write_all(&vec![1; size as usize]).unwrap();
        let places = ends(size, &[(4 * MIB, 6 * MIB), (100 * MIB, MIB), (0, 512)]);
        wipe(&mut disk, &places).unwrap();
        for (mib, expected) in [(0, 0), (1, 1), (4, 0), (5, 1), (8, 1), (9, 0), (14, 1), (15, 0)] {
            let mut bytes = vec![7; MIB as usize];
            disk.read_exact_at(&mut bytes, mib * MIB).unwrap();
            assert!(bytes.iter().all(|byte| *byte == expected), "MiB {mib}");
        }
    }

    #[test]
    fn a_short_boot_image_is_refused() {
        assert!(first_sector(100, &[0; 439]).is_err());
    }
}

//! STATE grows to its disk: first the partition (partition table, then the kernel's idea of it), and when it
//! is mounted the file system. A power cut between any two writes leaves a table that is valid and a file
//! system that fits; the next boot does the rest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::{PartRecord, ProtectiveMBR};
use gpt::partition::Partition;
use gpt::{DiskDevice, GptConfig, GptDisk};
use ros_api::durable::named;
use ros_api::paths;

use crate::probe::{Filesystem, Kind};
use crate::steps::Machine;
use crate::steps::staged::Staged;

/// Less than this at the end is not worth a write.
const WORTH: u64 = 16 << 20;

/// The partition to the disk's end, when it is the last one.
pub fn partition(machine: &mut Machine) -> io::Result<String> {
    let state = machine.state()?;
    let (Some(number), Some(disk)) = (state.partition, state.disk()) else {
        return Ok("the whole disk".into());
    };
    let sector = disk.number("queue/logical_block_size")?;
    let node = disk.node();
    let Some(new) =
        extend(&node, number, sector).map_err(|e| named("partition table of", &node, &e))?
    else {
        return Ok("nothing to grow".into());
    };
    let device = File::open(&node).map_err(|e| named("open", &node, &e))?;
    ros_sys::block::resize_partition(&device, number, new.start, new.length)
        .map_err(|e| named(&format!("resize partition {number} of"), &node, &e))?;
    Ok(format!("{} is {} MiB now, was {}", state.name, new.length >> 20, new.before >> 20))
}

/// A partition's new bounds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    start: u64,
    length: u64,
    before: u64,
}

/// Rewrites the table on `disk` so that partition `number` ends where the disk does, or because its first copy is
/// damaged. `None`: nothing to do, or not a table that can be rewritten safely.
fn extend(disk: &Path, number: u32, sector: u64) -> io::Result<Option<Bounds>> {
    let size = sector_size(sector)?;
    let Some((table, damaged)) = open(disk, size)? else {
        return Ok(None);
    };
    let sectors = table.device_ref().size() / sector;
    let used: BTreeMap<u32, Partition> = table
        .partitions()
        .iter()
        .filter(|(_, it)| it.is_used())
        .map(|(id, it)| (*id, it.clone()))
        .collect();
    // The crate writes entries without gaps: with gaps, numbers would change.
    let without_gaps = used.keys().copied().eq(1..=u32::try_from(used.len()).unwrap_or(0));
    let Some(wanted) = used.get(&number).filter(|_| without_gaps).cloned() else {
        return Ok(None);
    };
    // The backup table is 32 sectors of 512 bytes (16 KiB) and its header.
    let usable = sectors.saturating_sub(2 + 16384 / sector);
    let aligned = (usable + 1) / (MIB / sector) * (MIB / sector);
    let last = aligned.saturating_sub(1);
    let is_last = used.values().all(|it| it.last_lba <= wanted.last_lba);
    let grows = is_last && last.saturating_sub(wanted.last_lba) * sector >= WORTH;
    if !grows && !damaged {
        return Ok(None);
    }
    let last = if grows { last } else { wanted.last_lba };
    let mut grown = used;
    grown.insert(number, Partition { last_lba: last, ..wanted.clone() });
    let mut table = table;
    table.update_partitions(grown).map_err(io::Error::other)?;
    let mut staged = table.write().map_err(io::Error::other)?;
    protective(&mut staged, size, sectors)?;
    staged.commit()?;
    Ok(Some(Bounds {
        start: wanted.first_lba * sector,
        length: (last + 1 - wanted.first_lba) * sector,
        before: (wanted.last_lba + 1 - wanted.first_lba) * sector,
    }))
}

/// The table, and whether its first copy is damaged: then it is the second one, which the kernel takes as well. `None`:
/// there is no table.
fn open(disk: &Path, size: LogicalBlockSize) -> io::Result<Option<(GptDisk<Staged>, bool)>> {
    let staged = || Staged::new(OpenOptions::new().read(true).write(true).open(disk)?);
    let read = |staged| {
        GptConfig::new().writable(true).logical_block_size(size).open_from_device(staged).ok()
    };
    if let Some(table) = read(staged()?) {
        let damaged = table.primary_header().is_err();
        return Ok(Some((table, damaged)));
    }
    // Its header may be sound and not fit its entries: without it, the second copy is read.
    let mut without = staged()?;
    let sector = size.as_u64();
    without.seek(SeekFrom::Start(sector))?;
    without.write_all(&vec![0; size.as_usize()])?;
    Ok(read(without).map(|table| (table, true)))
}

/// Partitions begin and end at multiples of this.
pub const MIB: u64 = 1 << 20;

/// The size that the `gpt` crate knows.
///
/// # Errors
/// When it is neither 512 nor 4096.
pub fn sector_size(sector: u64) -> io::Result<LogicalBlockSize> {
    match sector {
        512 => Ok(LogicalBlockSize::Lb512),
        4096 => Ok(LogicalBlockSize::Lb4096),
        other => Err(io::Error::other(format!("sectors of {other} bytes"))),
    }
}

/// Lets the protective MBR cover the whole disk; the boot code in it stays.
pub fn protective(
    device: &mut impl DiskDevice,
    size: LogicalBlockSize,
    sectors: u64,
) -> io::Result<()> {
    let mut mbr = ProtectiveMBR::from_disk(device, size).unwrap_or_default();
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr.set_partition(0, PartRecord::new_protective(Some(length)));
    mbr.update_conservative(device).map(drop).map_err(io::Error::other)
}

/// The file system to the partition's end, while it is mounted.
pub fn filesystem(machine: &mut Machine) -> io::Result<String> {
    let state = machine.state()?;
    let Some(Filesystem { kind: Kind::Ext4 { size, .. }, .. }) = state.filesystem() else {
        return Err(io::Error::other(format!("{} is not ext4", state.name)));
    };
    let length = state.number("size")?.saturating_mul(512);
    if length < size.saturating_add(WORTH) {
        return Ok("nothing to grow".into());
    }
    let root = Path::new(paths::STATE);
    let on_it = File::open(root).map_err(|e| named("open", root, &e))?;
    let block = rustix::fs::fstatvfs(&on_it)?.f_bsize;
    ros_sys::ext4::resize(&on_it, length / block).map_err(|e| named("grow", root, &e))?;
    Ok(format!("{} MiB now, was {}", length >> 20, size >> 20))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    fn sgdisk(args: &[&str], disk: &Path) -> String {
        let out = Command::new("sgdisk").args(args).arg(disk).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn disk_of(mib: u64) -> tempfile::NamedTempFile {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(mib << 20).unwrap();
        disk
    }

    #[test]
    fn the_last_partition_grows_and_the_table_is_sound() {
        let disk = disk_of(64);
        sgdisk(&["-n1:0:+1M", "-t1:ef02", "-n2:0:+8M", "-n3:0:0", "-c3:ROS_STATE"], disk.path());
        disk.as_file().write_all_at(b"boot code", 0).unwrap();
        disk.as_file().set_len(256 << 20).unwrap();
        let grown = extend(disk.path(), 3, 512).unwrap().unwrap();
        assert_eq!((grown.start, grown.length), (10 << 20, 245 << 20));
        let verdict = sgdisk(&["-v"], disk.path());
        assert!(verdict.contains("No problems found"), "{verdict}");
        let shown = sgdisk(&["-i3"], disk.path());
        assert!(shown.contains("Last sector: 522239") && shown.contains("'ROS_STATE'"), "{shown}");
        let mut code = [0; 9];
        disk.as_file().read_exact_at(&mut code, 0).unwrap();
        assert_eq!(&code, b"boot code");
        assert_eq!(extend(disk.path(), 3, 512).unwrap(), None, "nothing more to grow");
    }

    /// The kernel takes the second copy when the first does not fit itself: a cut within the last write.
    #[test]
    fn a_torn_first_copy_is_made_whole_from_the_second() {
        for torn in [512u64, 1024] {
            let disk = disk_of(64);
            sgdisk(&["-n1:0:+8M", "-n2:0:0", "-c2:ROS_STATE"], disk.path());
            disk.as_file().write_all_at(&[0x5a; 64], torn).unwrap();
            let repaired = extend(disk.path(), 2, 512).unwrap();
            assert!(repaired.is_some_and(|bounds| bounds.length == bounds.before), "{repaired:?}");
            let verdict = sgdisk(&["-v"], disk.path());
            assert!(verdict.contains("No problems found"), "{torn}: {verdict}");
            assert!(sgdisk(&["-i2"], disk.path()).contains("'ROS_STATE'"));
            assert_eq!(extend(disk.path(), 2, 512).unwrap(), None);
        }
    }

    #[test]
    fn what_is_not_the_last_or_has_gaps_or_no_table_stays() {
        let disk = disk_of(128);
        sgdisk(&["-n1:0:+8M", "-n2:0:+8M", "-n3:0:+8M"], disk.path());
        assert_eq!(extend(disk.path(), 2, 512).unwrap(), None);
        sgdisk(&["-d2"], disk.path());
        assert_eq!(extend(disk.path(), 3, 512).unwrap(), None);
        assert_eq!(extend(disk_of(8).path(), 1, 512).unwrap(), None);
    }
}

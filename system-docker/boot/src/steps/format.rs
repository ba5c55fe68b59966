//! An empty disk becomes STATE, when that was asked for (`ros.state.autoformat`). Empty means: its first and
//! last MiB are zero, nothing is on it. The partition is called [`UNFINISHED`] until its file system is
//! whole, so that after a power cut the next boot may begin again, also when the table itself was cut off; nothing
//! else is ever formatted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use ros_api::durable::named;
use ros_api::paths;

use crate::args::Autoformat;
use crate::child;
use crate::kmsg;
use crate::plan::Disk;
use crate::probe::Block;
use crate::steps::Machine;
use crate::steps::grow::{MIB, protective, sector_size};
use crate::steps::staged::Staged;

/// Name of the partition while its file system is made.
const UNFINISHED: &str = "ROS_STATE.new";
/// A table of partitions: how its headers begin, bytes of its entries, of one, and where in that its name is (UEFI 2.10, 5.3).
const SIGNATURE: &[u8] = b"EFI PART";
const ENTRIES: usize = 16384;
const ENTRY: usize = 128;
const NAME: usize = 56;
/// Smaller disks are left alone: they are for something else.
const SMALLEST: u64 = 128 * MIB;

/// The disk that may be formatted.
pub fn candidate(autoformat: &Autoformat) -> Option<Block> {
    let all = Block::all();
    let may = |block: &&Block| {
        block.partition.is_none()
            && !block.read_only
            && block.size >= SMALLEST
            && (is_empty(block) || is_begun(block) || is_unfinished(block, &all))
    };
    let mut disks = all.iter().filter(may);
    match autoformat {
        Autoformat::No => None,
        Autoformat::Any => disks.next().cloned(),
        Autoformat::Disks(named) => {
            let disks: Vec<&Block> = disks.collect();
            let find = |path: &String| disks.iter().find(|disk| is_named(disk, path));
            named.iter().find_map(find).map(|disk| (*disk).clone())
        }
    }
}

fn is_named(disk: &Block, path: &str) -> bool {
    fs::canonicalize(path).is_ok_and(|path| path == disk.node())
}

fn is_empty(disk: &Block) -> bool {
    !disk.in_use() && disk.is_blank().unwrap_or(false)
}

/// Whether this program began to write a table on it, and did not come to the first sector.
fn is_begun(disk: &Block) -> bool {
    let look = || -> io::Result<bool> {
        let sector = disk.number("queue/logical_block_size")?;
        let mut device = File::open(disk.node())?;
        is_table_begun(&mut device, disk.size, sector)
    };
    !disk.in_use() && look().unwrap_or(false)
}

/// Whether nothing is there but headers and entries of a table, in one place or both, with [`UNFINISHED`] alone in it.
fn is_table_begun(device: &mut (impl Read + Seek), size: u64, sector: u64) -> io::Result<bool> {
    let sector = usize::try_from(sector).map_err(io::Error::other)?;
    let length = MIB as usize;
    let mut found = false;
    for (start, header, entries) in
        [(0, sector, 2 * sector), (size - MIB, length - sector, length - sector - ENTRIES)]
    {
        let mut part = vec![0; length];
        device.seek(SeekFrom::Start(start))?;
        device.read_exact(&mut part)?;
        if part[header..].starts_with(SIGNATURE) {
            part[header..header + sector].fill(0);
        }
        if name_of(&part[entries..entries + ENTRY]) == UNFINISHED {
            part[entries..entries + ENTRY].fill(0);
            found = true;
        }
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(found)
}

/// The name in an entry, which is UTF-16LE.
fn name_of(entry: &[u8]) -> String {
    let units = entry[NAME..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('?')).collect()
}

/// Whether its only partition is one that this program began to format.
fn is_unfinished(disk: &Block, all: &[Block]) -> bool {
    let mut parts = all.iter().filter(|block| block.sys.parent() == Some(&disk.sys));
    let only = parts.next().is_some_and(|part| {
        part.partition_name().as_deref() == Some(UNFINISHED) && part.filesystem().is_none()
    });
    only && parts.next().is_none()
}

/// Writes the table, the file system, and then the partition's real name.
pub fn format(machine: &mut Machine) -> io::Result<String> {
    let disk = machine.state()?.clone();
    let node = disk.node();
    kmsg::warn(&format!("formatting the empty disk {} ({} MiB)", node.display(), disk.size >> 20));
    let sector = disk.number("queue/logical_block_size")?;
    write_table(&node, sector, UNFINISHED).map_err(|e| named("partition", &node, &e))?;
    let device = File::open(&node).map_err(|e| named("open", &node, &e))?;
    ros_sys::block::reread_partitions(&device)
        .map_err(|e| named("read partitions of", &node, &e))?;
    let part = Block::all()
        .into_iter()
        .find(|block| block.sys.parent() == Some(&disk.sys) && block.partition == Some(1))
        .ok_or_else(|| {
            io::Error::other(format!("the new partition of {} did not appear", node.display()))
        })?;
    make_filesystem(&part.node(), machine)?;
    rename(&node, sector).map_err(|e| named("partition", &node, &e))?;
    let note = format!("{}, {} MiB", part.name, part.size >> 20);
    (machine.disk, machine.state) = (Disk::State, Some(part));
    Ok(note)
}

fn write_table(disk: &Path, sector: u64, name: &str) -> io::Result<()> {
    table(disk, sector, name)?.commit_first(sector)
}

/// The table, not on the disk yet.
fn table(disk: &Path, sector: u64, name: &str) -> io::Result<Staged> {
    let size = sector_size(sector)?;
    let mut device = Staged::new(OpenOptions::new().read(true).write(true).open(disk)?)?;
    let sectors = device.size() / sector;
    ProtectiveMBR::new().overwrite_lba0(&mut device).map_err(io::Error::other)?;
    protective(&mut device, size, sectors)?;
    let config = GptConfig::new().writable(true).logical_block_size(size);
    let mut table = config.create_from_device(device, None).map_err(io::Error::other)?;
    table.update_partitions(BTreeMap::new()).map_err(io::Error::other)?;
    let first = MIB / sector;
    let end = (sectors - 1 - ENTRIES as u64 / sector) / first * first;
    table
        .add_partition_at(name, 1, first, end - first, partition_types::LINUX_FS, 0)
        .map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)
}

fn make_filesystem(node: &Path, machine: &mut Machine) -> io::Result<()> {
    let mut mke2fs = child::command("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "verity", "-L", paths::STATE_LABEL]).arg(node);
    let ended = child::run(&mut mke2fs, &mut machine.watchdog, None)?;
    if !ended.status.success() {
        kmsg::error(&ended.output);
        let (code, said) = (ended.code(), ended.last_line());
        return Err(io::Error::other(format!(
            "mke2fs of {} ended with {code}: {said}",
            node.display()
        )));
    }
    Ok(())
}

/// Gives the finished partition its name; the kernel need not know.
fn rename(disk: &Path, sector: u64) -> io::Result<()> {
    let device = Staged::new(OpenOptions::new().read(true).write(true).open(disk)?)?;
    let config = GptConfig::new().writable(true).logical_block_size(sector_size(sector)?);
    let mut table = config.open_from_device(device).map_err(io::Error::other)?;
    let mut parts = table.partitions().clone();
    if let Some(part) = parts.get_mut(&1) {
        part.name = paths::STATE_LABEL.into();
    }
    table.update_partitions(parts).map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?.commit()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use std::os::unix::fs::FileExt;

    use super::*;

    const SIZE: u64 = 128 << 20;

    fn begun(writes: &[(u64, [u8; 512])], sector: u64) -> bool {
        let mut disk = tempfile::tempfile().unwrap();
        disk.set_len(SIZE).unwrap();
        writes.iter().for_each(|(offset, bytes)| disk.write_all_at(bytes, *offset).unwrap());
        is_table_begun(&mut disk, SIZE, sector).unwrap()
    }

    #[test]
    fn a_table_that_was_cut_off_is_known_again() {
        for sector in [512, 4096] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(SIZE).unwrap();
            let [entries, headers, first] =
                table(disk.path(), sector, UNFINISHED).unwrap().phases(sector);
            assert!(!begun(&[], sector), "a blank one is blank");
            let written = entries.iter().filter(|(_, bytes)| *bytes != [0; 512]);
            assert_eq!(written.clone().map(|one| assert!(begun(&[*one], sector))).count(), 2);
            for header in &headers {
                assert!(begun(&[&entries[..], &[*header]].concat(), sector));
                assert!(!begun(&[*header], sector), "somebody's empty table");
            }
            assert!(begun(&[&entries[..], &headers].concat(), sector));
            let whole = [&entries[..], &headers, &first].concat();
            assert!(!begun(&whole, sector), "the kernel sees this one");
            let [entries, headers, _] =
                table(disk.path(), sector, "ROS_STATE").unwrap().phases(sector);
            assert!(!begun(&[&entries[..], &headers].concat(), sector), "a wiped disk of ros");
            let data = (SIZE - 4096, [1; 512]);
            assert!(!begun(&[&entries[..], &[data]].concat(), sector));
        }
    }

    #[test]
    fn the_table_is_sound_and_the_name_comes_last() {
        for mib in [128, 129] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(mib << 20).unwrap();
            write_table(disk.path(), 512, UNFINISHED).unwrap();
            let show = |args: &[&str]| {
                let out = Command::new("sgdisk").args(args).arg(disk.path()).output().unwrap();
                String::from_utf8_lossy(&out.stdout).into_owned()
            };
            assert!(show(&["-v"]).contains("No problems found"), "{}", show(&["-v"]));
            assert!(show(&["-i1"]).contains("'ROS_STATE.new'"));
            rename(disk.path(), 512).unwrap();
            assert!(show(&["-v"]).contains("No problems found"));
            assert!(
                show(&["-i1"]).contains("'ROS_STATE'")
                    && show(&["-i1"]).contains("First sector: 2048")
            );
        }
    }
}

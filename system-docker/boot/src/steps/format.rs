//! An empty disk becomes STATE, when that was asked for (`ros.state.autoformat`). Empty means: its first and
//! last MiB are zero, nothing is on it. The partition is called [`UNFINISHED`] until its file system is
//! whole, so that after a power cut the next boot may begin again; nothing else is ever formatted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
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

/// Name of the partition while its file system is made.
const UNFINISHED: &str = "ROS_STATE.new";
/// Smaller disks are left alone: they are for something else.
const SMALLEST: u64 = 128 * MIB;

/// The disk that may be formatted.
pub fn candidate(autoformat: &Autoformat) -> Option<Block> {
    let all = Block::all();
    let may = |block: &&Block| {
        block.partition.is_none()
            && !block.read_only
            && block.size >= SMALLEST
            && (is_empty(block) || is_unfinished(block, &all))
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
    let size = sector_size(sector)?;
    let mut device = OpenOptions::new().read(true).write(true).open(disk)?;
    let sectors = io::Seek::seek(&mut device, io::SeekFrom::End(0))? / sector;
    ProtectiveMBR::new().overwrite_lba0(&mut device).map_err(io::Error::other)?;
    protective(&mut device, size, sectors)?;
    let config = GptConfig::new().writable(true).logical_block_size(size);
    let mut table = config.create_from_device(device, None).map_err(io::Error::other)?;
    table.update_partitions(BTreeMap::new()).map_err(io::Error::other)?;
    let first = MIB / sector;
    let end = (sectors - 1 - 16384 / sector) / first * first;
    table
        .add_partition_at(name, 1, first, end - first, partition_types::LINUX_FS, 0)
        .map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?.sync_all()
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
    let device = OpenOptions::new().read(true).write(true).open(disk)?;
    let config = GptConfig::new().writable(true).logical_block_size(sector_size(sector)?);
    let mut table = config.open_from_device(device).map_err(io::Error::other)?;
    let mut parts = table.partitions().clone();
    if let Some(part) = parts.get_mut(&1) {
        part.name = paths::STATE_LABEL.into();
    }
    table.update_partitions(parts).map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

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

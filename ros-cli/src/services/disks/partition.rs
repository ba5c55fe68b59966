//! `disk_setup`: a partition table with shares of the disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cloud_config::settings::{DiskSetup, Share};
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{self, Type};
use gpt::{GptConfig, disk::LogicalBlockSize};

use super::blank::Device;
use super::{Once, may_write, run};

/// Partitions begin and end at whole ones.
const MIB: u64 = 1 << 20;

/// Partitions a disk that has nothing on it, or may be overwritten.
///
/// # Errors
/// When the layout is none, the disk is in use, or cannot be written to.
pub fn apply(path: &str, wanted: &DiskSetup, once: &Once) -> Result<()> {
    let shares = wanted.shares().map_err(anyhow::Error::msg)?;
    if shares.is_empty() {
        return Ok(());
    }
    let device = Device::at(path)?;
    ensure!(!device.is_partition(), "it is a partition: expected a disk");
    if !may_write(&device, wanted.overwrite, &format!("{path} {:?}", wanted.layout), once)? {
        return Ok(());
    }
    let sector = device.sector()?;
    for part in device.partitions()? {
        wipe(&part)?;
    }
    write_table(&device.node, sector, &shares)?;
    run(&["partprobe", &device.node.display().to_string()])
}

/// What was on a disk must not be found in its new partitions.
fn wipe(node: &Path) -> Result<()> {
    let shown = node.display();
    let mut file =
        File::options().write(true).open(node).with_context(|| format!("open {shown}"))?;
    let length = file.seek(SeekFrom::End(0))?;
    let edge = vec![0u8; usize::try_from(length.min(MIB))?];
    for from in [0, length.saturating_sub(MIB)] {
        file.seek(SeekFrom::Start(from))?;
        file.write_all(&edge).with_context(|| format!("write {shown}"))?;
    }
    file.sync_all().with_context(|| format!("write {shown}"))
}

fn write_table(disk: &Path, sector: u64, shares: &[Share]) -> Result<()> {
    let shown = disk.display();
    let size = match sector {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        other => anyhow::bail!("sectors of {other} bytes: expected 512 or 4096"),
    };
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .with_context(|| format!("open {shown}"))?;
    let sectors = device.seek(SeekFrom::End(0))? / sector;
    let last = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut device)
        .context("write its first sector")?;
    let config = GptConfig::new().writable(true).logical_block_size(size);
    let mut table = config.create_from_device(device, None).context("begin a table")?;
    table.update_partitions(BTreeMap::new()).context("begin a table")?;
    let step = MIB / sector;
    // The table is 16 KiB and a sector, at both ends.
    let room = ((sectors - 1 - 16384 / sector) / step).saturating_sub(1);
    let mut first = 1;
    for (number, share) in (1..).zip(shares) {
        let length = room * u64::from(share.percent) / 100;
        ensure!(length > 0, "{} percent of it is less than a MiB", share.percent);
        let (from, length) = (first * step, length * step);
        table
            .add_partition_at("", number, from, length, kind(&share.kind)?, 0)
            .with_context(|| format!("add partition {number}"))?;
        first += length / step;
    }
    let device = table.write().context("write the table")?;
    device.sync_all().with_context(|| format!("write {shown}"))
}

/// Types by the numbers of MBR tables, as cloud-init's users write them, or by their GUID.
fn kind(text: &str) -> Result<Type> {
    Ok(match text.trim().to_lowercase().as_str() {
        "" | "83" | "8300" => partition_types::LINUX_FS,
        "82" | "8200" => partition_types::LINUX_SWAP,
        "8e" | "8e00" => partition_types::LINUX_LVM,
        "fd" | "fd00" => partition_types::LINUX_RAID,
        "ef" | "ef00" => partition_types::EFI,
        "7" | "b" | "c" | "0700" => partition_types::BASIC,
        guid => guid.to_uppercase().parse().map_err(|_| {
            anyhow::anyhow!("partition type {text:?}: expected 82, 83, 8e, ef, fd, or a GUID")
        })?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn share(percent: u8, kind: &str) -> Share {
        Share { percent, kind: kind.into() }
    }

    #[test]
    fn the_table_is_sound_and_has_the_shares() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(257 << 20).unwrap();
        write_table(disk.path(), 512, &[share(25, "82"), share(75, "")]).unwrap();
        let show = |args: &[&str]| {
            let out = Command::new("sgdisk").args(args).arg(disk.path()).output().unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        assert!(show(&["-v"]).contains("No problems found"), "{}", show(&["-v"]));
        assert!(show(&["-i1"]).contains("Linux swap"), "{}", show(&["-i1"]));
        assert!(show(&["-i1"]).contains("(63.0 MiB)"), "{}", show(&["-i1"]));
        assert!(show(&["-i2"]).contains("Linux filesystem"), "{}", show(&["-i2"]));
        assert!(show(&["-i2"]).contains("(191.0 MiB)"), "{}", show(&["-i2"]));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(8 << 20).unwrap();
        let many = write_table(disk.path(), 512, &[share(1, "")]).unwrap_err();
        assert!(many.to_string().contains("less than a MiB"), "{many:#}");
        assert!(write_table(disk.path(), 512, &[share(50, "swap")]).is_err());
        assert!(write_table(disk.path(), 1000, &[share(50, "")]).is_err());
    }
}

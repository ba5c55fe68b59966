//! The partition table as the kernel takes it, and what the firmware reads before any file system.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_api::paths;
use serde::Deserialize;

use crate::powercut::replay::copy_range;

const SECTOR: u64 = 512;
/// Boot code in front of the protective partition table.
const BOOT_CODE: usize = 440;
/// GRUB's core, in the BIOS-boot partition.
const CORE: std::ops::Range<u64> = 2048 * SECTOR..4096 * SECTOR;

/// A partition, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub start: u64,
    pub size: u64,
}

/// The two partitions that matter.
pub struct Table {
    pub boot: Partition,
    pub state: Partition,
}

#[derive(Deserialize)]
struct Printed {
    partitiontable: PrintedTable,
}

#[derive(Deserialize)]
struct PrintedTable {
    partitions: Vec<PrintedPartition>,
}

#[derive(Deserialize)]
struct PrintedPartition {
    start: u64,
    size: u64,
    #[serde(default)]
    name: String,
}

/// Reads the table; like the kernel, `sfdisk` takes the second one when the first is damaged.
pub fn read(disk: &Path) -> Result<Table> {
    grub_reads_the_first(disk)?;
    let mut sfdisk = Command::new("sfdisk");
    let output = sfdisk.arg("--json").arg(disk).output().context("start sfdisk")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sfdisk: {told}");
    let printed: Printed = serde_json::from_slice(&output.stdout).context("what sfdisk said")?;
    let find = |name: &str| {
        let all = &printed.partitiontable.partitions;
        let found = all.iter().find(|partition| partition.name == name);
        found
            .map(|it| Partition { start: it.start * SECTOR, size: it.size * SECTOR })
            .with_context(|| format!("no partition {name}"))
    };
    Ok(Table { boot: find(paths::BOOT_LABEL)?, state: find(paths::STATE_LABEL)? })
}

/// GRUB knows only the table at the disk's beginning, and no checksums.
fn grub_reads_the_first(disk: &Path) -> Result<()> {
    let mut magic = [0; 8];
    File::open(disk)?.read_exact_at(&mut magic, SECTOR)?;
    ensure!(&magic == b"EFI PART", "the first table has no magic: GRUB finds no partition");
    Ok(())
}

/// Boot code and core are those of the installed disk.
pub fn same_loader(disk: &Path, pristine: &Path) -> Result<()> {
    let read = |path: &Path| -> Result<Vec<u8>> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut bytes = vec![0; BOOT_CODE + usize::try_from(CORE.end - CORE.start)?];
        file.read_exact_at(&mut bytes[..BOOT_CODE], 0)?;
        file.read_exact_at(&mut bytes[BOOT_CODE..], CORE.start)?;
        Ok(bytes)
    };
    ensure!(read(disk)? == read(pristine)?, "the boot loader's sectors are damaged");
    Ok(())
}

/// Copies a partition to a file of its own.
pub fn take_out(disk: &Path, at: &Partition, to: &Path) -> Result<()> {
    let target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    target.set_len(at.size)?;
    copy_range(&File::open(disk)?, &target, at.start, at.size, 0)
        .with_context(|| format!("take out {}", to.display()))
}

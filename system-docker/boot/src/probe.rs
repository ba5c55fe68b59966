//! What is on the block devices: file systems by their superblocks, empty disks by being all zero.
//!
//! ```text
//!  ext4  (Documentation/filesystems/ext4)     FAT32 (Microsoft FAT specification)
//!  0x404 blocks, low     0x43a state          0x047 label, 11 bytes
//!  0x418 log2(block/1k)  0x460 incompat       0x052 "FAT32   "
//!  0x438 magic 53 ef     0x468 uuid                  0x041 1: mounted, not unmounted
//!  0x478 label, 16 bytes 0x550 blocks, high
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ros_api::durable::named;

/// A block device of `/sys/class/block`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `vda3`
    pub name: String,
    /// Its folder in `/sys`.
    pub sys: PathBuf,
    /// Bytes.
    pub size: u64,
    /// For a partition: its number.
    pub partition: Option<u32>,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// Kinds of devices that never hold STATE, some slow to open (a floppy drive without a disk).
const NEVER: [&str; 7] = ["loop", "ram", "zram", "sr", "fd", "nbd", "mtdblock"];

impl Block {
    /// All that may hold STATE, by name.
    pub fn all() -> Vec<Self> {
        let class = Path::new("/sys/class/block");
        let mut names: Vec<String> = fs::read_dir(class)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !NEVER.iter().any(|kind| is_kind(name, kind)))
            .collect();
        names.sort();
        names
            .iter()
            .filter_map(|name| Self::read(class, name))
            .filter(|block| block.size > 0)
            .collect()
    }

    fn read(class: &Path, name: &str) -> Option<Self> {
        let sys = fs::canonicalize(class.join(name)).ok()?;
        let number =
            |file: &str| fs::read_to_string(sys.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            size: number("size")?.saturating_mul(512),
            partition: number("partition").and_then(|number| u32::try_from(number).ok()),
            read_only: number("ro") == Some(1),
            sys,
        })
    }

    /// `/dev/vda3`
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The disk that a partition is on.
    pub fn disk(&self) -> Option<Self> {
        let name = self.sys.parent()?.file_name()?.to_str()?.to_owned();
        self.partition.and_then(|_| Self::read(Path::new("/sys/class/block"), &name))
    }

    /// A number from its folder in `/sys`, such as `start` or `queue/logical_block_size`.
    pub fn number(&self, file: &str) -> io::Result<u64> {
        let path = self.sys.join(file);
        let text = fs::read_to_string(&path).map_err(|e| named("read", &path, &e))?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("{} is not a number", path.display())))
    }

    /// The partition's name in the partition table.
    pub fn partition_name(&self) -> Option<String> {
        let uevent = fs::read_to_string(self.sys.join("uevent")).ok()?;
        uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned))
    }

    /// Whether anything sits on it: partitions, device mapper.
    pub fn in_use(&self) -> bool {
        let held = fs::read_dir(self.sys.join("holders"))
            .is_ok_and(|mut holders| holders.next().is_some());
        let parts = fs::read_dir(&self.sys).into_iter().flatten().flatten();
        held || parts.into_iter().any(|entry| entry.path().join("partition").exists())
    }

    /// The file system on it.
    pub fn filesystem(&self) -> Option<Filesystem> {
        let mut head = [0u8; HEAD];
        let mut device = File::open(self.node()).ok()?;
        device.read_exact(&mut head).ok()?;
        identify(&head)
    }

    /// Whether its first and last MiB are zero: no partition table, no file system, nothing.
    pub fn is_blank(&self) -> io::Result<bool> {
        let node = self.node();
        let mut device = File::open(&node).map_err(|e| named("open", &node, &e))?;
        is_blank(&mut device, self.size).map_err(|e| named("read", &node, &e))
    }
}

fn is_kind(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// So much of a device tells what is on it.
const HEAD: usize = 4096;
const MIB: u64 = 1 << 20;

/// A file system, as far as the boot stage knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its label.
    pub label: String,
    /// Its UUID, lower case; empty for FAT.
    pub uuid: String,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3, ext4.
    Ext4 {
        /// Size in bytes.
        size: u64,
        /// Unmounted in order, without errors.
        clean: bool,
    },
    /// FAT32.
    Fat {
        /// Unmounted in order.
        clean: bool,
    },
}

/// Bits of the ext4 superblock's `s_state` and `s_feature_incompat`.
const STATE_VALID: u16 = 1;
const STATE_ERROR: u16 = 2;
const INCOMPAT_RECOVER: u32 = 4;

fn identify(head: &[u8; HEAD]) -> Option<Filesystem> {
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if u16_at(0x438) == 0xef53 {
        let blocks = u64::from(u32_at(0x550)) << 32 | u64::from(u32_at(0x404));
        let size = blocks.checked_mul(1024u64.checked_shl(u32_at(0x418))?)?;
        let state = u16_at(0x43a);
        let clean = state & STATE_VALID != 0
            && state & STATE_ERROR == 0
            && u32_at(0x460) & INCOMPAT_RECOVER == 0;
        let kind = Kind::Ext4 { size, clean };
        return Some(Filesystem {
            label: text(&head[0x478..0x488]),
            uuid: uuid(&head[0x468..0x478]),
            kind,
        });
    }
    (&head[0x52..0x5a] == b"FAT32   " && u16_at(0x1fe) == 0xaa55).then(|| Filesystem {
        label: text(&head[0x47..0x52]),
        uuid: String::new(),
        kind: Kind::Fat { clean: head[0x41] & 1 == 0 },
    })
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_end().to_owned()
}

fn uuid(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn is_blank(device: &mut (impl Read + Seek), size: u64) -> io::Result<bool> {
    let length = size.min(MIB);
    for start in [0, size - length] {
        device.seek(SeekFrom::Start(start))?;
        let mut part = Vec::new();
        device.by_ref().take(length).read_to_end(&mut part)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ext4_label_uuid_size_and_state() {
        let mut head = [0u8; HEAD];
        head[0x404..0x408].copy_from_slice(&1000u32.to_le_bytes());
        head[0x418] = 2;
        head[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        head[0x43a] = 1;
        head[0x468..0x478].copy_from_slice(&(0u8..16).collect::<Vec<_>>());
        head[0x478..0x481].copy_from_slice(b"ROS_STATE");
        let found = identify(&head).unwrap();
        assert_eq!(
            (found.label.as_str(), found.kind),
            ("ROS_STATE", Kind::Ext4 { size: 4_096_000, clean: true })
        );
        assert_eq!(found.uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f");
        head[0x460] = 4;
        assert_eq!(identify(&head).unwrap().kind, Kind::Ext4 { size: 4_096_000, clean: false });
        head[0x418] = 77;
        assert_eq!(identify(&head), None, "a nonsense block size is no file system");
    }

    #[test]
    fn fat_label() {
        let mut head = [0u8; HEAD];
        head[0x47..0x52].copy_from_slice(b"ROS_BOOT   ");
        head[0x52..0x5a].copy_from_slice(b"FAT32   ");
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        let found = identify(&head).unwrap();
        assert_eq!((found.label.as_str(), found.kind), ("ROS_BOOT", Kind::Fat { clean: true }));
        head[0x41] = 1;
        assert_eq!(identify(&head).unwrap().kind, Kind::Fat { clean: false });
        assert_eq!(identify(&[0; HEAD]), None);
    }

    #[test]
    fn one_byte_makes_a_disk_not_empty() {
        for at in [0usize, 510, 0xf_ffff, 0x2f_ffff] {
            let mut disk = vec![0u8; 3 << 20];
            assert!(is_blank(&mut io::Cursor::new(&disk), 3 << 20).unwrap());
            disk[at] = 1;
            assert!(!is_blank(&mut io::Cursor::new(&disk), 3 << 20).unwrap(), "{at}");
        }
        assert!(is_blank(&mut io::Cursor::new(vec![0u8; 512]), 512).unwrap());
    }

    #[test]
    fn loops_and_floppies_are_not_looked_at() {
        assert!(is_kind("loop0", "loop") && is_kind("sr0", "sr") && is_kind("fd0", "fd"));
        assert!(!is_kind("sra", "sr") && !is_kind("vda", "sr"));
    }
}

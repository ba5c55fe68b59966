//! File systems by their label, read from their superblocks: what finds an instance-data volume on any
//! machine, before and without udev.
//!
//! ```text
//!  iso9660  sector 16 (32768):  01 "CD001" …  volume id at +40, 32 bytes, padded with spaces     (ECMA-119 8.4)
//!  vfat     sector 0:           label at 43 (FAT12/16) or 71 (FAT32), 11 bytes; type text at 54 / 82
//!  ext      1024:               magic ef53 at +56, label at +120, 16 bytes
//!  udf      sectors 16…:        "BEA01", then "NSR02" or "NSR03"; its label is elsewhere, and empty here  (ECMA-167 2/8.3)
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a device is looked at.
const HEAD: usize = 40 * 1024;

/// A file system that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its device.
    pub device: PathBuf,
    /// What `mount` calls its type.
    pub fstype: &'static str,
    /// Its label.
    pub label: String,
}

/// Every volume on this machine that has a label, or is a disc, in device order. What cannot be read is left out.
#[must_use]
pub fn volumes() -> Vec<Volume> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
        .iter()
        .filter(|name| has_medium(name))
        .filter_map(|name| volume(&Path::new("/dev").join(name)))
        .collect()
}

/// Devices without a medium are not opened: an empty drive takes its time to say so.
fn has_medium(name: &str) -> bool {
    let size = fs::read_to_string(format!("/sys/class/block/{name}/size")).unwrap_or_default();
    !name.starts_with("ram") && size.trim() != "0" && !size.is_empty()
}

fn volume(device: &Path) -> Option<Volume> {
    let (fstype, label) = identify(&head(device).ok()?)?;
    Some(Volume { device: device.to_owned(), fstype, label })
}

fn head(device: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(device)?;
    file.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Type and label of the file system that begins with `head`.
#[must_use]
pub fn identify(head: &[u8]) -> Option<(&'static str, String)> {
    if head.get(32769..32774) == Some(b"CD001") {
        return Some(("iso9660", text(head.get(32808..32840)?)?));
    }
    // 2048 bytes a sector; the descriptors' names are at byte 1.
    let named = |sector: usize, names: [&[u8]; 2]| {
        head.get(sector * 2048 + 1..sector * 2048 + 6).is_some_and(|name| names.contains(&name))
    };
    if named(16, [b"BEA01"; 2]) && named(17, [b"NSR02", b"NSR03"]) {
        return Some(("udf", String::new()));
    }
    if head.get(1080..1082) == Some(&[0x53, 0xef]) {
        return Some(("ext4", text(head.get(1144..1160)?)?));
    }
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return None;
    }
    if head.get(82..87) == Some(b"FAT32") {
        return Some(("vfat", text(head.get(71..82)?)?));
    }
    if head.get(54..57) == Some(b"FAT") {
        return Some(("vfat", text(head.get(43..54)?)?));
    }
    None
}

/// Padded text; none when it is empty.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).ok()?.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_the_tools_make_is_recognised() {
        type Found = Option<(&'static str, &'static str)>;
        let table: [(&str, &[&str], Found); 4] = [
            ("mkfs.vfat", &["-n", "CIDATA"], Some(("vfat", "CIDATA"))),
            ("mkfs.vfat", &["-F", "32", "-n", "config-2"], Some(("vfat", "config-2"))),
            ("mkfs.ext4", &["-q", "-L", "cidata"], Some(("ext4", "cidata"))),
            ("mkfs.ext4", &["-q"], None),
        ];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("volume");
        for (tool, arguments, expected) in table {
            File::create(&file).unwrap().set_len(48 << 20).unwrap();
            let Ok(made) = Command::new(tool).args(arguments).arg(&file).output() else { continue };
            if !made.status.success() {
                continue;
            }
            let found = identify(&head(&file).unwrap());
            assert_eq!(
                found,
                expected.map(|(fstype, label)| (fstype, label.to_owned())),
                "{tool} {arguments:?}"
            );
        }
    }

    #[test]
    fn an_iso_is_recognised_and_noise_is_not() {
        let mut iso = vec![0u8; HEAD];
        iso[32768..32774].copy_from_slice(b"\x01CD001");
        iso[32808..32840].copy_from_slice(format!("{:32}", "config-2").as_bytes());
        assert_eq!(identify(&iso), Some(("iso9660", "config-2".into())));
        assert_eq!(identify(&[]), None);
        assert_eq!(identify(&[0xff; 40_000]), None);
        assert_eq!(identify(&iso[..32800]), None, "cut off");
        let mut udf = vec![0u8; HEAD];
        udf[32769..32774].copy_from_slice(b"BEA01");
        assert_eq!(identify(&udf), None, "no descriptor of the file system");
        udf[34817..34822].copy_from_slice(b"NSR02");
        assert_eq!(identify(&udf), Some(("udf", String::new())));
    }
}

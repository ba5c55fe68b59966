//! `fs_setup`: a file system on a device or on a partition of it.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use cloud_config::settings::{FsSetup, partition_of};
use serde_json::Value;

use super::blank::Device;
use super::{Once, may_write, run};
use crate::services::superblock;

/// The host's own, from the initrd.
const MKE2FS: &str = "/usr/sbin/mke2fs";

/// Makes the file system when its place has nothing on it, or may be overwritten.
///
/// # Errors
/// When there is no such device, it is in use, or cannot be written to.
pub fn apply(path: &str, wanted: &FsSetup, once: &Once) -> Result<()> {
    let Some(path) = place(path, wanted)? else { return Ok(()) };
    let device = Device::at(&path)?;
    if !may_write(&device, wanted.overwrite, &format!("{path} {}", wanted.filesystem), once)? {
        return Ok(());
    }
    let node = device.node.display().to_string();
    let words = command(wanted, &node)?;
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The device or its partition; none when `auto` finds what is wanted already.
fn place(path: &str, wanted: &FsSetup) -> Result<Option<String>> {
    let number = match &wanted.partition {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) if matches!(text.as_str(), "auto" | "any") => {
            return Ok((!is_there(path, wanted)?).then(|| path.to_owned()));
        }
        Some(Value::String(text)) if text != "none" => text.clone(),
        _ => String::new(),
    };
    ensure!(number.bytes().all(|b| b.is_ascii_digit()), "partition {number:?}: expected a number");
    Ok(Some(partition_of(path, &number)))
}

/// Whether the device, or a partition of it, has such a file system with that label.
fn is_there(path: &str, wanted: &FsSetup) -> Result<bool> {
    let device = Device::at(path)?;
    let label = wanted.label.clone().unwrap_or_default();
    let mut nodes = device.partitions()?;
    nodes.push(device.node);
    Ok(superblock::volumes().iter().any(|volume| {
        let kind = volume.fstype == wanted.filesystem
            || (volume.fstype == "ext4" && wanted.filesystem.starts_with("ext"));
        nodes.contains(&volume.device) && kind && volume.label == label
    }))
}

fn command(wanted: &FsSetup, node: &str) -> Result<Vec<String>> {
    let tool = if Path::new(MKE2FS).exists() { MKE2FS } else { "mke2fs" };
    let (mut words, label): (Vec<&str>, &str) = match wanted.filesystem.as_str() {
        // It asks when there is something: that was decided already.
        kind @ ("ext2" | "ext3" | "ext4") => (vec![tool, "-q", "-F", "-t", kind], "-L"),
        "swap" => (vec!["mkswap"], "-L"),
        "vfat" => (vec!["mkdosfs"], "-n"),
        other => bail!("filesystem {other:?}: expected ext2, ext3, ext4, swap or vfat"),
    };
    if let Some(text) = &wanted.label {
        words.extend([label, text]);
    }
    words.extend(wanted.extra_opts.iter().map(String::as_str));
    words.push(node);
    Ok(words.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: Value, filesystem: &str) -> FsSetup {
        FsSetup {
            partition: Some(partition),
            filesystem: filesystem.into(),
            label: Some("data".into()),
            ..FsSetup::default()
        }
    }

    #[test]
    fn places_and_commands() {
        let table = [
            ("/dev/sda", wanted(1.into(), "ext4"), "mke2fs -q -F -t ext4 -L data /dev/sda1"),
            ("/dev/nvme0n1", wanted("2".into(), "swap"), "mkswap -L data /dev/nvme0n1p2"),
            ("/dev/vdb", wanted("none".into(), "vfat"), "mkdosfs -n data /dev/vdb"),
        ];
        for (device, wanted, expected) in table {
            let place = place(device, &wanted).unwrap().unwrap();
            let words = command(&wanted, &place).unwrap().join(" ");
            assert_eq!(words.trim_start_matches("/usr/sbin/"), expected);
        }
        assert!(place("/dev/sda", &wanted("x".into(), "ext4")).is_err());
        assert!(command(&wanted(1.into(), "zfs"), "/dev/sda1").is_err());
    }
}

//! `fs_setup`: file systems to make. A device with anything on it is left as it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cloud_config::settings::FsSetup;
use serde_json::Value;

/// How much of a device must be empty: no table and no file system begins later.
const HEAD: u64 = 1 << 20;

/// Makes what is not there yet; what went wrong is answered.
#[must_use]
pub fn apply(all: &[FsSetup]) -> Vec<String> {
    let failed = all.iter().filter_map(|wanted| {
        make(wanted).err().map(|error| format!("fs_setup: {}: {error:#}", wanted.device))
    });
    failed.collect()
}

fn make(wanted: &FsSetup) -> Result<()> {
    ensure!(!wanted.overwrite, "overwrite: ros never writes over data");
    let device = device(wanted)?;
    if !is_empty(Path::new(&device))? {
        return Ok(());
    }
    let command = command(wanted, &device)?;
    let ended = Command::new(&command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("run {}", command[0]))?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(())
}

/// The device or its partition: `/dev/sda` + 1, `/dev/nvme0n1` + p1.
fn device(wanted: &FsSetup) -> Result<String> {
    let device = &wanted.device;
    ensure!(device.starts_with("/dev/") && !device.contains(".."), "not a device");
    let number = match &wanted.partition {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) if !matches!(text.as_str(), "none" | "auto" | "any" | "") => {
            text.clone()
        }
        _ => return Ok(device.clone()),
    };
    ensure!(number.bytes().all(|b| b.is_ascii_digit()), "partition {number:?}: expected a number");
    let between = if device.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    Ok(format!("{device}{between}{number}"))
}

fn is_empty(device: &Path) -> Result<bool> {
    let file = File::open(device).with_context(|| format!("open {}", device.display()))?;
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).with_context(|| format!("read {}", device.display()))?;
    Ok(head.iter().all(|byte| *byte == 0))
}

fn command(wanted: &FsSetup, device: &str) -> Result<Vec<String>> {
    let (mut words, label): (Vec<&str>, &str) = match wanted.filesystem.as_str() {
        kind @ ("ext2" | "ext3" | "ext4") => (vec!["mke2fs", "-q", "-t", kind], "-L"),
        "swap" => (vec!["mkswap"], "-L"),
        "vfat" => (vec!["mkfs.vfat"], "-n"),
        other => bail!("filesystem {other:?}"),
    };
    if let Some(text) = &wanted.label {
        words.extend([label, text]);
    }
    words.extend(wanted.extra_opts.iter().map(String::as_str));
    words.push(device);
    Ok(words.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(device: &str, partition: Value, filesystem: &str) -> FsSetup {
        FsSetup {
            device: device.into(),
            partition: Some(partition),
            filesystem: filesystem.into(),
            label: Some("data".into()),
            ..FsSetup::default()
        }
    }

    #[test]
    fn devices_and_commands() {
        let table = [
            (wanted("/dev/sda", Value::from(1), "ext4"), "mke2fs -q -t ext4 -L data /dev/sda1"),
            (wanted("/dev/nvme0n1", Value::from("2"), "swap"), "mkswap -L data /dev/nvme0n1p2"),
            (wanted("/dev/vdb", Value::from("none"), "vfat"), "mkfs.vfat -n data /dev/vdb"),
        ];
        for (wanted, expected) in table {
            assert_eq!(command(&wanted, &device(&wanted).unwrap()).unwrap().join(" "), expected);
        }
        assert!(device(&wanted("/etc/passwd", Value::Null, "ext4")).is_err());
    }

    #[test]
    fn data_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![0u8; 4096]).unwrap();
        assert!(is_empty(&path).unwrap());
        std::fs::write(&path, [vec![0u8; 4096], vec![1]].concat()).unwrap();
        assert!(!is_empty(&path).unwrap());
    }
}

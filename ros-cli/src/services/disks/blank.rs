//! What is on a device, and who uses it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// No partition table and no file system begins later, or ends earlier.
const EDGE: u64 = 1 << 20;

/// A block device.
pub struct Device {
    /// Its node.
    pub node: PathBuf,
    /// The kernel's name.
    name: String,
}

impl Device {
    /// The device that `path` names, which may be a link.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(path: &str) -> Result<Self> {
        ensure!(
            path.starts_with("/dev/"),
            "expected a device: /dev/…, or a name of device_aliases"
        );
        let node = fs::canonicalize(path).context("there is no such device")?;
        let kind = fs::metadata(&node).context("look at it")?.file_type();
        ensure!(kind.is_block_device(), "it is no block device");
        let name = node.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { node, name })
    }

    fn sys(&self) -> PathBuf {
        Path::new("/sys/class/block").join(&self.name)
    }

    /// The kernel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a part of a disk.
    #[must_use]
    pub fn is_partition(&self) -> bool {
        self.sys().join("partition").exists()
    }

    /// Bytes of a sector.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn sector(&self) -> Result<u64> {
        self.number("queue/logical_block_size")
    }

    /// Bytes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn size(&self) -> Result<u64> {
        Ok(self.number("size")?.saturating_mul(512))
    }

    /// Whether it cannot be written.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_read_only(&self) -> Result<bool> {
        Ok(self.number("ro")? != 0)
    }

    fn number(&self, name: &str) -> Result<u64> {
        let file = self.sys().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("{}: {text:?}", file.display()))
    }

    /// Whether nothing is on it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_blank(&self) -> Result<bool> {
        let shown = self.node.display();
        let mut file = File::open(&self.node).with_context(|| format!("open {shown}"))?;
        is_blank(&mut file).with_context(|| format!("read {shown}"))
    }

    /// Its partitions, by number.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn partitions(&self) -> Result<Vec<PathBuf>> {
        let sys = self.sys();
        let entries = fs::read_dir(&sys).with_context(|| format!("read {}", sys.display()))?;
        let parts = entries.flatten().filter(|entry| entry.path().join("partition").exists());
        let mut parts: Vec<PathBuf> =
            parts.map(|entry| Path::new("/dev").join(entry.file_name())).collect();
        parts.sort();
        Ok(parts)
    }

    /// Who uses it, or a part of it: a mount, swap, a device made of it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn user(&self) -> Result<Option<String>> {
        let mut names = vec![self.name.clone()];
        let parts = self.partitions()?;
        names.extend(parts.iter().filter_map(|part| part.file_name()?.to_str().map(str::to_owned)));
        let own = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
        // What the host has mounted, and where: this may be a container.
        let mounts = fs::read_to_string("/proc/1/mounts").unwrap_or_default() + &own;
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let held = |name: &String| {
            let holders = Path::new("/sys/class/block").join(name).join("holders");
            let first = fs::read_dir(holders).ok()?.flatten().next()?;
            Some(format!("{} is made of it", first.file_name().to_string_lossy()))
        };
        let used = |name: &String| {
            let node = format!("/dev/{name}");
            let of = |table: &str| {
                let mut lines = table.lines().map(|line| line.split_whitespace());
                let found =
                    lines.find_map(|mut words| (words.next()? == node).then(|| words.next()));
                found.flatten().map(str::to_owned)
            };
            let swapped = of(&swaps).map(|_| "it is swapped to".to_owned());
            of(&mounts).map(|at| format!("{name} is mounted at {at}")).or(swapped)
        };
        Ok(names.iter().find_map(|name| used(name).or_else(|| held(name))))
    }
}

/// Whether the first and the last MiB are zeros.
fn is_blank(file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    for from in [0, length.saturating_sub(EDGE)] {
        file.seek(SeekFrom::Start(from))?;
        let mut edge = Vec::new();
        file.take(EDGE).read_to_end(&mut edge)?;
        if edge.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn data_at_either_end_is_seen() {
        let length = 3 << 20;
        assert!(is_blank(&mut Cursor::new(vec![0u8; length])).unwrap());
        for at in [0, 4096, length - 1] {
            let mut disk = vec![0u8; length];
            disk[at] = 1;
            assert!(!is_blank(&mut Cursor::new(disk)).unwrap(), "{at}");
        }
        assert!(is_blank(&mut Cursor::new(vec![0u8; 4096])).unwrap(), "smaller than an edge");
    }

    #[test]
    fn only_block_devices_are_devices() {
        for wrong in ["/etc/passwd", "/dev/null", "/dev/none", "ephemeral0"] {
            assert!(Device::at(wrong).is_err(), "{wrong}");
        }
    }
}

//! `swap`: a swap file, made once and used at every boot.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cloud_config::Settings;
use rustix::fs::{FallocateFlags, fallocate};

use super::mounts::{self, Mount};

/// Has the kernel swap to the configured file. A file of the right size is used as it is.
///
/// # Errors
/// When it cannot be made or used.
pub fn apply(settings: &Settings) -> Result<()> {
    let Some(swap) = &settings.swap else { return Ok(()) };
    let memory = memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let Some(bytes) = swap.bytes(memory) else { return Ok(()) };
    let path = swap.path();
    let used = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if used.lines().any(|line| line.split_whitespace().next() == Some(path)) {
        return Ok(());
    }
    if fs::metadata(path).map(|file| file.len()).ok() != Some(bytes) {
        make(Path::new(path), bytes)?;
    }
    let mount = Mount { source: path.into(), fstype: "swap".into(), ..Mount::default() };
    let wrong = mounts::apply(&[mount]);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Bytes of memory (proc(5), meminfo).
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// It gets its name when it is whole. Blocks are taken, not left out: the kernel refuses a file with holes.
fn make(path: &Path, bytes: u64) -> Result<()> {
    let part = path.with_extension("part");
    let made = (|| {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .with_context(|| format!("create {}", part.display()))?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes)
            .with_context(|| format!("take {bytes} bytes for {}", path.display()))?;
        let busybox = Path::new("/bin/busybox").exists();
        let mut mkswap = Command::new(if busybox { "/bin/busybox" } else { "mkswap" });
        let ended =
            mkswap.args(busybox.then_some("mkswap")).arg(&part).output().context("run mkswap")?;
        ensure!(
            ended.status.success(),
            "mkswap: {}",
            String::from_utf8_lossy(&ended.stderr).trim()
        );
        Ok(ros_api::durable::rename(&part, path)?)
    })();
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_file_is_whole_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/swap.img");
        make(&path, 1 << 20).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert_eq!(
            &bytes[4086..4096],
            b"SWAPSPACE2",
            "its signature, at the end of the first page"
        );
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions())
                & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(memory("MemTotal:        1024 kB\nMemFree: 1 kB\n"), 1 << 20);
    }
}

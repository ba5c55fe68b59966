//! Mounts an instance-data volume, read-only, for as long as it is read.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::services::superblock::{self, Volume};

/// Where volumes are mounted, one at a time.
pub const RUN: &str = "/mnt";
/// Largest file that is read of a disc, in bytes.
const LARGEST: u64 = 4 << 20;

/// A mounted volume; unmounted when dropped.
pub struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    /// Mounts `volume` in a folder of its own below `run`.
    ///
    /// # Errors
    /// When the folder cannot be made or the kernel refuses.
    pub fn new(volume: &Volume, run: &Path) -> Result<Self> {
        let dir = run.join("instance-data");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(&volume.device), &dir, Some(volume.fstype), flags, None::<&str>)
            .with_context(|| format!("mount {} ({})", volume.device.display(), volume.fstype))?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.dir, MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.dir.display());
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The file `name` at the top of the first disc (UDF, ISO 9660) that has it.
#[must_use]
pub fn file_of_disc(name: &str) -> Option<Vec<u8>> {
    let volumes = superblock::volumes();
    let mut discs = volumes.iter().filter(|volume| matches!(volume.fstype, "udf" | "iso9660"));
    discs.find_map(|disc| {
        let mounted = Mounted::new(disc, Path::new(RUN));
        let mounted = mounted.inspect_err(|error| eprintln!("{error:#}")).ok()?;
        let file = fs::File::open(mounted.dir().join(name)).ok()?;
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    })
}

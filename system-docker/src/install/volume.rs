//! A new file system on a partition, mounted where only this program sees it, until it is unmounted and on the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_api::paths;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Where, in the installer's container.
const AT: &str = "/mnt";

/// A mounted file system; unmounted when it is dropped, too.
pub struct Volume {
    node: PathBuf,
    root: PathBuf,
    open: bool,
}

impl Volume {
    /// An empty ROS_BOOT on `node`.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn fat(node: &Path) -> Result<Self> {
        make(
            Command::new("/usr/bin/busybox").args(["mkdosfs", "-n", paths::BOOT_LABEL]).arg(node),
        )?;
        Self::mount(node, "vfat", "umask=0077")
    }

    /// An empty ROS_STATE on `node`.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn ext4(node: &Path) -> Result<Self> {
        let mut mke2fs = Command::new("/usr/sbin/mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "verity", "-m", "1"]);
        make(mke2fs.args(["-L", paths::STATE_LABEL]).arg(node))?;
        Self::mount(node, "ext4", "")
    }

    fn mount(node: &Path, kind: &str, options: &str) -> Result<Self> {
        let root = PathBuf::from(AT);
        fs::create_dir_all(&root).with_context(|| format!("create {AT}"))?;
        let options = std::ffi::CString::new(options)?;
        mount(node, &root, kind, MountFlags::NOATIME, options.as_c_str())
            .with_context(|| format!("mount {}", node.display()))?;
        Ok(Self { node: node.to_owned(), root, open: true })
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Unmounts it; all of it is on the disk then.
    ///
    /// # Errors
    /// When it cannot be unmounted, or not be written.
    pub fn close(mut self) -> Result<()> {
        let shown = self.node.display().to_string();
        let root = File::open(&self.root).with_context(|| format!("open {AT}"))?;
        rustix::fs::syncfs(&root).with_context(|| format!("sync {shown}"))?;
        drop(root);
        unmount(&self.root, UnmountFlags::empty()).with_context(|| format!("unmount {shown}"))?;
        self.open = false;
        let device = File::open(&self.node).with_context(|| format!("open {shown}"))?;
        device.sync_all().with_context(|| format!("sync {shown}"))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.open {
            let _ = unmount(&self.root, UnmountFlags::DETACH);
        }
    }
}

fn make(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().with_context(|| format!("run {program}"))?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{program}: {}: {}", ended.status, why.trim());
    Ok(())
}

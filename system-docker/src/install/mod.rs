//! `install`: what a release's own installer runs to put the release on a disk, in a container of the release image that
//! `ros install` starts. The release brings what boots; file systems are made by the programs of the machine that runs.
//!
//! ```text
//!  /ros/{release.yml,boot,bin,grub}   the release                       /dev        the disk
//!  /usr/sbin/mke2fs, busybox          the host's                        /run/ros/install/20-install.yml
//!  /var/lib/system-docker             the host's store: the release's images are in it
//!
//!  look      everything is there and what its digests say ── or nothing is written
//!  disk      wipe ─► reveal ─► core · ROS_BOOT · ROS_STATE, each on disk ─► table ─► first sector   (ros_boot::disk)
//! ```
//!
//! Begun again it begins with an empty disk. How it ended is in the kernel log too, so on every console: whoever asked for
//! it may be gone.

mod content;
mod volume;

use std::path::PathBuf;

use anyhow::{Context, Result};
use ros_api::disk::partitions;
use ros_api::{Digest, Reference};
use ros_boot::disk::Whole;
use ros_boot::kmsg;

use content::Content;
use volume::Volume;

#[derive(clap::Args)]
pub struct Args {
    /// The disk.
    #[arg(long)]
    device: PathBuf,
    /// Name that the release came by.
    #[arg(long)]
    image: Reference,
    /// Digest of its manifest.
    #[arg(long)]
    digest: Digest,
    /// Kernel arguments to add.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
}

/// Installs the release that this is run from.
pub fn run(args: &Args) -> Result<()> {
    let node = args.device.display();
    match install(args) {
        Ok(version) => {
            kmsg::warn(&format!("install: {version} is on {node}, whole"));
            Ok(())
        }
        Err(error) => {
            kmsg::error(&format!("install: {node} is no disk that boots: {error:#}"));
            Err(error)
        }
    }
}

/// Answers the version.
fn install(args: &Args) -> Result<String> {
    let content = Content::look(args)?;
    let mut disk = Whole::take(&args.device)?;
    let parts = partitions(disk.size()).context("the disk is too small")?;
    say("wiping the disk");
    disk.wipe(&parts)?;
    let [core, boot, state] = &disk.reveal(&parts)?;
    content.put_core(core)?;
    say("boot partition");
    let volume = Volume::fat(boot)?;
    content.fill_boot(volume.root())?;
    volume.close()?;
    say("state partition");
    let volume = Volume::ext4(state)?;
    content.fill_state(volume.root())?;
    volume.close()?;
    disk.finish(&parts, content.boot_code())?;
    say("partition table and boot sector: the disk is whole");
    Ok(content.version().to_owned())
}

/// Told to whoever follows, line by line.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

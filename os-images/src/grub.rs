//! GRUB for both firmwares, made by grub-mkimage: nothing is installed on the building machine.
//!
//! ```text
//!  BIOS  sector 0: boot.img, told the sector of core.img   BIOS-boot partition: core.img
//!  UEFI  /EFI/BOOT/BOOTX64.EFI on the boot partition
//! ```
//!
//! Both find the partition labelled `ROS_BOOT` and read `/grub/grub.cfg` there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ros_api::durable;

use crate::command::{command, output, text};

/// `grub.cfg`, which never changes on a machine.
pub const CONFIG: &str = include_str!("../grub/grub.cfg");
/// In the image itself. GRUB reads it with its rescue parser, which knows no comments.
const EARLY: &str = include_str!("../grub/early.cfg");

const LIBRARY: &str = "/usr/lib/grub";
const MODULES: &[&str] = &[
    "part_gpt",
    "fat",
    "linux",
    "normal",
    "configfile",
    "search",
    "search_label",
    "loadenv",
    "echo",
    "test",
    "serial",
    "terminal",
    "sleep",
    "reboot",
    "halt",
    "ls",
    "cat",
    "true",
];
const SECTOR: usize = 512;

/// GRUB as EFI program.
///
/// # Errors
/// When GRUB's files are not on this machine.
pub fn efi() -> Result<Vec<u8>> {
    image("x86_64-efi", &["efi_gop", "all_video"])
}

/// GRUB's first sector and its core image, for a core that begins at sector `start`.
///
/// # Errors
/// When GRUB's files are not on this machine.
pub fn bios(start: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let path = Path::new(LIBRARY).join("i386-pc/boot.img");
    let mut boot = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut core = image("i386-pc", &["biosdisk", "linux16"])?;
    if boot.len() < SECTOR || core.len() < SECTOR {
        bail!("GRUB's boot.img or core.img is too short");
    }
    // Where boot.img has the sector of core.img, and where the jump that distrusts the BIOS's drive number
    // is (grub-core/boot/i386/pc/boot.S: kernel_sector, drive_check).
    boot[0x5c..0x64].copy_from_slice(&start.to_le_bytes());
    boot[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    // Where core.img's first sector has the sector of the rest (diskboot.S: the block list's first entry).
    core[0x1f4..0x1fc].copy_from_slice(&(start + 1).to_le_bytes());
    Ok((boot, core))
}

/// GRUB's version on this machine.
///
/// # Errors
/// When it is not installed.
pub fn version() -> Result<String> {
    let said = text(command("grub-mkimage").arg("--version"))?;
    Ok(said.split_whitespace().last().unwrap_or_default().to_owned())
}

fn image(format: &str, more: &[&str]) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("create a temporary folder")?;
    let early = dir.path().join("early.cfg");
    durable::write(&early, EARLY.as_bytes(), 0o644)?;
    let to = dir.path().join("image");
    let mut mkimage = command("grub-mkimage");
    mkimage.args(["-O", format, "-p", "/grub", "-c"]).arg(&early).arg("-o").arg(&to);
    output(mkimage.args(MODULES).args(more))?;
    fs::read(&to).with_context(|| format!("read {}", to.display()))
}

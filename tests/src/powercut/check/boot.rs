//! The BOOT partition, read with mtools as a boot loader reads it, without any repair; and once more after the repair that
//! the boot stage does. FAT has no journal: what was being written may be damaged, what boots may not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_api::Digest;
use ros_api::boot::BootEnv;
use ros_api::release::BootSet;

use super::table::{self, Partition};

/// The partition's files.
pub struct Boot {
    dir: PathBuf,
    pub env: BootEnv,
    menu: String,
}

impl Boot {
    /// Takes the partition out of the disk and reads what GRUB reads.
    pub fn read(disk: &Path, at: &Partition, scratch: &Path) -> Result<Self> {
        let image = scratch.join("boot.fat");
        table::take_out(disk, at, &image)?;
        Self::of(&image, scratch.join("boot"))
    }

    /// The same after a repair.
    pub fn repaired(&self, scratch: &Path) -> Result<Self> {
        let image = scratch.join("boot.fat");
        let output =
            Command::new("fsck.fat").arg("-a").arg(&image).output().context("start fsck.fat")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "fsck.fat -a: {said}");
        check(&image).context("after a repair")?;
        Self::of(&image, scratch.join("boot-repaired"))
    }

    fn of(image: &Path, dir: PathBuf) -> Result<Self> {
        unpack(image, &dir)?;
        let block = fs::read(dir.join("grub/grubenv")).context("read grubenv")?;
        ensure!(block.len() == 1024, "grubenv has {} bytes", block.len());
        let text = String::from_utf8(block).context("grubenv is torn")?;
        ensure!(text.starts_with("# GRUB Environment Block\n"), "grubenv has no head");
        let env = BootEnv::parse(&text);
        let menu = env.menu(&dir.join("grub/generations.cfg"));
        let menu = fs::read_to_string(&menu).with_context(|| format!("read {}", menu.display()))?;
        Ok(Self { dir, env, menu })
    }

    /// The files that never change are those of the installed disk.
    pub fn same_loader(&self, pristine: &Path, scratch: &Path) -> Result<()> {
        let table = table::read(pristine)?;
        let image = scratch.with_extension("fat");
        table::take_out(pristine, &table.boot, &image)?;
        unpack(&image, scratch)?;
        for name in ["grub/grub.cfg", "EFI/BOOT/BOOTX64.EFI"] {
            let read =
                |dir: &Path| fs::read(dir.join(name)).with_context(|| format!("read {name}"));
            ensure!(read(&self.dir)? == read(scratch)?, "{name} is damaged");
        }
        Ok(())
    }

    /// Whether the menu has the generation, and its kernel and initrd are whole.
    pub fn has(&self, number: u32, set: &BootSet) -> Result<()> {
        let hex = set.digest.hex();
        let begin = format!("--id gen-{number} {{\n  linux$ros_bits /sets/{hex}/vmlinuz ");
        let entry = self.menu.split("menuentry ").find(|entry| entry.contains(&begin));
        let entry = entry.with_context(|| format!("the menu has no entry: {:?}", self.menu))?;
        ensure!(
            entry.ends_with(&format!("\n  initrd$ros_bits /sets/{hex}/initrd\n}}\n")),
            "the menu is torn"
        );
        for (name, expected) in [("vmlinuz", set.kernel), ("initrd", set.initrd)] {
            let path = self.dir.join("sets").join(&hex).join(name);
            let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(Digest::of(&content) == expected, "{name} of its boot set is damaged");
        }
        Ok(())
    }
}

/// Nothing is left to repair.
fn check(image: &Path) -> Result<()> {
    let output =
        Command::new("fsck.fat").arg("-n").arg(image).output().context("start fsck.fat")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "fsck.fat -n: {said}");
    Ok(())
}

fn unpack(image: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let mut mdir = Command::new("mdir");
    mdir.env("MTOOLS_SKIP_CHECK", "1").args(["-/", "-b", "-i"]).arg(image).arg("::");
    let list = mdir.output().context("start mdir")?;
    // One by one, for mcopy ends at the first that is damaged, and that may be one that nothing needs: the others matter.
    for file in String::from_utf8_lossy(&list.stdout).lines().filter(|line| !line.ends_with('/')) {
        let path = to.join(file.trim_start_matches("::/"));
        let folder = path.parent().unwrap_or(to);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut mcopy = Command::new("mcopy");
        mcopy.env("MTOOLS_SKIP_CHECK", "1").args(["-n", "-i"]).arg(image).arg(file).arg(&path);
        mcopy.output().context("start mcopy")?;
    }
    Ok(())
}

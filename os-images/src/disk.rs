//! A bootable disk, made without mounting anything. What is where on it: [`ros_api::disk`]. STATE is filled by
//! `system-docker seed`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ros_api::disk::{BOOT_CODE, CORE_SIZE, CORE_START, Partition, SECTOR, partitions, smallest};
use ros_api::{disk, durable, paths};

use crate::build::{BARE, Built, Site, publish};
use crate::command::{as_root, command, output};
use crate::{EPOCH, grub, initrd, oci};

const MIB: u64 = 1 << 20;
/// Of the disk and its partitions, in the order of their numbers, and of STATE: the same inputs give the same disk.
const UUID: &str = "5D0B4C1E-6F52-4E0A-9C0E-726F7300000";

/// What disk is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Bytes.
    pub size: u64,
    /// Where to.
    pub file: Option<PathBuf>,
    /// Configuration to start with.
    pub cloud_config: Option<PathBuf>,
    /// Kernel arguments that are added to the release's own.
    pub append: String,
}

/// Bytes of `4G`, `512M` or a plain number.
///
/// # Errors
/// When it is none of these.
pub fn parse_size(text: &str) -> Result<u64> {
    let (digits, factor) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1 << 30),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, MIB)),
    };
    let number: u64 =
        digits.parse().with_context(|| format!("{text} is not a size such as 4G or 512M"))?;
    number.checked_mul(factor).with_context(|| format!("{text} is too large"))
}

/// Makes the disk of a release, and `vmlinuz`, `initrd` and `initrd-live` beside it.
///
/// # Errors
/// When a part cannot be made.
pub fn make(site: &Site, built: &Built, order: &Order) -> Result<()> {
    let Some(parts) = partitions(order.size) else {
        bail!("a disk needs at least {} MiB", smallest(0) / MIB)
    };
    let [_, boot_part, state_part] = &parts;
    // Before anything is made: it may have been typed wrong.
    let config = order.cloud_config.as_deref().map(configuration).transpose()?;
    let version = &built.release.version;
    publish(site, built)?;
    live(site, built)?;
    let to = order.file.clone().unwrap_or_else(|| site.out.join(format!("disk-{version}.qcow2")));
    let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("create a folder in {}", parent.display()))?;
    let raw = work.path().join("disk.raw");
    eprintln!("disk {version}: partitions, boot partition");
    partition(&raw, order.size, &parts)?;
    put_core(&raw)?;
    let boot = boot_partition(work.path(), built, &order.append, boot_part.length)?;
    place(&boot, &raw, boot_part.start)?;
    eprintln!("disk {version}: state partition");
    let state = seed(site, work.path(), built, &order.append)?;
    if let Some(text) = config {
        put_cloud_config(work.path(), &state, &text)?;
    }
    let state = state_partition(&state, state_part.length)?;
    place(&state, &raw, state_part.start)?;
    finish(&raw, &to, work.path())?;
    eprintln!("disk {version}: {}", to.display());
    Ok(())
}

/// `initrd-live`: the initrd, and a second archive with all images, for machines without STATE.
fn live(site: &Site, built: &Built) -> Result<()> {
    let reference = format!("os:{}", built.release.version);
    let path = built.dir.join("initrd");
    let mut live = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let tree = initrd::preload(&built.dir.join(BARE), &reference)?;
    live.extend(initrd::pack(&tree, oci::LITTLE)?);
    Ok(durable::write(&site.out.join("initrd-live"), &live, 0o644)?)
}

fn partition(raw: &Path, size: u64, parts: &[Partition]) -> Result<()> {
    let disk = File::create(raw).with_context(|| format!("create {}", raw.display()))?;
    disk.set_len(size).with_context(|| format!("size {}", raw.display()))?;
    let line = |part: &Partition| {
        let Partition { number, name, kind, start, length } = part;
        let (start, length) = (start / SECTOR, length / SECTOR);
        format!("start={start}, size={length}, name={name}, type={kind}, uuid={UUID}{number}\n")
    };
    let lines: String = parts.iter().map(line).collect();
    let table = format!("label: gpt\nlabel-id: {UUID}0\n{lines}");
    let script = raw.with_extension("sfdisk");
    durable::write(&script, table.as_bytes(), 0o644)?;
    let script = File::open(&script).context("open the partition table")?;
    output(
        command("sfdisk")
            .args(["--quiet", "--no-reread", "--no-tell-kernel"])
            .arg(raw)
            .stdin(script),
    )?;
    Ok(())
}

fn put_core(raw: &Path) -> Result<()> {
    let (boot, core) = grub::bios(CORE_START / SECTOR)?;
    if core.len() as u64 > CORE_SIZE {
        bail!("GRUB's core.img does not fit into the BIOS-boot partition");
    }
    let disk =
        File::options().write(true).open(raw).with_context(|| format!("open {}", raw.display()))?;
    disk.write_all_at(&boot[..BOOT_CODE], 0).context("write boot.img")?;
    disk.write_all_at(&core, CORE_START).context("write core.img")
}

/// The boot partition as a file.
fn boot_partition(work: &Path, built: &Built, append: &str, size: u64) -> Result<PathBuf> {
    let release = &built.release;
    let root = work.join("boot");
    let set = root.join("sets").join(release.boot_set.digest.hex());
    for dir in [&set, &root.join("EFI/BOOT"), &root.join("grub")] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    for name in ["vmlinuz", "initrd"] {
        oci::link(&built.dir.join(name), &set.join(name))?;
    }
    for (path, content) in disk::boot_files(release, append, grub::efi()?, grub::CONFIG.into())? {
        durable::write(&root.join(path), &content, 0o644)?;
    }
    let image = work.join("boot.fat");
    File::create(&image)
        .and_then(|file| file.set_len(size))
        .context("create the boot partition")?;
    output(
        command("mkfs.vfat")
            .args(["-F", "32", "-n", paths::BOOT_LABEL, "-i", "726f7301", "--invariant"])
            .arg(&image),
    )?;
    let mut mcopy = command("mcopy");
    mcopy.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).args(["-s", "-i"]).arg(&image);
    output(mcopy.args([root.join("EFI"), root.join("grub"), root.join("sets")]).arg("::/"))?;
    Ok(image)
}

/// A folder with what is in /var at the first boot.
fn seed(site: &Site, work: &Path, built: &Built, append: &str) -> Result<PathBuf> {
    let state = work.join("state");
    fs::create_dir(&state).with_context(|| format!("create {}", state.display()))?;
    let reference = format!("os:{}", built.release.version);
    let program = fs::canonicalize(site.program("system-docker")?).context("find system-docker")?;
    let mut seed = as_root(program.as_os_str());
    seed.arg("seed").arg("--state").arg(&state).arg("--layout").arg(built.dir.join(BARE));
    output(seed.args(["--release", &reference]).arg(format!("--append={append}")))?;
    Ok(state)
}

/// The state partition as a file, made of a folder that goes.
fn state_partition(state: &Path, size: u64) -> Result<PathBuf> {
    let image = state.with_extension("ext4");
    File::create(&image)
        .and_then(|file| file.set_len(size))
        .context("create the state partition")?;
    let mut mke2fs = as_root("mkfs.ext4".as_ref());
    mke2fs.args(["-q", "-F", "-b", "4096", "-O", "verity", "-m", "1", "-L", paths::STATE_LABEL]);
    mke2fs.args(["-U", "5d0b4c1e-6f52-4e0a-9c0e-726f73000004"]);
    mke2fs.args([
        "-E",
        "hash_seed=5d0b4c1e-6f52-4e0a-9c0e-726f73000005,lazy_itable_init=1,nodiscard",
    ]);
    output(mke2fs.arg("-d").arg(state).arg(&image))?;
    output(as_root("rm".as_ref()).arg("-rf").arg(state))?;
    Ok(image)
}

/// A configuration's text, when nothing is wrong with it; all that is, as `ros config validate` shows it.
fn configuration(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    if let Err(found) = cloud_config::edit::acceptable(&text, &file.display().to_string()) {
        let all: Vec<String> = found.iter().map(|wrong| wrong.with_source(&text)).collect();
        bail!("{} is no configuration for a machine:\n{}", file.display(), all.join("\n"));
    }
    Ok(text)
}

/// Puts the configuration in as a fragment.
fn put_cloud_config(work: &Path, state: &Path, text: &str) -> Result<()> {
    let fragment = work.join("10-image.yml");
    durable::write(&fragment, text.as_bytes(), 0o600)?;
    let below = paths::CLOUD_CONFIG_D.trim_start_matches("/var/");
    let to = state.join(below).join("10-image.yml");
    output(
        as_root("install".as_ref())
            .args(["-D", "-m", "0600", "-o", "0", "-g", "0"])
            .arg(&fragment)
            .arg(&to),
    )?;
    Ok(())
}

/// Copies `part` into `disk` at `offset`; what is zero stays a hole.
fn place(part: &Path, disk: &Path, offset: u64) -> Result<()> {
    let mut from = File::open(part).with_context(|| format!("open {}", part.display()))?;
    let mut to = File::options()
        .write(true)
        .open(disk)
        .with_context(|| format!("open {}", disk.display()))?;
    let mut block = vec![0; 1 << 16];
    let mut at = offset;
    loop {
        let count = from.read(&mut block).with_context(|| format!("read {}", part.display()))?;
        if count == 0 {
            break;
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at)).context("seek")?;
            to.write_all(&block[..count]).with_context(|| format!("write {}", disk.display()))?;
        }
        at += count as u64;
    }
    fs::remove_file(part).with_context(|| format!("remove {}", part.display()))
}

fn finish(raw: &Path, to: &Path, work: &Path) -> Result<()> {
    if to.extension().is_some_and(|ending| ending == "raw") {
        return fs::rename(raw, to).with_context(|| format!("rename onto {}", to.display()));
    }
    let qcow2 = work.join("disk.qcow2");
    output(command("qemu-img").args(["convert", "-O", "qcow2"]).arg(raw).arg(&qcow2))?;
    fs::rename(&qcow2, to).with_context(|| format!("rename onto {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused_as_validate_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        fs::write(&file, "#cloud-config\nhostname: a\n").unwrap();
        assert!(configuration(&file).is_ok());
        fs::write(&file, "hostname: [a]\nros:\n  ssh: {port: 99999}\n").unwrap();
        let said = configuration(&file).unwrap_err().to_string();
        for expected in ["c.yml:1:11", "c.yml:3:15", "port: 99999", "^"] {
            assert!(said.contains(expected), "no {expected:?} in: {said}");
        }
        assert!(configuration(&dir.path().join("none")).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("2G").unwrap(), 2 << 30);
        assert_eq!(parse_size("600M").unwrap(), 600 << 20);
        assert_eq!(parse_size("7").unwrap(), 7);
        for wrong in ["", "G", "2T", "-1"] {
            assert!(parse_size(wrong).is_err(), "{wrong:?}");
        }
    }
}

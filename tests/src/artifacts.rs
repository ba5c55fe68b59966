//! What the image builder made, and the files a machine is given: disks, seeds, keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Root of the checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Where the image builder puts things; `ROS_IMAGES` overrides it.
#[must_use]
pub fn images() -> PathBuf {
    std::env::var_os("ROS_IMAGES").map_or_else(|| checkout().join("target/images"), PathBuf::from)
}

/// Bytes of all that the release `version` is, packed; a layer of several images once.
///
/// # Errors
/// When the release is not built.
pub fn release_size(version: &str) -> Result<u64> {
    let blobs = images().join("releases").join(version).join("oci-bare/blobs/sha256");
    let entries = fs::read_dir(&blobs).with_context(|| format!("read {}", blobs.display()))?;
    entries.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

/// Where the registry that the cases share keeps the releases, the planted ones too.
#[must_use]
pub fn registry_storage() -> PathBuf {
    checkout().join("target/test/push/registry")
}

/// A new disk on top of the installed disk image of `version`, `size` as qemu-img takes it (`4G`).
///
/// # Errors
/// When the image is not built or `qemu-img` fails.
pub fn disk(version: &str, size: &str, to: &Path) -> Result<()> {
    let base = images().join(format!("disk-{version}.qcow2"));
    ensure!(base.exists(), "{} is not there: run `make images`", base.display());
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&base).arg(to).arg(size);
    run(&mut create)
}

/// A disk of its own, which stays sound when the images are built anew; otherwise as [`disk`].
///
/// # Errors
/// When the image is not built or `qemu-img` fails.
pub fn own_disk(version: &str, size: &str, to: &Path) -> Result<()> {
    let temp = to.with_extension("new");
    disk(version, size, &temp)?;
    run(Command::new("qemu-img")
        .args(["rebase", "-q", "-f", "qcow2", "-F", "qcow2", "-b", ""])
        .arg(&temp))?;
    fs::rename(&temp, to).with_context(|| format!("rename onto {}", to.display()))
}

/// An empty disk.
///
/// # Errors
/// When `qemu-img` fails.
pub fn empty_disk(size: &str, to: &Path) -> Result<()> {
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(to).arg(size))
}

/// A NoCloud volume (FAT, label `CIDATA`) with `user-data`, and `meta-data` that carries the ssh key `public`.
///
/// # Errors
/// When mtools fail.
pub fn cidata(user_data: &str, instance_id: &str, public: &str, to: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let meta = serde_json::json!({ "instance-id": instance_id, "public-keys": [public] });
    fs::write(dir.path().join("user-data"), user_data)?;
    fs::write(dir.path().join("meta-data"), meta.to_string())?;
    let _ = fs::remove_file(to);
    run(Command::new("mkfs.vfat").args(["-n", "CIDATA", "-C"]).arg(to).arg("1440"))?;
    run(Command::new("mcopy").arg("-i").arg(to).args([
        dir.path().join("user-data"),
        dir.path().join("meta-data"),
        PathBuf::from("::"),
    ]))
}

/// The ssh key pair at `path`, made if it is not there; the public half is returned.
///
/// # Errors
/// When `ssh-keygen` fails.
pub fn ssh_key(path: &Path) -> Result<String> {
    let public = path.with_extension("pub");
    if !public.exists() {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "ros-vm", "-f"])
            .arg(path))?;
    }
    Ok(fs::read_to_string(&public)
        .with_context(|| format!("read {}", public.display()))?
        .trim()
        .to_owned())
}

/// Runs `command` quietly.
///
/// # Errors
/// With what it printed, when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {told}", output.status);
    Ok(())
}

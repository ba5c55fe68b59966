//! `mounts`: file systems that the configuration wants, each a line of fstab(5) as cloud-init has it:
//! `[what, where, type, options]`.
//!
//! busybox does the work: it knows labels, UUIDs, types left out and swap. What is on another machine comes when the
//! network is there: see [`super::remote_mounts`].

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use ros_sys::fstab::{self, Source};
use ros_sys::mountinfo;

use super::apply::load;

/// The host's own busybox, from the initrd; a console has mount(8) instead.
const BUSYBOX: &str = "/bin/busybox";

/// A file system and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mount {
    /// `LABEL=…`, `UUID=…`, a device, a folder (for a bind), `host:/path`.
    pub source: String,
    /// Where; not read for swap.
    pub target: String,
    /// `ext4`, `tmpfs`, `nfs`, `none`…; found out when empty or `auto`.
    pub fstype: String,
    /// `ro,noatime`…
    pub options: String,
}

impl Mount {
    /// Whether it is swap space.
    fn is_swap(&self) -> bool {
        self.fstype == "swap" || matches!(self.target.as_str(), "swap" | "none")
    }

    /// Whether it makes one folder appear in another place.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.options.split(',').any(|option| matches!(option, "bind" | "rbind"))
    }

    /// How it is said that it could not be mounted.
    #[must_use]
    pub fn complaint(&self, error: &anyhow::Error) -> String {
        format!("mounts: {} on {}: {error:#}", self.source, self.target)
    }

    /// Whether it is on another machine: a file system of the network, or said to be (`_netdev`).
    #[must_use]
    pub fn is_remote(&self) -> bool {
        fstab::is_remote(&self.fstype) || self.options.split(',').any(|option| option == "_netdev")
    }

    /// The options without those for whoever reads fstab.
    fn concerning(&self) -> String {
        let options: Vec<&str> =
            self.options.split(',').filter(|option| concerns_mount(option)).collect();
        options.join(",")
    }

    /// The program that does it, with its arguments.
    fn command(&self) -> Vec<String> {
        let options = self.concerning();
        let mut words = Vec::new();
        if self.is_swap() {
            words.extend(["swapon", &self.source]);
        } else {
            words.push("mount");
            if !matches!(self.fstype.as_str(), "" | "auto" | "none") {
                words.extend(["-t", &self.fstype]);
            }
            if !options.is_empty() {
                words.extend(["-o", &options]);
            }
            words.extend([self.source.as_str(), &self.target]);
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Options that are for whoever reads fstab, not for the kernel.
fn concerns_mount(option: &str) -> bool {
    !matches!(option, "" | "defaults" | "nofail" | "auto" | "noauto" | "_netdev")
        && !option.starts_with("x-")
}

/// Mounts all of this machine's own that is not mounted; what went wrong is answered, and the rest is done all the same.
#[must_use]
pub fn apply(mounts: &[Mount]) -> Vec<String> {
    let own = mounts.iter().filter(|mount| !mount.is_remote());
    own.filter_map(|mount| one(mount).err().map(|error| mount.complaint(&error))).collect()
}

/// Mounts `mount`, if nothing is mounted there; answers whether it did.
///
/// # Errors
/// When it cannot be mounted.
pub fn one(mount: &Mount) -> Result<bool> {
    if mount.is_swap() {
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        if is_swapped_to(&swaps, &mount.source) {
            return Ok(false);
        }
    } else {
        let (table, target) = (mountinfo::own(), Path::new(&mount.target));
        // First as it is written: a server that is silent would not let the path be looked up.
        if mountinfo::is_mounted(&table, target) {
            return Ok(false);
        }
        ensure!(target.is_absolute(), "where it goes is not an absolute path");
        fs::create_dir_all(target).with_context(|| format!("create {}", mount.target))?;
        let led_to = fs::canonicalize(target).with_context(|| format!("find {}", mount.target))?;
        if mountinfo::is_mounted(&table, &led_to) {
            return Ok(false);
        }
    }
    if fstab::is_nfs(&mount.fstype) {
        let source = Source::new(&mount.fstype, &mount.source, &mount.concerning());
        let mounted = source.mount(Path::new(&mount.target));
        return mounted
            .map(|()| true)
            .map_err(|error| anyhow!("{error}{}", missing(&mount.fstype)));
    }
    let mut command = mount.command();
    if Path::new(BUSYBOX).exists() {
        command.insert(0, BUSYBOX.into());
    }
    let ended = Command::new(&command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("run {}", command[0]))?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}{}", why.trim(), missing(&mount.fstype));
    Ok(true)
}

/// That the kernel has no such file system, if it is so: what mount(8) says then (ENODEV) is read as a missing disk.
fn missing(fstype: &str) -> String {
    let known = || {
        let all = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        is_known(&all, fstype)
    };
    // One that was not asked for yet may be a module.
    if known() || load(&format!("fs-{fstype}")).is_ok() && known() {
        return String::new();
    }
    format!(": this release's kernel has no file system {fstype}")
}

/// Whether `fstype` is one of `/proc/filesystems` (proc(5)), or none is named.
fn is_known(filesystems: &str, fstype: &str) -> bool {
    matches!(fstype, "" | "auto" | "none" | "swap")
        || filesystems.lines().any(|line| line.split_whitespace().last() == Some(fstype))
}

/// Whether the kernel swaps to `source` (proc(5), swaps: the first column): the host and the console both apply what is
/// configured.
fn is_swapped_to(swaps: &str, source: &str) -> bool {
    let link = match source.split_once('=') {
        Some(("LABEL", label)) => format!("/dev/disk/by-label/{label}"),
        Some(("UUID", uuid)) => format!("/dev/disk/by-uuid/{uuid}"),
        _ => source.to_owned(),
    };
    let node = fs::canonicalize(&link).unwrap_or_else(|_| link.into());
    swaps
        .lines()
        .any(|line| line.split_whitespace().next().is_some_and(|used| node == Path::new(used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        let mount = |source: &str, target: &str, fstype: &str, options: &str| Mount {
            source: source.into(),
            target: target.into(),
            fstype: fstype.into(),
            options: options.into(),
        };
        let table = [
            (
                mount("LABEL=data", "/mnt/data", "ext4", "defaults,nofail"),
                "mount -t ext4 LABEL=data /mnt/data",
            ),
            (mount("/dev/vdb", "/d", "auto", "ro,noatime"), "mount -o ro,noatime /dev/vdb /d"),
            (mount("/a", "/b", "none", "bind"), "mount -o bind /a /b"),
            (mount("tmpfs", "/t", "tmpfs", "size=1m"), "mount -t tmpfs -o size=1m tmpfs /t"),
            (mount("//nas/x", "/n", "cifs", "guest,_netdev"), "mount -t cifs -o guest //nas/x /n"),
            (mount("/dev/vdc", "none", "swap", "sw"), "swapon /dev/vdc"),
        ];
        for (mount, expected) in table {
            assert_eq!(mount.command().join(" "), expected);
        }
    }

    #[test]
    fn a_file_system_that_the_kernel_has_not_is_named() {
        let known = "nodev\ttmpfs\n\text4\n";
        for (fstype, expected) in [("ext4", true), ("tmpfs", true), ("", true), ("nfs4", false)] {
            assert_eq!(is_known(known, fstype), expected, "{fstype}");
        }
    }

    #[test]
    fn what_is_swapped_to_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (node, link) = (dir.path().join("vdb2"), dir.path().join("link"));
        fs::write(&node, "").unwrap();
        std::os::unix::fs::symlink(&node, &link).unwrap();
        let swaps =
            format!("Filename Type Size Used Priority\n{} partition 1 0 -2\n", node.display());
        assert!(is_swapped_to(&swaps, &link.display().to_string()));
        assert!(is_swapped_to(&swaps, &node.display().to_string()));
        assert!(!is_swapped_to(&swaps, "/dev/vdb3") && !is_swapped_to("", "UUID=x"));
    }

    /// As root, in a namespace of this thread's own.
    #[test]
    fn what_is_mounted_is_left_also_behind_a_link() {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("run it as root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (place, link) = (dir.path().join("place"), dir.path().join("link"));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, &link).unwrap();
        for (target, mounts) in [(&link, true), (&link, false), (&place, false)] {
            let wanted = Mount {
                source: "tmpfs".into(),
                target: target.display().to_string(),
                fstype: "tmpfs".into(),
                ..Mount::default()
            };
            assert_eq!(one(&wanted).unwrap(), mounts, "{}", target.display());
        }
    }
}

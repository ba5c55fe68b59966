//! What the kernel offers as file systems, and the few files that every program expects.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ros_api::durable::named;
use ros_api::paths;
use rustix::mount::{MountFlags, mount};

use crate::kmsg;

/// Source, target, type, flags, options. A trailing `?` on the type: without it life goes on.
const MOUNTS: [(&str, &str, MountFlags, &str); 12] = [
    ("proc", "/proc", HARDENED, ""),
    ("sysfs", "/sys", HARDENED, ""),
    ("devtmpfs", "/dev", DEVICES, "mode=0755"),
    ("tmpfs", "/run", NO_DEVICES, "mode=0755"),
    ("devpts", "/dev/pts", DEVICES, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", NO_DEVICES, "mode=1777"),
    ("mqueue?", "/dev/mqueue", HARDENED, ""),
    ("cgroup2", "/sys/fs/cgroup", HARDENED, "nsdelegate,memory_recursiveprot"),
    ("securityfs?", "/sys/kernel/security", HARDENED, ""),
    ("bpf?", "/sys/fs/bpf", HARDENED, "mode=0700"),
    ("debugfs?", "/sys/kernel/debug", HARDENED, "mode=0700"),
    ("tmpfs", "/tmp", NO_DEVICES, "mode=1777"),
];
const HARDENED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const DEVICES: MountFlags = MountFlags::NOSUID;

/// Mounts them all.
pub fn api_filesystems() -> io::Result<String> {
    for (kind, target, flags, options) in MOUNTS {
        let (kind, wanted) = (kind.trim_end_matches('?'), !kind.ends_with('?'));
        match mount_one(kind, Path::new(target), flags, options) {
            Err(e) if wanted => return Err(e),
            _ => {}
        }
    }
    // Else the kernel drops most of what a boot stage says ("callbacks suppressed").
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    for (link, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let _ = symlink(target, Path::new("/dev").join(link));
    }
    controllers(Path::new("/sys/fs/cgroup"))
}

fn mount_one(kind: &str, target: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    if fs::create_dir_all(target).is_err() && !target.is_dir() {
        return Err(io::Error::other(format!("{} cannot be made", target.display())));
    }
    let options = std::ffi::CString::new(options)?;
    match mount(kind, target, kind, flags, options.as_c_str()) {
        // Mounted already: the kernel may do /dev itself.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(e) => Err(named(&format!("mount {kind} at"), target, &e.into())),
    }
}

/// Switches on every controller for the groups below the root.
fn controllers(root: &Path) -> io::Result<String> {
    let path = root.join("cgroup.controllers");
    let all = fs::read_to_string(&path).map_err(|e| named("read", &path, &e))?;
    let mut on = Vec::new();
    for controller in all.split_whitespace() {
        match fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")) {
            Ok(()) => on.push(controller),
            Err(e) => kmsg::warn(&format!(
                "the cgroup controller {controller} cannot be switched on: {e}"
            )),
        }
    }
    Ok(format!("cgroup v2 with {}", on.join(" ")))
}

const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Writes what libraries look for: without `/etc/hosts` even `localhost` is unknown.
pub fn early_files() -> io::Result<String> {
    for dir in
        ["/etc", "/run/ros", "/run/ros/resolv", "/var", "/boot", "/home", "/opt", "/mnt", "/root"]
    {
        fs::create_dir_all(dir).map_err(|e| named("create", Path::new(dir), &e))?;
    }
    for (path, content) in [("/etc/passwd", PASSWD), ("/etc/group", GROUP), ("/etc/hosts", HOSTS)] {
        fs::write(path, content).map_err(|e| named("write", Path::new(path), &e))?;
    }
    if !Path::new(paths::RESOLV_CONF).exists() {
        fs::write(paths::RESOLV_CONF, "")
            .map_err(|e| named("write", Path::new(paths::RESOLV_CONF), &e))?;
    }
    for (link, target) in
        [("/etc/resolv.conf", paths::RESOLV_CONF), ("/etc/mtab", "/proc/self/mounts")]
    {
        let _ = fs::remove_file(link);
        symlink(target, link).map_err(|e| named("create link", Path::new(link), &e))?;
    }
    fs::set_permissions("/root", fs::Permissions::from_mode(0o700))?;
    crate::steps::config::set_hostname("ros")?;
    Ok(String::new())
}

//! What the kernel offers as file systems, and the few files that every program expects.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ros_api::durable::named;
use ros_api::paths;
use rustix::mount::{MountFlags, mount};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::kmsg;

/// Source, target, type, flags, options. A trailing `?` on the type: without it life goes on.
const MOUNTS: [(&str, &str, MountFlags, &str); 11] = [
    ("proc", "/proc", HARDENED, ""),
    ("sysfs", "/sys", HARDENED, ""),
    ("devtmpfs", "/dev", DEVICES, "mode=0755"),
    ("tmpfs", "/run", NO_DEVICES, "mode=0755"),
    ("devpts", "/dev/pts", DEVICES, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", NO_DEVICES, "mode=1777"),
    ("tmpfs", "/tmp", NO_DEVICES, "mode=1777"),
    // favordynmods: a process that joins a cgroup waits for no grace period of RCU, 15 ms of every start and exec
    // (Documentation/admin-guide/cgroup-v2.rst).
    ("cgroup2", "/sys/fs/cgroup", HARDENED, "nsdelegate,memory_recursiveprot,favordynmods"),
    ("mqueue?", "/dev/mqueue", HARDENED, ""),
    ("securityfs?", "/sys/kernel/security", HARDENED, ""),
    ("efivarfs?", "/sys/firmware/efi/efivars", HARDENED, ""),
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

/// Switches on every controller for the groups below the root; all in one write, which is much faster, and
/// one by one only when the kernel refuses one of them.
fn controllers(root: &Path) -> io::Result<String> {
    let path = root.join("cgroup.controllers");
    let all = fs::read_to_string(&path).map_err(|e| named("read", &path, &e))?;
    let control = root.join("cgroup.subtree_control");
    let words: Vec<String> =
        all.split_whitespace().map(|controller| format!("+{controller}")).collect();
    if fs::write(&control, words.join(" ")).is_err() {
        for word in &words {
            if let Err(e) = fs::write(&control, word) {
                kmsg::warn(&format!("cgroup controller {word}: {e}"));
            }
        }
    }
    let on = fs::read_to_string(&control).map_err(|e| named("read", &control, &e))?;
    Ok(format!("cgroup v2 with {}", on.trim()))
}

/// Open files: the kernel's own limits (1024, at most 4096) would be those of every service and container.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(1_048_576) };

/// Sets the limits that every other process inherits.
pub fn limits() -> io::Result<String> {
    setrlimit(Resource::Nofile, OPEN_FILES)
        .map_err(|e| io::Error::other(format!("limit of open files: {e}")))?;
    Ok(String::new())
}

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1 by itself. One rtnetlink message (rtnetlink(7)):
/// `struct nlmsghdr`, `struct ifinfomsg`.
pub fn loopback() -> io::Result<String> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST: u16 = 1;
    const LOOPBACK: i32 = 1;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0; 4]); // family, padding, type
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(UP.to_ne_bytes()); // flags
    message.extend(UP.to_ne_bytes()); // which of them change
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(String::new())
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

//! User namespaces that nothing runs in: what a mount's ids are mapped by (user_namespaces(7), mount_setattr(2)).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// A user namespace in which 0 is `first` of the host, and so on for `count` ids of users and of groups. To be called in
/// a process of one thread.
///
/// # Errors
/// As unshare(2), and what the kernel says to such a map.
pub fn namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC);
    let ((said, say), (hold, release)) = (pipe()?, pipe()?);
    // SAFETY: this process has one thread, so that its copy may do whatever it may.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((said, release));
            let status = stay(File::from(say), File::from(hold));
            // SAFETY: ends the copy at once; it owns nothing that would have to be put away.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            drop((say, hold));
            let namespace = mapped(child, File::from(said), first, count);
            drop(release);
            waitpid(child, None)?;
            namespace
        }
    }
}

/// In the child: makes the namespace, tells how that went, and stays in it until the other end is closed.
fn stay(mut say: File, mut hold: File) -> i32 {
    let made = unshare(CloneFlags::CLONE_NEWUSER).map_or_else(|errno| errno as i32, |()| 0);
    let told = say.write_all(&made.to_ne_bytes());
    let _ = hold.read(&mut [0]);
    i32::from(told.is_err())
}

fn mapped(child: Pid, mut said: File, first: u32, count: u32) -> io::Result<OwnedFd> {
    let mut made = [0; 4];
    said.read_exact(&mut made)?;
    match i32::from_ne_bytes(made) {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{map}"), format!("0 {first} {count}\n"))?;
    }
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

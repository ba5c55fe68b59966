//! The orderly end, in this order, each part bounded, the watchdog fed throughout:
//! `ros bring-down` → the daemon → TERM to all, KILL to the rest → (load a kernel) → unmount what is on other machines →
//! sync → unmount in reverse → sync → reboot(2). The network's addresses are there to the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ros_sys::fstab;
use ros_sys::mountinfo::{self, Entry};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

use super::End;
use super::reap::{Children, Reaped};
use super::{jobs, kexec};
use crate::clock::since_kernel_ms;
use crate::kmsg;

/// For a bring-up that still runs.
const BRING_UP: Duration = Duration::from_secs(3);
/// For `ros bring-down`: it stops the services in reverse order.
const BRING_DOWN: Duration = Duration::from_secs(30);
/// For the daemon after TERM.
const DAEMON: Duration = Duration::from_secs(10);
/// For all other processes after TERM.
const GRACE: Duration = Duration::from_secs(5);
/// After KILL: what is left then hangs in the kernel.
const KILLED: Duration = Duration::from_secs(5);
/// For other machines to take what is written to them; one that is gone must not keep this one.
const REMOTE: Duration = Duration::from_secs(15);
/// For the disks to take what is written to them.
const SYNC: Duration = Duration::from_secs(120);

/// What has to be stopped before all the rest.
pub struct Stop {
    /// A shell; it does not heed TERM.
    pub shell: Option<Pid>,
    /// Bring-up, when it still runs: it would start what bring-down stops.
    pub bring_up: Option<Pid>,
    /// Whether bring-down is to run.
    pub bring_down: bool,
    /// The daemon.
    pub daemon: Option<Pid>,
}

/// Ends the machine.
pub fn run(end: End, stop: Stop, mut children: Children<'_>) -> ! {
    let began = since_kernel_ms();
    kmsg::warn(&format!("{end}: stopping the system"));
    if let Some(shell) = stop.shell {
        let _ = kill_process(shell, Signal::HUP);
    }
    if let Some(bring_up) = stop.bring_up {
        stop_one("bring-up", bring_up, BRING_UP, &mut children);
    }
    if stop.bring_down {
        run_bring_down(&mut children);
    }
    if let Some(daemon) = stop.daemon {
        stop_one("the daemon", daemon, DAEMON, &mut children);
    }
    stop_all(&mut children);
    let end = prepared(end, &mut children);
    unmount_remote(&mut children);
    sync(&mut children);
    unmount_all(&mut children);
    sync(&mut children);
    kmsg::warn(&format!("{end} after {} ms", since_kernel_ms() - began));
    finish(end, children)
}

/// A kernel that cannot be started directly is started by the boot loader.
fn prepared(end: End, children: &mut Children<'_>) -> End {
    let End::Kexec(generation) = end else { return end };
    children.watchdog.feed();
    match kexec::load(generation) {
        Ok(()) => end,
        Err(e) => {
            kmsg::error(&format!("no kexec, a full reboot instead: {e}"));
            End::RebootCounted
        }
    }
}

fn run_bring_down(children: &mut Children<'_>) {
    match jobs::bring("bring-down").spawn() {
        Ok(child) => {
            let pid = Pid::from_child(&child);
            if !children.wait(BRING_DOWN, is(pid)) {
                kmsg::error(&format!("bring-down did not end within {} s", BRING_DOWN.as_secs()));
            }
        }
        Err(e) => kmsg::warn(&format!("run ros bring-down: {e}")),
    }
}

fn is(pid: Pid) -> impl FnMut(Reaped) -> bool {
    move |reaped| matches!(reaped, Reaped::Dead(dead, _) if dead == pid)
}

fn stop_one(name: &str, pid: Pid, limit: Duration, children: &mut Children<'_>) {
    // An error means that it is gone already, and reaped.
    if kill_process(pid, Signal::TERM).is_ok() && !children.wait(limit, is(pid)) {
        kmsg::warn(&format!("{name} did not end within {} s and is killed", limit.as_secs()));
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn stop_all(children: &mut Children<'_>) {
    for (signal, limit) in
        [(nix::sys::signal::Signal::SIGTERM, GRACE), (nix::sys::signal::Signal::SIGKILL, KILLED)]
    {
        // -1: every process but PID 1 itself.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), signal);
        if children.wait(limit, |reaped| reaped == Reaped::NoneLeft) {
            return;
        }
        kmsg::warn(&format!(
            "processes are left {} s after {signal}: {}",
            limit.as_secs(),
            left_over()
        ));
    }
}

/// Names of the processes that are not the kernel's own.
fn left_over() -> String {
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let users = processes.filter(|dir| {
        dir.file_name().is_some_and(|name| {
            name != "1" && name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        }) && !read(dir, "cmdline").is_empty()
    });
    let names: Vec<String> =
        users.take(10).map(|dir| read(&dir, "comm").trim().to_owned()).collect();
    names.join(" ")
}

/// Runs what may hang in the kernel, the watchdog fed meanwhile, `limit` at most; answers whether it ended.
fn bounded<W>(limit: Duration, children: &mut Children<'_>, work: W) -> bool
where
    W: FnOnce() + Clone + Send + 'static,
{
    let Ok(working) = std::thread::Builder::new().spawn(work.clone()) else {
        work();
        return true;
    };
    let end = Instant::now() + limit;
    while !working.is_finished() && Instant::now() < end {
        children.watchdog.feed();
        std::thread::sleep(Duration::from_millis(10));
    }
    working.is_finished()
}

fn sync(children: &mut Children<'_>) {
    if !bounded(SYNC, children, rustix::fs::sync) {
        kmsg::error(&format!("the disks did not take everything within {} s", SYNC.as_secs()));
    }
}

/// What is written to other machines is theirs before the disks' turn. Where one does not answer, what it did not take is
/// lost, and its mount is torn away: nothing later may wait for it.
fn unmount_remote(children: &mut Children<'_>) {
    let mut left = mount_points(mountinfo::own(), fstab::is_remote);
    let (all, (ended, over)) = (left.clone(), mpsc::channel());
    bounded(REMOTE, children, move || {
        for mount in all.into_iter().rev() {
            let _ = unmount(&mount, UnmountFlags::NOFOLLOW);
            let _ = ended.send(mount);
        }
    });
    // The list of mounts does not tell: one that is waited for has left it already.
    let over: Vec<PathBuf> = over.try_iter().collect();
    left.retain(|mount| !over.contains(mount));
    if left.is_empty() {
        return;
    }
    for mount in &left {
        kmsg::error(&format!("{} does not answer; it is given up", mount.display()));
    }
    bounded(REMOTE, children, move || {
        for mount in left.iter().rev() {
            let flags = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE;
            let _ = unmount(mount, flags);
            let _ = unmount(mount, flags | UnmountFlags::DETACH);
        }
    });
}

/// Mounts that stay: the log and the watchdog need `/dev`, this list needs `/proc`, none of them has a disk.
const STAY: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// Unmounts the newest first, again and again while that frees more; what then is left becomes read-only.
fn unmount_all(children: &mut Children<'_>) {
    let mut left = mount_points(mountinfo::own(), |_| true);
    loop {
        let before = left.len();
        for mount in left.iter().rev() {
            let _ = unmount(mount, UnmountFlags::NOFOLLOW);
            children.watchdog.feed();
        }
        left = mount_points(mountinfo::own(), |_| true);
        if left.is_empty() || left.len() >= before {
            break;
        }
    }
    for mount in left.iter().rev() {
        kmsg::warn(&format!("{} is in use; made read-only and detached", mount.display()));
        let _ = mount_remount(mount, MountFlags::RDONLY, "");
        let _ = unmount(mount, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
    }
}

/// Mount points of file systems of some kind, in the order they were made.
fn mount_points(all: Vec<Entry>, kind: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let points = all.into_iter().filter(|entry| kind(&entry.kind)).map(|entry| entry.point);
    points.filter(|point| !STAY.iter().any(|stays| point == Path::new(stays))).collect()
}

fn finish(end: End, children: Children<'_>) -> ! {
    let command = match end {
        End::Reboot | End::Kexec(_) if kexec_loaded() => RebootCommand::Kexec,
        End::Reboot | End::Kexec(_) | End::RebootCounted => RebootCommand::Restart,
        End::Poweroff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
    };
    // Armed, it would wake a halted machine up; on a reboot it stays armed and covers the way down.
    if matches!(end, End::Poweroff | End::Halt) {
        children.watchdog.disarm();
    } else {
        children.watchdog.feed();
    }
    if let Err(e) = reboot(command) {
        kmsg::error(&format!("reboot: {e}"));
        let _ = reboot(RebootCommand::Restart);
    }
    // PID 1 must not end, whatever the kernel answered; the watchdog is not fed any more.
    loop {
        std::thread::park();
    }
}

fn kexec_loaded() -> bool {
    fs::read_to_string("/sys/kernel/kexec_loaded").is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_mounts_stay_and_some_are_on_other_machines() {
        let text = "22 1 0:2 / / rw shared:1 - rootfs rootfs rw\n\
                    30 22 254:3 / /var rw,noatime shared:2 - ext4 /dev/vda3 rw\n\
                    31 30 0:40 / /var/lib/a\\040b rw - tmpfs tmpfs rw\n\
                    32 22 0:5 / /dev rw - devtmpfs devtmpfs rw\nbroken\n\
                    33 22 0:50 / /mnt/n rw shared:9 - nfs4 10.0.2.2:/ext4 rw\n";
        let points = |kind: fn(&str) -> bool| mount_points(mountinfo::parse(text), kind);
        let all = ["/var", "/var/lib/a b", "/mnt/n"].map(PathBuf::from);
        assert_eq!(points(|_| true), all);
        assert_eq!(points(fstab::is_remote), all[2..]);
    }
}

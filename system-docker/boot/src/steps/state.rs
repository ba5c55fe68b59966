//! STATE and BOOT: found, checked, mounted. A STATE that is there but sick is never passed over in silence:
//! the machine would come up empty, and write a second history.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ros_api::boot::Mode;
use ros_api::durable::named;
use ros_api::paths;
use rustix::mount::{MountFlags, mount as mount_device};

use crate::args::{Autoformat, StateDevice};
use crate::child;
use crate::kmsg;
use crate::modules::coldplug::{self, Kind};
use crate::plan::Disk;
use crate::probe::{self, Block};
use crate::steps::{Machine, format};

/// How long to wait for a STATE that was not found at once.
const WAIT: Duration = Duration::from_secs(10);
/// The same when the medium carries a release, or an empty disk may be formatted: then no STATE is not
/// a fault, and after this long without a new disk there is none.
const SETTLED: Duration = Duration::from_secs(3);

/// Looks, loads disk drivers, and waits for the kernel's device events; never sleeps.
pub fn find(machine: &mut Machine) -> io::Result<String> {
    if machine.args.state.device == StateDevice::None {
        return Ok("none asked for".into());
    }
    if let Some(found) = look(machine) {
        return Ok(found);
    }
    if let Some(loader) = &mut machine.loader {
        coldplug::run(loader, Kind::Storage);
    }
    if let Some(found) = look(machine) {
        return Ok(found);
    }
    let wait = patience(machine);
    if let Some(found) = wait_for(machine, wait)? {
        return Ok(found);
    }
    if let Some(disk) = format::candidate(&machine.args.state.autoformat) {
        let note = format!("none; {} is empty and may be formatted", disk.name);
        (machine.disk, machine.state) = (Disk::Blank, Some(disk));
        return Ok(note);
    }
    Ok(format!("none after {} s", wait.as_secs()))
}

/// An empty disk that was named need not wait for any other.
fn patience(machine: &Machine) -> Duration {
    let state = &machine.args.state;
    let named = matches!(state.autoformat, Autoformat::Disks(_))
        && format::candidate(&state.autoformat).is_some();
    let optional = Path::new(paths::PRELOAD).exists() || state.autoformat != Autoformat::No;
    match state.wait {
        _ if named => Duration::ZERO,
        Some(wait) => wait,
        None if optional && !state.required => SETTLED,
        None => WAIT,
    }
}

/// Looks again after each device event, until the time is over.
fn wait_for(machine: &mut Machine, wait: Duration) -> io::Result<Option<String>> {
    let deadline = Instant::now() + wait;
    loop {
        machine.watchdog.feed();
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(uevents) = machine.uevents.as_ref().filter(|_| !left.is_zero()) else {
            return Ok(None);
        };
        let events = uevents.wait(left.min(machine.watchdog.interval()))?;
        if let Some(loader) = &mut machine.loader {
            for alias in events.iter().filter_map(|event| event.modalias.as_deref()) {
                coldplug::load(loader, alias, Kind::Storage);
            }
        }
        let disks_changed =
            events.iter().any(|event| event.subsystem == "block" || event.subsystem.is_empty());
        if let Some(found) = disks_changed.then(|| look(machine)).flatten() {
            return Ok(Some(found));
        }
    }
}

/// One look at all devices. Two that fit, such as a cloned disk, are told: the first by name is taken.
fn look(machine: &mut Machine) -> Option<String> {
    let wanted = &machine.args.state.device;
    let mut fitting = Block::all().into_iter().filter(|block| is_wanted(block, wanted));
    let found = fitting.next()?;
    for other in fitting {
        kmsg::warn(&format!(
            "{} fits as STATE too and is left alone: {} is used",
            other.name, found.name
        ));
    }
    let note = found.name.clone();
    machine.disk = Disk::State;
    machine.state = Some(found);
    Some(note)
}

fn is_wanted(block: &Block, wanted: &StateDevice) -> bool {
    match wanted {
        StateDevice::Label(label) => {
            block.filesystem().is_some_and(|it| it.label == *label && is_ext4(&it))
        }
        StateDevice::Uuid(uuid) => block.filesystem().is_some_and(|it| it.uuid == *uuid),
        StateDevice::Path(path) => {
            let node = fs::canonicalize(path).unwrap_or_else(|_| path.into());
            block.node() == node && block.filesystem().is_some_and(|it| is_ext4(&it))
        }
        StateDevice::None => false,
    }
}

fn is_ext4(filesystem: &probe::Filesystem) -> bool {
    matches!(filesystem.kind, probe::Kind::Ext4 { .. })
}

/// Required, and not there.
pub fn missing(machine: &mut Machine) -> io::Result<String> {
    let wanted = match &machine.args.state.device {
        StateDevice::Label(label) => format!("no file system with the label {label}"),
        StateDevice::Uuid(uuid) => format!("no file system with the UUID {uuid}"),
        StateDevice::Path(path) => format!("no file system on {path}"),
        StateDevice::None => "ros.state.dev=none".into(),
    };
    let disks: Vec<_> = Block::all().iter().map(|block| block.name.clone()).collect();
    let seen = if disks.is_empty() {
        "there is no disk at all".into()
    } else {
        format!("seen: {}", disks.join(" "))
    };
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("ros.state.required, but {wanted}; {seen}"),
    ))
}

/// e2fsck's exit code is a sum (e2fsck(8)): 1 corrected, 2 corrected and reboot (only for a mounted root),
/// 4 errors left, 8 and up it did not work at all.
const ERRORS_LEFT: i32 = 4;
const NOT_RUN: i32 = !7;

/// Repairs STATE: what can be repaired without a question first, then everything. Not run on a file
/// system that was unmounted in order.
pub fn check(machine: &mut Machine) -> io::Result<String> {
    let state = machine.state()?;
    if let Some(probe::Filesystem { kind: probe::Kind::Ext4 { clean: true, .. }, .. }) =
        state.filesystem()
    {
        return Ok("clean".into());
    }
    let node = state.node();
    let mut ended = fsck("-p", &node, machine)?;
    if ended.code() & ERRORS_LEFT != 0 && ended.code() & NOT_RUN == 0 {
        kmsg::warn(&format!(
            "{} has errors that need a full repair: {}",
            node.display(),
            ended.last_line()
        ));
        ended = fsck("-y", &node, machine)?;
    }
    let code = ended.code();
    if code & (ERRORS_LEFT | NOT_RUN) != 0 {
        let said = ended.last_line();
        return Err(io::Error::other(format!(
            "e2fsck of {} ended with {code}: {said}",
            node.display()
        )));
    }
    Ok(if code == 0 { "journal replayed".into() } else { "repaired".into() })
}

fn fsck(how: &str, node: &Path, machine: &mut Machine) -> io::Result<child::Ended> {
    let ended = child::run(
        child::command("/usr/sbin/e2fsck").arg(how).arg(node),
        &mut machine.watchdog,
        None,
    )?;
    if ended.code() != 0 {
        kmsg::info(&ended.output);
    }
    Ok(ended)
}

/// Mounts STATE at `/var`.
pub fn mount(machine: &mut Machine) -> io::Result<String> {
    let node = machine.state()?.node();
    mount_at(&node, paths::STATE, "ext4", MountFlags::NOATIME, "errors=remount-ro")?;
    machine.mode = Mode::Disk;
    Ok(format!("{} at {}", node.display(), paths::STATE))
}

/// Mounts BOOT at `/boot`, the one on STATE's disk first. One that was cut off is repaired before: what was being written
/// there may lay claim to clusters that the next file is given, and then the wrong one goes.
pub fn mount_boot(machine: &mut Machine) -> io::Result<String> {
    let state_disk = machine.state.as_ref().and_then(Block::disk);
    let is_boot = |block: &Block| {
        block.filesystem().is_some_and(|it| {
            matches!(it.kind, probe::Kind::Fat { .. }) && it.label == paths::BOOT_LABEL
        })
    };
    let mut all: Vec<Block> = Block::all().into_iter().filter(is_boot).collect();
    all.sort_by_key(|block| block.disk() != state_disk);
    let Some(boot) = all.first().cloned() else {
        return Ok("none".into());
    };
    let repaired = repair_boot(&boot, machine)?;
    // The kernel would call modprobe once for each.
    if let Some(loader) = &mut machine.loader {
        for name in ["vfat", "nls_cp437", "nls_ascii"] {
            let _ = loader.load(name, "");
        }
    }
    let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at(&boot.node(), paths::BOOT, "vfat", flags, "umask=0077,errors=remount-ro")?;
    Ok(format!("{} at {}{repaired}", boot.node().display(), paths::BOOT))
}

/// fsck.fat(8): 1 is corrected as well as there is something left, which mounting must cope with as before.
fn repair_boot(boot: &Block, machine: &mut Machine) -> io::Result<&'static str> {
    if boot.filesystem().is_none_or(|it| it.kind == probe::Kind::Fat { clean: true }) {
        return Ok("");
    }
    let mut fsck = child::command("/usr/sbin/fsck.fat");
    let ended = child::run(fsck.arg("-a").arg(boot.node()), &mut machine.watchdog, None)?;
    if ended.code() > 1 {
        let (code, said) = (ended.code(), ended.last_line());
        kmsg::warn(&format!("fsck.fat of {} ended with {code}: {said}", boot.node().display()));
        return Ok(", not repaired");
    }
    kmsg::info(&ended.output);
    Ok(if ended.code() == 0 { ", was not unmounted" } else { ", repaired" })
}

/// A tmpfs for everything: gone with the power.
pub fn ram(machine: &mut Machine) -> io::Result<String> {
    mount_at(
        Path::new("tmpfs"),
        paths::STATE,
        "tmpfs",
        MountFlags::NODEV,
        "mode=0755,size=75%,nr_inodes=1m",
    )?;
    machine.mode = Mode::Ram;
    Ok(format!("no STATE: {} is in RAM, nothing outlives this boot", paths::STATE))
}

fn mount_at(
    source: &Path,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    fs::create_dir_all(target).map_err(|e| named("create", Path::new(target), &e))?;
    let options = std::ffi::CString::new(options)?;
    let mounted = mount_device(source, target, kind, flags, options.as_c_str());
    mounted.map_err(|e| {
        named(&format!("mount {} ({kind}) at", source.display()), Path::new(target), &e.into())
    })
}

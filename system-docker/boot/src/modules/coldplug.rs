//! The modules of the devices that are there already: every `modalias` below `/sys/devices`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Loader;
use crate::kmsg;

/// Which modules a coldplug may load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What may lie between the machine and its disk. All else is left to the udev service, which runs
    /// beside the rest of the boot.
    Storage,
    /// Watchdogs.
    Watchdog,
    /// Everything.
    Any,
}

/// Folders below `kernel/` that may hold a disk's driver or the bus it is on.
const STORAGE: [&str; 16] = [
    "drivers/ata/",
    "drivers/block/",
    "drivers/bus/",
    "drivers/firmware/",
    "drivers/hv/",
    "drivers/md/",
    "drivers/message/",
    "drivers/mmc/",
    "drivers/nvme/",
    "drivers/pci/",
    "drivers/scsi/",
    "drivers/ufs/",
    "drivers/usb/host/",
    "drivers/usb/storage/",
    "drivers/virtio/",
    "drivers/xen/",
];

impl Kind {
    fn wants(self, path: &str) -> bool {
        let path = path.strip_prefix("kernel/").unwrap_or(path);
        match self {
            Self::Any => true,
            Self::Watchdog => path.starts_with("drivers/watchdog/"),
            Self::Storage => STORAGE.iter().any(|folder| path.starts_with(folder)),
        }
    }
}

/// A bus driver shows new devices: so often it is looked again.
const PASSES: usize = 4;

/// Loads what the present devices want; gives how many modules were new. A module that cannot be loaded is
/// a complaint: the device may not be needed.
pub fn run(loader: &mut Loader, kind: Kind) -> usize {
    let mut total = 0;
    for _ in 0..PASSES {
        let new: usize = modaliases().iter().map(|alias| load(loader, alias, kind)).sum();
        if new == 0 {
            break;
        }
        total += new;
    }
    total
}

/// Loads what one device wants.
pub fn load(loader: &mut Loader, alias: &str, kind: Kind) -> usize {
    let wanted = loader.index().aliases(alias);
    let wanted = wanted
        .into_iter()
        .filter(|name| loader.index().path(name).is_some_and(|path| kind.wants(path)));
    let mut loaded = 0;
    for name in wanted.collect::<Vec<_>>() {
        if loader.is_blacklisted(&name) {
            continue;
        }
        match loader.load(&name, "") {
            Ok(new) => loaded += new,
            Err(e) => kmsg::warn(&format!("for the device {alias}: {e}")),
        }
    }
    loaded
}

fn modaliases() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(Path::new("/sys/devices"), &mut found);
    found
}

fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir {
            collect(&entry.path(), found);
        } else if entry.file_name() == "modalias" {
            let alias = fs::read_to_string(entry.path()).unwrap_or_default();
            if !alias.trim().is_empty() {
                found.insert(alias.trim().to_owned());
            }
        }
    }
}

//! Modules and the watchdog.

use std::fs;
use std::io;

use crate::kmsg;
use crate::modules::Loader;
use crate::modules::coldplug::{self, Kind};
use crate::steps::Machine;
use crate::uevent::Uevents;
use crate::watchdog::{self, Watchdog};

/// Names of the modules that the boot set wants first, one a line.
const LIST: &str = "/etc/ros/modules.boot";

/// Opens the loader and the event socket, and loads the list.
pub fn modules(machine: &mut Machine) -> io::Result<String> {
    machine.uevents =
        Uevents::open().map_err(|e| kmsg::warn(&format!("no device events: {e}"))).ok();
    let loader = machine.loader.insert(Loader::open()?);
    let list = fs::read_to_string(LIST).unwrap_or_default();
    let mut loaded = 0;
    for line in
        list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, options) = line.split_once(' ').unwrap_or((line, ""));
        machine.watchdog.feed();
        match loader.load_any(name, options) {
            Ok(new) => loaded += new,
            Err(e) => kmsg::warn(&format!("{LIST}: {e}")),
        }
    }
    Ok(format!("{loaded} loaded"))
}

/// Loads everything that the devices want.
pub fn coldplug(machine: &mut Machine) -> io::Result<String> {
    let loaded = machine.loader.as_mut().map_or(0, |loader| coldplug::run(loader, Kind::Any));
    Ok(format!("{loaded} loaded"))
}

/// Arms the watchdog; without hardware, the kernel's own.
pub fn watchdog(machine: &mut Machine) -> io::Result<String> {
    if machine.args.watchdog == 0 {
        return Ok("off".into());
    }
    if let Some(loader) = &mut machine.loader {
        coldplug::run(loader, Kind::Watchdog);
        if !watchdog::exists() && loader.index().knows("softdog") {
            loader.load("softdog", "")?;
        }
    }
    let (armed, note) = Watchdog::arm(machine.args.watchdog)?;
    machine.watchdog = armed;
    Ok(note)
}

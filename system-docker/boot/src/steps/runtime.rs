//! `/run/ros`: what the rest of the system reads of this boot.

use std::fs;
use std::io;
use std::path::Path;

use ros_api::durable::{self, named};
use ros_api::{Generations, paths};
use rustix::fs::{CWD, FileType, Mode as FileMode, mknodat};

use crate::steps::Machine;

/// Links the generation's programs, copies its lock file, makes the control FIFO.
pub fn folder(machine: &mut Machine) -> io::Result<String> {
    let number = machine.generation.ok_or_else(|| io::Error::other("no generation was chosen"))?;
    let dir = Generations::at(Path::new(paths::GENERATIONS)).dir(number);
    durable::point(Path::new(paths::RUN_BIN), &dir.join("bin"))?;
    durable::point(Path::new(paths::RUN_DAEMON), &dir.join("bin/system-docker"))?;
    let release = Path::new(paths::RUN_RELEASE);
    fs::copy(dir.join("release.yml"), release).map_err(|e| named("write", release, &e))?;
    control()?;
    Ok(String::new())
}

/// Makes the FIFO that PID 1 reads.
///
/// # Errors
/// When it cannot be made.
pub fn control() -> io::Result<()> {
    let path = Path::new(paths::INIT_CONTROL);
    match mknodat(CWD, path, FileType::Fifo, FileMode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(named("create", path, &e.into())),
    }
}

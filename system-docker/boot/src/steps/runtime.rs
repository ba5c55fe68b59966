//! `/run/ros`: what the rest of the system reads of this boot.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
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
    var_run(Path::new(paths::STATE))?;
    Ok(String::new())
}

/// `/var/run` is `/run`, and not a folder on the disk that keeps sockets and process ids of former boots (FHS 3.0, 5.13:
/// what is there goes at the beginning of a boot).
fn var_run(state: &Path) -> io::Result<()> {
    let link = state.join("run");
    match fs::symlink_metadata(&link) {
        Ok(there) if there.is_symlink() => return Ok(()),
        Ok(there) if there.is_dir() => fs::remove_dir_all(&link),
        Ok(_) => fs::remove_file(&link),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
    .map_err(|e| named("remove", &link, &e))?;
    symlink("/run", &link).map_err(|e| named("create link", &link, &e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn var_run_is_a_link_whatever_was_there() {
        let state = tempfile::tempdir().unwrap();
        let link = state.path().join("run");
        let is_link = || fs::read_link(&link).is_ok_and(|target| target == Path::new("/run"));
        var_run(state.path()).unwrap();
        assert!(is_link());
        var_run(state.path()).unwrap();
        assert!(is_link());
        fs::remove_file(&link).unwrap();
        fs::create_dir_all(link.join("docker")).unwrap();
        fs::write(link.join("docker.pid"), "1").unwrap();
        var_run(state.path()).unwrap();
        assert!(is_link());
    }
}

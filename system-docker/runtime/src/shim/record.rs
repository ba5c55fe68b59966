//! What a process leaves in its folder for whoever comes after its shim: `process.json` while it lives, `exit.json`
//! afterwards; and the clean-up of a container whose shim died.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::stats;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// In the run folder.
pub(crate) const FILTERS: &str = ".seccomp";
/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// `process.json`: a pid, and the start time that tells it from a later process with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

impl ProcessRecord {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = start_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_ticks })
    }

    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join("process.json")).ok()?).ok()
    }

    pub(crate) fn write(self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join("process.json"), serde_json::to_vec(&self)?)
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Folder of the cgroup that a spec names.
pub(crate) fn cgroup(spec: &Spec) -> PathBuf {
    let path =
        spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    Path::new(CGROUP_ROOT).join(path.strip_prefix("/").unwrap_or(&path))
}

/// Where the filters are that shims compiled, given a container's folder; no container's name begins with a dot.
pub(crate) fn filters(container_dir: &Path) -> PathBuf {
    container_dir.with_file_name(FILTERS)
}

/// Kills every process of a cgroup and of those below it, at once.
pub(crate) fn kill_cgroup(cgroup: &Path) -> io::Result<()> {
    match fs::write(cgroup.join("cgroup.kill"), "1") {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

pub(crate) fn signal_cgroup(cgroup: &Path, signal: i32) -> io::Result<()> {
    if signal == Signal::SIGKILL as i32 {
        return kill_cgroup(cgroup);
    }
    for pid in stats::pids(cgroup)? {
        // One that ended meanwhile needs no signal.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::try_from(signal)?);
    }
    Ok(())
}

/// Removes a cgroup and those below it, once their processes are gone.
pub(crate) fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match remove_tree(cgroup) {
            // A killed process leaves its cgroup when it is dead, and nothing tells when the last one has.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// What a shim would have done at the end: for one that was killed.
pub(crate) fn sweep(dir: &Path, cgroup: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    kill_cgroup(cgroup)?;
    remove_cgroup(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one() {
        let mine = ProcessRecord::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(mine.is_alive());
        assert!(!ProcessRecord { start_ticks: mine.start_ticks + 1, ..mine }.is_alive());
        let dir = tempfile::tempdir().unwrap();
        mine.write(dir.path()).unwrap();
        assert_eq!(ProcessRecord::read(dir.path()), Some(mine));
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let fields = (3..30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("7 (a) b) {fields}")), Some(22));
    }

    #[test]
    fn sweeping_nothing_is_no_error() {
        sweep(Path::new("/nonexistent"), Path::new("/nonexistent")).unwrap();
        kill_cgroup(Path::new("/nonexistent")).unwrap();
    }
}

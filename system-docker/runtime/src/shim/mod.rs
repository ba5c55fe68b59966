//! The shim: one process beside each container (or exec), of one thread, that outlives the daemon. It makes the
//! container, is the only one that waits on its processes, carries and logs its output, and writes down how it ended.

mod container;
mod exec;
mod executor;
mod filesystems;
mod log;
mod mounts;
mod peer;
pub(crate) mod record;
mod serve;
mod stdio;
mod user;
mod users;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl;
use rustix::process::{WaitOptions, wait};

use crate::wire::Answer;
use crate::{ExecRequest, RuntimeError, ShimRequest};
use log::JsonLog;
use serve::{Job, Shim};
use stdio::Stdio;

/// Mounts a container's root with its mounts on the folder `at`, in a mount namespace of this process's own. To be called
/// in a process of one thread.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_root(
    root: &crate::Root,
    at: &Path,
    mounts: &[crate::Mount],
) -> Result<(), RuntimeError> {
    mounts::whole(root, at, mounts)
}

/// Runs the container (`request.json`) or exec (`exec.json`) of the folder `dir`. Reports on stdout how making it went,
/// one [`Answer`]; complaints go to stderr. To be called in a process of one thread, started for it alone.
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    let made = detach().map_err(RuntimeError::from).and_then(|()| make(dir));
    let answer = match &made {
        Ok(shim) => Answer::Status(shim.status()),
        Err(error) => Answer::Failed(error.clone()),
    };
    if let Err(error) = report(&answer) {
        eprintln!("report: {error}");
    }
    match made.map(|mut shim| shim.run()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Away from the daemon: its session, its folder, its open files. Orphans of the container come to this process.
fn detach() -> io::Result<()> {
    // Fails in a process that leads a group already, which is as good.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    prctl::set_child_subreaper(true)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    close_inherited()
}

fn close_inherited() -> io::Result<()> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd")?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for fd in numbers.filter(|fd| *fd > 2) {
        // The descriptor of the listing itself is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

fn make(dir: &Path) -> Result<Shim, RuntimeError> {
    let listener = stdio::bind_in(dir, "shim.sock")?;
    let exec = dir.join("exec.json");
    if exec.exists() {
        let request: ExecRequest =
            serde_json::from_slice(&fs::read(exec)?).map_err(io::Error::from)?;
        let job = Job::Exec(Box::new(exec::prepare(dir, request)?));
        return Ok(Shim::new(dir, job, Stdio::default(), listener)?);
    }
    let request: ShimRequest =
        serde_json::from_slice(&fs::read(dir.join("request.json"))?).map_err(io::Error::from)?;
    let log = request.log.clone().map(JsonLog::open).transpose()?;
    let (container, stdio) = container::create(dir, &request)?;
    let mut shim = Shim::new(dir, Job::Container(Box::new(container)), stdio, listener)?;
    shim.log = log;
    shim.record = request.record;
    shim.stdin_once = request.stdin_once;
    Ok(shim)
}

/// Tells the daemon, which waits for the end of the stream.
fn report(answer: &Answer) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(&serde_json::to_vec(answer)?)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(File::open("/dev/null")?)?;
    Ok(())
}

/// Waits on every child that has ended, for whom nobody asks any more.
fn reap_all() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

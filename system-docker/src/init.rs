//! `docker-init`: PID 1 of a container that asked for one (`--init`): starts the command, passes signals on to it, reaps
//! every orphan, and ends as the command ends. The program is bound into the container under that name.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs `arguments` (`-- command…`) to its end.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&OsString> = arguments.iter().skip_while(|word| *word == "--").collect();
    let mut all = SigSet::all();
    for synchronous in [
        Signal::SIGSEGV,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGBUS,
        Signal::SIGTRAP,
        Signal::SIGABRT,
    ] {
        all.remove(synchronous);
    }
    let mut before = SigSet::empty();
    if let Err(error) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before)) {
        eprintln!("docker-init: signal mask: {error}");
        return ExitCode::from(126);
    }
    match start(&words, &before) {
        Ok(child) => watch(child, &all),
        Err((error, code)) => {
            eprintln!("docker-init: {error}");
            ExitCode::from(code)
        }
    }
}

/// The child, by std's spawn: it has the mask that this process had.
fn start(words: &[&OsString], before: &SigSet) -> Result<Pid, (String, u8)> {
    let (program, arguments) = words.split_first().ok_or_else(|| ("no command".to_owned(), 127))?;
    CString::new(program.as_bytes()).map_err(|_| ("a NUL in the command".to_owned(), 126))?;
    let blocked = SigSet::thread_get_mask();
    // std gives the child this thread's mask.
    let unmasked = before.thread_set_mask();
    let spawned = std::process::Command::new(program).args(arguments).spawn();
    if let (Ok(()), Ok(blocked)) = (unmasked, blocked) {
        let _ = blocked.thread_set_mask();
    }
    match spawned {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))),
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            Err((format!("{}: {error}", program.to_string_lossy()), code))
        }
    }
}

fn watch(child: Pid, signals: &SigSet) -> ExitCode {
    loop {
        if let Some(code) = reap(child) {
            return ExitCode::from(code);
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => drop(kill(child, signal)),
            Err(error) => {
                eprintln!("docker-init: wait for a signal: {error}");
                return ExitCode::from(1);
            }
        }
    }
}

/// Takes every child that ended; the command's exit code when it is among them.
fn reap(child: Pid) -> Option<u8> {
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return None,
        };
        if pid == child {
            return Some(u8::try_from(code).unwrap_or(1));
        }
    }
}

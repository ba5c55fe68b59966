//! Sessions that outlive sshd: once the console was handed over, its init lives only for them.
//!
//! sshd forks a process for each connection; when sshd ends, these go on. As their subreaper
//! (prctl(2), `PR_SET_CHILD_SUBREAPER`) this process gets them as children, and knows when the last has ended.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How often is looked at least: a child's end may be told before it is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// From now on whoever loses its parent below this process becomes its child.
pub fn adopt() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        eprintln!("sessions end with sshd: {error}");
    }
}

/// Waits until this process has no child. Nothing else may wait for children by then.
pub async fn until_ended() {
    let mut child_ended = signal(SignalKind::child()).ok();
    while reap() {
        if let Some(ended) = &mut child_ended {
            let _ = timeout(LOOK_AGAIN, ended.recv()).await;
        } else {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Waits for those that ended; whether there are others.
fn reap() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Err(Errno::ECHILD) => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

//! `mounts` that are on other machines: made when the network is there, and tried until their server is there too: after
//! a power cut, a whole site comes up at once. Nothing waits for them, and a silent server holds up no other.
//!
//! ```text
//!   host:     a process of its own, `ros network mounts`, from the network's start until all is mounted
//!   console:  a thread, for places that the host's mounts do not reach: its own folders
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ros_api::paths;
use ros_sys::mountinfo::{self, Entry};

use super::apply::wanted_mounts;
use super::configuration::Configuration;
use super::mounts::{self, Mount};
use super::progress::{complain, say};
use super::{applied, detached};

/// Held by the host's process.
const LOCK: &str = "/run/ros/mounts.lock";
/// How long the network may take; then they are tried without.
const NETWORK_LIMIT: Duration = Duration::from_secs(60);
/// How often what is wanted is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What becomes of one mount.
struct Attempts {
    state: State,
    /// What was complained about last: it is said once.
    said: String,
    pause: Duration,
}

/// Where it is. Mounted, it is left alone: whoever unmounts it by hand means it.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    Running,
    Mounted,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { state: State::Due(Instant::now()), said: String::new(), pause: PAUSES.0 }
    }
}

impl Attempts {
    fn is_due(&self) -> bool {
        matches!(self.state, State::Due(at) if Instant::now() >= at)
    }

    fn ended(&mut self, mount: &Mount, outcome: Result<bool>) {
        let error = match outcome {
            Ok(new) => {
                if new {
                    say(&format!("{} is mounted on {}", mount.source, mount.target));
                }
                self.state = State::Mounted;
                return;
            }
            Err(error) => error,
        };
        let text = mount.complaint(&error);
        if text != self.said {
            complain(&format!("{text}; it is tried again"));
            self.said = text;
        }
        self.state = State::Due(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

/// Mounts what `wanted` answers until all of it was mounted, or is wanted no more. Each has a thread: a silent server holds
/// up nobody else.
fn keep(wanted: impl Fn() -> Vec<Mount>) {
    let (done, outcomes) = mpsc::channel();
    let mut all: HashMap<Mount, Attempts> = HashMap::new();
    loop {
        let mut left = wanted();
        left.retain(|mount| all.get(mount).is_none_or(|it| it.state != State::Mounted));
        if left.is_empty() {
            return;
        }
        for mount in left {
            let attempts = all.entry(mount.clone()).or_default();
            if attempts.is_due() {
                attempts.state = State::Running;
                let done = done.clone();
                thread::spawn(move || {
                    let outcome = mounts::one(&mount);
                    let _ = done.send((mount, outcome));
                });
            }
        }
        if let Ok((mount, outcome)) = outcomes.recv_timeout(LOOK)
            && let Some(attempts) = all.get_mut(&mount)
        {
            attempts.ended(&mount, outcome);
        }
    }
}

/// Those that the configuration wants now.
fn wanted() -> Vec<Mount> {
    let mut all = wanted_mounts(&Configuration::load().settings);
    all.retain(Mount::is_remote);
    all
}

/// Until the network is there, or does not come.
fn wait_for_network() {
    let limit = Instant::now() + NETWORK_LIMIT;
    while !Path::new(paths::NETWORK_READY).exists() && Instant::now() < limit {
        thread::sleep(Duration::from_millis(100));
    }
}

/// Starts the host's process, if one of `mounts` wants it.
///
/// # Errors
/// When it cannot be started.
pub fn start(mounts: &[Mount]) -> Result<()> {
    if !mounts.iter().any(Mount::is_remote) {
        return Ok(());
    }
    detached::start(&["network", "mounts"])
}

/// `ros network mounts`: the host's process. One is enough, for it sees what is configured later; but it may be ending.
pub fn run() {
    detached::leave();
    if let Some(_lock) = applied::locked_within(Path::new(LOCK), LOOK * 2) {
        wait_for_network();
        keep(wanted);
    }
}

/// The console's thread: what `mounts` has for places where the host's mounts do not appear. A second waits for the first.
pub fn keep_own() {
    static RUNNING: Mutex<()> = Mutex::new(());
    thread::spawn(|| {
        let _one = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        wait_for_network();
        keep(|| {
            let (own, host) = (mountinfo::own(), mountinfo::of("1"));
            let mut wanted = wanted();
            wanted.retain(|mount| !is_shared(&own, &host, Path::new(&mount.target)));
            wanted
        });
    });
}

/// Whether what the host mounts at `target` is seen here: the mount that it would be on is shared with one of the host's.
fn is_shared(own: &[Entry], host: &[Entry], target: &Path) -> bool {
    let group = mountinfo::holder(own, target).and_then(|mount| mount.group);
    group.is_some() && host.iter().any(|mount| mount.group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_host_s_where_mounts_are_shared() {
        let host =
            "1 0 0:1 / / rw - rootfs rootfs rw\n2 1 0:2 / /mnt rw shared:7 - tmpfs tmpfs rw\n";
        // Its root is shared, but with nobody.
        let own = "4 0 0:9 / / rw shared:70 - overlay overlay rw\n5 4 0:2 / /mnt rw shared:7 - tmpfs tmpfs rw\n\
                   6 4 254:3 / /home rw master:1 - ext4 /dev/vda3 rw\n";
        for (target, shared) in
            [("/mnt/nfs", true), ("/data", false), ("/home/x", false), ("/mntx", false)]
        {
            let (own, host) = (mountinfo::parse(own), mountinfo::parse(host));
            assert_eq!(is_shared(&own, &host, Path::new(target)), shared, "{target}");
        }
    }

    #[test]
    fn what_fails_is_said_once_and_tried_ever_less_often() {
        let mount = Mount { source: "a:/b".into(), target: "/n".into(), ..Mount::default() };
        let mut attempt = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            attempt.ended(&mount, Err(anyhow::anyhow!("no route")));
            pauses.push(attempt.pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60, 60]);
        assert_eq!(attempt.said, "mounts: a:/b on /n: no route");
        attempt.ended(&mount, Ok(false));
        assert_eq!(attempt.state, State::Mounted);
    }
}

//! `mounts` that are on other machines: made when the network is there, and tried until their server is there too: after
//! a power cut, a whole site comes up at once. Nothing waits for them, and a silent server holds up no other.
//!
//! ```text
//!   host:     a process of its own, `ros network mounts`, from the network's start until all is mounted
//!   console:  a thread, for places that the host's mounts do not reach: its own folders
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ros_api::paths;
use rustix::fs::{FlockOperation, flock};

use super::apply::wanted_mounts;
use super::configuration::Configuration;
use super::mounts::{self, Mount, is_mounted};
use super::progress::{complain, say};

/// How long the network may take; then they are tried without.
const NETWORK_LIMIT: Duration = Duration::from_secs(60);
/// How often attempts are looked at, and what is wanted when none is being made.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What becomes of one mount.
struct Attempt {
    running: Option<JoinHandle<Result<()>>>,
    /// What was complained about last: it is said once.
    said: String,
    pause: Duration,
    next: Instant,
}

impl Default for Attempt {
    fn default() -> Self {
        Self { running: None, said: String::new(), pause: PAUSES.0, next: Instant::now() }
    }
}

impl Attempt {
    /// Takes in what the running attempt came to, or begins the next when it is time.
    fn go_on(&mut self, mount: &Mount) {
        match self.running.take_if(|running| running.is_finished()) {
            Some(ended) => self.ended(mount, ended.join()),
            None if self.running.is_none() && Instant::now() >= self.next => {
                let mount = mount.clone();
                self.running = Some(thread::spawn(move || mounts::one(&mount)));
            }
            None => {}
        }
    }

    fn ended(&mut self, mount: &Mount, outcome: thread::Result<Result<()>>) {
        let Ok(Err(error)) = outcome else { return };
        let text = mount.complaint(&error);
        if text != self.said {
            complain(&format!("{text}; it is tried again"));
            self.said = text;
        }
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

/// Mounts what `wanted` answers until all of it is mounted, or is wanted no more.
fn keep(wanted: impl Fn() -> Vec<Mount>) {
    let mut attempts: HashMap<(String, String), Attempt> = HashMap::new();
    loop {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (there, left): (Vec<Mount>, Vec<Mount>) =
            wanted().into_iter().partition(|mount| is_mounted(&table, &mount.target));
        for mount in there {
            let attempt = attempts.remove(&(mount.source.clone(), mount.target.clone()));
            if attempt.is_some() {
                say(&format!("{} is mounted on {}", mount.source, mount.target));
            }
        }
        if left.is_empty() {
            return;
        }
        for mount in left {
            attempts.entry((mount.source.clone(), mount.target.clone())).or_default().go_on(&mount);
        }
        let trying = attempts.values().any(|attempt| attempt.running.is_some());
        thread::sleep(if trying { LOOK.0 } else { LOOK.1 });
    }
}

fn remote(mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.into_iter().filter(Mount::is_remote).collect()
}

/// Until the network is there, or does not come.
fn wait_for_network() {
    let limit = Instant::now() + NETWORK_LIMIT;
    while !Path::new(paths::NETWORK_READY).exists() && Instant::now() < limit {
        thread::sleep(Duration::from_millis(100));
    }
}

/// Starts the host's process, if the configuration wants one.
///
/// # Errors
/// When it cannot be started.
pub fn start(mounts: Vec<Mount>) -> Result<()> {
    if remote(mounts).is_empty() {
        return Ok(());
    }
    let ros = std::env::current_exe().context("find this program")?;
    Command::new(ros)
        .args(["network", "mounts"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start what mounts")?;
    Ok(())
}

/// `ros network mounts`: the host's process. One is enough: it sees what is configured later.
///
/// # Errors
/// When it cannot find out whether there is one already.
pub fn run() -> Result<()> {
    // Its own session: a closed terminal does not end it.
    let _ = rustix::process::setsid();
    let lock = Path::new(paths::RUN_ROS).join("mounts.lock");
    let lock = fs::File::create(&lock).with_context(|| format!("open {}", lock.display()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    wait_for_network();
    keep(|| remote(wanted_mounts(&Configuration::load().settings)));
    Ok(())
}

/// The console's thread: what `mounts` has for places where the host's mounts do not appear. One is enough.
pub fn keep_own() {
    static RUNNING: Mutex<()> = Mutex::new(());
    thread::spawn(|| {
        let Ok(_one) = RUNNING.try_lock() else { return };
        wait_for_network();
        keep(|| {
            let table = |of: &str| fs::read_to_string(format!("/proc/{of}/mountinfo"));
            let (own, host) = (table("self").unwrap_or_default(), table("1").unwrap_or_default());
            let mut wanted = remote(wanted_mounts(&Configuration::load().settings));
            wanted.retain(|mount| !is_shared(&own, &host, &mount.target));
            wanted
        });
    });
}

/// Whether what the host mounts at `target` is seen here: the mount that it would be on is shared with one of the host's
/// (proc(5), mountinfo: fields 5 and 7; a peer group has one number everywhere).
fn is_shared(own: &str, host: &str, target: &str) -> bool {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let below = |point: &String| Path::new(target).starts_with(point.replace("\\040", " "));
    let on = own
        .lines()
        .map(fields)
        .filter(|fields| fields.get(4).is_some_and(below))
        .max_by_key(|fields| fields[4].len());
    let peers = |fields: Vec<String>| {
        let tags = fields.into_iter().skip(6).take_while(|field| field != "-");
        tags.filter(|tag| tag.starts_with("shared:")).collect::<Vec<_>>()
    };
    let theirs: Vec<String> = host.lines().map(fields).flat_map(peers).collect();
    on.map(peers).unwrap_or_default().iter().any(|group| theirs.contains(group))
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
            assert_eq!(is_shared(own, host, target), shared, "{target}");
        }
    }

    #[test]
    fn what_fails_is_said_once_and_tried_ever_less_often() {
        let mount = Mount { source: "a:/b".into(), target: "/n".into(), ..Mount::default() };
        let mut attempt = Attempt::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            attempt.ended(&mount, Ok(Err(anyhow::anyhow!("no route"))));
            pauses.push(attempt.pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60, 60]);
        assert_eq!(attempt.said, "mounts: a:/b on /n: no route");
    }
}

//! The watchdog: armed as soon as a device exists, hardware before software, fed by the boot stage between
//! its steps and by PID 1's loop afterwards. Whoever stops feeding is rebooted by it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ros_api::durable::named;

use crate::kmsg;

/// How the kernel's software watchdog calls itself; it dies with the kernel, so it is the last choice.
const SOFTWARE: &str = "Software Watchdog";
/// Feeding more often than this tells nothing new.
const SOONEST: Duration = Duration::from_millis(500);

/// An armed watchdog, or none.
pub struct Watchdog {
    armed: Option<Armed>,
}

struct Armed {
    device: File,
    timeout: Duration,
    fed: Instant,
}

impl Watchdog {
    /// None: feeding does nothing.
    pub fn off() -> Self {
        Self { armed: None }
    }

    /// Arms the best device; gives what to tell about it.
    ///
    /// # Errors
    /// When there is no device, or it cannot be opened.
    pub fn arm(seconds: u32) -> io::Result<(Self, String)> {
        let (path, identity) = best(Path::new("/sys/class/watchdog"))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no watchdog device"))?;
        let device =
            OpenOptions::new().write(true).open(&path).map_err(|e| named("open", &path, &e))?;
        let timeout = ros_sys::watchdog::timeout(&device, seconds).unwrap_or_else(|e| {
            kmsg::warn(&format!(
                "{} does not take {seconds} s as its time-out: {e}",
                path.display()
            ));
            seconds
        });
        let note = format!("{identity} at {}, {timeout} s", path.display());
        let timeout = Duration::from_secs(timeout.into());
        let mut armed = Self { armed: Some(Armed { device, timeout, fed: Instant::now() }) };
        armed.feed_now();
        Ok((armed, note))
    }

    /// How long a wait may last before the next [`Self::feed`].
    pub fn interval(&self) -> Duration {
        self.tick().unwrap_or(Duration::from_secs(3600))
    }

    /// The wake-up that feeding needs; none without a watchdog.
    pub fn tick(&self) -> Option<Duration> {
        self.armed.as_ref().map(|armed| (armed.timeout / 3).clamp(SOONEST, Duration::from_secs(20)))
    }

    /// Feeds, unless that was just done.
    pub fn feed(&mut self) {
        if self.armed.as_ref().is_some_and(|armed| armed.fed.elapsed() >= SOONEST) {
            self.feed_now();
        }
    }

    fn feed_now(&mut self) {
        if let Some(armed) = &mut self.armed {
            armed.fed = Instant::now();
            if let Err(e) = ros_sys::watchdog::feed(&armed.device) {
                kmsg::error(&format!("cannot feed the watchdog: {e}"));
            }
        }
    }

    /// Disarms it, for a machine that is to stay halted (the "magic close" of the kernel's watchdog API).
    pub fn disarm(&mut self) {
        if let Some(mut armed) = self.armed.take() {
            if let Err(e) = armed.device.write_all(b"V") {
                kmsg::warn(&format!("cannot disarm the watchdog: {e}"));
            }
        }
    }
}

/// The device to use and its identity: the first that is not software, else the first.
fn best(class: &Path) -> Option<(PathBuf, String)> {
    let mut all: Vec<(bool, String, String)> = fs::read_dir(class)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|name| {
            let identity =
                fs::read_to_string(class.join(&name).join("identity")).unwrap_or_default();
            (identity.trim() == SOFTWARE, name, identity.trim().to_owned())
        })
        .collect();
    all.sort();
    all.into_iter().next().map(|(_, name, identity)| (Path::new("/dev").join(name), identity))
}

/// Whether any watchdog device is there.
pub fn exists() -> bool {
    best(Path::new("/sys/class/watchdog")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_comes_before_software() {
        let class = tempfile::tempdir().unwrap();
        for (name, identity) in
            [("watchdog0", "Software Watchdog\n"), ("watchdog1", "i6300ESB timer\n")]
        {
            fs::create_dir(class.path().join(name)).unwrap();
            fs::write(class.path().join(name).join("identity"), identity).unwrap();
        }
        let (path, identity) = best(class.path()).unwrap();
        assert_eq!((path.to_str(), identity.as_str()), (Some("/dev/watchdog1"), "i6300ESB timer"));
        fs::remove_dir_all(class.path().join("watchdog1")).unwrap();
        assert_eq!(best(class.path()).unwrap().0, Path::new("/dev/watchdog0"));
    }
}

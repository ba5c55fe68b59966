//! Time since the kernel started: the clock that all reports of a boot share.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel started.
#[must_use]
pub fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let milliseconds = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds * 1000 + milliseconds
}

//! Milliseconds since the kernel started: the clock of every boot report.

use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn since_kernel_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

//! Power cuts. A machine does its work with its disk recorded by QEMU; each prefix of the recording, with all, none or
//! some of the writes since the last flush, is a disk that a power cut can leave. Every such disk is looked at, and a
//! sample is booted.
//!
//! Killing QEMU would prove nothing: the host's page cache survives it, and with it what was never flushed.
//!
//! - [`log`]: the format of the recording
//! - [`cut`]: where the power is cut, and what the disk keeps
//! - [`replay`]: disks out of a log
//! - [`check`]: what such a disk is worth
//! - [`scenario`]: what the machine does meanwhile
//! - [`record`]: doing it, with a witness who writes files
//! - [`torture`]: all of it
//! - [`report`]: what came out

pub mod check;
pub mod cut;
pub mod log;
pub mod record;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod torture;

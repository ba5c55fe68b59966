//! The kernel calls that no safe library has: the only `unsafe` of the project. One operation a block, each with its
//! reason; no policy here. Callers see files, numbers and `io::Result`. And what mount(8) does before its one call.

#![allow(unsafe_code)]

pub mod block;
pub mod ext4;
pub mod fstab;
pub mod kexec;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod users;
pub mod verity;
pub mod watchdog;

//! The virtual machine that `make run` boots and that the tests drive: a real QEMU, a real registry, a real
//! `ssh`. Seen from here, ros is a black box with a serial line, a network card and a power button.
//!
//! - [`artifacts`]: what the image builder made, and where
//! - [`bench`]: copies of releases, signed or packed for one case
//! - [`machine`]: one virtual machine, from power on to power off
//! - [`guest`]: commands inside it, over ssh
//! - [`registry`]: Debian's docker-registry on the loopback
//! - [`metadata`]: a cloud's metadata service
//! - [`nfs`]: a server of NFS
//! - [`meddler`]: a proxy in front of it that flips a byte or cuts the line
//! - [`powercut`]: disks as power cuts leave them

pub mod artifacts;
pub mod bench;
pub mod guest;
pub mod machine;
pub mod meddler;
pub mod metadata;
pub mod nfs;
pub mod powercut;
pub mod registry;

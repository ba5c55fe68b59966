//! From the kernel's hand-over to the running system: the boot stage, and PID 1 after it.
//!
//! ```text
//!  kernel ─► pid1::main ─► stage::run ── plan::early ─► steps ── plan::system ─► steps ─► pid1::supervise
//!                              │                                                            │
//!                              └─ a step that must not fail, failed ─► shell or reboot ◄────┘ shutdown
//! ```
//!
//! - [`plan`] decides, as data, what a boot consists of; [`steps`] has one file a step; [`stage`] runs them,
//!   times them and tells the kernel log.
//! - [`pid1`] keeps the daemon alive, reaps, feeds the watchdog, and ends the machine in order.
//! - [`disk`] is what an installer does to a disk.
//! - [`modules`] is the loader behind both the boot stage and the `modprobe` applet.
//!
//! Nothing here panics on what comes from outside; a broken configuration is a complaint, never the end.

pub mod args;
mod child;
mod clock;
mod config;
mod console;
pub mod disk;
pub mod kmsg;
pub mod modules;
pub mod pid1;
pub mod plan;
mod probe;
mod stage;
mod steps;
mod uevent;
mod watchdog;

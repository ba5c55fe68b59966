//! Going from one generation to another in the running system: services are replaced, and the daemon under them;
//! nothing is booted.
//!
//! ```text
//!  ros os upgrade ─► container `ros-switch` of the new release ◄─ goes on without the caller; started again if killed
//!                      │
//!     forward ─► the daemon, when it changed: PID 1 tries it ─► every container found again
//!             ─► each changed service, in dependency order ─► watch: health window ─► good: current, good, default
//!        │ not ready in its time             │ sick
//!        └─────────► back(reason) ◄──────────┘   every service as it was, in reverse order; failed(reason)
//! ```
//!
//! Until the new generation is good, the boot loader and the pointers know only the old one: a power cut at any
//! instant boots the old generation, whole. Where a switch stands is read from the containers themselves, so that it
//! can be cut short and done again; only the decision to go back is written down ([`journal`]). A daemon that is sick is
//! put back by PID 1 itself, without anybody's help ([`daemon`]).

pub mod daemon;
pub mod journal;
pub mod probe;
pub mod run;
pub mod start;
pub mod steps;
pub mod swap;
pub mod watch;

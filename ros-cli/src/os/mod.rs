//! Replacing the operating system.
//!
//! ```text
//!  asked ─► resolve ─► plan ─► preflight ─► fetch ─► install ─► switch ─► reboot
//!           (digest)  (printed)             (daemon)    │          │
//!                                                       ▼          ▼
//!                                           generation: staged ─► trial ─► good        (bring-up: healthy)
//!                                                                   └────► failed      (sick, or three tries)
//! ```
//!
//! Up to `install` nothing that boots has changed; `install` adds a generation whole, by rename; `switch` is one
//! write of the boot loader's environment block. Every step can be cut short and done again.

pub mod allowed;
pub mod archive;
pub mod asked;
pub mod automatic;
pub mod bisect;
pub mod boot_sets;
pub mod complete;
pub mod config_check;
pub mod copy;
pub mod daemon;
pub mod definitions;
pub mod diff;
pub mod fetch;
pub mod history;
pub mod install;
pub mod installer;
pub mod kexec;
pub mod list;
pub mod live;
pub mod machine;
pub mod menu;
pub mod packages;
pub mod parts;
pub mod pins;
pub mod plan;
pub mod preflight;
pub mod programs;
pub mod prune;
pub mod releases;
pub mod rights;
pub mod room;
pub mod schedule;
pub mod signature;
pub mod source;
pub mod status;
pub mod switch;
pub mod trial;
pub mod trust;
pub mod upgrade;
pub mod user_checks;
pub mod verify;
pub mod version;

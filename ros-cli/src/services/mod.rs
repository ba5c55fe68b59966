//! The system's services: definitions, order, containers, readiness; and what runs inside four of them
//! (cloud-init, network, console, docker).
//!
//! ```text
//!  udev ─► cloud-init (oneshot: volumes, files) ──┬─► network ──┬─► [cloud-init-network] ──► ntp, …
//!                                                 └─► console ◄─┴─ (only when it is there)
//!  syslog, acpid: wait for nobody
//! ```
//!
//! Where instance data comes from decides whether a boot waits for the network:
//!
//! - **Local** (NoCloud `cidata`, config-drive `config-2`, a file): `cloud-init` reads it before the network
//!   is touched, so that it may say how the network is to be. This is the whole of it on most machines.
//! - **URL or cloud** (`cloud-config-url=`, `ds=nocloud;s=…`, configured, or a cloud that the firmware names and
//!   that did not answer this machine yet; and `#include` in local user data): only then bring-up adds the oneshot
//!   `cloud-init-network`, made from the same image, after `network`. On a machine's first boot all that comes after
//!   `cloud-init`, and the network does not need, waits for it; later nobody does. A machine without such a source pays
//!   nothing.
//!
//! After either, bring-up reads the configuration again and applies what is the host's own (name, kernel
//! settings, modules, mounts): it runs in the host's namespaces, where this needs no privileged container.
//! Services that start later see the new configuration; of those that run already, the network starts again when it is
//! to be another one, the console takes it over in place, and the others are left alone.
//!
//! Nobody waits for ever: a service that is not ready when its time is over (its health window, or its health
//! check's `start_period` where that is longer) is sick, and holds back nobody.

pub mod applied;
pub mod apply;
pub mod bring_down;
pub mod bring_up;
pub mod clock;
pub mod cloud_init;
pub mod configuration;
pub mod console;
pub mod container;
pub mod definition;
pub mod detached;
pub mod disks;
pub mod docker;
pub mod engine;
pub mod hand_over;
pub mod host_name;
pub mod listing;
pub mod mounts;
pub mod network;
pub mod plan;
pub mod progress;
pub mod readiness;
pub mod registries;
pub mod remote_mounts;
pub mod report;
pub mod roster;
pub mod superblock;
pub mod swap;
pub mod verdict;

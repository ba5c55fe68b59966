//! Runs containers: an OCI spec as a pure function, one shim process per container (or exec) that outlives
//! the daemon, and the daemon's side of the conversation. Knows nothing of images, names or restart policies.
//!
//! ```text
//!  daemon (tokio)                                shim (one thread, re-exec'd)            container
//!  Runtime::create ──spawn──► shim::main(dir) ──► namespace, mounts, libcontainer ──────► init, waiting
//!  Process::start, kill, … ──dir/shim.sock──►     epoll: sockets, stdio, signals ◄─stdio─ init, running
//!  Process::wait ◄──────────────────────────      the only reaper; log; exit.json ◄─wait─ init, ended
//! ```
//!
//! A shim's folder, `<run>/<container>/` (a container) or `<run>/<container>/exec/<id>/` (an exec):
//!
//! ```text
//!  request.json | exec.json   what to run              shim.sock   commands, see [`wire`]
//!  process.json               pid and its start time   exit.json   how it ended; renamed into place
//!  shim.log                   what the shim complains of
//!  bundle/ state/ root/       libcontainer's (containers only); root/ is mounted in the shim's namespace alone
//! ```

mod client;
mod devices;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod request;
mod seccomp;
pub mod shim;
mod spec;
mod stats;
pub mod wire;

pub use client::{AttachReader, AttachStream, AttachWriter, Process, Runtime};
pub use devices::{device, devices_under};
pub use error::RuntimeError;
pub use request::{ExecRequest, Log, Mount, MountKind, Propagation, Root, ShimRequest};
pub use seccomp::SeccompProfile;
pub use shim::mount_root;
pub use spec::{
    Device, DeviceKind, DeviceRule, IdRange, IoKind, IoLimit, Namespace, Namespaces, Resources,
    Rlimit, Seccomp, SpecInput, host_capabilities, spec,
};
pub use stats::Stats;
pub use wire::{Exit, Frame, Phase, Status, Stream};

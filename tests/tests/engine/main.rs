//! The daemon on this machine: in mount and process namespaces of its own, with a store on a real disk, a real registry
//! and the unmodified docker CLI. What needs no virtual machine is shown here. Needs root.

mod daemon;
mod damage;
mod images;
mod ports;
mod remote;
mod scale;
mod survival;
mod users;

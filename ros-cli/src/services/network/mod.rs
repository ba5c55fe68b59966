//! The network: dhcpcd's configuration, its hook, and the one resolv.conf.

pub mod dhcpcd;
pub mod hook;
pub mod interfaces;
pub mod ready;
pub mod resolv;
pub mod run;
pub mod wants;

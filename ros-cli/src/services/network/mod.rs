//! The network: bonds, bridges and VLANs, dhcpcd's configuration, its hook, and the one resolv.conf.

pub mod dhcpcd;
pub mod hook;
pub mod interfaces;
pub mod links;
pub mod netlink;
pub mod ready;
pub mod resolv;
pub mod run;
pub mod wants;

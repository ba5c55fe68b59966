//! Debian's packages: where they come from, and what is in them.

pub mod mirror;
pub mod package;
pub mod pool;

/// The Debian release that images are made of.
pub const SUITE: &str = "trixie";

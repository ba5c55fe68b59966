//! The console: users, keys, files and banner, then sshd and logins kept running.

pub mod accounts;
pub mod banner;
pub mod files;
pub mod finish;
pub mod frequency;
pub mod getty;
pub mod listening;
pub mod look;
pub mod reload;
pub mod run;
pub mod sessions;
pub mod sshd;
pub mod supervise;
pub mod trust;
pub mod users;
pub mod wants;

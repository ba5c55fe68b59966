//! The commands of `ros`, one file each.

pub mod bring_down;
pub mod bring_up;
pub mod cloud_init;
pub mod config;
pub mod console_init;
pub mod docker_init;
pub mod install;
pub mod network;
pub mod os;
pub mod power;
pub mod service;

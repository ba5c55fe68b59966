//! What only a booted machine can show. Each case has its own machine, disk and registry; the releases come from
//! `make images-for-test`. All waits are bounded; the whole serial output of each machine is in `target/test/<case>/`.

mod boot;
mod clouds;
mod config;
mod docker;
mod fallback;
mod install;
mod interrupted;
mod live;
mod networks;
mod powercut;
mod remote;
mod replace;
mod runtime;
mod site;
mod space;
mod tls;
mod users_engine;

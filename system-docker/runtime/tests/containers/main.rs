//! Containers for real: this program is the daemon of its own tests, and, started as `<it> shim <dir>`, the shim.
//!
//! Needs root and a static busybox. Works in a mount namespace of its own with a cgroup v2 hierarchy, so that it runs
//! on a host with hybrid cgroups too; limits are left to the tests in a machine, because such a hierarchy has no
//! controllers.

mod execs;
mod host;
mod isolation;
mod life;
mod streams;
mod users;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use host::Host;

type Test = for<'a> fn(&'a Host) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => { [$((stringify!($name), (|host| Box::pin($module::$name(host))) as Test)),*] };
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", dir] => return ros_runtime::shim::main(Path::new(dir)),
        ["daemon", dir] => return life::daemon(Path::new(dir)),
        _ => {}
    }
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    match host::prepare_host().and_then(|host| run(&host, &wanted)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("containers are made by root");
    }
    (!Path::new(host::BUSYBOX).exists())
        .then_some("there is no /bin/busybox (Debian: busybox-static)")
}

fn run(host: &Host, wanted: &[&String]) -> Result<usize> {
    let tests = tests![
        streams::exit_codes,
        streams::output_comes_on_its_stream_and_in_the_log,
        streams::stdin_reaches_the_process_and_ends,
        execs::a_missing_command_and_one_that_cannot_run,
        execs::a_missing_source_is_a_bad_mount,
        life::signals_end_it,
        execs::exec_sees_the_container_s_root,
        execs::exec_has_the_container_s_confinement,
        execs::exec_errors,
        streams::a_terminal_and_its_size,
        isolation::users_are_the_container_s,
        isolation::binds_read_only_tmpfs_and_devices,
        isolation::device_rules_are_enforced,
        isolation::the_host_s_dev_can_be_bound,
        isolation::propagation_both_ways,
        isolation::namespaces_of_the_host,
        users::its_root_is_nobody_outside,
        life::pause_and_resume,
        life::what_is_left_behind_is_killed,
        streams::a_client_that_reads_nothing_holds_nobody_up,
        life::the_container_outlives_its_daemon,
        life::a_dead_shim_is_noticed,
        life::what_it_costs,
    ];
    if !host::has_sys_resource() {
        println!("without CAP_SYS_RESOURCE: device rules are left out");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed = 0;
    for (name, test) in tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w)))
    {
        let result = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), test(host))
                .await
                .context("took longer than 30 s")?
        });
        match result {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED: {error:#}");
            }
        }
        runtime.block_on(host.sweep())?;
    }
    Ok(failed)
}

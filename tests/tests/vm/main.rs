//! What only a booted machine can show. Each case has its own machine, disk and registry; the releases come from
//! `make images-for-test`. All waits are bounded; the whole serial output of each machine is in `target/test/<case>/`.
//!
//! As many cases run at a time as `--test-threads` says, in the order of the list here: the longest begin first, so that none
//! is left alone at the end. Words select the cases that have one of them in their names.

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

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

type Case = (&'static str, fn() -> Result<()>);

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn() -> Result<()>)),*]
    };
}

fn main() -> ExitCode {
    let cases = cases![
        powercut::every_power_cut_leaves_the_old_or_the_new_machine,
        replace::goes_up_back_and_down_past_bad_upgrades_and_keeps_the_users_data,
        fallback::what_cannot_boot_goes_back,
        users_engine::it_comes_when_asked_for_and_is_replaced_under_its_containers,
        runtime::another_daemon_takes_over_or_the_old_one_is_back,
        interrupted::whatever_ends_an_upgrade_the_same_command_goes_on,
        fallback::what_hangs_without_a_watchdog_or_stays_sick_goes_back,
        fallback::what_is_half_there_or_fails_the_users_checks_goes_back,
        replace::what_the_disk_lost_is_passed_over_and_brought_again,
        install::a_disk_made_in_ram_boots_by_bios_and_uefi_and_is_upgraded,
        clouds::three_clouds_over_http_and_how_often_things_run,
        replace::a_search_goes_on_over_boots,
        live::services_go_up_and_back_without_a_reboot,
        live::a_service_that_is_sick_is_put_back,
        live::it_goes_on_without_the_command_and_a_power_cut_leaves_the_old,
        config::a_bridge_users_changes_in_place_and_the_way_back,
        boot::boots_healthy_configured_confined_and_powers_off,
        remote::another_machine_s_folders_come_with_it_and_hold_nothing_up,
        networks::containers_meet_on_bridges_and_the_bridges_outlive_the_daemon,
        networks::a_compose_file_comes_up_and_goes_down,
        live::a_session_lives_through_a_new_console_and_the_address_stays,
        boot::a_broken_configuration_is_reported_and_does_not_stop_the_boot,
        boot::an_empty_disk_is_formatted_when_told_to_and_kept,
        boot::boots_from_uefi,
        boot::boots_in_ram_without_state,
        boot::recovery_gives_a_shell,
    ];
    // Each has a make target of its own.
    let long = cases![
        replace::every_way_between_five_releases,
        space::ten_versions_share_and_fifty_upgrades_find_room,
    ];
    let (words, options): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| !argument.starts_with('-'));
    let wanted = |(name, _): &Case| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let trials = |cases: &[Case], ignored: bool| -> Vec<Trial> {
        let cases = cases.iter().filter(|case| wanted(case));
        cases.map(|&(name, case)| trial(name, case).with_ignored_flag(ignored)).collect()
    };
    let mut all = trials(&cases, false);
    all.extend(trials(&long, true));
    let arguments = Arguments::from_iter(["vm".to_owned()].into_iter().chain(options));
    libtest_mimic::run(&arguments, all).exit_code()
}

fn trial(name: &'static str, case: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || {
        let began = Instant::now();
        let ended = case();
        println!("{name}: {} s", began.elapsed().as_secs());
        ended.map_err(|error| format!("{error:?}").into())
    })
}

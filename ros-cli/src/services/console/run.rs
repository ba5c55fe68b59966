//! Runs the console: sets it up from the configuration, then keeps sshd and the logins running.
//!
//! ```text
//!  name ─► users ─► keys ─► write_files ─► banner ─► [take over] ─► sshd + gettys ─► ready ─► runcmd (beside them)
//!                                                                        │ SIGUSR1: handed over
//!                                                                        └─► no sshd, no gettys; ends with the last
//!                                                                            session that is open in it
//! ```
//!
//! What fails on the way is said, and the rest is done all the same: a console that lets its user in is
//! worth more than one that is right. It shares the host's process table and is not PID 1.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cloud_config::settings::{CaCerts, PhoneHome, PowerState, User};
use ros_api::release::PROGRAMS;
use ros_api::{Digest, paths};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::accounts::{self, Account};
use super::files::{self, File};
use super::frequency::Places;
use super::supervise::{Program, keep};
use super::users::{self, Secret};
use super::{banner, finish, getty, listening, look, reload, sessions, sshd, trust};
use crate::services::clock::uptime_ms;
use crate::services::mounts::{self, Mount};
use crate::services::{hand_over, host_name, progress, remote_mounts};

/// The service's name.
const SERVICE: &str = "console";
/// The marker that the console is ready: what its health check looks for.
pub const READY: &str = "/run/ros/console.ready";
/// Stamps of what was done to this container.
const APPLIED: &str = "/var/lib/ros-applied";
/// Where `runcmd` talks.
const LOG: &str = "/var/log/cloud-init-output.log";
/// How long `runcmd` waits for the network.
const NETWORK_LIMIT: Duration = Duration::from_secs(60);
/// How long sshd may take to listen.
const SSHD_LIMIT: Duration = Duration::from_secs(60);

/// What the console is to become.
#[derive(Clone, Debug)]
pub struct Wants {
    /// Version that the banner shows.
    pub version: String,
    /// The machine's name.
    pub hostname: Option<String>,
    /// Its full name, when that is configured.
    pub fqdn: Option<String>,
    /// Who logs in.
    pub account: Account,
    /// Keys that are let in.
    pub keys: Vec<String>,
    /// Further users.
    pub users: Vec<User>,
    /// Groups with members.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Passwords, plain or hashed.
    pub passwords: Vec<Secret>,
    /// Host keys that the configuration has.
    pub host_keys: BTreeMap<String, String>,
    /// Time zone.
    pub timezone: Option<String>,
    /// Certificates to trust.
    pub certificates: CaCerts,
    /// Environment of logins.
    pub environment: Vec<(String, String)>,
    /// Said when the boot is done.
    pub final_message: Option<String>,
    /// Who is told that the instance came up.
    pub phone_home: Option<PhoneHome>,
    /// What to do after that.
    pub power_state: Option<PowerState>,
    /// Whether there is an sshd, and what it is told.
    pub sshd: Option<sshd::Daemon>,
    /// Terminals where nobody is asked who they are.
    pub autologin: Vec<String>,
    /// Files to write.
    pub files: Vec<File>,
    /// Commands to run once.
    pub commands: Vec<Vec<String>>,
    /// File systems that the host could not mount where the console sees them.
    pub mounts: Vec<Mount>,
    /// What "once" is counted by.
    pub instance: String,
}

/// Runs until the service is stopped.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn run(wants: Wants, again: fn() -> Wants) -> Result<ExitCode> {
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut handed_over = signal(SignalKind::user_defined1()).context("listen for SIGUSR1")?;
    set_up(&wants);
    let file = hand_over::path(SERVICE);
    try_to("hand-over", hand_over::take(&file).await);
    try_to("reload", reload::listen());
    let _ = fs::remove_file(READY);
    let (stop, stopped) = watch::channel(false);
    let kept: Vec<_> = programs(&wants)
        .into_iter()
        .map(|program| tokio::spawn(keep(program, stopped.clone())))
        .collect();
    let ready = tokio::spawn(become_ready(wants));
    let changed = Arc::new(Notify::new());
    let looking = tokio::spawn(look::keep(Arc::clone(&changed)));
    let retires = loop {
        tokio::select! {
            _ = term.recv() => break false,
            _ = interrupt.recv() => break false,
            _ = handed_over.recv() => break true,
            // What changed is taken over in place: sessions stay, terminals show it at the next login.
            _ = hangup.recv() => {
                let wants = again();
                set_up(&wants);
                changed.notify_one();
                if wants.sshd.is_some() {
                    try_to("sshd", reload::sshd());
                }
            }
        }
    };
    ready.abort();
    looking.abort();
    if retires {
        sessions::adopt();
        let _ = fs::remove_file(READY);
    }
    let _ = stop.send(true);
    futures_util::future::join_all(kept).await;
    if retires {
        try_to("hand-over", hand_over::give(&file));
        tokio::select! {
            _ = term.recv() => {}
            () = sessions::until_ended() => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what went wrong with one part.
fn try_to(what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{what}: {error:#}");
        progress::complain(&format!("console: {what}: {error:#}"));
    }
}

fn set_up(wants: &Wants) {
    let root = Path::new("/");
    if let Some(name) = &wants.hostname {
        try_to("host name", host_name::write(root, name));
    }
    let all_to = |what: &str, wrong: Vec<String>| {
        wrong.into_iter().for_each(|wrong| try_to(what, Err(anyhow::anyhow!(wrong))));
    };
    all_to("mounts", mounts::apply(&wants.mounts));
    if wants.mounts.iter().any(Mount::is_remote) {
        remote_mounts::keep_own();
    }
    try_to("commands", commands_in_path(root));
    try_to("user", set_up_user(root, wants));
    try_to("write_files", write_files(root, wants, false));
    all_to("users", users::apply(root, &wants.groups, &wants.users));
    all_to("passwords", users::set_passwords(root, Path::new(APPLIED), &wants.passwords));
    if let Some(daemon) = &wants.sshd {
        try_to("sshd", set_up_sshd(root, daemon, &wants.host_keys));
    }
    try_to("write_files", write_files(root, wants, true));
    if let Some(zone) = &wants.timezone {
        try_to("timezone", users::time_zone(root, zone));
    }
    try_to("ca_certs", trust::certificates(root, &wants.certificates));
    try_to("environment", trust::environment(root, &wants.environment));
    try_to("banner", write_banner(root, wants));
}

/// `ros` and `system-docker` are those of the running generation, always: links, not copies.
fn commands_in_path(root: &Path) -> Result<()> {
    for name in PROGRAMS {
        let link = root.join("usr/bin").join(name);
        if fs::symlink_metadata(&link).is_ok_and(|there| !there.is_symlink()) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink(Path::new(paths::RUN_BIN).join(name), &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

fn set_up_user(root: &Path, wants: &Wants) -> Result<()> {
    let account = &wants.account;
    accounts::ensure(root, account)?;
    accounts::authorize(root, account, &wants.keys)?;
    if account.id != 0 {
        let rule = File {
            path: PathBuf::from("/etc/sudoers.d/ros"),
            content: format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", account.name).into_bytes(),
            mode: 0o440,
            owner: None,
            append: false,
            defer: false,
        };
        files::write(root, &rule)?;
    }
    Ok(())
}

fn set_up_sshd(root: &Path, daemon: &sshd::Daemon, given: &BTreeMap<String, String>) -> Result<()> {
    let keys = Path::new(paths::SSH_HOST_KEYS);
    fs::create_dir_all(keys).with_context(|| format!("create {}", keys.display()))?;
    sshd::given_host_keys(keys, given)?;
    sshd::host_keys(keys)?;
    fs::create_dir_all(root.join("run/sshd")).context("create /run/sshd")?;
    let config = root.join("etc/ssh/sshd_config");
    fs::write(&config, sshd::config(daemon, keys))
        .with_context(|| format!("write {}", config.display()))
}

/// Once for each instance, for each console container, and for each wording; those with `defer` when users are made.
fn write_files(root: &Path, wants: &Wants, defer: bool) -> Result<()> {
    let mine: Vec<&File> = wants.files.iter().filter(|file| file.defer == defer).collect();
    let what = Digest::of(format!("{} {mine:?}", wants.instance).as_bytes()).to_string();
    let name = if defer { "write-files-deferred" } else { "write-files" };
    let stamp = Path::new(APPLIED).join(name);
    if mine.is_empty() || files::stamped(&stamp, &what) {
        return Ok(());
    }
    for file in mine {
        try_to("write_files", files::write(root, file));
    }
    files::stamp(&stamp, &what)
}

fn write_banner(root: &Path, wants: &Wants) -> Result<()> {
    for (path, text) in [
        ("etc/issue", banner::issue(&wants.version)),
        ("etc/motd", banner::motd(&wants.version, &wants.account.name)),
    ] {
        fs::write(root.join(path), text).with_context(|| format!("write /{path}"))?;
    }
    Ok(())
}

fn programs(wants: &Wants) -> Vec<Program> {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let automatic = |device: &String| wants.autologin.iter().any(|at| at == device || at == "true");
    let terminals = getty::terminals(&cmdline);
    let present =
        terminals.iter().filter(|terminal| Path::new("/dev").join(&terminal.device).exists());
    let mut programs: Vec<Program> = present
        .map(|terminal| {
            getty::program(
                terminal,
                automatic(&terminal.device).then_some(wants.account.name.as_str()),
            )
        })
        .collect();
    if wants.sshd.is_some() {
        let command = ["/usr/sbin/sshd", "-D", "-e"].map(str::to_owned).to_vec();
        programs.push(Program { name: "sshd".into(), command });
    }
    programs
}

/// Marks the console ready once sshd listens, then runs what is to run once.
async fn become_ready(wants: Wants) {
    if let Some(daemon) = &wants.sshd {
        let limit = Instant::now() + SSHD_LIMIT;
        while !listening::listens(daemon.port) && Instant::now() < limit {
            sleep(Duration::from_millis(50)).await;
        }
        if !listening::listens(daemon.port) {
            return try_to("sshd", Err(anyhow::anyhow!("does not listen on port {}", daemon.port)));
        }
    }
    try_to("ready", fs::write(READY, "ready\n").with_context(|| format!("write {READY}")));
    run_scripts().await;
    let first = run_once(&wants).await;
    if let Some(message) = &wants.final_message {
        progress::say(&filled(message, &wants.version));
    }
    // Last: of a machine that goes down at once nothing more is heard.
    if let Some(wanted) = wants.power_state.as_ref().filter(|_| first) {
        try_to("power_state", finish::power_state(wanted).await);
    }
}

/// `$UPTIME` and the others of cloud-init's `final_message`; `${UPTIME}` is the same.
fn filled(message: &str, version: &str) -> String {
    let datasource = fs::read_to_string(Path::new(paths::INSTANCE).join("datasource"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let values = [
        ("UPTIME", format!("{:.2}", uptime_ms() as f64 / 1000.0)),
        ("TIMESTAMP", now.map_or(0, |now| now.as_secs()).to_string()),
        ("VERSION", version.to_owned()),
        ("DATASOURCE", datasource.unwrap_or_else(|_| "none".into())),
    ];
    values.iter().fold(message.to_owned(), |text, (name, value)| {
        let text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        text.replace(&format!("${}", name.to_lowercase()), value)
    })
}

/// Runs scripts that are not for the instance.
async fn run_scripts() {
    let places = Places::of_machine();
    if places.is_due() {
        wait_for_network().await;
        outcome_of("scripts", move || places.run(Path::new(LOG))).await;
    }
}

/// Until the network is there, or does not come.
async fn wait_for_network() {
    let limit = Instant::now() + NETWORK_LIMIT;
    while !Path::new(paths::NETWORK_READY).exists() && Instant::now() < limit {
        sleep(Duration::from_millis(100)).await;
    }
}

/// Says how many of `what` failed.
async fn outcome_of(what: &str, run: impl FnOnce() -> Result<usize> + Send + 'static) {
    let ran = tokio::task::spawn_blocking(run).await;
    match ran.context("run the commands").and_then(|ran| ran) {
        Ok(0) => {}
        Ok(failed) => progress::complain(&format!("console: {failed} of {what} failed: see {LOG}")),
        Err(error) => try_to(what, Err(error)),
    }
}

/// Runs `runcmd` and tells as configured, once for each instance, when the network is there or does not come. Answers
/// whether that was now.
async fn run_once(wants: &Wants) -> bool {
    let stamp = Path::new(paths::INSTANCE).join("sem/runcmd");
    let mut commands = wants.commands.clone();
    commands.extend(Places::of_machine().of_instance());
    let nothing = commands.is_empty() && wants.phone_home.is_none() && wants.power_state.is_none();
    if nothing || files::stamped(&stamp, &wants.instance) {
        return false;
    }
    wait_for_network().await;
    outcome_of("runcmd", move || files::run(&commands, Path::new(LOG))).await;
    if let Some(wanted) = &wants.phone_home {
        let host = wants.hostname.as_deref().unwrap_or_default();
        let name = finish::Name { host, full: wants.fqdn.as_deref() };
        try_to("phone_home", finish::phone_home(wanted, &wants.instance, name).await);
    }
    // Before the machine goes down: it must not go down at every boot.
    let stamped = files::stamp(&stamp, &wants.instance);
    let first = stamped.is_ok();
    try_to("runcmd", stamped);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_message_is_filled_in() {
        assert_eq!(filled("v $VERSION ${VERSION} $version", "1.0"), "v 1.0 1.0 1.0");
        assert!(!filled("up $UPTIME at $TIMESTAMP", "1").contains('$'));
    }
}

//! The process of a spec: command, user, environment, limits of its own.

use std::collections::HashSet;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::capabilities::{capabilities, capability_sets};
use super::{Rlimit, SpecInput};

/// Docker's default PATH.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(input: &SpecInput) -> Process {
    let mut user = User::default();
    user.set_uid(input.uid)
        .set_gid(input.gid)
        .set_additional_gids(Some(input.additional_gids.clone()));
    let cwd = if input.cwd.is_empty() { "/" } else { &input.cwd };
    let mut process = Process::default();
    process
        .set_terminal(Some(input.terminal))
        .set_user(user)
        .set_args(Some(input.args.clone()))
        .set_env(Some(environment(&input.env, input.terminal, input.uid)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capability_sets(capabilities(input))))
        .set_rlimits(Some(input.rlimits.iter().filter_map(rlimit).collect()))
        // Not `Some(false)`: libcontainer would load seccomp after it gave up the right to.
        .set_no_new_privileges(input.no_new_privileges.then_some(true))
        .set_apparmor_profile(None::<String>)
        .set_selinux_label(None::<String>)
        .set_oom_score_adj((input.oom_score_adj != 0).then_some(input.oom_score_adj));
    process
}

/// HOME is always there: libcontainer would look it up by `getpwuid`, and a static glibc opens the *container's* NSS
/// libraries for that.
pub(crate) fn environment(given: &[String], terminal: bool, uid: u32) -> Vec<String> {
    let has = |name: &str| given.iter().any(|pair| pair.split('=').next() == Some(name));
    let home = format!("HOME={}", default_home(uid));
    let defaults = [("PATH", PATH, true), ("TERM", "TERM=xterm", terminal), ("HOME", &home, true)];
    let missing = defaults.iter().filter(|(name, _, wanted)| *wanted && !has(name));
    missing.map(|(_, pair, _)| (*pair).to_owned()).chain(given.iter().cloned()).collect()
}

/// The home folder of a user without an entry in `/etc/passwd`.
pub(crate) fn default_home(uid: u32) -> &'static str {
    if uid == 0 { "/root" } else { "/" }
}

/// `base` with the variables of `over`, which replace those of the same name.
pub(crate) fn overlay_environment(base: &[String], over: &[String]) -> Vec<String> {
    let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let replaced: HashSet<String> = over.iter().map(name).collect();
    base.iter().filter(|pair| !replaced.contains(&name(pair))).chain(over).cloned().collect()
}

pub(super) fn rlimit(limit: &Rlimit) -> Option<PosixRlimit> {
    let upper = limit.name.to_uppercase();
    let name = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
    let kind: PosixRlimitType = serde_json::from_value(format!("RLIMIT_{name}").into()).ok()?;
    PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build().ok()
}

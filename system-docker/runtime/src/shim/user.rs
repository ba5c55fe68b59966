//! `user[:group]` to numbers, by the container's own `/etc/passwd` and `/etc/group`, as Docker does it.

use std::path::Path;

use oci_spec::runtime::{Process, User};

use super::mounts::read_inside;
use crate::RuntimeError;
use crate::spec::default_home;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Home folder, when the user has an entry.
    pub(super) home: Option<String>,
}

/// Has `process` run as `user`, looked up below `root`. HOME becomes the user's unless the spec gave another.
pub(super) fn apply(
    process: &mut Process,
    user: &str,
    add: &[String],
    root: &Path,
) -> Result<(), RuntimeError> {
    let who =
        identity(user, add, &read_inside(root, "/etc/passwd"), &read_inside(root, "/etc/group"))?;
    let assumed = format!("HOME={}", default_home(process.user().uid()));
    let home = who.home.unwrap_or_else(|| default_home(who.uid).to_owned());
    for pair in process.env_mut().iter_mut().flatten().filter(|pair| **pair == assumed) {
        *pair = format!("HOME={home}");
    }
    let mut oci_user = User::default();
    oci_user.set_uid(who.uid).set_gid(who.gid).set_additional_gids(Some(who.groups));
    process.set_user(oci_user);
    Ok(())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves `user`; empty is root.
pub(super) fn identity(
    user: &str,
    add: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, RuntimeError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let mut who = account(name, passwd, group)?;
    if let Some(wanted) = group_name {
        who.gid = group_id(wanted, group)?;
        who.groups.clear();
    }
    // So that a group that was taken off the user's list is not one that it can do without (CVE-2022-36109).
    if !who.groups.contains(&who.gid) {
        who.groups.insert(0, who.gid);
    }
    for wanted in add {
        let gid = group_id(wanted, group)?;
        if !who.groups.contains(&gid) {
            who.groups.push(gid);
        }
    }
    Ok(who)
}

fn account(name: &str, passwd: &str, group: &str) -> Result<Identity, RuntimeError> {
    let number: Option<u32> = name.parse().ok();
    let by_name = passwd.lines().filter_map(entry).find(|account| account.name == name);
    let found = by_name
        .or_else(|| passwd.lines().filter_map(entry).find(|account| Some(account.uid) == number));
    match (found, number) {
        (Some(account), _) => Ok(Identity {
            uid: account.uid,
            gid: account.gid,
            groups: memberships(account.name, group),
            home: Some(account.home.to_owned()).filter(|home| !home.is_empty()),
        }),
        (None, Some(uid)) => Ok(Identity { uid, ..Identity::default() }),
        (None, None) => Err(RuntimeError::BadUser(format!(
            "unable to find user {name}: no matching entries in passwd file"
        ))),
    }
}

fn entry(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

fn memberships(name: &str, group: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    group.lines().filter_map(member).collect()
}

fn group_id(wanted: &str, group: &str) -> Result<u32, RuntimeError> {
    let named = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
    };
    let missing = || {
        RuntimeError::BadUser(format!(
            "unable to find group {wanted}: no matching entries in group file"
        ))
    };
    group.lines().find_map(named).or_else(|| wanted.parse().ok()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbad line\nann:x:1000:100::/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:root\nusers:x:100:\naudio:x:29:ann,bob\nwheel:x:10:root,ann\n";

    #[test]
    fn docker_s_forms() {
        type Row =
            (&'static str, &'static [&'static str], u32, u32, &'static [u32], Option<&'static str>);
        let table: [Row; 9] = [
            ("", &[], 0, 0, &[0, 10], Some("/root")),
            ("root", &[], 0, 0, &[0, 10], Some("/root")),
            ("ann", &[], 1000, 100, &[100, 29, 10], Some("/home/ann")),
            ("1000", &[], 1000, 100, &[100, 29, 10], Some("/home/ann")),
            ("ann:users", &[], 1000, 100, &[100], Some("/home/ann")),
            ("ann:7", &[], 1000, 7, &[7], Some("/home/ann")),
            ("ann", &["audio", "50"], 1000, 100, &[100, 29, 10, 50], Some("/home/ann")),
            ("4000", &[], 4000, 0, &[0], None),
            ("4000:users", &[], 4000, 100, &[100], None),
        ];
        for (user, add, uid, gid, groups, home) in table {
            let add: Vec<String> = add.iter().map(|group| (*group).to_owned()).collect();
            let got = identity(user, &add, PASSWD, GROUP).unwrap();
            let expected =
                Identity { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) };
            assert_eq!(got, expected, "{user:?}");
        }
    }

    #[test]
    fn unknown_names_are_errors() {
        for user in ["bob", "ann:staff", "bad line"] {
            assert!(
                matches!(identity(user, &[], PASSWD, GROUP), Err(RuntimeError::BadUser(_))),
                "{user:?}"
            );
        }
    }

    #[test]
    fn no_files_at_all() {
        assert_eq!(identity("", &[], "", "").unwrap().groups, [0]);
    }
}

//! `users`, `groups`, `chpasswd`: the console's further users. What is wrong with one does not keep the others
//! back, and nobody's own password is written over: a password counts once for each wording of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use cloud_config::Settings;
use cloud_config::settings::{User, UserEntry};
use ros_api::Digest;
use rustix::rand::{GetRandomFlags, getrandom};
use sha_crypt::{PasswordHasher, ShaCrypt};

use super::accounts::{self, Account};
use super::files::{self, File};

/// First number of a user that has none.
const FIRST: u32 = 1001;
/// First number of a program's user.
const FIRST_SYSTEM: u32 = 400;

/// A password and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Login name.
    pub user: String,
    /// Plain, or hashed as crypt(5) has it.
    pub password: String,
    /// It is plain even when it looks like a hash.
    pub plain: bool,
    /// Whether a new one is asked for at the first login.
    pub expire: bool,
}

/// The further users of `settings`: `default` is the machine's own.
#[must_use]
pub fn further(settings: &Settings, own: &str) -> Vec<User> {
    let entry = |entry: &UserEntry| match entry {
        UserEntry::Name(name) => User { name: name.clone(), ..User::default() },
        UserEntry::User(user) => (**user).clone(),
    };
    let all = settings.users.0.iter().map(entry);
    all.filter(|user| user.name != "default" && user.name != own && !user.name.is_empty()).collect()
}

/// Every password that is configured. Later ones win.
#[must_use]
pub fn passwords(settings: &Settings, own: &str) -> Vec<Secret> {
    if !settings.allows("password") {
        return Vec::new();
    }
    let expire = settings.chpasswd.expire;
    let mut all = Vec::new();
    let mut add = |user: &str, password: &str, expire: bool, plain: bool| {
        let user = if user == "default" { own } else { user };
        all.push(Secret { user: user.to_owned(), password: password.to_owned(), plain, expire });
    };
    for user in further(settings, own).iter().filter(|user| user.lock_passwd == Some(false)) {
        let given =
            [(&user.plain_text_passwd, true), (&user.passwd, false), (&user.hashed_passwd, false)];
        for (password, plain) in given {
            password.iter().for_each(|password| add(&user.name, password, false, plain));
        }
    }
    let mine = [&settings.ros.password, &settings.password];
    mine.into_iter().flatten().for_each(|password| add(own, password, false, false));
    for line in &settings.chpasswd.list {
        if let Some((user, password)) = line.split_once(':') {
            add(user.trim(), password.trim(), expire, false);
        }
    }
    for entry in settings.chpasswd.users.iter().filter(|entry| entry.kind != "RANDOM") {
        add(&entry.name, &entry.password, expire, entry.kind == "text");
    }
    all
}

/// Makes groups, users and their keys below `root`; what went wrong is answered.
#[must_use]
pub fn apply(root: &Path, groups: &BTreeMap<String, Vec<String>>, users: &[User]) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in groups.keys() {
        wrong.extend(group(root, name).err().map(|error| format!("group {name}: {error:#}")));
    }
    for wanted in users {
        let done = user(root, wanted);
        wrong.extend(done.err().map(|error| format!("user {}: {error:#}", wanted.name)));
    }
    for (name, members) in groups {
        let done = accounts::join_group(root, name, members);
        wrong.extend(done.err().map(|error| format!("group {name}: {error:#}")));
    }
    wrong
}

fn is_name(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=32).contains(&name.len())
        && name.bytes().all(rest)
        && !name.starts_with('-')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn group(root: &Path, name: &str) -> Result<u32> {
    ensure!(is_name(name), "no name of a group: small letters, digits, '-' and '_'");
    let path = root.join("etc/group");
    let text = fs::read_to_string(&path).unwrap_or_default();
    if let Some(id) = number_of(&text, name) {
        return Ok(id);
    }
    let id = free(&text, FIRST);
    accounts::add_group(root, name, id)?;
    Ok(id)
}

fn number_of(database: &str, name: &str) -> Option<u32> {
    let line = database.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

fn numbers(database: &str) -> Vec<u32> {
    database.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

fn free(database: &str, first: u32) -> u32 {
    let taken = numbers(database);
    (first..).find(|id| !taken.contains(id)).unwrap_or(first)
}

/// A number that neither a user nor a group has.
fn free_for_both(passwd: &str, groups: &str, first: u32) -> u32 {
    free(&format!("{passwd}\n{groups}"), first)
}

/// The group of the user's own name. Its number is the user's, unless another group has that: whoever got it would be in
/// there too.
fn own_group(root: &Path, name: &str, groups: &str, id: u32) -> Result<u32> {
    if let Some(gid) = number_of(groups, name) {
        return Ok(gid);
    }
    let gid = if numbers(groups).contains(&id) { free(groups, FIRST) } else { id };
    accounts::add_group(root, name, gid)?;
    Ok(gid)
}

fn user(root: &Path, user: &User) -> Result<()> {
    let name = &user.name;
    ensure!(is_name(name), "no name of a user: small letters, digits, '-' and '_'");
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let known = number_of(&passwd, name);
    ensure!(known.is_none_or(|id| id >= FIRST_SYSTEM && id != 65_534), "it belongs to the system");
    let first = if user.system { FIRST_SYSTEM } else { FIRST };
    let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    let id = known.or(user.uid).unwrap_or_else(|| free_for_both(&passwd, &groups, first));
    let gid = match &user.primary_group {
        Some(named) => group(root, named)?,
        None => own_group(root, name, &groups, id)?,
    };
    for further in &user.groups {
        group(root, further)?;
    }
    let sound = |text: &str| !text.contains([':', '\n']);
    let home = user.homedir.clone().unwrap_or_else(|| format!("/home/{name}"));
    let gecos = user.gecos.clone().unwrap_or_else(|| name.clone());
    let shell = user.shell.clone().unwrap_or_else(|| "/bin/bash".into());
    ensure!(sound(&home) && sound(&gecos) && sound(&shell), "':' has no place in an account");
    let account = Account {
        name: name.clone(),
        id,
        gid,
        gecos,
        home: PathBuf::from(home),
        shell,
        groups: user.groups.clone(),
        create_home: !user.no_create_home && !user.system,
    };
    accounts::ensure(root, &account)?;
    if account.create_home {
        accounts::authorize(root, &account, &user.ssh_authorized_keys)?;
    }
    if let Some(date) = &user.expiredate {
        let days = days(date).ok_or_else(|| anyhow!("expiredate {date:?}: expected 2030-12-31"))?;
        accounts::shadow(root, name, 7, &days.to_string())?;
    }
    sudoers(root, user)
}

/// `/etc/sudoers.d/90-NAME`; a user without rules has none any more.
fn sudoers(root: &Path, user: &User) -> Result<()> {
    let path = PathBuf::from(format!("/etc/sudoers.d/90-{}", user.name));
    if user.sudo.is_empty() {
        let _ = fs::remove_file(root.join(path.strip_prefix("/")?));
        return Ok(());
    }
    ensure!(user.sudo.iter().all(|rule| !rule.contains('\n')), "a rule of sudo is one line");
    let lines: String = user.sudo.iter().map(|rule| format!("{} {rule}\n", user.name)).collect();
    let file = File {
        path,
        content: lines.into_bytes(),
        mode: 0o440,
        owner: None,
        append: false,
        defer: false,
    };
    files::write(root, &file)
}

/// Sets the passwords that are new in `stamps`; what went wrong is answered.
#[must_use]
pub fn set_passwords(root: &Path, stamps: &Path, all: &[Secret]) -> Vec<String> {
    // The last wording for each user is the one that counts.
    let last: BTreeMap<&str, &Secret> =
        all.iter().map(|secret| (secret.user.as_str(), secret)).collect();
    let failed = last.values().filter_map(|secret| {
        let done = set_password(root, stamps, secret);
        done.err().map(|error| format!("password of {}: {error:#}", secret.user))
    });
    failed.collect()
}

fn set_password(root: &Path, stamps: &Path, secret: &Secret) -> Result<()> {
    let Secret { user, password, plain, expire } = secret;
    ensure!(is_name(user), "no name of a user");
    let is_hash = password.starts_with('$') && !plain;
    ensure!(!is_hash || !password.contains([':', '\n']), "':' has no place in a password's hash");
    let stamp = stamps.join(format!("password-{user}"));
    let wording = Digest::of(format!("{user}:{password}").as_bytes()).to_string();
    if files::stamped(&stamp, &wording) {
        return Ok(());
    }
    let hash = if is_hash { password.clone() } else { hashed(password)? };
    accounts::shadow(root, user, 1, &hash)?;
    if *expire {
        accounts::shadow(root, user, 2, "0")?;
    }
    files::stamp(&stamp, &wording)
}

/// crypt(5), SHA-512. The salt has 16 characters, the most that crypt(3) takes over: with a longer one, which the library
/// would make by itself, what a login computes is another text, and no password lets anybody in.
fn hashed(password: &str) -> Result<String> {
    let mut salt = [0; 12];
    let filled = getrandom(&mut salt[..], GetRandomFlags::empty()).context("get random numbers")?;
    ensure!(filled == salt.len(), "only {filled} random bytes");
    let hash = ShaCrypt::default().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| anyhow!("hash: {error}"))?.as_str().to_owned())
}

/// Days since 1970 of `2030-12-31` (Howard Hinnant's days_from_civil).
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Proves that the time zone is there, and links to it.
///
/// # Errors
/// When the console's image has no such zone.
pub fn time_zone(root: &Path, zone: &str) -> Result<()> {
    let sound = zone.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    ensure!(sound, "{zone:?} is no time zone");
    let target = Path::new("/usr/share/zoneinfo").join(zone);
    let below = root.join(target.strip_prefix("/")?);
    ensure!(below.is_file(), "{zone}: the console's image has no data of this zone (tzdata)");
    let link = root.join("etc/localtime");
    ros_api::durable::point(&link, &target)?;
    fs::write(root.join("etc/timezone"), format!("{zone}\n")).context("write /etc/timezone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sha_crypt::PasswordVerifier;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nros:x:1000:1000::/home/ros:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nsudo:x:27:\n").unwrap();
        fs::write(root.path().join("etc/shadow"), "root:*:1::::::\nros:*:1::::::\n").unwrap();
        root
    }

    fn settings(json: serde_json::Value) -> Settings {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_user_has_groups_keys_and_rules() {
        let root = root();
        let settings = settings(json!({
            "groups": [{"ops": ["ros"]}],
            "users": ["default", {"name": "ann", "groups": "sudo, ops", "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": ["ssh-ed25519 A ann"], "expiredate": "2030-12-31"}, {"name": "Bad:Name"}, {"name": "root"}],
        }));
        let users = further(&settings, "ros");
        for _ in 0..2 {
            let wrong = apply(root.path(), &settings.groups.0, &users);
            assert_eq!(wrong.len(), 2, "{wrong:?}");
        }
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        let group = fs::read_to_string(root.path().join("etc/group")).unwrap();
        assert!(group.contains("ops:x:1001:") && group.contains("ann:x:1002:"), "{group}");
        assert!(read("etc/passwd").ends_with("ann:x:1002:1002:ann:/home/ann:/bin/bash\n"));
        assert!(
            read("etc/passwd").starts_with("root:x:0:0::/root:/bin/sh\n"),
            "the system's users stay"
        );
        assert!(
            read("etc/group").contains("sudo:x:27:ann\n")
                && read("etc/group").contains(":ann,ros\n"),
            "{}",
            read("etc/group")
        );
        assert!(
            read("etc/shadow").contains("ann:*:19000:0:99999:7::22279:"),
            "{}",
            read("etc/shadow")
        );
        assert!(read("home/ann/.ssh/authorized_keys").contains("ssh-ed25519 A ann\n"));
        assert_eq!(read("etc/sudoers.d/90-ann"), "ann ALL=(ALL) NOPASSWD:ALL\n");
    }

    #[test]
    fn a_password_counts_once_and_the_last_wording_wins() {
        let root = root();
        let stamps = root.path().join("stamps");
        let settings = settings(json!({
            "password": "first", "chpasswd": {"list": "ros:second word", "expire": true},
        }));
        let all = passwords(&settings, "ros");
        assert_eq!(set_passwords(root.path(), &stamps, &all), Vec::<String>::new());
        let shadow = || fs::read_to_string(root.path().join("etc/shadow")).unwrap();
        let line = shadow().lines().last().unwrap().to_owned();
        let fields: Vec<&str> = line.split(':').collect();
        let hash = sha_crypt::PasswordHash::new(fields[1]).unwrap();
        ShaCrypt::default().verify_password(b"second word", &hash).unwrap();
        assert_eq!(fields[2], "0", "a new one is asked for");
        let salt = fields[1].rsplit('$').nth(1).unwrap();
        assert_eq!(salt.len(), 16, "crypt(3) takes no more: {line}");
        accounts::shadow(root.path(), "ros", 1, "$6$own$x").unwrap();
        let _ = set_passwords(root.path(), &stamps, &all);
        assert!(shadow().contains("ros:$6$own$x:"), "the user's own is left");
    }

    #[test]
    fn a_plain_password_may_look_like_a_hash() {
        let root = root();
        let settings = settings(json!({
            "chpasswd": {"users": [{"name": "ros", "password": "$1:a", "type": "text"}]},
        }));
        let all = passwords(&settings, "ros");
        assert_eq!(set_passwords(root.path(), &root.path().join("s"), &all), Vec::<String>::new());
        let shadow = fs::read_to_string(root.path().join("etc/shadow")).unwrap();
        let hash = shadow.lines().last().unwrap().split(':').nth(1).unwrap();
        let hash = sha_crypt::PasswordHash::new(hash).unwrap();
        ShaCrypt::default().verify_password(b"$1:a", &hash).unwrap();
    }

    #[test]
    fn a_disabled_way_is_not_taken() {
        let settings = settings(json!({"password": "x", "ros": {"disable": ["password"]}}));
        assert_eq!(passwords(&settings, "ros"), []);
    }

    #[test]
    fn dates() {
        let table = [
            ("1970-01-01", Some(0)),
            ("2000-03-01", Some(11_017)),
            ("2030-12-31", Some(22_279)),
            ("x", None),
            ("2030-13-01", None),
        ];
        for (date, expected) in table {
            assert_eq!(days(date), expected, "{date}");
        }
    }
}

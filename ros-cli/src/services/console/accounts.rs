//! The console's users: lines in `passwd`, `group` and `shadow` (passwd(5), group(5), shadow(5)), added or
//! changed as text, so that any console image will do.
//!
//! Invariant: lines of other users are carried over byte for byte.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::durable;

/// A user who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User number.
    pub id: u32,
    /// Number of the first group.
    pub gid: u32,
    /// Real name.
    pub gecos: String,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: String,
    /// Groups besides the user's own.
    pub groups: Vec<String>,
    /// Whether it has a home folder.
    pub create_home: bool,
}

impl Account {
    /// The user `ros`.
    #[must_use]
    pub fn ros() -> Self {
        Self {
            name: "ros".into(),
            id: 1000,
            gid: 1000,
            gecos: "ros".into(),
            create_home: true,
            home: "/home/ros".into(),
            shell: "/bin/bash".into(),
            groups: vec!["sudo".into(), "adm".into(), "docker-system".into(), "docker".into()],
        }
    }

    /// The user `root`.
    #[must_use]
    pub fn root() -> Self {
        Self {
            name: "root".into(),
            id: 0,
            gid: 0,
            gecos: "root".into(),
            create_home: true,
            home: "/root".into(),
            shell: "/bin/bash".into(),
            groups: Vec::new(),
        }
    }

    fn passwd_line(&self) -> String {
        let Self { name, id, gid, gecos, home, shell, .. } = self;
        format!("{name}:x:{id}:{gid}:{gecos}:{}:{shell}", home.display())
    }
}

/// Makes sure that `account` is a user of the system at `root`, with its home folder.
///
/// # Errors
/// When a file cannot be read or written.
pub fn ensure(root: &Path, account: &Account) -> Result<()> {
    let Account { name, id, gid, .. } = account;
    edit(&root.join("etc/passwd"), 0o644, |text| with_line(text, name, &account.passwd_line()))?;
    edit(&root.join("etc/group"), 0o644, |text| {
        let own = id == gid;
        let line = format!("{name}:x:{id}:");
        let text = if own { with_line_if_absent(text, name, &line) } else { text.to_owned() };
        account.groups.iter().fold(text, |text, group| with_member(&text, group, name))
    })?;
    // `*` is no password, and unlike `!` no locked account either: sshd takes keys.
    edit(&root.join("etc/shadow"), 0o640, |text| unlocked(text, name))?;
    if account.create_home { home(root, account) } else { Ok(()) }
}

/// Adds a group that is not there.
///
/// # Errors
/// When the file cannot be read or written.
pub fn add_group(root: &Path, name: &str, id: u32) -> Result<()> {
    let line = format!("{name}:x:{id}:");
    edit(&root.join("etc/group"), 0o644, |text| with_line_if_absent(text, name, &line))
}

/// Adds `members` to a group.
///
/// # Errors
/// When the file cannot be read or written.
pub fn join_group(root: &Path, group: &str, members: &[String]) -> Result<()> {
    let sound = |member: &&String| !member.is_empty() && !member.contains([':', ',', '\n']);
    edit(&root.join("etc/group"), 0o644, |text| {
        let members = members.iter().filter(sound);
        members.fold(text.to_owned(), |text, member| with_member(&text, group, member))
    })
}

/// Sets one field of a user's line in `shadow`, counted from 0.
///
/// # Errors
/// When there is no such user, or the file cannot be read or written.
pub fn shadow(root: &Path, user: &str, field: usize, value: &str) -> Result<()> {
    let path = root.join("etc/shadow");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(text.lines().any(|line| is_for(line, user)), "there is no user {user}");
    let set = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if is_for(line, user) && field < fields.len() {
            fields[field] = value;
        }
        fields.join(":")
    };
    edit(&path, 0o640, |text| join(text.lines().map(set).collect()))
}

/// Replaces `path` by what `change` makes of it, when that is different.
fn edit(path: &Path, mode: u32, change: impl Fn(&str) -> String) -> Result<()> {
    let old = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("read {}", path.display()))?,
    };
    let new = change(&old);
    if new == old {
        return Ok(());
    }
    let owner = fs::metadata(path).ok();
    durable::write(path, new.as_bytes(), mode)?;
    if let Some(owner) = owner {
        use std::os::unix::fs::MetadataExt;
        chown(path, Some(owner.uid()), Some(owner.gid()))
            .with_context(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}

fn home(root: &Path, account: &Account) -> Result<()> {
    let home = root.join(account.home.strip_prefix("/").unwrap_or(&account.home));
    if home.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    for entry in fs::read_dir(root.join("etc/skel")).into_iter().flatten().flatten() {
        let to = home.join(entry.file_name());
        if entry.path().is_file() {
            fs::copy(entry.path(), &to).with_context(|| format!("write {}", to.display()))?;
            chown(&to, Some(account.id), Some(account.gid))
                .with_context(|| format!("chown {}", to.display()))?;
        }
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o750))
        .and_then(|()| chown(&home, Some(account.id), Some(account.gid)))
        .with_context(|| format!("give {} to {}", home.display(), account.name))
}

fn is_for(line: &str, name: &str) -> bool {
    line.split(':').next() == Some(name)
}

fn join(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

fn with_line(text: &str, name: &str, line: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.iter_mut().find(|old| is_for(old, name)) {
        Some(old) => *old = line.to_owned(),
        None => lines.push(line.to_owned()),
    }
    join(lines)
}

fn with_line_if_absent(text: &str, name: &str, line: &str) -> String {
    if text.lines().any(|old| is_for(old, name)) {
        text.to_owned()
    } else {
        with_line(text, name, line)
    }
}

/// Adds `member` to `group`; a group that is not there is left so.
fn with_member(text: &str, group: &str, member: &str) -> String {
    let add = |line: &str| {
        let (head, members) = line.rsplit_once(':').unwrap_or((line, ""));
        if !is_for(line, group) || members.split(',').any(|old| old == member) {
            return line.to_owned();
        }
        let comma = if members.is_empty() { "" } else { "," };
        format!("{head}:{members}{comma}{member}")
    };
    join(text.lines().map(add).collect())
}

/// A shadow entry without a password, unless there is one already.
fn unlocked(text: &str, name: &str) -> String {
    let open = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if is_for(line, name)
            && fields.get(1).is_some_and(|password| matches!(*password, "" | "!" | "!!" | "!*"))
        {
            fields[1] = "*";
        }
        fields.join(":")
    };
    let text = join(text.lines().map(open).collect());
    with_line_if_absent(&text, name, &format!("{name}:*:19000:0:99999:7:::"))
}

/// First and last line of the part of `authorized_keys` that is ours.
const KEYS_BEGIN: &str = "# from the configuration: changes up to the end mark are lost";
const KEYS_END: &str = "# end of the configuration's keys";

/// `authorized_keys` with the configuration's `keys` in it; lines of the user's own stay.
#[must_use]
pub fn authorized_keys(old: &str, keys: &[String]) -> String {
    let mut ours = false;
    let mut lines: Vec<String> = Vec::new();
    for line in old.lines() {
        match line {
            KEYS_BEGIN => ours = true,
            KEYS_END => ours = false,
            _ if ours => {}
            own => lines.push(own.to_owned()),
        }
    }
    if !keys.is_empty() {
        lines.push(KEYS_BEGIN.into());
        lines.extend(keys.iter().map(|key| key.trim().to_owned()));
        lines.push(KEYS_END.into());
    }
    join(lines)
}

/// Writes the configuration's `keys` for `account`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn authorize(root: &Path, account: &Account, keys: &[String]) -> Result<()> {
    let dir = root.join(account.home.strip_prefix("/").unwrap_or(&account.home)).join(".ssh");
    let file = dir.join("authorized_keys");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("chmod {}", dir.display()))?;
    edit(&file, 0o600, |old| authorized_keys(old, keys))?;
    for path in [&dir, &file] {
        if path.exists() {
            chown(path, Some(account.id), Some(account.gid))
                .with_context(|| format!("chown {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_added_once_and_others_stay() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n";
        let line = Account::ros().passwd_line();
        let once = with_line(passwd, "ros", &line);
        assert_eq!(once, format!("{passwd}{line}\n"));
        assert_eq!(with_line(&once, "ros", &line), once);
        assert_eq!(
            with_member("sudo:x:27:\nadm:x:4:a", "sudo", "ros"),
            "sudo:x:27:ros\nadm:x:4:a\n"
        );
        assert_eq!(with_member("adm:x:4:a\n", "adm", "ros"), "adm:x:4:a,ros\n");
        assert_eq!(with_member("adm:x:4:a,ros\n", "adm", "ros"), "adm:x:4:a,ros\n");
    }

    #[test]
    fn shadow_is_opened_for_keys_and_a_password_stays() {
        assert_eq!(unlocked("a:!:1::::::\n", "a"), "a:*:1::::::\n");
        assert_eq!(unlocked("a:$6$x:1::::::\n", "a"), "a:$6$x:1::::::\n");
        assert_eq!(unlocked("", "a"), "a:*:19000:0:99999:7:::\n");
        assert_eq!(unlocked("b:!:1::::::\n", "a"), "b:!:1::::::\na:*:19000:0:99999:7:::\n");
    }

    #[test]
    fn the_users_own_keys_stay() {
        let keys = ["ssh-ed25519 AAA a".to_owned()];
        let first = authorized_keys("ssh-rsa own\n", &keys);
        assert_eq!(first, format!("ssh-rsa own\n{KEYS_BEGIN}\nssh-ed25519 AAA a\n{KEYS_END}\n"));
        assert_eq!(authorized_keys(&first, &keys), first);
        assert_eq!(authorized_keys(&first, &[]), "ssh-rsa own\n");
        assert_eq!(authorized_keys("", &[]), "");
    }
}

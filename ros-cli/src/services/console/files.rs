//! `write_files` and `runcmd`: what instance data does to the console, once.
//!
//! Files are written once for each instance *and* console container: the stamp lies in the container's own
//! file system, so a new console gets them again. Commands run once for each instance: their stamp lies with
//! the instance data. A stamp is written after the work.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ros_api::durable;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What, decoded.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// `user[:group]`, names or numbers.
    pub owner: Option<String>,
    /// Add to what is there.
    pub append: bool,
    /// Written after users are made.
    pub defer: bool,
}

/// Writes `file` below `root`.
///
/// # Errors
/// When it cannot be written, or its owner is not known.
pub fn write(root: &Path, file: &File) -> Result<()> {
    let path = root.join(file.path.strip_prefix("/").unwrap_or(&file.path));
    let shown = path.display();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    if file.append {
        let mut open = fs::OpenOptions::new();
        open.append(true).create(true).mode(file.mode);
        let mut opened = open.open(&path).with_context(|| format!("open {shown}"))?;
        opened.write_all(&file.content).with_context(|| format!("write {shown}"))?;
    } else {
        durable::write(&path, &file.content, file.mode)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
        .with_context(|| format!("chmod {shown}"))?;
    let Some(owner) = &file.owner else { return Ok(()) };
    let (user, group) = owner_of(root, owner)?;
    chown(&path, Some(user), group).with_context(|| format!("chown {shown}"))
}

/// Numbers of `user[:group]`. Looked up in the files themselves: a static program must not load the C
/// library's name service modules.
fn owner_of(root: &Path, owner: &str) -> Result<(u32, Option<u32>)> {
    let (user, group) =
        owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let user = id_in(&root.join("etc/passwd"), user)?;
    let group = group
        .filter(|group| !group.is_empty())
        .map(|group| id_in(&root.join("etc/group"), group))
        .transpose()?;
    Ok((user, group))
}

fn id_in(database: &Path, name: &str) -> Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text =
        fs::read_to_string(database).with_context(|| format!("read {}", database.display()))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    match line.and_then(|line| line.split(':').nth(2)?.parse().ok()) {
        Some(id) => Ok(id),
        None => bail!("{name} is not in {}", database.display()),
    }
}

/// Whether the stamp at `path` says `what`.
#[must_use]
pub fn stamped(path: &Path, what: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == what)
}

/// Has the stamp at `path` say `what`.
///
/// # Errors
/// When it cannot be written.
pub fn stamp(path: &Path, what: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    Ok(durable::write(path, format!("{what}\n").as_bytes(), 0o644)?)
}

/// Runs `commands` (program and arguments each) in order, their output added to `log`. One that fails does
/// not keep the others back; how many did is answered.
///
/// # Errors
/// When the log cannot be opened.
pub fn run(commands: &[Vec<String>], log: &Path) -> Result<usize> {
    let open = || {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))
    };
    let mut failed = 0;
    for command in commands {
        let [program, arguments @ ..] = &command[..] else { continue };
        let ended = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .current_dir("/")
            .status();
        let wrong = match ended {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        failed += 1;
        writeln!(open()?, "runcmd {command:?}: {wrong}")
            .with_context(|| format!("write {}", log.display()))?;
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File {
        File {
            path: path.into(),
            content: b"text".to_vec(),
            mode: 0o640,
            owner: None,
            append: false,
            defer: false,
        }
    }

    #[test]
    fn files_have_their_content_and_mode() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &file("/etc/deep/file")).unwrap();
        let path = root.path().join("etc/deep/file");
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        write(root.path(), &File { append: true, ..file("/etc/deep/file") }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"texttext");
        let unknown = File { owner: Some("nobody-here:x".into()), ..file("/etc/x") };
        assert!(write(root.path(), &unknown).is_err());
    }

    #[test]
    fn owners_are_looked_up_in_the_consoles_own_files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:\nros:x:1000:1000::/:\n").unwrap();
        fs::write(root.path().join("etc/group"), "sudo:x:27:\n").unwrap();
        assert_eq!(owner_of(root.path(), "ros:sudo").unwrap(), (1000, Some(27)));
        assert_eq!(owner_of(root.path(), "ros").unwrap(), (1000, None));
        assert_eq!(owner_of(root.path(), "7:8").unwrap(), (7, Some(8)));
        assert!(owner_of(root.path(), "ros:wheel").is_err());
    }

    #[test]
    fn commands_run_in_order_and_a_failing_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let sh = |line: &str| vec!["sh".to_owned(), "-c".to_owned(), line.to_owned()];
        let commands =
            [sh("echo one"), sh("exit 3"), vec!["/not-there".to_owned()], sh("echo two >&2")];
        assert_eq!(run(&commands, &log).unwrap(), 2);
        let text = fs::read_to_string(&log).unwrap();
        assert!(
            text.starts_with("one\nrunc")
                && text.ends_with("two\n")
                && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_stamp_is_for_one_thing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sem/runcmd");
        assert!(!stamped(&path, "i-1"));
        stamp(&path, "i-1").unwrap();
        assert!(stamped(&path, "i-1") && !stamped(&path, "i-2"));
    }
}

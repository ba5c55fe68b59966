//! `ros config set` and `unset`: changes to the user's own file, one writer at a time, durable. Comments in the file
//! are not kept: it is written by programs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use ros_api::durable;

use crate::diagnostic::{Diagnostic, Severity};
use crate::tree::{self, Layer, Node, Origin};
use crate::{check, document, layers, schema};

/// Why a change was not made.
#[derive(Debug)]
pub enum EditError {
    /// The key or the value is wrong.
    Refused(Diagnostic),
    /// The file cannot be read or written.
    Io(io::Error),
}

impl std::fmt::Display for EditError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(diagnostic) => f.write_str(&diagnostic.line()),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for EditError {}

impl From<io::Error> for EditError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Sets the value at a dotted path; `value` is YAML (`true`, `[a, b]`, `{a: b}`), or plain text.
///
/// # Errors
/// When there is no such key, the value is not of its kind, or the file cannot be written. Nothing changed then.
pub fn set(file: &Path, path: &str, value: &str) -> Result<(), EditError> {
    let origin = Origin { layer: Layer::User, file: "VALUE".into(), line: 0, column: 0 };
    let refused = |message: &str| Diagnostic::error(origin.clone(), message.to_owned()).about(path);
    let (Some(parts), Some(kind)) = (schema::path::split(path), schema::kind_at(path)) else {
        let refused = refused("there is no such key");
        return Err(EditError::Refused(match suggestion(path) {
            Some(other) => refused.hint(&format!("did you mean {other:?}?")),
            None => refused.hint("see `ros config schema --format markdown` for all keys"),
        }));
    };
    match schema::effect_at(path) {
        Some(schema::Effect::Nothing(why)) => {
            return Err(EditError::Refused(refused(&format!("does nothing in ros: {why}"))));
        }
        Some(schema::Effect::Refused(why)) => return Err(EditError::Refused(refused(why))),
        Some(schema::Effect::Cmdline) => {
            let hint = format!("`ros config kernel-args {path}={value}`");
            let refused = refused("counts on the kernel command line only");
            return Err(EditError::Refused(refused.hint(&hint)));
        }
        _ => {}
    }
    let mut found = Vec::new();
    let node = check::check(parsed(value, &origin), kind, path, &mut found);
    if let Some(wrong) = found.into_iter().find(|diagnostic| {
        diagnostic.severity == Severity::Error || diagnostic.message.starts_with("no such key")
    }) {
        return Err(EditError::Refused(wrong));
    }
    let Some(node) = node else {
        return Err(EditError::Refused(
            refused("there is no value").hint("`ros config unset` removes a key"),
        ));
    };
    change(file, |tree| {
        tree.put_parts(&parts, node);
        Ok(())
    })?;
    Ok(())
}

/// The key that a path was meant to be: its first part that is none, corrected.
fn suggestion(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('.').collect();
    let known = (0..parts.len())
        .take_while(|count| *count == 0 || schema::kind_at(&parts[..*count].join(".")).is_some())
        .last()?;
    let kind =
        if known == 0 { schema::DOCUMENT } else { schema::kind_at(&parts[..known].join("."))? };
    let schema::Kind::Struct(keys) = kind else { return None };
    parts[known] = check::nearest(parts[known], keys)?;
    Some(parts.join("."))
}

/// Removes the key at a dotted path; answers whether it was there. A key that the schema does not know can be
/// removed too.
///
/// # Errors
/// When the file cannot be read or written.
pub fn unset(file: &Path, path: &str) -> Result<bool, EditError> {
    let plain = || path.split('.').map(str::to_owned).collect();
    let parts: Vec<String> = schema::path::split(path).unwrap_or_else(plain);
    let mut was_there = false;
    change(file, |tree| {
        was_there = tree.remove_parts(&parts);
        Ok(())
    })?;
    Ok(was_there)
}

/// The file's text before and after a change, and what a merged text was warned about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// What a text must be to be taken into the file whole.
///
/// # Errors
/// Every error, and with them the warnings.
pub fn acceptable(text: &str, name: &str) -> Result<(Node, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut found = Vec::new();
    let node = layers::checked(text, Layer::User, name, &mut found);
    let wrong = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    match node {
        Some(node) if !wrong => Ok((node, found)),
        _ => Err(found),
    }
}

/// Merges a document into the file as a layer above it; with `dry_run` nothing is written.
///
/// # Errors
/// When the file cannot be read or written. Nothing changed then.
pub fn merge(file: &Path, node: Node, dry_run: bool) -> Result<Edited, EditError> {
    let edit = |tree: &mut Node| {
        let below = std::mem::replace(tree, Node::map(&node.origin));
        *tree = tree::merge(below, node);
        Ok(())
    };
    if dry_run {
        let before = read(file)?;
        let after = edited(file, &before, edit)?;
        return Ok(Edited { before, after, warnings: Vec::new() });
    }
    change(file, edit)
}

/// Replaces the file by `text`, which must be [`acceptable`] and be made from `before`: what somebody else wrote
/// meanwhile is not lost.
///
/// # Errors
/// When the file is not `before` any more, or cannot be written.
pub fn replace(file: &Path, before: &str, text: &str) -> Result<(), EditError> {
    let _lock = lock(file)?;
    if read(file)? != before {
        let origin =
            Origin { layer: Layer::User, file: file.display().to_string(), line: 0, column: 0 };
        return Err(EditError::Refused(Diagnostic::error(
            origin,
            "somebody else changed the file meanwhile: nothing was written".into(),
        )));
    }
    Ok(durable::write(file, text.as_bytes(), 0o600)?)
}

/// The file's text; one that is not there is empty.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: &Path) -> io::Result<String> {
    match layers::bytes_of(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        bytes => Ok(String::from_utf8_lossy(&bytes?).into_owned()),
    }
}

/// YAML where it is YAML; a text with `: ` or other marks in it is that text.
fn parsed(value: &str, origin: &Origin) -> Node {
    let wrapped = format!("v: {value}\n");
    let node = document::parse(&wrapped, Layer::User, &origin.file).ok();
    node.and_then(|node| node.get("v").cloned()).unwrap_or_else(|| Node::text(value, origin))
}

/// One writer at a time: held until dropped.
fn lock(file: &Path) -> io::Result<File> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let lock = File::create(file.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(lock)
}

fn change(
    file: &Path,
    edit: impl FnOnce(&mut Node) -> Result<(), EditError>,
) -> Result<Edited, EditError> {
    let _lock = lock(file)?;
    let before = read(file)?;
    let after = edited(file, &before, edit)?;
    if after != before {
        durable::write(file, after.as_bytes(), 0o600)?;
    }
    Ok(Edited { before, after, warnings: Vec::new() })
}

/// The text after `edit`.
fn edited(
    file: &Path,
    before: &str,
    edit: impl FnOnce(&mut Node) -> Result<(), EditError>,
) -> Result<String, EditError> {
    let mut tree =
        document::parse(before, Layer::User, &file.display().to_string()).map_err(|wrong| {
            EditError::Refused(wrong.hint(
                "`ros config edit` repairs it, `ros config restore` puts the last good one back",
            ))
        })?;
    tree = layers::renamed(tree);
    edit(&mut tree)?;
    text_of(&tree)
}

/// A document as it is kept in the file.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn text_of(tree: &Node) -> Result<String, EditError> {
    let json = tree.to_json();
    let text = |body: String| format!("#cloud-config\n{body}");
    let yaml = text(serde_yaml::to_string(&json).map_err(io::Error::other)?);
    // The writer folds lines at U+0085, U+2028 and U+2029, as YAML 1.1 has it; to the reader, of 1.2, they are no line ends. JSON
    // is YAML too, and has nothing to fold.
    let reads_the_same =
        document::parse(&yaml, Layer::User, "").is_ok_and(|read| read.to_json() == json);
    if reads_the_same {
        return Ok(yaml);
    }
    Ok(text(serde_json::to_string_pretty(&json).map_err(io::Error::other)? + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_checks_writes_and_unset_removes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf/cloud-config.yml");
        set(&file, "hostname", "node-1").unwrap();
        set(&file, "rancher.ssh.port", "2022").unwrap();
        set(&file, "ros.modules", "[a, b]").unwrap();
        set(&file, "ros.sysctl.net.ipv4.ip_forward", "1").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let json = document::parse(&text, Layer::User, "f").unwrap().to_json();
        let expected = serde_json::json!({
            "hostname": "node-1",
            "ros": {"ssh": {"port": 2022}, "modules": ["a", "b"], "sysctl": {"net.ipv4.ip_forward": 1}},
        });
        assert_eq!(json, expected);
        let table = [
            ("hostnam", "x", "did you mean \"hostname\"?"),
            ("ros.ssh.prot", "x", "did you mean \"ros.ssh.port\"?"),
            ("ros.ssh.daemon", "perhaps", "true or false"),
            ("packages", "[vim]", "does nothing in ros"),
            ("ros.debug", "true", "ros config kernel-args ros.debug=true"),
            ("ros.ssh", "{prot: 1}", "no such key"),
            ("hostname", "", "there is no value"),
        ];
        for (key, value, expected) in table {
            let refused = set(&file, key, value).unwrap_err().to_string();
            assert!(refused.contains(expected), "{key}: {refused}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "a refused change changes nothing");
        assert!(unset(&file, "ros.ssh.port").unwrap());
        assert!(!unset(&file, "ros.ssh.port").unwrap());
    }

    #[test]
    fn twenty_writers_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        std::thread::scope(|scope| {
            for number in 0..20 {
                let file = &file;
                scope.spawn(move || set(file, &format!("ros.environment.V{number}"), "x").unwrap());
            }
        });
        let text = fs::read_to_string(&file).unwrap();
        let node = document::parse(&text, Layer::User, "f").unwrap();
        assert_eq!(node.at("ros.environment").unwrap().to_json().as_object().unwrap().len(), 20);
    }

    #[test]
    fn a_merge_is_shown_before_it_is_made_and_a_lost_race_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        set(&file, "hostname", "a").unwrap();
        let (node, _) = acceptable("hostname: b\nrancher: {ssh: {port: 23}}\n", "-").unwrap();
        let shown = merge(&file, node.clone(), true).unwrap();
        assert_eq!(read(&file).unwrap(), shown.before);
        let made = merge(&file, node, false).unwrap();
        assert_eq!((&made.after, &read(&file).unwrap()), (&shown.after, &made.after));
        assert!(replace(&file, "other", "hostname: c\n").is_err());
        replace(&file, &made.after, "hostname: c\n").unwrap();
        assert_eq!(read(&file).unwrap(), "hostname: c\n");
        let all = acceptable("hostname: [a]\nmounts: x\nhostnam: x\n", "-").unwrap_err();
        assert_eq!(all.len(), 3);
    }
}

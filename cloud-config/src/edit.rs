//! `ros config set` and `unset`: changes to the user's own file, one writer at a time, durable. Comments in the file
//! are not kept: it is written by programs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use ros_api::durable;

use crate::diagnostic::{Diagnostic, Severity};
use crate::schema::kind_at;
use crate::tree::{Layer, Node, Origin, Value};
use crate::{check, document};

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
    let path = own_path(path);
    let origin = Origin { layer: Layer::User, file: "VALUE".into(), line: 0, column: 0 };
    let Some(kind) = kind_at(&path) else {
        let refused = Diagnostic::error(origin, "there is no such key".into()).about(&path);
        return Err(EditError::Refused(
            refused.hint("see `ros config export --full` for keys in use"),
        ));
    };
    let node = parsed(value, &origin);
    let mut found = Vec::new();
    let node = check::check(node, kind, &path, &mut found);
    if let Some(wrong) = found.into_iter().find(|diagnostic| diagnostic.severity == Severity::Error)
    {
        return Err(EditError::Refused(wrong));
    }
    let Some(node) = node else {
        return Err(EditError::Refused(
            Diagnostic::error(origin, "there is no value".into()).about(&path),
        ));
    };
    change(file, |tree| tree.put(&path, node))
}

/// Removes the key at a dotted path; answers whether it was there.
///
/// # Errors
/// When the file cannot be read or written.
pub fn unset(file: &Path, path: &str) -> Result<bool, EditError> {
    let path = own_path(path);
    let mut was_there = false;
    change(file, |tree| was_there = remove(tree, &path))?;
    Ok(was_there)
}

fn own_path(path: &str) -> String {
    match path.strip_prefix("rancher") {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("ros{rest}"),
        _ => path.to_owned(),
    }
}

/// YAML where it is YAML; a text with `: ` or other marks in it is that text.
fn parsed(value: &str, origin: &Origin) -> Node {
    let wrapped = format!("v: {value}\n");
    let node = document::parse(&wrapped, Layer::User, &origin.file).ok();
    node.and_then(|node| node.get("v").cloned()).unwrap_or_else(|| Node::text(value, origin))
}

fn change(file: &Path, edit: impl FnOnce(&mut Node)) -> Result<(), EditError> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let lock = File::create(file.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(io::Error::from)?;
    let text = match fs::read_to_string(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let mut tree = document::parse(&text, Layer::User, &file.display().to_string())
        .map_err(EditError::Refused)?;
    edit(&mut tree);
    let yaml = serde_yaml::to_string(&tree.to_json()).map_err(io::Error::other)?;
    durable::write(file, format!("#cloud-config\n{yaml}").as_bytes(), 0o600)?;
    Ok(())
}

fn remove(node: &mut Node, path: &str) -> bool {
    let Value::Map(entries) = &mut node.value else { return false };
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Some(index) = entries.iter().position(|(name, _)| name == key) else { return false };
    match rest {
        Some(rest) => remove(&mut entries[index].1, rest),
        None => {
            entries.remove(index);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_checks_writes_and_unset_removes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf/cloud-config.yml");
        set(&file, "hostname", "node-1").unwrap();
        set(&file, "rancher.debug", "true").unwrap();
        set(&file, "ros.modules", "[a, b]").unwrap();
        set(&file, "ros.sysctl", "{net.ipv4.ip_forward: 1}").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let json = document::parse(&text, Layer::User, "f").unwrap().to_json();
        let expected = serde_json::json!({
            "hostname": "node-1",
            "ros": {"debug": true, "modules": ["a", "b"], "sysctl": {"net.ipv4.ip_forward": 1}},
        });
        assert_eq!(json, expected);
        assert!(set(&file, "hostnam", "x").unwrap_err().to_string().contains("no such key"));
        assert!(
            set(&file, "ros.debug", "perhaps").unwrap_err().to_string().contains("true or false")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "a refused change changes nothing");
        assert!(unset(&file, "ros.debug").unwrap());
        assert!(!unset(&file, "ros.debug").unwrap());
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
}

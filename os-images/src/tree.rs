//! A root file system in memory: what packages, definitions and programs put together before it becomes a
//! layer or an initrd.
//!
//! Invariants: paths are relative, `/usr`-merged (`bin/sh` is `usr/bin/sh`) and sorted; every entry's parent
//! is there. There are no times, and owners are numbers: nothing of the building machine gets in.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File(Rc<[u8]>),
    /// A symbolic link to this target.
    Link(String),
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The source package that it is from; empty when it is from none.
    pub source: Rc<str>,
}

impl Entry {
    fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, source: Rc::default() }
    }

    /// A folder of root's.
    #[must_use]
    pub fn dir() -> Self {
        Self::new(Kind::Dir, 0o755)
    }

    /// A file of root's.
    #[must_use]
    pub fn file(content: impl Into<Rc<[u8]>>, mode: u32) -> Self {
        Self::new(Kind::File(content.into()), mode)
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(target: impl Into<String>) -> Self {
        Self::new(Kind::Link(target.into()), 0o777)
    }

    /// A named pipe of root's.
    #[must_use]
    pub fn fifo() -> Self {
        Self::new(Kind::Fifo, 0o600)
    }
}

/// A root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// Folders that are links into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A path as the tree has it: no `./`, no leading or trailing slash, below `/usr` where that is merged.
#[must_use]
pub fn normal(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let path = if path == "." { "" } else { path };
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) && path != first { format!("usr/{path}") } else { path.to_owned() }
}

impl Tree {
    /// Puts an entry at `path`, making missing parents. A folder that is there stays unless `entry` is one.
    pub fn put(&mut self, path: &str, entry: Entry) {
        let path = normal(path);
        if path.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            at += slash;
            self.entries.entry(path[..at].to_owned()).or_insert_with(Entry::dir);
            at += 1;
        }
        self.entries.insert(path, entry);
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(&normal(path))
    }

    /// Content of the file at `path`.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<&Rc<[u8]>> {
        match &self.get(path)?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Text of the file at `path`; empty when it is not there.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        self.content(path)
            .map(|content| String::from_utf8_lossy(content).into_owned())
            .unwrap_or_default()
    }

    /// Takes away the entry at `path` and everything below it.
    pub fn remove(&mut self, path: &str) {
        let path = normal(path);
        let below = format!("{path}/");
        self.entries.retain(|name, _| *name != path && !name.starts_with(&below));
    }

    /// Changes permission bits, and owner and group where given.
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn permit(&mut self, path: &str, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        let Some(entry) = self.entries.get_mut(&normal(path)) else {
            bail!("{path} is not in the image")
        };
        entry.mode = mode;
        if let Some((uid, gid)) = owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        Ok(())
    }

    /// Everything, sorted by path.
    pub fn iter(&self) -> Iter<'_, String, Entry> {
        self.entries.iter()
    }

    /// What differs from `below`: the layer that makes this tree of that one.
    ///
    /// # Errors
    /// When something of `below` is gone: layers here only add and change.
    pub fn above(&self, below: &Self) -> Result<Self> {
        if let Some(gone) = below.entries.keys().find(|path| !self.entries.contains_key(*path)) {
            bail!("{gone} is in the parent image and cannot be taken away");
        }
        let differs = |(path, entry): &(&String, &Entry)| below.entries.get(*path) != Some(*entry);
        let entries = self.entries.iter().filter(differs);
        Ok(Self { entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect() })
    }

    /// Puts everything that lies in the folder `dir` of the building machine: owner root, and of the
    /// permission bits only whether it may be executed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn put_folder(&mut self, dir: &Path) -> Result<()> {
        self.put_below(dir, "")
    }

    fn put_below(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        let listing = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
        for entry in listing {
            let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                bail!("{} has a name that is not UTF-8", path.display())
            };
            let inside = format!("{prefix}{name}");
            let meta =
                path.symlink_metadata().with_context(|| format!("stat {}", path.display()))?;
            if meta.is_dir() {
                if self.get(&inside).is_none() {
                    self.put(&inside, Entry::dir());
                }
                self.put_below(&path, &format!("{inside}/"))?;
            } else if meta.is_symlink() {
                let target =
                    fs::read_link(&path).with_context(|| format!("read {}", path.display()))?;
                self.put(&inside, Entry::link(target.to_string_lossy()));
            } else {
                let content =
                    fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                let mode = if meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                self.put(&inside, Entry::file(content, mode));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_merged_and_parents_made() {
        let mut tree = Tree::default();
        tree.put("./bin/sh", Entry::link("busybox"));
        tree.put("/lib", Entry::link("usr/lib"));
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["lib", "usr", "usr/bin", "usr/bin/sh"]);
        assert_eq!(normal("."), "");
    }

    #[test]
    fn a_layer_is_what_differs() {
        let mut base = Tree::default();
        base.put("etc/a", Entry::file(*b"a", 0o644));
        let mut child = base.clone();
        child.put("etc/b", Entry::file(*b"b", 0o644));
        child.put("etc/a", Entry::file(*b"changed", 0o644));
        let layer = child.above(&base).unwrap();
        assert_eq!(
            layer.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
            ["etc/a", "etc/b"]
        );
        child.remove("etc/a");
        assert!(child.above(&base).is_err());
    }
}

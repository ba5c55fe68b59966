//! Puts a root file system together from packages: the files that are wanted, and every library that they
//! need, found by what their ELF headers ask for. A library that no package has is an error, so an image
//! whose programs cannot start is not built.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::debian::pool::Pool;
use crate::definition::Want;
use crate::elf;
use crate::glob::matches;
use crate::prune;
use crate::tree::{Entry, Kind, Tree};

/// A tree, and the packages that anything in it is from.
#[derive(Clone, Debug, Default)]
pub struct Composed {
    /// The files.
    pub tree: Tree,
    /// Names of packages.
    pub packages: BTreeSet<String>,
}

impl Composed {
    /// Adds the files of `wants`, except those that `prune` leaves out.
    ///
    /// # Errors
    /// When a package is not there, or a pattern finds nothing in it.
    pub fn add_packages(&mut self, pool: &Pool, wants: &[Want], prune: &[String]) -> Result<()> {
        for (name, patterns) in wants.iter().flat_map(Want::parts) {
            let entries = pool.entries(name)?;
            match patterns {
                None => {
                    self.add(name, entries.iter().filter(|(path, _)| !prune::left_out(path, prune)))
                }
                Some(patterns) => self.add_files(name, &entries, patterns, prune)?,
            }
        }
        Ok(())
    }

    fn add_files(
        &mut self,
        name: &str,
        entries: &BTreeMap<String, Entry>,
        patterns: &[String],
        prune: &[String],
    ) -> Result<()> {
        for pattern in patterns {
            let found = |path: &String| {
                matches(pattern, path) && !prune.iter().any(|pattern| matches(pattern, path))
            };
            if !entries.keys().any(found) {
                bail!("{pattern} finds nothing in the package {name}");
            }
            self.add(name, entries.iter().filter(|(path, _)| found(path)));
        }
        Ok(())
    }

    fn add<'a>(&mut self, package: &str, entries: impl Iterator<Item = (&'a String, &'a Entry)>) {
        for (path, entry) in entries {
            let replaces_dir = matches!(self.tree.get(path), Some(Entry { kind: Kind::Dir, .. }));
            if entry.kind != Kind::Dir || !replaces_dir {
                self.tree.put(path, entry.clone());
            }
            self.packages.insert(package.to_owned());
        }
    }

    /// Adds `libraries` and every library that a file in the tree needs, until nothing is missing.
    ///
    /// # Errors
    /// When no package has one of them.
    pub fn add_libraries(&mut self, pool: &Pool, libraries: &[String]) -> Result<()> {
        let mut present = BTreeSet::new();
        let mut missing: Vec<(String, String)> =
            libraries.iter().map(|soname| (soname.clone(), "the definition".to_owned())).collect();
        for (path, entry) in self.tree.iter() {
            // A link alone is not the library: what it leads to may be missing.
            if matches!(entry.kind, Kind::File(_)) {
                present.insert(base(path).to_owned());
            }
            missing.extend(needs(entry).into_iter().map(|soname| (soname, path.clone())));
        }
        while let Some((soname, by)) = missing.pop() {
            if !present.insert(soname.clone()) {
                continue;
            }
            let files =
                self.add_library(pool, &soname).with_context(|| format!("{by} needs {soname}"))?;
            for (path, entry) in files {
                missing.extend(needs(&entry).into_iter().map(|soname| (soname, path.clone())));
            }
        }
        self.check_interpreters()
    }

    /// A program names its interpreter by an absolute path, and `/lib64` is a link into `/usr`.
    fn check_interpreters(&self) -> Result<()> {
        for (path, entry) in self.tree.iter() {
            let Kind::File(content) = &entry.kind else { continue };
            let Some(interpreter) = elf::dynamic(content).interpreter else { continue };
            if self.tree.get(&format!("usr{interpreter}")).is_none() {
                bail!("{path} needs {interpreter}, and no package puts /usr{interpreter} there");
            }
        }
        Ok(())
    }

    /// Adds one library: the link by that name, and the file that it leads to.
    fn add_library(&mut self, pool: &Pool, soname: &str) -> Result<Vec<(String, Entry)>> {
        let (package, path) = pool.library(soname)?;
        let entries = pool.entries(package)?;
        let mut path = path.clone();
        let mut added = Vec::new();
        while let Some(entry) = entries.get(&path) {
            self.tree.put(&path, entry.clone());
            self.packages.insert(package.clone());
            added.push((path.clone(), entry.clone()));
            match &entry.kind {
                Kind::Link(target) => path = beside(&path, target),
                _ => break,
            }
        }
        Ok(added)
    }
}

fn needs(entry: &Entry) -> Vec<String> {
    let Kind::File(content) = &entry.kind else { return Vec::new() };
    let dynamic = elf::dynamic(content);
    let interpreter = dynamic.interpreter.as_deref().map(|path| base(path).to_owned());
    dynamic.needed.into_iter().chain(interpreter).collect()
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The path that a link at `path` to `target` leads to.
fn beside(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return crate::tree::normal(target);
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_beside() {
        assert_eq!(beside("usr/lib/a.so", "a.so.1"), "usr/lib/a.so.1");
        assert_eq!(beside("usr/lib64/ld.so", "../lib/x/ld.so"), "usr/lib/x/ld.so");
        assert_eq!(beside("usr/lib64/ld.so", "/lib/x/ld.so"), "usr/lib/x/ld.so");
    }
}

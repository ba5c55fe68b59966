//! The packages of one build: resolved, verified and fetched together by mmdebstrap (that is, by apt), then
//! read file by file. Nothing of them is ever run.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use ros_api::Digest;

use super::SUITE;
use super::mirror::Mirror;
use super::package::Package;
use crate::command::{command, output};
use crate::tree::{Entry, Kind};

/// Entries of a package by path.
type Entries = Rc<BTreeMap<String, Entry>>;

/// Every package of one build.
pub struct Pool {
    packages: BTreeMap<String, Package>,
    entries: RefCell<BTreeMap<String, Entries>>,
    libraries: OnceCell<BTreeMap<String, (String, String)>>,
    identity: Digest,
}

/// Packages that no library comes from, and too big to look.
const NO_LIBRARIES: &str = "linux-";

impl Pool {
    /// The packages `wanted` and all they depend on, from the cache or the mirror.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn open(wanted: &BTreeSet<String>, cache: &Path) -> Result<Self> {
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let key = Digest::of(format!("{SUITE} {}", names.join(" ")).as_bytes());
        let dir = cache.join("packages").join(key.short());
        if !dir.exists() {
            fetch(&names, &dir)?;
        }
        Self::read(&dir)
    }

    fn read(dir: &Path) -> Result<Self> {
        let listing = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
        let mut files: Vec<PathBuf> =
            listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "deb"));
        files.sort();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        let identity = Digest::of(names.join("\n").as_bytes());
        let packages = files
            .iter()
            .map(|file| Package::open(file).map(|package| (package.name.clone(), package)));
        Ok(Self {
            packages: packages.collect::<Result<_>>()?,
            entries: RefCell::default(),
            libraries: OnceCell::new(),
            identity,
        })
    }

    /// Names and versions of all packages under one digest.
    #[must_use]
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// A package by name.
    ///
    /// # Errors
    /// When it was not fetched.
    pub fn package(&self, name: &str) -> Result<&Package> {
        self.packages.get(name).with_context(|| format!("the package {name} is not in the pool"))
    }

    /// The one package whose name begins and ends so.
    ///
    /// # Errors
    /// When there is none.
    pub fn named_like(&self, start: &str, end: &str) -> Result<&Package> {
        let mut all = self.packages.values();
        all.find(|package| {
            package.name.starts_with(start)
                && package.name.ends_with(end)
                && package.name.len() > start.len() + end.len()
        })
        .with_context(|| format!("no package {start}*{end} is in the pool"))
    }

    /// What a package installs; read once.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn entries(&self, name: &str) -> Result<Entries> {
        if let Some(entries) = self.entries.borrow().get(name) {
            return Ok(entries.clone());
        }
        let entries = Rc::new(self.package(name)?.entries()?);
        self.entries.borrow_mut().insert(name.to_owned(), entries.clone());
        Ok(entries)
    }

    /// Package and path of the library `soname`.
    ///
    /// # Errors
    /// When no package has it.
    pub fn library(&self, soname: &str) -> Result<&(String, String)> {
        if self.libraries.get().is_none() {
            let found = self.find_libraries()?;
            let _ = self.libraries.set(found);
        }
        let found = self.libraries.get().and_then(|all| all.get(soname));
        match found {
            Some(found) => Ok(found),
            None => bail!("no package in the pool has the library {soname}"),
        }
    }

    fn find_libraries(&self) -> Result<BTreeMap<String, (String, String)>> {
        let mut found = BTreeMap::new();
        for name in self.packages.keys().filter(|name| !name.starts_with(NO_LIBRARIES)) {
            for (path, entry) in self.entries(name)?.iter() {
                let base = path.rsplit('/').next().unwrap_or(path);
                if base.contains(".so") && path.starts_with("usr/lib") && entry.kind != Kind::Dir {
                    found.entry(base.to_owned()).or_insert_with(|| (name.clone(), path.clone()));
                }
            }
        }
        Ok(found)
    }
}

/// Has mmdebstrap fetch `names` and what they depend on into `dir`, which appears whole.
fn fetch(names: &[&str], dir: &Path) -> Result<()> {
    let mirror = Mirror::find()?;
    eprintln!("packages: fetching {} and what they need", names.len());
    let part = dir.with_extension("part");
    match fs::remove_dir_all(&part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove {}", part.display()));
        }
        _ => {}
    }
    fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args([
        "--variant=extract",
        "--format=null",
        "--architectures=amd64",
        "--skip=essential/unlink",
    ]);
    mmdebstrap.arg(format!("--include={}", names.join(",")));
    mmdebstrap.arg(format!("--extract-hook=sync-out /var/cache/apt/archives {}", part.display()));
    mmdebstrap.args([SUITE, "/dev/null"]).args(mirror.sources());
    output(&mut mmdebstrap).context("fetch packages")?;
    fs::rename(&part, dir).with_context(|| format!("rename onto {}", dir.display()))
}

//! The packages of one build: resolved, verified and fetched together by mmdebstrap (that is, by apt), then
//! read file by file. Nothing of them is ever run.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use ros_api::{Digest, durable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SUITE;
use super::mirror::Mirror;
use super::package::Package;
use crate::command::{command, output};
use crate::tree::{Entry, Kind};

/// Entries of a package by path.
type Entries = Rc<BTreeMap<String, Entry>>;

/// Every package of one build.
pub struct Pool {
    dir: PathBuf,
    packages: BTreeMap<String, Package>,
    entries: RefCell<BTreeMap<String, Entries>>,
    libraries: OnceCell<BTreeMap<String, (String, String)>>,
    identity: Digest,
}

/// Packages that no library comes from, and too big to look.
const NO_LIBRARIES: &str = "linux-";

/// What was read of the packages, beside them: looking into each of them takes seconds. Another name for what is
/// written in another way.
const PACKAGES: &str = "packages-1.json";
const LIBRARIES: &str = "libraries-1.json";

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
        let packages = remembered(&dir.join(PACKAGES), || {
            let open = |file: &PathBuf| Ok((file_name(file), Package::open(file)?));
            files.iter().map(open).collect::<Result<BTreeMap<_, _>>>()
        })?;
        let placed = packages.into_iter().map(|(file, package)| {
            (package.name.clone(), Package { file: dir.join(file), ..package })
        });
        Ok(Self {
            dir: dir.to_owned(),
            packages: placed.collect(),
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
            let found = remembered(&self.dir.join(LIBRARIES), || self.find_libraries())?;
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

/// What is in `file`; else what `find` finds, which is in the file from then on.
fn remembered<T: Serialize + DeserializeOwned>(
    file: &Path,
    find: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let read = fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = read {
        return Ok(known);
    }
    let found = find()?;
    durable::write(file, &serde_json::to_vec(&found)?, 0o644)?;
    Ok(found)
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
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

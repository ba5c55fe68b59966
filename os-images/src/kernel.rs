//! The kernel: Debian's, and of its modules those that `kernel/modules` names plus what they depend on, as
//! depmod says. Modules are unpacked: the initrd is compressed as a whole, and loading is faster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ros_api::{Digest, durable};

use crate::command::{command, output};
use crate::debian::package::Package;
use crate::debian::pool::Pool;
use crate::tree::{Entry, Kind, Tree};

/// The package that always depends on the newest kernel.
pub const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub version: String,
    /// `vmlinuz`.
    pub image: Vec<u8>,
    /// `usr/lib/modules/<version>/…`.
    pub modules: Tree,
    /// The package it is from.
    pub package: String,
}

impl Kernel {
    /// The kernel of `pool` with the modules listed in the folder `lists`.
    ///
    /// # Errors
    /// When it is not there, or a module is not.
    pub fn open(pool: &Pool, lists: &Path, cache: &Path) -> Result<Self> {
        let package = pool
            .named_like("linux-image-6", "-cloud-amd64")
            .or_else(|_| pool.named_like("linux-image-", "-cloud-amd64"))?;
        let version = package.name.trim_start_matches("linux-image-").to_owned();
        let wanted = read_list(&lists.join("modules"))?;
        let boot = read_list(&lists.join("modules.boot"))?;
        let names: BTreeSet<&str> =
            wanted.iter().chain(&boot).map(|line| first_word(line)).collect();
        let key =
            Digest::of(format!("2 {} {} {names:?}", package.name, package.version).as_bytes());
        let dir = cache.join("kernel").join(key.short());
        if !dir.exists() {
            eprintln!("kernel: {version} with {} modules and what they need", names.len());
            unpack(package, &version, &names, &dir)?;
        }
        let image = dir.join("vmlinuz");
        let image = fs::read(&image).with_context(|| format!("read {}", image.display()))?;
        let mut modules = Tree::default();
        modules.put_folder(&dir.join("root"))?;
        Ok(Self { version, image, modules, package: package.name.clone() })
    }
}

/// Lines of a list, without comments.
///
/// # Errors
/// When it cannot be read.
pub fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// Makes `dir` with `vmlinuz` and `root/usr/lib/modules`; it appears whole.
fn unpack(package: &Package, version: &str, names: &BTreeSet<&str>, dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent).context("create a temporary folder")?;
    let all = work.path().join("all");
    output(command("dpkg-deb").arg("--extract").arg(&package.file).arg(&all))?;
    let modules = Path::new("lib/modules").join(version);
    let from = all.join("usr").join(&modules);
    output(command("depmod").args(["-m", "/usr/lib/modules", "-b"]).arg(&all).arg(version))
        .or_else(|_| {
            // An older depmod looks in /lib only.
            std::os::unix::fs::symlink("usr/lib", all.join("lib")).context("link lib")?;
            output(command("depmod").arg("-b").arg(&all).arg(version))
        })?;
    let chosen = with_dependencies(
        &fs::read_to_string(from.join("modules.dep")).context("read modules.dep")?,
        names,
        &builtin(&from),
    )?;
    let result = work.path().join("result");
    let to = result.join("root/usr").join(&modules);
    for path in &chosen {
        copy(&from.join(path), &to.join(path))?;
    }
    let packed: Vec<PathBuf> = chosen
        .iter()
        .map(|path| to.join(path))
        .filter(|path| path.extension().is_some_and(|ending| ending == "xz"))
        .collect();
    if !packed.is_empty() {
        output(command("xz").arg("-d").args(&packed))?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        copy(&from.join(name), &to.join(name))?;
    }
    std::os::unix::fs::symlink("usr/lib", result.join("root/lib")).context("link lib")?;
    output(command("depmod").arg("-b").arg(result.join("root")).arg(version))?;
    fs::remove_file(result.join("root/lib")).context("remove lib")?;
    keep_what_is_read(&to)?;
    copy(&all.join("boot").join(format!("vmlinuz-{version}")), &result.join("vmlinuz"))?;
    fs::rename(&result, dir).with_context(|| format!("rename onto {}", dir.display()))
}

/// Of depmod's files, those that the boot stage reads, and the binary ones that udev's own loader asks for.
fn keep_what_is_read(dir: &Path) -> Result<()> {
    let keep = [
        "modules.dep",
        "modules.dep.bin",
        "modules.alias",
        "modules.alias.bin",
        "modules.softdep",
        "modules.builtin",
        "modules.builtin.bin",
        "modules.builtin.alias.bin",
        "kernel",
    ];
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read a folder")?.path();
        if !keep.iter().any(|name| path.ends_with(name)) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn builtin(modules: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    text.lines().map(module_name).collect()
}

/// A module's name as the kernel has it.
fn module_name(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

/// Paths of the modules `names` and all they depend on, from the text of `modules.dep`.
fn with_dependencies(
    dep: &str,
    names: &BTreeSet<&str>,
    builtin: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let lines: Vec<(&str, &str)> = dep.lines().filter_map(|line| line.split_once(':')).collect();
    let by_name: BTreeMap<String, (&str, &str)> =
        lines.iter().map(|(path, needs)| (module_name(path), (*path, *needs))).collect();
    let mut chosen = BTreeSet::new();
    let mut missing = Vec::new();
    for name in names {
        match by_name.get(&name.replace('-', "_")) {
            Some((path, needs)) => {
                chosen.insert((*path).to_owned());
                chosen.extend(needs.split_whitespace().map(str::to_owned));
            }
            None if builtin.contains(&name.replace('-', "_")) => {}
            None => missing.push(*name),
        }
    }
    if missing.is_empty() {
        Ok(chosen)
    } else {
        bail!("the kernel has no module {}", missing.join(", "))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    Ok(durable::write(to, &content, 0o644)?)
}

/// Puts the modules of `kernel` into `tree`.
pub fn put_modules(tree: &mut Tree, kernel: &Kernel) {
    for (path, entry) in kernel.modules.iter() {
        if let Kind::File(content) = &entry.kind {
            tree.put(path, Entry::file(content.clone(), 0o644));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let dep =
            "kernel/a/b-c.ko.xz: kernel/d.ko.xz kernel/e.ko.xz\nkernel/d.ko.xz:\nkernel/f.ko.xz:\n";
        let builtin = BTreeSet::from(["ext4".to_owned()]);
        let chosen = with_dependencies(dep, &BTreeSet::from(["b_c", "ext4"]), &builtin).unwrap();
        assert_eq!(
            chosen.into_iter().collect::<Vec<_>>(),
            ["kernel/a/b-c.ko.xz", "kernel/d.ko.xz", "kernel/e.ko.xz"]
        );
        assert!(with_dependencies(dep, &BTreeSet::from(["zz"]), &builtin).is_err());
    }
}

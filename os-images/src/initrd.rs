//! The initrd: `/init`, the modules, and the few programs that the boot stage calls. The kernel unpacks several archives
//! after one another (its `Documentation/driver-api/early-userspace/buffer-format.rst`), and so there is one for what all
//! releases share, one for `/init`, one for what only this release has; a live medium has the images in one more.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use ros_api::Digest;

use crate::EPOCH;
use crate::compose::Composed;
use crate::cpio;
use crate::debian::pool::Pool;
use crate::definition::{InitrdVariation, Want};
use crate::image::certificates;
use crate::kernel::{Kernel, put_modules};
use crate::tree::{Entry, Kind, Tree};

/// What an initrd is made of.
pub struct Parts<'a> {
    /// The packages.
    pub pool: &'a Pool,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The folder with the list of what is loaded first, and the packages.
    pub lists: &'a Path,
    /// `/init`.
    pub init: Rc<[u8]>,
    /// `/etc/ros/release-defaults.yml`.
    pub defaults: String,
    /// How it differs from what is normal.
    pub variation: &'a InitrdVariation,
}

/// Packages of the initrd, and the files wanted of them.
///
/// # Errors
/// When the list cannot be read.
pub fn wants(lists: &Path) -> Result<Vec<Want>> {
    let path = lists.join("packages.yml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// The tree of an initrd, with the packages in it.
///
/// # Errors
/// When a part is missing.
pub fn compose(parts: &Parts<'_>) -> Result<Composed> {
    let mut composed = Composed::default();
    composed.add_packages(parts.pool, &wants(parts.lists)?, &[])?;
    composed.add_libraries(parts.pool, &[])?;
    composed.packages.insert(parts.kernel.package.clone());
    let tree = &mut composed.tree;
    for dir in ["bin", "sbin", "lib", "lib64"] {
        tree.put(dir, Entry::link(format!("usr/{dir}")));
    }
    for dir in ["dev", "proc", "sys", "run", "var", "etc", "boot"] {
        tree.put(dir, Entry::dir());
    }
    let bundle = certificates(tree);
    tree.remove("usr/share/ca-certificates");
    tree.put("etc/ssl/certs/ca-certificates.crt", Entry::file(bundle, 0o644));
    tree.put("init", Entry::file(parts.init.clone(), 0o755));
    tree.put("usr/sbin/modprobe", Entry::link("/init"));
    tree.put("usr/bin/sh", Entry::link("busybox"));
    put_modules(tree, parts.kernel);
    let first = std::fs::read(parts.lists.join("modules.boot")).context("read modules.boot")?;
    tree.put("etc/ros/modules.boot", Entry::file(first, 0o644));
    tree.put(
        "etc/ros/release-defaults.yml",
        Entry::file(parts.defaults.clone().into_bytes(), 0o644),
    );
    parts.variation.without.iter().for_each(|path| tree.remove(path));
    parts.variation.fifos.iter().for_each(|path| tree.put(path, Entry::fifo()));
    Ok(composed)
}

/// Digest of all that is in `tree` but the content of `/init`; none when that is no program.
#[must_use]
pub fn without_init(tree: &Tree) -> Option<Digest> {
    tree.content("init")?;
    let mut rest = tree.clone();
    rest.put("init", Entry::file(Vec::new(), 0o755));
    Some(Digest::of(&cpio::archive(&rest, EPOCH)))
}

/// The trees whose archives make up the initrd, in order: packing is slow, and most releases differ in the last ones only.
#[must_use]
pub fn archives(tree: &Tree) -> [Tree; 3] {
    let mut all = [Tree::default(), Tree::default(), Tree::default()];
    for (path, entry) in tree.iter() {
        let at = match path.as_str() {
            "init" => 1,
            path if path.starts_with("etc/ros/") => 2,
            _ => 0,
        };
        all[at].put(path, entry.clone());
    }
    all
}

/// The packed archive of `tree`, as long as the next one's place needs it: the kernel looks for it at a multiple of four
/// bytes.
///
/// # Errors
/// When it cannot be compressed.
pub fn pack(tree: &Tree, level: i32) -> Result<Vec<u8>> {
    let archive = cpio::archive(tree, EPOCH);
    let mut packed = zstd::encode_all(archive.as_slice(), level).context("compress the initrd")?;
    packed.resize(packed.len().next_multiple_of(4), 0);
    Ok(packed)
}

/// The second archive of a live medium's initrd: an image layout at `/preload`, and which release it is.
///
/// # Errors
/// When the layout cannot be read.
pub fn preload(layout: &Path, release: &str) -> Result<Tree> {
    let mut inside = Tree::default();
    inside.put_folder(layout)?;
    let mut tree = Tree::default();
    for (path, entry) in inside.iter() {
        let entry = match &entry.kind {
            Kind::File(content) => Entry::file(content.clone(), 0o644),
            _ => entry.clone(),
        };
        tree.put(&format!("preload/{path}"), entry);
    }
    tree.put("preload/release", Entry::file(format!("{release}\n").into_bytes(), 0o644));
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_releases_share_is_an_archive_of_its_own() {
        let release = |init: &str, defaults: &str| {
            let mut tree = Tree::default();
            for (path, text) in
                [("init", init), ("lib/a.ko", "a"), ("etc/ros/d.yml", defaults), ("etc/x", "x")]
            {
                tree.put(path, Entry::file(text.as_bytes().to_vec(), 0o644));
            }
            archives(&tree).map(|part| pack(&part, 3).unwrap())
        };
        let (one, two) = (release("1", "a"), release("1", "b"));
        assert_eq!(one[..2], two[..2]);
        assert_ne!(one[2], two[2]);
        assert_eq!(release("2", "a")[0], one[0]);
        assert!(one.iter().all(|part| part.len() % 4 == 0));
    }

    #[test]
    fn only_init_is_left_out_of_the_digest() {
        let tree = |init: &str, module: &str| {
            let mut tree = Tree::default();
            tree.put("init", Entry::file(init.as_bytes().to_vec(), 0o755));
            tree.put("lib/a.ko", Entry::file(module.as_bytes().to_vec(), 0o644));
            tree
        };
        let digest = without_init(&tree("1", "a"));
        assert!(digest.is_some());
        assert_eq!(without_init(&tree("2", "a")), digest);
        assert_ne!(without_init(&tree("1", "b")), digest);
        assert_eq!(without_init(&Tree::default()), None, "such as one without init");
    }
}

//! Builds one image from its definition: the parent's tree, plus packages, users, files of `rootfs/`; the
//! layer is what differs from the parent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use ros_api::{Digest, durable, labels};

use crate::build::Site;
use crate::command::{command, text};
use crate::compose::Composed;
use crate::debian::pool::Pool;
use crate::definition::{self, Definitions, User, Variation};
use crate::oci::{Blobs, Image, Layer, Run};
use crate::sbom;
use crate::tree::{Entry, Kind, Tree};

/// Builds images, each once.
pub struct Images<'a> {
    definitions: &'a Definitions,
    pool: &'a Pool,
    blobs: &'a Blobs,
    cache: PathBuf,
    level: i32,
    program: Digest,
    trees: RefCell<BTreeMap<String, Rc<Composed>>>,
}

impl<'a> Images<'a> {
    /// A builder. `program` stands for the code that builds: another program's results are not taken over.
    #[must_use]
    pub fn new(
        definitions: &'a Definitions,
        pool: &'a Pool,
        blobs: &'a Blobs,
        site: &Site,
        program: Digest,
    ) -> Self {
        let (cache, level) = (site.cache.join("images"), site.level);
        Self { definitions, pool, blobs, cache, level, program, trees: RefCell::default() }
    }

    /// The image `name`, as `variation` has it.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn build(&self, name: &str, variation: &Variation) -> Result<Image> {
        let key = self.key(name, variation)?;
        let stamp = self.cache.join(format!("{}.json", key.hex()));
        if let Some(image) = read_stamp(&stamp)
            && self.blobs.has(&image)
        {
            return Ok(image);
        }
        eprintln!("image {name}: building");
        let image = self.make(name, variation).with_context(|| format!("image {name}"))?;
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("create {}", self.cache.display()))?;
        durable::write(&stamp, &serde_json::to_vec(&image)?, 0o644)?;
        Ok(image)
    }

    fn make(&self, name: &str, variation: &Variation) -> Result<Image> {
        let definition = self.definitions.image(name)?;
        let composed = self.compose(name, variation)?;
        let (mut layers, mut run, below) = self.parent(&definition)?;
        layers.push(self.blobs.layer(&composed.tree.above(&below.tree)?, self.level)?);
        run.environment.extend(definition.environment.clone());
        run.entrypoint = definition.entrypoint.clone();
        run.command = definition.command.clone();
        run.labels = definition.labels.clone();
        if let Some(spec) = varied(&definition, variation).spec()? {
            run.labels.insert(labels::SERVICE.into(), serde_json::to_string(&spec)?);
        }
        run.labels.insert(labels::PACKAGES.into(), sbom::list(self.pool, &composed.packages)?);
        self.blobs.image(layers, &run)
    }

    fn parent(&self, definition: &definition::Image) -> Result<(Vec<Layer>, Run, Rc<Composed>)> {
        let Some(parent) = &definition.parent else { return Ok(Default::default()) };
        let plain = Variation::default();
        let layers = self.build(parent, &plain)?.layers;
        let run =
            Run { environment: self.definitions.image(parent)?.environment, ..Run::default() };
        Ok((layers, run, self.tree(parent)?))
    }

    /// The tree of an image as it is defined.
    fn tree(&self, name: &str) -> Result<Rc<Composed>> {
        if let Some(tree) = self.trees.borrow().get(name) {
            return Ok(tree.clone());
        }
        let tree = Rc::new(self.compose(name, &Variation::default())?);
        self.trees.borrow_mut().insert(name.to_owned(), tree.clone());
        Ok(tree)
    }

    fn compose(&self, name: &str, variation: &Variation) -> Result<Composed> {
        let definition = self.definitions.image(name)?;
        let mut composed = match &definition.parent {
            Some(parent) => (*self.tree(parent)?).clone(),
            None => Composed::default(),
        };
        composed.add_packages(self.pool, &definition.packages, &definition.prune)?;
        composed.add_libraries(self.pool, &definition.libraries)?;
        let tree = &mut composed.tree;
        if definition.certificates {
            put_certificates(tree)?;
        }
        if definition.applets {
            put_applets(tree)?;
        }
        for (path, permit) in &definition.folders {
            tree.put(path, Entry::dir());
            tree.permit(path, permit.mode, permit.owner)?;
        }
        for (path, target) in &definition.links {
            tree.put(path, Entry::link(target.as_str()));
        }
        for rootfs in self.rootfs(name, variation)? {
            tree.put_folder(&rootfs)?;
        }
        put_accounts(tree, &definition.users, &definition.groups);
        for (path, permit) in &definition.modes {
            tree.permit(path, permit.mode, permit.owner)?;
        }
        let document = sbom::document(name, self.pool, &composed.packages, &[])?;
        composed
            .tree
            .put(&format!("usr/share/sbom/{name}.spdx.json"), Entry::file(document, 0o644));
        Ok(composed)
    }

    /// Folders whose files are put over the packages', in order.
    fn rootfs(&self, name: &str, variation: &Variation) -> Result<Vec<PathBuf>> {
        let own = self.definitions.image_dir(name)?.join("rootfs");
        let over = variation.rootfs.as_ref().map(|dir| self.definitions.releases_dir().join(dir));
        if let Some(missing) = over.as_ref().filter(|dir| !dir.is_dir()) {
            bail!("{} is not there", missing.display());
        }
        Ok(own.is_dir().then_some(own).into_iter().chain(over).collect())
    }

    /// Digest of everything that the image is made of.
    fn key(&self, name: &str, variation: &Variation) -> Result<Digest> {
        let definition = varied(&self.definitions.image(name)?, variation);
        let mut files = Tree::default();
        for rootfs in self.rootfs(name, variation)? {
            files.put_folder(&rootfs)?;
        }
        let parent = match &definition.parent {
            Some(parent) => self.key(parent, &Variation::default())?.to_string(),
            None => String::new(),
        };
        let text = format!(
            "{} {} {} {parent} {name} {definition:?} {files:?}",
            self.program,
            self.pool.identity(),
            self.level
        );
        Ok(Digest::of(text.as_bytes()))
    }
}

fn varied(definition: &definition::Image, variation: &Variation) -> definition::Image {
    let mut definition = definition.clone();
    if let Some(change) = &variation.service {
        let service = definition.service.unwrap_or_default();
        definition.service = Some(definition::merged(service, change.clone()));
    }
    definition
}

fn read_stamp(stamp: &Path) -> Option<Image> {
    serde_json::from_slice(&fs::read(stamp).ok()?).ok()
}

/// One file with all certificates of the authorities, in the order of their names.
fn put_certificates(tree: &mut Tree) -> Result<()> {
    let bundle = certificates(tree);
    if bundle.is_empty() {
        bail!("the package ca-certificates is not in the image");
    }
    tree.remove("usr/share/ca-certificates");
    tree.put("etc/ssl/certs/ca-certificates.crt", Entry::file(bundle, 0o644));
    Ok(())
}

/// All certificates of the authorities in `tree`.
#[must_use]
pub fn certificates(tree: &Tree) -> Vec<u8> {
    let mut bundle = Vec::new();
    for (path, entry) in tree.iter() {
        if let Kind::File(content) = &entry.kind
            && path.starts_with("usr/share/ca-certificates/")
            && path.ends_with(".crt")
        {
            bundle.extend_from_slice(content);
        }
    }
    bundle
}

/// A link for each of busybox's programs, as it lists them itself; what is there stays.
fn put_applets(tree: &mut Tree) -> Result<()> {
    let Some(busybox) = tree.content("usr/bin/busybox").cloned() else {
        bail!("busybox is not in the image")
    };
    let dir = tempfile::tempdir().context("create a temporary folder")?;
    let file = dir.path().join("busybox");
    durable::write(&file, &busybox, 0o755)?;
    for path in text(command(&file.to_string_lossy()).arg("--list-full"))?.lines() {
        if tree.get(path).is_none() {
            tree.put(path, Entry::link("/usr/bin/busybox"));
        }
    }
    Ok(())
}

/// Adds users and groups to `passwd`, `shadow` and `group`. Nobody has a password.
fn put_accounts(tree: &mut Tree, users: &[User], groups: &BTreeMap<String, u32>) {
    let mut passwd = tree.text("etc/passwd");
    let mut shadow = tree.text("etc/shadow");
    let mut group = tree.text("etc/group");
    let mut seen = BTreeSet::new();
    for User { name, id, home, shell } in users {
        passwd.push_str(&format!("{name}:x:{id}:{id}::{home}:{shell}\n"));
        shadow.push_str(&format!("{name}:*:::::::\n"));
        group.push_str(&format!("{name}:x:{id}:\n"));
        seen.insert(name);
    }
    for (name, id) in groups.iter().filter(|(name, _)| !seen.contains(name)) {
        group.push_str(&format!("{name}:x:{id}:\n"));
    }
    for (path, text, mode) in
        [("etc/passwd", passwd, 0o644), ("etc/shadow", shadow, 0o600), ("etc/group", group, 0o644)]
    {
        if !text.is_empty() {
            tree.put(path, Entry::file(text.into_bytes(), mode));
        }
    }
}

//! What `depmod` wrote: `modules.dep` (`path: dependency …`), `modules.alias` (`alias PATTERN NAME`),
//! `modules.softdep` (`softdep NAME pre: … post: …`) and `modules.builtin`. Names have `_` for `-`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ros_api::durable::named;

use super::glob;

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Index {
    root: PathBuf,
    modules: HashMap<String, Module>,
    builtin: HashSet<String>,
    /// Patterns by what is before their first `:` (the bus), so that a device looks at its own bus only.
    aliases: HashMap<String, Vec<(String, String)>>,
}

#[derive(Debug, Default)]
struct Module {
    path: String,
    /// Paths, the deepest dependency last, as depmod has it.
    needs: Vec<String>,
    /// Names.
    before: Vec<String>,
}

/// Files to load, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Nice to have before (`softdep pre:`).
    pub soft: Vec<PathBuf>,
    /// Needed, the module itself last.
    pub hard: Vec<PathBuf>,
}

/// A module's name as the kernel has it.
#[must_use]
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in the file `path`.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    normal(file.split_once(".ko").map_or(&*file, |(name, _)| name))
}

impl Index {
    /// Reads the folder of one kernel's modules.
    ///
    /// # Errors
    /// When it has no `modules.dep`; the other files may be missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        let dep = root.join("modules.dep");
        let dep = fs::read_to_string(&dep).map_err(|e| named("read", &dep, &e))?;
        let texts = [dep, read("modules.alias"), read("modules.softdep"), read("modules.builtin")];
        Ok(Self::parse(root, &texts.each_ref().map(String::as_str)))
    }

    /// From the texts of `modules.dep`, `.alias`, `.softdep`, `.builtin`.
    fn parse(root: &Path, [dep, alias, softdep, builtin]: &[&str; 4]) -> Self {
        let mut index = Self { root: root.to_owned(), ..Self::default() };
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            let module = Module { path: path.into(), needs, before: Vec::new() };
            index.modules.insert(name_of(Path::new(path)), module);
        }
        for line in softdep.lines() {
            index.add_softdep(line);
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace().skip(1);
            if let (Some(pattern), Some(name)) = (words.next(), words.next()) {
                index.aliases.entry(bus(pattern)).or_default().push((pattern.into(), normal(name)));
            }
        }
        index.builtin = builtin.lines().map(|line| name_of(Path::new(line))).collect();
        index
    }

    fn add_softdep(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
            return;
        };
        let pre =
            words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
        let before: Vec<String> = pre.map(normal).collect();
        if let Some(module) = self.modules.get_mut(&normal(name)) {
            module.before.extend(before);
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether `name` is a module's name, not an alias.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        let name = normal(name);
        self.modules.contains_key(&name) || self.builtin.contains(&name)
    }

    /// Whether `name` is part of the kernel itself.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normal(name))
    }

    /// Path of a module below the folder (`kernel/drivers/…`), by which its kind is known.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(&normal(name)).map(|module| module.path.as_str())
    }

    /// What has to be loaded for `name`.
    #[must_use]
    pub fn order(&self, name: &str) -> Option<Order> {
        let module = self.modules.get(&normal(name))?;
        let soft = module
            .before
            .iter()
            .filter_map(|name| self.modules.get(name))
            .flat_map(|it| self.chain(it));
        Some(Order { soft: soft.collect(), hard: self.chain(module).collect() })
    }

    fn chain(&self, module: &Module) -> impl Iterator<Item = PathBuf> + use<> {
        let needs =
            module.needs.iter().rev().chain([&module.path]).map(|path| self.root.join(path));
        needs.collect::<Vec<_>>().into_iter()
    }

    /// Names of the modules that know `alias`, each once.
    #[must_use]
    pub fn aliases(&self, alias: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let buckets = [bus(alias), String::new()];
        let buckets = if buckets[0].is_empty() { &buckets[1..] } else { &buckets[..] };
        for (pattern, name) in
            buckets.iter().filter_map(|bucket| self.aliases.get(bucket)).flatten()
        {
            if glob::matches(pattern, alias) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

/// What is before the first `:`. Aliases without one share a bucket with patterns such as `dmi*:…`.
fn bus(alias: &str) -> String {
    match alias.split_once(':') {
        Some((bus, _)) if !bus.contains(['*', '?', '[']) => bus.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let dep = "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/a/base.ko\n\
                   kernel/net/core/failover.ko:\nkernel/a/base.ko:\nkernel/a/crc-x.ko.xz:\n";
        let alias = "# Aliases\nalias virtio:d00000001v* virtio_net\nalias fs-vfat crc-x\nalias net-pf-10 virtio-net\nalias dmi*:bvnX* base\n";
        let softdep = "softdep virtio_net pre: crc-x post: never\nsoftdep unknown pre: x\n";
        Index::parse(Path::new("/m"), &[dep, alias, softdep, "kernel/fs/ext4/ext4.ko\n"])
    }

    #[test]
    fn dependencies_come_first() {
        let order = index().order("virtio-net").unwrap();
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(order.soft, paths(&["/m/kernel/a/crc-x.ko.xz"]));
        let hard = [
            "/m/kernel/a/base.ko",
            "/m/kernel/net/core/failover.ko",
            "/m/kernel/drivers/net/virtio_net.ko",
        ];
        assert_eq!(order.hard, paths(&hard));
        assert_eq!(index().order("nothing"), None);
    }

    #[test]
    fn names_and_aliases() {
        let index = index();
        assert!(index.knows("crc-x") && index.knows("ext4") && !index.knows("fs-vfat"));
        assert!(index.is_builtin("ext4") && !index.is_builtin("crc_x"));
        assert_eq!(index.aliases("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(index.aliases("fs-vfat"), ["crc_x"]);
        assert_eq!(index.aliases("net-pf-10"), ["virtio_net"]);
        assert_eq!(index.aliases("dmi:bvnXY"), ["base"]);
        assert!(index.aliases("pci:x").is_empty());
    }
}

//! Kernel modules: which one a device wants ([`index`]), loading it with what it depends on ([`Loader`]),
//! every device of the machine ([`coldplug`]), and the `modprobe` applet that the kernel itself calls.

pub mod coldplug;
mod glob;
pub mod index;
mod modprobe;

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ros_api::durable::named;

pub use index::Index;
pub use modprobe::modprobe_main;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks `.ko.xz` itself.
const COMPRESSED: i32 = 4;

/// Loads modules into the running kernel.
pub struct Loader {
    index: Index,
    cmdline: String,
    /// What this loader need not look at again, good or bad.
    seen: HashSet<String>,
}

impl Loader {
    /// For the running kernel's modules.
    ///
    /// # Errors
    /// When there are none for this kernel.
    pub fn open() -> io::Result<Self> {
        let release = rustix::system::uname();
        let root = PathBuf::from("/lib/modules").join(release.release().to_string_lossy().as_ref());
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Ok(Self { index: Index::open(&root)?, cmdline, seen: HashSet::new() })
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Loads the module `name` and all it depends on; gives how many were new.
    ///
    /// # Errors
    /// When there is no such module, or the kernel refuses it.
    pub fn load(&mut self, name: &str, options: &str) -> io::Result<usize> {
        let name = index::normal(name);
        if !self.seen.insert(name.clone()) || self.index.is_builtin(&name) {
            return Ok(0);
        }
        let order = self.index.order(&name).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("module {name} is not in {}", self.index.root().display()),
            )
        })?;
        let mut loaded = 0;
        for path in &order.soft {
            loaded += usize::from(self.insert(path, "").unwrap_or(false));
        }
        for path in &order.hard {
            let own = if index::name_of(path) == name { options } else { "" };
            loaded += usize::from(self.insert(path, own)?);
        }
        Ok(loaded)
    }

    /// Loads every module that knows `alias` (a device's modalias, `fs-vfat`, …); gives how many were new.
    ///
    /// # Errors
    /// When no module knows it, or one could not be loaded (the others were tried).
    pub fn load_alias(&mut self, alias: &str) -> io::Result<usize> {
        let names = self.index.aliases(alias);
        if names.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no module for {alias}")));
        }
        let mut loaded = 0;
        let mut failed = None;
        for name in names {
            if self.is_blacklisted(&name) {
                continue;
            }
            match self.load(&name, "") {
                Ok(new) => loaded += new,
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(loaded), Err)
    }

    /// A module's name, or an alias: what `modprobe` takes.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::load_alias`].
    pub fn load_any(&mut self, name: &str, options: &str) -> io::Result<usize> {
        if self.index.knows(name) { self.load(name, options) } else { self.load_alias(name) }
    }

    /// `modprobe.blacklist=a,b` on the kernel's command line: not for devices, still by name.
    fn is_blacklisted(&self, name: &str) -> bool {
        let lists = self
            .cmdline
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("modprobe.blacklist="));
        lists.flat_map(|list| list.split(',')).any(|listed| index::normal(listed) == name)
    }

    /// Loads one file; `false` when it was there already.
    fn insert(&self, path: &Path, options: &str) -> io::Result<bool> {
        let name = index::name_of(path);
        if Path::new("/sys/module").join(&name).join("initstate").exists() {
            return Ok(false);
        }
        let options = [self.cmdline_options(&name), options.to_owned()].join(" ");
        let options = CString::new(options.trim())?;
        let file = File::open(path).map_err(|e| named("open", path, &e))?;
        let plain = path.extension().is_some_and(|extension| extension == "ko");
        match rustix::system::finit_module(&file, &options, if plain { 0 } else { COMPRESSED }) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(e) => Err(named("load module", path, &e.into())),
        }
    }

    /// `module.option=value` on the kernel's command line.
    fn cmdline_options(&self, name: &str) -> String {
        let own = self.cmdline.split_whitespace().filter_map(|word| {
            let (module, option) = word.split_once('.')?;
            (index::normal(module) == name).then_some(option)
        });
        own.collect::<Vec<_>>().join(" ")
    }
}

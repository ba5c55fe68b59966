//! One build: where things are, the packages of everything, and releases made of images and a boot set.
//!
//! ```text
//! <out>/releases/<version>/release.yml  vmlinuz  initrd  oci/  oci-bare/
//! ```

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use ros_api::release::{BootSet, FORMAT, Minimum, PROGRAMS, ServiceImage};
use ros_api::{Digest, Release, disk, durable, labels, paths};

use crate::command;
use crate::debian::pool::Pool;
use crate::definition::{self, Definitions, Variation, Want};
use crate::grub;
use crate::image::Images;
use crate::initrd::{self, Parts};
use crate::kernel::{self, Kernel};
use crate::oci::{self, Blobs, Image, Layer, Run, link};
use crate::sbom::{self, Own};
use crate::tree::{Entry, Tree};

/// The release's images without those of its optional parts: what every machine begins with.
pub const BARE: &str = "oci-bare";
/// Kernel arguments of a release that names none. With `init=` a kernel that cannot run `/init` panics, and so goes back to
/// the last good generation; without, it would go on to `/bin/sh`, and stay there.
const CMDLINE: &str =
    "console=tty0 console=ttyS0,115200n8 panic=5 init=/init ros.watchdog=60 quiet loglevel=5";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Site {
    /// Results.
    pub out: PathBuf,
    /// What is kept between builds.
    pub cache: PathBuf,
    /// `system-docker` and `ros`.
    pub bin_dir: Option<PathBuf>,
    /// Definitions.
    pub definitions: PathBuf,
    /// Compression of layers, as zstd counts.
    pub level: i32,
}

impl Site {
    /// Folder of a release.
    #[must_use]
    pub fn release(&self, version: &str) -> PathBuf {
        self.out.join("releases").join(version)
    }

    /// One of the two programs.
    ///
    /// # Errors
    /// When no folder was given, or it is not in it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let Some(dir) = &self.bin_dir else {
            bail!("--bin-dir is needed: the folder with system-docker and ros")
        };
        let path = dir.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            bail!("{} is not there: build it first", path.display())
        }
    }
}

#[cfg(test)]
impl Site {
    /// One whose folders are all the same.
    pub fn at(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { out: dir.clone(), cache: dir.clone(), bin_dir: None, definitions: dir, level: 1 }
    }
}

/// Programs by name.
type Programs = BTreeMap<String, Rc<[u8]>>;

/// A release that is built.
pub struct Built {
    /// Its lock file.
    pub release: Release,
    /// Every image by name (`os-ntp:v1.0`), the release's own too.
    pub images: BTreeMap<String, Image>,
    /// Compressed size of each layer of the release's own image.
    pub dir: PathBuf,
}

/// One build.
pub struct Build {
    site: Site,
    definitions: Definitions,
    pool: Pool,
    blobs: Blobs,
    program: Digest,
    kernel: OnceCell<Kernel>,
    stripped: RefCell<BTreeMap<String, Rc<[u8]>>>,
}

impl Build {
    /// Reads the definitions and gets the packages that they name.
    ///
    /// # Errors
    /// When a definition is wrong or packages cannot be fetched.
    pub fn open(site: Site) -> Result<Self> {
        let definitions = Definitions::at(&site.definitions);
        let pool = Pool::open(&packages(&definitions)?, &site.cache)?;
        let blobs = Blobs::at(&site.out, &site.cache);
        let program = fs::read("/proc/self/exe")
            .map(|bytes| Digest::of(&bytes))
            .context("read this program")?;
        let (kernel, stripped) = (OnceCell::new(), RefCell::default());
        Ok(Self { site, definitions, pool, blobs, program, kernel, stripped })
    }

    /// Where things are.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The definitions.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// The builder of images.
    #[must_use]
    pub fn images(&self) -> Images<'_> {
        Images::new(&self.definitions, &self.pool, &self.blobs, &self.site, self.program)
    }

    fn kernel(&self) -> Result<&Kernel> {
        if self.kernel.get().is_none() {
            let kernel =
                Kernel::open(&self.pool, &self.definitions.kernel_dir(), &self.site.cache)?;
            let _ = self.kernel.set(kernel);
        }
        self.kernel.get().context("the kernel is not there")
    }

    /// Builds a release.
    ///
    /// # Errors
    /// When a part of it cannot be built.
    pub fn release(&self, version: &str) -> Result<Built> {
        self.build_release(version).with_context(|| format!("release {version}"))
    }

    fn build_release(&self, version: &str) -> Result<Built> {
        let definition = self.definitions.release(version)?;
        let mut images = BTreeMap::new();
        let services = self.services(version, &definition, &definition.services, &mut images)?;
        let mut parts = BTreeMap::new();
        let optional = self.services(version, &definition, &definition.optional, &mut parts)?;
        let dir = self.site.release(version);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let (boot_set, packages) = self.boot_set(&definition, &dir)?;
        let programs = self.programs(&definition)?;
        let release = Release {
            format: FORMAT,
            version: version.to_owned(),
            kernel: self.kernel()?.version.clone(),
            config_schema: 1,
            config_keys: config_keys(&definition.config_removed),
            config_removed: definition.config_removed,
            minimum: Minimum { memory_mib: definition.memory_mib.unwrap_or(0) },
            boot_set,
            programs: programs
                .iter()
                .map(|(name, content)| (name.clone(), Digest::of(content)))
                .collect(),
            services,
            optional,
            defaults: definition.defaults.unwrap_or_default(),
        };
        let own = self.own_image(&release, &programs, &packages, &dir)?;
        images.insert(format!("os:{version}"), own);
        durable::write(&dir.join("release.yml"), release.to_yaml().as_bytes(), 0o644)?;
        self.blobs.layout(&dir.join(BARE), &images)?;
        images.extend(parts);
        self.blobs.layout(&dir.join("oci"), &images)?;
        eprintln!(
            "release {version}: {} images, boot set {}",
            images.len(),
            release.boot_set.digest.short()
        );
        Ok(Built { release, images, dir })
    }

    /// `ros` and `system-docker` of a release.
    fn programs(&self, definition: &definition::Release) -> Result<Programs> {
        let program = |name: &&str| {
            let variation = definition.programs.get(*name).cloned().unwrap_or_default();
            let content = match variation.script {
                Some(script) => Rc::from(script.into_bytes()),
                None => self.appended(name, &variation.append)?,
            };
            Ok(((*name).to_owned(), content))
        };
        PROGRAMS.iter().map(program).collect()
    }

    /// A program with bytes behind its end.
    fn appended(&self, name: &str, bytes: &str) -> Result<Rc<[u8]>> {
        let content = self.read_program(name)?;
        Ok(if bytes.is_empty() { content } else { [&content, bytes.as_bytes()].concat().into() })
    }

    fn services(
        &self,
        version: &str,
        definition: &definition::Release,
        parts: &BTreeMap<String, String>,
        built: &mut BTreeMap<String, Image>,
    ) -> Result<BTreeMap<String, ServiceImage>> {
        let images = self.images();
        let plain = Variation::default();
        let mut services = BTreeMap::new();
        for (service, name) in parts {
            let variation = definition.images.get(name).unwrap_or(&plain);
            let image = images.build(name, variation)?;
            let entry = ServiceImage {
                image: name.clone(),
                digest: image.manifest.digest,
                size: image.size(),
            };
            services.insert(service.clone(), entry);
            built.insert(format!("{name}:{version}"), image);
        }
        Ok(services)
    }

    /// Puts `vmlinuz` and `initrd` into `dir`; answers the packages in them too.
    fn boot_set(
        &self,
        definition: &definition::Release,
        dir: &Path,
    ) -> Result<(BootSet, BTreeSet<String>)> {
        let kernel = self.kernel()?;
        let defaults = match &definition.defaults {
            Some(defaults) => serde_yaml::to_string(defaults).context("write the defaults")?,
            None => "{}\n".into(),
        };
        let append = definition.programs.get("system-docker").map_or("", |it| it.append.as_str());
        let init = self.appended("system-docker", append)?;
        let lists = self.definitions.kernel_dir();
        let parts = Parts {
            pool: &self.pool,
            kernel,
            lists: &lists,
            init,
            defaults,
            variation: &definition.initrd,
        };
        let composed = initrd::compose(&parts)?;
        let mut initrd = self.packed_initrd(&composed.tree)?;
        if definition.initrd.half {
            initrd.truncate(initrd.len() / 2);
        }
        durable::write(&dir.join("vmlinuz"), &kernel.image, 0o644)?;
        durable::write(&dir.join("initrd"), &initrd, 0o644)?;
        let cmdline = definition.cmdline.clone().unwrap_or_else(|| CMDLINE.into());
        let named: &[u8] = if definition.initrd.wrong_digest { b"another" } else { &initrd };
        let (kernel_digest, initrd_digest) = (Digest::of(&kernel.image), Digest::of(named));
        let boot_set = BootSet {
            digest: BootSet::identity(&kernel_digest, &initrd_digest, &cmdline),
            kernel: kernel_digest,
            kernel_size: kernel.image.len() as u64,
            initrd: initrd_digest,
            initrd_size: initrd.len() as u64,
            cmdline,
            without_init: initrd::without_init(&composed.tree)
                .filter(|_| !definition.initrd.half && !definition.initrd.wrong_digest),
        };
        Ok((boot_set, composed.packages))
    }

    /// The initrd of `tree`.
    fn packed_initrd(&self, tree: &Tree) -> Result<Vec<u8>> {
        let parts = initrd::archives(tree);
        let packed: Result<Vec<Vec<u8>>> = parts.iter().map(|part| self.packed(part)).collect();
        Ok(packed?.concat())
    }

    /// One archive of an initrd, remembered by what is in it.
    fn packed(&self, tree: &Tree) -> Result<Vec<u8>> {
        let archive = Digest::of(&crate::cpio::archive(tree, crate::EPOCH));
        let dir = self.site.cache.join("initrd");
        let remembered = dir.join(format!("{}.zst", archive.hex()));
        if let Ok(packed) = fs::read(&remembered) {
            return Ok(packed);
        }
        let packed = initrd::pack(tree, oci::BEST)?;
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        durable::write(&remembered, &packed, 0o644)?;
        eprintln!("initrd: an archive of {} kB", packed.len() / 1000);
        Ok(packed)
    }

    /// A program without its symbols, whatever profile it was built with.
    fn read_program(&self, name: &str) -> Result<Rc<[u8]>> {
        if let Some(content) = self.stripped.borrow().get(name) {
            return Ok(content.clone());
        }
        let path = self.site.program(name)?;
        fs::create_dir_all(&self.site.cache)?;
        let stripped = tempfile::NamedTempFile::new_in(&self.site.cache)?;
        command::output(Command::new("strip").arg("-o").arg(stripped.path()).arg(&path))?;
        let content = fs::read(stripped.path()).with_context(|| format!("strip {name}"))?;
        let content: Rc<[u8]> = Rc::from(content);
        self.stripped.borrow_mut().insert(name.to_owned(), content.clone());
        Ok(content)
    }

    /// The image `os:<version>`: boot set, each program, boot loader, lock file; one layer each, so that what is the
    /// same in another release is not fetched again.
    fn own_image(
        &self,
        release: &Release,
        contents: &Programs,
        packages: &BTreeSet<String>,
        dir: &Path,
    ) -> Result<Image> {
        let read = |name: &str| fs::read(dir.join(name)).with_context(|| format!("read {name}"));
        let mut boot = Tree::default();
        boot.put("ros/boot/vmlinuz", Entry::file(read("vmlinuz")?, 0o644));
        boot.put("ros/boot/initrd", Entry::file(read("initrd")?, 0o644));
        let program = |(name, content): (&String, &Rc<[u8]>)| {
            let mut tree = Tree::default();
            tree.put(&format!("ros/bin/{name}"), Entry::file(content.clone(), 0o755));
            self.blobs.layer(&tree, self.site.level)
        };
        let mut own: Vec<Own> = PROGRAMS.map(|name| ours(name, &release.version)).to_vec();
        own.push(Own {
            name: "grub".into(),
            version: grub::version()?,
            licence: "GPL-3.0-or-later",
        });
        let mut lock = Tree::default();
        lock.put("ros/release.yml", Entry::file(release.to_yaml().into_bytes(), 0o644));
        let document = sbom::document("os", &self.pool, packages, &own)?;
        lock.put("ros/sbom.spdx.json", Entry::file(document, 0o644));
        let mut layers: Vec<Layer> = vec![self.blobs.layer(&boot, oci::LITTLE)?];
        layers.extend(contents.iter().map(program).collect::<Result<Vec<Layer>>>()?);
        layers.push(self.blobs.layer(&boot_loader()?, self.site.level)?);
        layers.push(self.blobs.layer(&lock, self.site.level)?);
        let entrypoint = [&format!("{}/bin/ros", paths::RELEASE_DIR), "os", "install-generation"];
        let run = Run {
            environment: BTreeMap::from([
                ("PATH".into(), "/ros/bin".into()),
                ("HOME".into(), "/".into()),
            ]),
            entrypoint: entrypoint.map(str::to_owned).to_vec(),
            labels: BTreeMap::from([
                (labels::RELEASE.into(), release.version.clone()),
                (labels::RELEASE_LOCK.into(), release.to_yaml()),
                (labels::PACKAGES.into(), sbom::list(&self.pool, packages)?),
            ]),
            ..Run::default()
        };
        self.blobs.image(layers, &run)
    }
}

fn ours(name: &str, version: &str) -> Own {
    Own { name: name.into(), version: version.into(), licence: "Apache-2.0" }
}

/// What `ros install` puts on a disk before there is a kernel.
fn boot_loader() -> Result<Tree> {
    let (boot, core) = grub::bios(disk::CORE_START / disk::SECTOR)?;
    let mut tree = Tree::default();
    for (path, content) in [
        (paths::GRUB_BOOT, boot),
        (paths::GRUB_CORE, core),
        (paths::GRUB_EFI, grub::efi()?),
        (paths::GRUB_CONFIG, grub::CONFIG.into()),
    ] {
        let inside = format!("{}/{path}", paths::RELEASE_DIR);
        tree.put(inside.trim_start_matches('/'), Entry::file(content, 0o644));
    }
    Ok(tree)
}

/// Every key of the configuration that the programs read, but `removed` and what is below them.
fn config_keys(removed: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    cloud_config::schema::walk(&mut |path, _| {
        keys.insert(path.to_owned());
    });
    let below = |path: &str, key: &str| {
        path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    keys.retain(|path| !removed.keys().any(|key| below(path, key)));
    keys
}

/// Every package that a definition names.
fn packages(definitions: &Definitions) -> Result<BTreeSet<String>> {
    let mut wanted = BTreeSet::from([kernel::PACKAGE.to_owned()]);
    let mut add = |wants: &[Want]| {
        wanted.extend(wants.iter().flat_map(Want::parts).map(|(name, _)| name.to_owned()))
    };
    add(&initrd::wants(&definitions.kernel_dir())?);
    for name in definitions.images()? {
        add(&definitions.image(&name)?.packages);
    }
    Ok(wanted)
}

/// Gives the folder's own copies of a release's kernel and initrd their usual names in `out`.
///
/// # Errors
/// When they cannot be made.
pub fn publish(site: &Site, built: &Built) -> Result<()> {
    for name in ["vmlinuz", "initrd"] {
        let to = site.out.join(name);
        let _ = fs::remove_file(&to);
        link(&built.dir.join(name), &to)?;
    }
    Ok(())
}

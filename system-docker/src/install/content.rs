//! What comes on the disk: all of it is looked at before anything is written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ros_api::disk::{BOOT_CODE, CORE_SIZE, boot_files};
use ros_api::{Digest, Reference, Release, durable, paths};
use ros_image::{ImageId, Store};

use super::Args;
use crate::seed::{self, New};

/// A release, and where it comes from.
pub struct Content {
    release: Release,
    grub: Grub,
    store: Store,
    /// The release's own image.
    own: ImageId,
    /// Those of its services.
    services: Vec<ImageId>,
    image: Reference,
    append: String,
    cloud_config: Option<Vec<u8>>,
}

/// The boot loader.
struct Grub {
    boot: Vec<u8>,
    core: Vec<u8>,
    efi: Vec<u8>,
    config: Vec<u8>,
}

impl Content {
    /// Finds everything, and holds it against its digests.
    ///
    /// # Errors
    /// Names what is missing or damaged.
    pub fn look(args: &Args) -> Result<Self> {
        let release = Release::parse(&String::from_utf8_lossy(&of_release("release.yml")?))?;
        for (name, expected) in boot_set(&release) {
            let found = Digest::of(&of_release(&format!("boot/{name}"))?);
            ensure!(found == expected, "{name} of the release is damaged: found {found}");
        }
        let store = Store::open(paths::STORE)?;
        let find = |digest: &Digest| store.resolve(&digest.to_string());
        let own = find(&args.digest).with_context(|| format!("find {}", args.image))?;
        let service = |(name, service): (&String, &ros_api::release::ServiceImage)| {
            find(&service.digest).with_context(|| format!("find the image of {name}"))
        };
        let services = release.services.iter().map(service).collect::<Result<_>>()?;
        let (image, append) = (args.image.clone(), args.append.clone());
        let cloud_config = cloud_config()?;
        Ok(Self { grub: Grub::read()?, release, store, own, services, image, append, cloud_config })
    }

    /// The release's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.release.version
    }

    /// What belongs into the first sector.
    #[must_use]
    pub fn boot_code(&self) -> &[u8] {
        &self.grub.boot
    }

    /// Writes GRUB's core into its partition.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_core(&self, node: &Path) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let device = File::options().write(true).open(node);
        let device = device.with_context(|| format!("open {}", node.display()))?;
        device
            .write_all_at(&self.grub.core, 0)
            .and_then(|()| device.sync_all())
            .with_context(|| format!("write {}", node.display()))
    }

    /// Fills ROS_BOOT, mounted at `root`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn fill_boot(&self, root: &Path) -> Result<()> {
        let set = root.join("sets").join(self.release.boot_set.digest.hex());
        for dir in [&set, &root.join("grub"), &root.join("EFI/BOOT")] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        for (name, _) in boot_set(&self.release) {
            seed::copy(&release_dir().join("boot").join(name), &set.join(name), 0o700)?;
        }
        let Grub { efi, config, .. } = &self.grub;
        for (path, content) in boot_files(&self.release, &self.append, efi.clone(), config.clone())?
        {
            durable::overwrite(&root.join(path), &content, 0o700)?;
        }
        Ok(())
    }

    /// Fills ROS_STATE, mounted at `root`.
    ///
    /// # Errors
    /// When an image is damaged, or a file cannot be written.
    pub fn fill_state(&self, root: &Path) -> Result<()> {
        let to = Store::open(root.join(seed::relative(paths::STORE)?))?;
        for id in self.services.iter().chain([&self.own]) {
            self.store.copy_image(id, &to).with_context(|| format!("copy image {}", id.short()))?;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let new = New { image: self.image.clone(), created: since.as_secs(), append: &self.append };
        seed::first_generation(root, &to, &self.own, &new)?;
        let Some(text) = &self.cloud_config else { return Ok(()) };
        let dir = root.join(seed::relative(paths::CLOUD_CONFIG_D)?);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(durable::write(&dir.join(paths::INSTALL_CONFIG), text, 0o600)?)
    }
}

impl Grub {
    fn read() -> Result<Self> {
        let grub = Self {
            boot: of_release(paths::GRUB_BOOT)?,
            core: of_release(paths::GRUB_CORE)?,
            efi: of_release(paths::GRUB_EFI)?,
            config: of_release(paths::GRUB_CONFIG)?,
        };
        let fits = grub.boot.len() >= BOOT_CODE && grub.core.len() as u64 <= CORE_SIZE;
        ensure!(fits, "GRUB's images in the release do not have the sizes that they must have");
        Ok(grub)
    }
}

fn boot_set(release: &Release) -> [(&'static str, Digest); 2] {
    [("vmlinuz", release.boot_set.kernel), ("initrd", release.boot_set.initrd)]
}

fn release_dir() -> PathBuf {
    paths::RELEASE_DIR.into()
}

fn of_release(name: &str) -> Result<Vec<u8>> {
    let path = release_dir().join(name);
    fs::read(&path).with_context(|| format!("read {} of the release", path.display()))
}

/// What `ros install` left; nothing when it was given none.
fn cloud_config() -> Result<Option<Vec<u8>>> {
    let path = Path::new(paths::INSTALL).join(paths::INSTALL_CONFIG);
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).with_context(|| format!("read {}", path.display())),
    }
}

//! `seed`: fills an empty state folder with the images of an OCI layout and the first generation, good from the start.
//! The image builder makes disks with it, the boot stage a machine that lives in RAM. No daemon is needed.
//!
//! ```text
//! <state>/lib/system-docker/                      the image store
//! <state>/lib/ros/generations/1/                  generation.json release.yml bin/{ros,system-docker}
//! <state>/lib/ros/generations/{current,good} → 1
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ros_api::disk::FIRST;
use ros_api::generation::{Pointer, Status};
use ros_api::release::PROGRAMS;
use ros_api::{Generation, Generations, Reference, Release, durable, paths};
use ros_image::{ImageId, Store};

#[derive(clap::Args)]
pub struct Args {
    /// Folder that becomes /var.
    #[arg(long)]
    state: PathBuf,
    /// OCI layout with the release's images.
    #[arg(long)]
    layout: PathBuf,
    /// The release, as it is named in the layout, such as os:v1.0.
    #[arg(long)]
    release: String,
    /// Kernel arguments that are added to the release's own.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
}

/// Seeds the folder; one that has a generation already is left as it is.
pub fn run(args: &Args) -> Result<()> {
    let generations = Generations::at(&args.state.join(relative(paths::GENERATIONS)?));
    if generations.pointer(Pointer::Good).is_some() {
        return Ok(());
    }
    let store = Store::open(args.state.join(relative(paths::STORE)?))?;
    let loaded = store
        .load_layout(&args.layout, |_| ())
        .with_context(|| format!("load the layout {}", args.layout.display()))?;
    let asked: Reference = args.release.parse()?;
    let id = store.resolve(&args.release).with_context(|| {
        format!(
            "{} is not among the {} images of {}",
            args.release,
            loaded.len(),
            args.layout.display()
        )
    })?;
    let new = New { image: asked, created: 0, append: &args.append };
    first_generation(&args.state, &store, &id, &new)
}

/// What is written down of a first generation.
pub struct New<'a> {
    /// The name that the release came by.
    pub image: Reference,
    /// Seconds since the epoch.
    pub created: u64,
    /// Kernel arguments that the user adds.
    pub append: &'a str,
}

/// Makes the release image `id` of `store` the first generation of `state`, when all its services are in the store.
///
/// # Errors
/// When one is missing, or a file cannot be written.
pub fn first_generation(state: &Path, store: &Store, id: &ImageId, new: &New<'_>) -> Result<()> {
    let files = ReleaseFiles { trees: store.lower_dirs(id)? };
    let release = Release::parse(&fs::read_to_string(files.find("release.yml")?)?)?;
    for (name, service) in &release.services {
        let reference = release.service_reference(&new.image, service).to_string();
        store
            .resolve(&reference)
            .with_context(|| format!("service {name}: {reference} is not in the store"))?;
    }
    let generations = Generations::at(&state.join(relative(paths::GENERATIONS)?));
    let dir = generations.begin(FIRST)?;
    let bin = dir.join("bin");
    fs::create_dir(&bin)?;
    for name in PROGRAMS {
        copy(&files.find(&format!("bin/{name}"))?, &bin.join(name), 0o755)?;
    }
    copy(&files.find("release.yml")?, &dir.join("release.yml"), 0o644)?;
    durable::sync_parent(&bin.join("ros"))?;
    generations.commit(&Generation {
        number: FIRST,
        version: release.version.clone(),
        image: new.image.clone(),
        digest: store.image(id)?.manifest,
        boot_set: release.boot_set.digest,
        created: new.created,
        append: new.append.to_owned(),
        status: Status::Good,
    })?;
    generations.point(Pointer::Current, FIRST)?;
    generations.point(Pointer::Good, FIRST)?;
    Ok(())
}

/// The release image's trees, topmost first.
struct ReleaseFiles {
    trees: Vec<PathBuf>,
}

impl ReleaseFiles {
    fn find(&self, name: &str) -> Result<PathBuf> {
        let inside = Path::new(paths::RELEASE_DIR.trim_start_matches('/')).join(name);
        let found = self.trees.iter().map(|tree| tree.join(&inside)).find(|path| path.is_file());
        match found {
            Some(path) => Ok(path),
            None => bail!("the release image has no /{}", inside.display()),
        }
    }
}

/// Copies a file so that it is on disk.
///
/// # Errors
/// When one cannot be read or the other not written.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let mut source = fs::File::open(from).with_context(|| format!("open {}", from.display()))?;
    let mut target = fs::File::create(to).with_context(|| format!("create {}", to.display()))?;
    io::copy(&mut source, &mut target).with_context(|| format!("write {}", to.display()))?;
    target.set_permissions(fs::Permissions::from_mode(mode))?;
    target.sync_all().with_context(|| format!("fsync {}", to.display()))
}

/// A path of the machine, relative to its state.
///
/// # Errors
/// When it is not in it.
pub fn relative(path: &str) -> Result<&Path> {
    Path::new(path)
        .strip_prefix(paths::STATE)
        .with_context(|| format!("{path} is not under {}", paths::STATE))
}

//! The definitions as they are written: `services/<name>/image.yml` and `releases/<version>.yml`. An unknown
//! key is an error: these files are ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ros_api::ServiceSpec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

/// `image.yml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Image {
    /// Name of the image that this one adds to (`os-base`).
    pub parent: Option<String>,
    /// Packages whose files are taken. The libraries that they need come by themselves.
    pub packages: Vec<Want>,
    /// Libraries that are loaded at run time, which no file's header names.
    pub libraries: Vec<String>,
    /// Paths that are left out, beside what is always left out.
    pub prune: Vec<String>,
    /// Users and their groups of the same name.
    pub users: Vec<User>,
    /// More groups.
    pub groups: BTreeMap<String, u32>,
    /// Folders.
    pub folders: BTreeMap<String, Permit>,
    /// Symbolic links: path → target.
    pub links: BTreeMap<String, String>,
    /// Permissions of files that are there.
    pub modes: BTreeMap<String, Permit>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// What the container runs.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub command: Vec<String>,
    /// Labels beside those of the service.
    pub labels: BTreeMap<String, String>,
    /// How it runs as a service; an image without it is only a parent.
    pub service: Option<Value>,
    /// Make a link for each of busybox's programs.
    pub applets: bool,
    /// Put the certificates of the authorities into one file.
    pub certificates: bool,
}

/// A package, whole or some of its files.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Want {
    /// All that is not left out.
    Whole(String),
    /// Only these paths (patterns).
    Files(BTreeMap<String, Vec<String>>),
}

impl Want {
    /// Package and patterns.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Option<&[String]>)> {
        let (whole, files) = match self {
            Self::Whole(name) => (Some((name.as_str(), None)), None),
            Self::Files(files) => (None, Some(files)),
        };
        let files = files.into_iter().flatten();
        whole.into_iter().chain(files.map(|(name, paths)| (name.as_str(), Some(paths.as_slice()))))
    }
}

/// A user of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number of the user and of the group.
    pub id: u32,
    /// Home.
    #[serde(default = "nowhere")]
    pub home: String,
    /// Shell.
    #[serde(default = "nologin")]
    pub shell: String,
}

fn nowhere() -> String {
    "/".into()
}

fn nologin() -> String {
    "/usr/sbin/nologin".into()
}

/// Permission bits as octal text, optionally with an owner: `"0755"`, `"0700 998:998"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Permit {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
}

impl TryFrom<String> for Permit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not permissions such as \"0755\" or \"0700 998:998\"");
        let (mode, owner) =
            text.split_once(' ').map_or((text.as_str(), None), |(mode, owner)| (mode, Some(owner)));
        let mode = u32::from_str_radix(mode, 8).map_err(|_| wrong())?;
        let owner = owner.map(|owner| {
            let (uid, gid) = owner.split_once(':')?;
            Some((uid.parse().ok()?, gid.parse().ok()?))
        });
        match owner {
            Some(None) => Err(wrong()),
            owner => Ok(Self { mode, owner: owner.flatten() }),
        }
    }
}

impl Image {
    /// The service, checked.
    ///
    /// # Errors
    /// When it is not a [`ServiceSpec`].
    pub fn spec(&self) -> Result<Option<ServiceSpec>> {
        let spec = self.service.clone().map(serde_yaml::from_value).transpose();
        spec.context("its service")
    }
}

/// `releases/<version>.yml`. What a file does not say is as in the release that it is `from`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// The release that this one changes.
    pub from: Option<String>,
    /// Service → image.
    pub services: BTreeMap<String, String>,
    /// The same for parts that a machine has only when it asks for them.
    pub optional: BTreeMap<String, String>,
    /// How images of this release differ from their definition, by image.
    pub images: BTreeMap<String, Variation>,
    /// Kernel arguments.
    pub cmdline: Option<String>,
    /// Lowest configuration layer.
    pub defaults: Option<Value>,
    /// How its initrd differs.
    pub initrd: InitrdVariation,
    /// How `ros` and `system-docker` differ from those that were built, for tests.
    pub programs: BTreeMap<String, ProgramVariation>,
    /// Least RAM in MiB.
    pub memory_mib: Option<u64>,
    /// Keys of the configuration that it no longer reads, each with what to write instead.
    pub config_removed: BTreeMap<String, String>,
}

/// How an image of a release differs from its definition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variation {
    /// A folder below `releases/` with files that are put over the image's.
    pub rootfs: Option<PathBuf>,
    /// Merged into the image's `service`.
    pub service: Option<Value>,
}

/// How a program of a release differs from the one that was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProgramVariation {
    /// Bytes behind its end, which nobody reads: it does the same and is another one. `/init` has them too.
    pub append: String,
    /// A script that is there instead; `/init` is none.
    pub script: Option<String>,
}

/// How an initrd differs from what is normal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitrdVariation {
    /// Paths that are a named pipe in it.
    pub fifos: Vec<String>,
    /// Paths that are not in it.
    pub without: Vec<String>,
    /// Only its first half is there; the lock file knows it so.
    pub half: bool,
    /// The lock file has the digest of another one.
    pub wrong_digest: bool,
}

/// The definitions' folder.
#[derive(Clone, Debug)]
pub struct Definitions {
    root: PathBuf,
}

impl Definitions {
    /// The folder at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Folder of the image `os-<name>`.
    ///
    /// # Errors
    /// When there is none.
    pub fn image_dir(&self, image: &str) -> Result<PathBuf> {
        let dir = self.root.join("services").join(image.strip_prefix("os-").unwrap_or(image));
        if !dir.join("image.yml").is_file() {
            bail!("there is no image {image}: {} has no image.yml", dir.display());
        }
        Ok(dir)
    }

    /// The definition of an image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, image: &str) -> Result<Image> {
        read(&self.image_dir(image)?.join("image.yml"))
    }

    /// Names of all images, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn images(&self) -> Result<Vec<String>> {
        let dir = self.root.join("services");
        let listing = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.map(|name| format!("os-{name}")).collect();
        names.sort();
        Ok(names)
    }

    /// The folder with the releases.
    #[must_use]
    pub fn releases_dir(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The folder with the kernel's and the initrd's lists.
    #[must_use]
    pub fn kernel_dir(&self) -> PathBuf {
        self.root.join("kernel")
    }

    /// A release with everything that it takes over from others.
    ///
    /// # Errors
    /// When it, or one that it is from, cannot be read.
    pub fn release(&self, version: &str) -> Result<Release> {
        let mut release: Release = read(&self.releases_dir().join(format!("{version}.yml")))?;
        let Some(from) = release.from.take() else { return Ok(release) };
        let older =
            self.release(&from).with_context(|| format!("release {version} is from {from}"))?;
        Ok(Release {
            from: None,
            services: over(older.services, release.services),
            optional: over(older.optional, release.optional),
            images: over(older.images, release.images),
            cmdline: release.cmdline.or(older.cmdline),
            defaults: release.defaults.or(older.defaults),
            initrd: release.initrd,
            programs: release.programs,
            memory_mib: release.memory_mib.or(older.memory_mib),
            config_removed: over(older.config_removed, release.config_removed),
        })
    }
}

fn over<V>(mut below: BTreeMap<String, V>, above: BTreeMap<String, V>) -> BTreeMap<String, V> {
    below.extend(above);
    below
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// `change` put over `value`: maps merge, all else is replaced.
#[must_use]
pub fn merged(value: Value, change: Value) -> Value {
    match (value, change) {
        (Value::Mapping(mut map), Value::Mapping(changes)) => {
            for (key, change) in changes {
                let old = map.remove(&key).unwrap_or(Value::Null);
                map.insert(key, merged(old, change));
            }
            Value::Mapping(map)
        }
        (_, change) => change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Definitions {
        Definitions::at(Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    #[test]
    fn every_definition_is_sound() {
        for name in ours().images().unwrap() {
            let image = ours().image(&name).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            image.spec().unwrap_or_else(|e| panic!("{name}: {e:#}"));
        }
        for entry in fs::read_dir(ours().releases_dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "yml") {
                let release = ours().release(path.file_stem().unwrap().to_str().unwrap()).unwrap();
                let parts = release.services.values().chain(release.optional.values());
                for image in parts.chain(release.images.keys()) {
                    ours().image(image).unwrap();
                }
            }
        }
    }

    #[test]
    fn only_the_console_and_the_users_engine_are_privileged() {
        let privileged = |name: &String| {
            ours().image(name).unwrap().spec().unwrap().is_some_and(|spec| spec.privileged)
        };
        let found: Vec<String> = ours().images().unwrap().into_iter().filter(privileged).collect();
        assert_eq!(found, ["os-console", "os-docker"]);
    }

    #[test]
    fn a_variation_merges_maps_and_replaces_lists() {
        let yaml = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
        let result = merged(yaml("{a: {b: [1], c: 2}, d: 3}"), yaml("{a: {b: [9]}, e: 4}"));
        assert_eq!(result, yaml("{a: {b: [9], c: 2}, d: 3, e: 4}"));
    }

    #[test]
    fn permissions_are_octal_text() {
        let permit = Permit::try_from("0700 998:5".to_owned()).unwrap();
        assert_eq!((permit.mode, permit.owner), (0o700, Some((998, 5))));
        for wrong in ["", "9", "0700 x", "0700 1", "0700 1:x"] {
            assert!(Permit::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}

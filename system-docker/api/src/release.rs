//! `release.yml`, the lock file of a release: every service image by digest, and the boot set. It is the
//! one thing that says what a version *is*; `os:<tag>` carries it at `/ros/release.yml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Digest, Reference};

/// The newest `format` that this code reads.
pub const FORMAT: u32 = 1;

/// The programs of a release, in `/ros/bin` of its image and in `bin` of each generation.
pub const PROGRAMS: [&str; 2] = ["ros", "system-docker"];

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Version of this file's format; a newer one than [`FORMAT`] is refused.
    pub format: u32,
    /// `v1.2`, the tag of `os:<tag>`.
    pub version: String,
    /// Kernel version, as `uname -r` prints it.
    pub kernel: String,
    /// Version of the configuration schema that this release reads.
    #[serde(default = "one")]
    pub config_schema: u32,
    /// Every key of the configuration that this release reads; empty when it does not say.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub config_keys: BTreeSet<String>,
    /// Keys of the configuration that this release no longer reads, each with what to write instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config_removed: BTreeMap<String, String>,
    /// What the machine must have.
    #[serde(default)]
    pub minimum: Minimum,
    /// Kernel and initrd.
    pub boot_set: BootSet,
    /// `ros` and `system-docker` by digest: whether the daemon must restart is known before anything is fetched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, Digest>,
    /// Service name → image. Definitions are in the images' own label [`crate::labels::SERVICE`].
    pub services: BTreeMap<String, ServiceImage>,
    /// Parts that a machine has only when it asks for them: name → image, as in `services`. The lock file of a generation
    /// that has one has it among its services, so a boot reads nothing else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub optional: BTreeMap<String, ServiceImage>,
    /// Lowest configuration layer: a cloud-config document.
    #[serde(default, skip_serializing_if = "serde_yaml::Value::is_null")]
    pub defaults: serde_yaml::Value,
}

/// Minimum requirements of a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minimum {
    /// RAM in MiB; 0 = not stated.
    #[serde(default)]
    pub memory_mib: u64,
}

/// Kernel and initrd under one digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSet {
    /// Digest of the text `"<kernel digest> <initrd digest> <cmdline>\n"`: see [`BootSet::identity`].
    pub digest: Digest,
    /// Digest of `vmlinuz`.
    pub kernel: Digest,
    /// Size of `vmlinuz` in bytes.
    pub kernel_size: u64,
    /// Digest of `initrd`.
    pub initrd: Digest,
    /// Size of `initrd` in bytes.
    pub initrd_size: u64,
    /// Kernel arguments that this boot set needs (`console=…`, `panic=…`).
    #[serde(default)]
    pub cmdline: String,
    /// Digest of all that is in the initrd but `/init`, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_init: Option<Digest>,
}

impl BootSet {
    /// Whether the two differ in nothing but `/init`: the program that is PID 1, and the daemon.
    #[must_use]
    pub fn differs_in_init_only(&self, other: &Self) -> bool {
        self.digest != other.digest
            && (self.kernel, &self.cmdline) == (other.kernel, &other.cmdline)
            && self.without_init.is_some()
            && self.without_init == other.without_init
    }

    /// The digest that names a boot set.
    #[must_use]
    pub fn identity(kernel: &Digest, initrd: &Digest, cmdline: &str) -> Digest {
        Digest::of(format!("{kernel} {initrd} {cmdline}\n").as_bytes())
    }
}

/// One service of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceImage {
    /// Repository name beside the release's own, such as `os-ntp`.
    pub image: String,
    /// Manifest digest.
    pub digest: Digest,
    /// Compressed size in bytes: manifest, config and layers.
    #[serde(default)]
    pub size: u64,
}

/// Why a `release.yml` is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Not YAML, or not this shape.
    #[error("release.yml: {0}")]
    Syntax(#[from] serde_yaml::Error),
    /// Written for a newer ros.
    #[error(
        "release.yml has format {found}, this ros reads up to {FORMAT}: upgrade by a release in between"
    )]
    Newer {
        /// The file's format.
        found: u32,
    },
}

impl Release {
    /// Parses `release.yml`.
    ///
    /// # Errors
    /// When it is not YAML of this shape, or of a newer format.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_yaml::from_str(text)?;
        if head.format > FORMAT {
            return Err(ReleaseError::Newer { found: head.format });
        }
        Ok(serde_yaml::from_str(text)?)
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: every value has a YAML form.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("a release has a YAML form")
    }

    /// Whether `other` has another `program`. What neither says is the same for both.
    #[must_use]
    pub fn changes_program(&self, other: &Self, program: &str) -> bool {
        self.programs.get(program) != other.programs.get(program)
    }

    /// The release as a machine has it that asks for `parts`: those of them that are optional are services.
    #[must_use]
    pub fn with_parts(mut self, parts: &BTreeSet<String>) -> Self {
        let (asked, others) = self.optional.into_iter().partition(|(name, _)| parts.contains(name));
        self.services.extend::<BTreeMap<_, _>>(asked);
        self.optional = others;
        self
    }

    /// The image of a service, whether every machine has it or only those that ask for it.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&ServiceImage> {
        self.services.get(name).or_else(|| self.optional.get(name))
    }

    /// Full name of a service's image, given the reference the release itself was pulled by.
    #[must_use]
    pub fn service_reference(&self, os: &Reference, service: &ServiceImage) -> Reference {
        os.sibling(&service.image).with_digest(service.digest)
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_with_a_clear_word() {
        let error = Release::parse("format: 99\nnews: true\n").unwrap_err();
        assert!(error.to_string().contains("format 99"), "{error}");
    }
}

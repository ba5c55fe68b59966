//! What goes wrong with images, as callers decide on it; [`Error::hint`] is for people.

use std::io;
use std::path::{Path, PathBuf};

use ros_api::Digest;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store or a registry did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such image, here or in the registry.
    #[error("no such image: {reference}")]
    NotFound {
        /// The name as it was asked.
        reference: String,
    },
    /// Several images begin with that ID.
    #[error("several images begin with {prefix}")]
    Ambiguous {
        /// What was given.
        prefix: String,
    },
    /// Not an image name or digest.
    #[error(transparent)]
    Name(#[from] ros_api::reference::ReferenceError),
    /// Something uses the image.
    #[error("image {image} is in use by {by}")]
    InUse {
        /// The image.
        image: String,
        /// What uses it, in the caller's words.
        by: String,
    },
    /// An ID was given to remove, and several names point to it.
    #[error("image {image} has several names: {names}")]
    Referenced {
        /// The image.
        image: String,
        /// Its names.
        names: String,
    },
    /// The store is from a newer ros.
    #[error("the image store at {} needs {needs}, which this version does not know", path.display())]
    NewerStore {
        /// The store's folder.
        path: PathBuf,
        /// Version or feature.
        needs: String,
    },
    /// A file of the store is not what it was written as.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Content is not what its name says.
    #[error("{what}: expected {expected}, found {found}")]
    DigestMismatch {
        /// Manifest, config, blob or layer.
        what: String,
        /// What the name says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A layer that is not a usable tar, or a hostile one.
    #[error("layer {layer} refused: {why}")]
    BadLayer {
        /// Its diff ID, as far as known.
        layer: String,
        /// The reason, with the entry's path.
        why: String,
    },
    /// An archive or OCI layout that is not usable.
    #[error("not a usable image archive: {why}")]
    BadArchive {
        /// The reason.
        why: String,
    },
    /// A manifest, index or config that is not usable.
    #[error("{reference}: unusable manifest or config: {why}")]
    BadManifest {
        /// Image.
        reference: String,
        /// The reason.
        why: String,
    },
    /// An index without this platform.
    #[error("{reference} has no image for linux/amd64")]
    Platform {
        /// Image.
        reference: String,
    },
    /// A short name, and no default registry.
    #[error("{reference} names no registry, and there is no default one")]
    NoRegistry {
        /// Image.
        reference: String,
    },
    /// The registry wants (other) credentials.
    #[error("registry {registry} refused access to {reference}")]
    Unauthorized {
        /// Host.
        registry: String,
        /// Image.
        reference: String,
    },
    /// The registry cannot be reached, or ends the conversation.
    #[error("registry {registry}")]
    Network {
        /// Host.
        registry: String,
        /// What happened.
        #[source]
        source: oci_client::errors::OciDistributionError,
    },
    /// The registry's certificate is not one that counts here.
    #[error("the certificate of registry {registry} is not trusted")]
    Certificate {
        /// Host.
        registry: String,
        /// What is wrong with it.
        #[source]
        source: oci_client::errors::OciDistributionError,
    },
    /// A file that should have certificates.
    #[error("no certificates for registry {registry} in {}: {why}", path.display())]
    NoCertificates {
        /// Host.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk is full, or would be.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound { .. } => {
                "check name, tag and registry; list what is here with `images`"
            }
            Self::Ambiguous { .. } => "give more digits of the ID",
            Self::InUse { .. } => "remove the container first, or force",
            Self::Referenced { .. } => "remove by name, or force",
            Self::NewerStore { .. } => "boot the newer generation again",
            Self::Damaged { .. } => "`system-docker check --repair` fetches it again",
            Self::DigestMismatch { .. } => {
                "the content was changed on its way: try again, or another mirror"
            }
            Self::Platform { .. } => "ros runs on linux/amd64 only",
            Self::NoRegistry { .. } => {
                "write the registry in front, as in registry.example/name:tag"
            }
            Self::Unauthorized { .. } => "configure username and password for this registry",
            Self::Network { .. } => {
                "check network, DNS and clock; for a registry without TLS allow plain HTTP"
            }
            Self::Certificate { .. } => {
                "say who signed it: `ca` of this registry in `ros.registries`; check the clock"
            }
            Self::NoCertificates { .. } => "write PEM: `-----BEGIN CERTIFICATE-----`",
            Self::NoSpace { .. } => "remove images or generations that are not needed",
            _ => return None,
        })
    }

    /// Maps an I/O error; a full disk is its own variant.
    pub(crate) fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path: path.to_owned() }
            }
            _ => Self::Io { verb, path: path.to_owned(), source },
        }
    }

    /// For `map_err`.
    pub(crate) fn on<E: Into<io::Error>>(
        verb: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::io(verb, path, source.into())
    }
}

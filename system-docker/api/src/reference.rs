//! Image names: [`Reference`] (`registry/repository:tag@digest`) and [`Digest`] (`sha256:…`), parsed
//! once here. Grammar: the OCI distribution specification and Docker's `reference` package.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 content digest; 32 bytes, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// From the 32 raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hex digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

/// Why a name is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not `sha256:` and 64 lower-case hex digits.
    #[error("{0:?} is not a digest: expected sha256: and 64 lower-case hex digits")]
    Digest(String),
    /// Not an image name.
    #[error("{0:?} is not an image name: {1}")]
    Name(String, &'static str),
}

impl FromStr for Digest {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ReferenceError::Digest(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
        if hex.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| bad())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An image name. `registry` is empty for a short name such as `os-ntp:v1.2`: which registry that
/// means is decided by the caller, never guessed here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// `host[:port]`, or nothing.
    pub registry: Option<String>,
    /// `name` or `path/name`, lower case.
    pub repository: String,
    /// `v1.2`; absent when only a digest, or nothing, was given.
    pub tag: Option<String>,
    /// Manifest digest, when the name is pinned to content.
    pub digest: Option<Digest>,
}

impl Reference {
    /// `registry/repository` without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// The same name with another tag and no digest.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The same name, pinned to `digest`, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Another repository in the same registry and folder: `host/a/os` → `host/a/os-ntp`.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Self {
        let repository = match self.repository.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}"),
            None => name.to_owned(),
        };
        Self { registry: self.registry.clone(), repository, tag: None, digest: None }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| ReferenceError::Name(text.to_owned(), why);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(bad)?;
        }
        let (registry, repository) = match rest.split_once('/') {
            Some((host, path)) if is_host(host) => (Some(host), path),
            _ => (None, rest),
        };
        if let Some(host) = registry {
            check_host(host).map_err(bad)?;
        }
        check_repository(repository).map_err(bad)?;
        Ok(Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Docker's rule: the first component is a host if it has a dot or a port, or is `localhost`.
fn is_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.chars().all(ok) { Ok(()) } else { Err("the registry has a character no host name has") }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if tag.is_empty() || tag.len() > 128 {
        return Err("a tag has 1 to 128 characters");
    }
    if !tag.chars().all(ok) || tag.starts_with(['.', '-']) {
        return Err(
            "a tag has letters, digits, '_', '.', '-' and starts with none of the last two",
        );
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    let component = |part: &str| {
        part.chars().all(ok)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if repository.is_empty() || repository.len() > 255 {
        return Err("a repository has 1 to 255 characters");
    }
    if !repository.split('/').all(component) {
        return Err("a repository has lower-case letters, digits, and '.', '_', '-', '/' inside");
    }
    Ok(())
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_text!(Digest);
serde_as_text!(Reference);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_parse_and_print_back() {
        let digest = Digest::of(b"x").to_string();
        let table = [
            ("os:v1.2", None, "os", Some("v1.2")),
            ("10.0.2.2:5000/os:v1.2", Some("10.0.2.2:5000"), "os", Some("v1.2")),
            ("localhost/a/b-c", Some("localhost"), "a/b-c", None),
            ("library/busybox", None, "library/busybox", None),
            ("[::1]:5000/os", Some("[::1]:5000"), "os", None),
        ];
        for (text, registry, repository, tag) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.registry.as_deref(), registry, "{text}");
            assert_eq!(reference.repository, repository, "{text}");
            assert_eq!(reference.tag.as_deref(), tag, "{text}");
            assert_eq!(reference.to_string(), text);
            let pinned: Reference = format!("{text}@{digest}").parse().unwrap();
            assert_eq!(pinned.to_string(), format!("{text}@{digest}"));
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in ["", ":v1", "Os:v1", "os:", "os:-x", "a//b", "os@sha256:12", "h.x/", "os:a b"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn siblings_stay_in_the_same_folder() {
        let os: Reference = "h:5000/a/os:v1".parse().unwrap();
        assert_eq!(os.sibling("os-ntp").to_string(), "h:5000/a/os-ntp");
    }
}

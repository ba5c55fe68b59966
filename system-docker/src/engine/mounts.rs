//! A container's mounts: what was asked for (`Binds`, `Mounts`, `Tmpfs`, the image's volumes), resolved.

use std::path::{Path, PathBuf};

use bollard_stubs::models::{HostConfig, MountBindOptionsPropagationEnum, MountType};
use ros_runtime::{Mount, MountKind, Propagation};
use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};

/// One mount, as inspect shows it and as it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: Kind,
    /// Volume's name; empty for others.
    pub name: String,
    /// Path on the host; empty for a tmpfs.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Options as they were written.
    pub mode: String,
    /// Read-only.
    pub read_only: bool,
    /// How mounts made later travel.
    pub propagation: Propagation,
    /// Whether mounts below the source come along.
    pub recursive: bool,
    /// Whether a missing source becomes a folder, as with `-v`.
    #[serde(default)]
    pub create: bool,
}

/// Kind of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A path of the host's.
    Bind,
    /// A folder of ours.
    Volume,
    /// Memory.
    Tmpfs,
}

impl MountPoint {
    fn new(kind: Kind, target: &str) -> Result<Self> {
        if !target.starts_with('/') {
            return Err(ApiError::bad(format!(
                "invalid mount target {target:?}: it must be an absolute path"
            )));
        }
        Ok(Self {
            kind,
            name: String::new(),
            source: PathBuf::new(),
            target: target.into(),
            mode: String::new(),
            read_only: false,
            propagation: if kind == Kind::Bind {
                Propagation::Rprivate
            } else {
                Propagation::Private
            },
            recursive: true,
            create: false,
        })
    }

    /// Makes what the mount needs on the host.
    pub fn prepare(&self) -> Result<()> {
        if self.create && !self.source.exists() {
            std::fs::create_dir_all(&self.source).map_err(|e| {
                ApiError::bad(format!(
                    "error while creating mount source path {}: {e}",
                    self.source.display()
                ))
            })?;
        }
        Ok(())
    }

    /// What the shim is told. A volume and what is in the container's own folder `dir` belong in a user namespace to
    /// the container's ids; what is the host's stays the host's.
    pub fn to_mount(&self, dir: &Path) -> Mount {
        let kind = match self.kind {
            Kind::Tmpfs => MountKind::Tmpfs { options: tmpfs_options(&self.mode) },
            _ => MountKind::Bind {
                source: self.source.clone(),
                recursive: self.recursive,
                propagation: self.propagation,
            },
        };
        let mapped = self.kind == Kind::Volume || self.source.starts_with(dir);
        Mount { target: self.target.clone(), kind, read_only: self.read_only, mapped }
    }
}

/// Docker's defaults, then what was asked for.
fn tmpfs_options(asked: &str) -> Vec<String> {
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    for option in asked.split(',').filter(|option| !option.is_empty()) {
        let opposite = match option {
            "exec" => "noexec",
            "dev" => "nodev",
            "suid" => "nosuid",
            _ => "",
        };
        options.retain(|known| known != opposite);
        options.push(option.to_owned());
    }
    options
}

/// Everything that `host` and the image's `volumes` ask for; volumes have no source yet, anonymous ones no name.
pub fn resolve(host: &HostConfig, volumes: &[String]) -> Result<Vec<MountPoint>> {
    let mut all: Vec<MountPoint> = Vec::new();
    for bind in host.binds.iter().flatten() {
        all.push(parse_bind(bind)?);
    }
    for mount in host.mounts.iter().flatten() {
        all.push(from_mount(mount)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        all.push(MountPoint { mode: options.clone(), ..MountPoint::new(Kind::Tmpfs, target)? });
    }
    for target in volumes {
        if !all.iter().any(|mount| mount.target == Path::new(target)) {
            all.push(MountPoint::new(Kind::Volume, target)?);
        }
    }
    all.sort_by_key(|mount| mount.target.components().count());
    if let Some(pair) =
        all.iter().enumerate().find(|(i, a)| all[..*i].iter().any(|b| b.target == a.target))
    {
        return Err(ApiError::bad(format!("Duplicate mount point: {}", pair.1.target.display())));
    }
    Ok(all)
}

/// `source:target[:options]`; `target` alone is an anonymous volume.
fn parse_bind(text: &str) -> Result<MountPoint> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(ApiError::bad(format!("invalid volume specification: {text:?}"))),
    };
    let kind = if source.starts_with('/') { Kind::Bind } else { Kind::Volume };
    let mut mount = MountPoint { mode: mode.to_owned(), ..MountPoint::new(kind, target)? };
    match kind {
        Kind::Bind => {
            mount.source = source.into();
            mount.create = true;
        }
        _ => mount.name = volume_name(source)?,
    }
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" | "z" | "Z" | "nocopy" => {}
            "rbind" => mount.recursive = true,
            "bind" => mount.recursive = false,
            word => match Propagation::parse(word) {
                Some(propagation) => mount.propagation = propagation,
                None => return Err(ApiError::bad(format!("invalid mode in {text:?}: {word:?}"))),
            },
        }
    }
    Ok(mount)
}

fn from_mount(mount: &bollard_stubs::models::Mount) -> Result<MountPoint> {
    let target = mount.target.as_deref().unwrap_or_default();
    let source = mount.source.as_deref().unwrap_or_default();
    let read_only = mount.read_only.unwrap_or(false);
    let made = match mount.typ {
        Some(MountType::BIND) => {
            if !source.starts_with('/') {
                return Err(ApiError::bad(format!(
                    "invalid mount source {source:?}: it must be an absolute path"
                )));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if options.create_mountpoint == Some(true) {
                std::fs::create_dir_all(source)?;
            } else if !Path::new(source).exists() {
                return Err(ApiError::bad(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                )));
            }
            MountPoint {
                source: source.into(),
                propagation: options.propagation.map_or(Propagation::Rprivate, propagation),
                recursive: !options.non_recursive.unwrap_or(false),
                ..MountPoint::new(Kind::Bind, target)?
            }
        }
        Some(MountType::VOLUME) | None => {
            MountPoint { name: volume_name(source)?, ..MountPoint::new(Kind::Volume, target)? }
        }
        Some(MountType::TMPFS) => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let size = options.size_bytes.map(|size| format!("size={size}"));
            let mode = options.mode.map(|mode| format!("mode={mode:o}"));
            let mode = [size, mode].into_iter().flatten().collect::<Vec<_>>().join(",");
            MountPoint { mode, ..MountPoint::new(Kind::Tmpfs, target)? }
        }
        Some(other) => {
            return Err(ApiError::bad(format!("mount type {other} is not available here")));
        }
    };
    Ok(MountPoint { read_only, ..made })
}

fn propagation(asked: MountBindOptionsPropagationEnum) -> Propagation {
    Propagation::parse(asked.as_ref()).unwrap_or_default()
}

fn volume_name(name: &str) -> Result<String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let starts_well = name.is_empty() || name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.chars().all(ok) && starts_well {
        return Ok(name.to_owned());
    }
    Err(ApiError::bad(format!(
        "{name:?} includes invalid characters for a local volume name: if you intended to pass a host directory, use an absolute path"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(binds: &[&str]) -> HostConfig {
        HostConfig {
            binds: Some(binds.iter().map(|bind| (*bind).to_owned()).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn binds_are_docker_s() {
        let all =
            resolve(&host(&["/a/b:/x/y:ro,rshared", "data:/d", "/c"]), &["/v".into(), "/d".into()])
                .unwrap();
        let by_target =
            |target: &str| all.iter().find(|mount| mount.target == Path::new(target)).unwrap();
        let bind = by_target("/x/y");
        assert_eq!(
            (bind.kind, bind.read_only, bind.propagation),
            (Kind::Bind, true, Propagation::Rshared)
        );
        assert_eq!(by_target("/d").name, "data");
        assert_eq!((by_target("/c").kind, by_target("/c").name.as_str()), (Kind::Volume, ""));
        assert_eq!(all.len(), 4);
        for wrong in ["a:b", "/a:/b:what", "/a:/b:ro:x", "../x:/y"] {
            assert!(resolve(&host(&[wrong]), &[]).is_err(), "{wrong}");
        }
        assert!(resolve(&host(&["/a:/x", "/b:/x"]), &[]).is_err());
    }
}

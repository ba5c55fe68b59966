//! `cp` and `export`: files of a container's root, by a child process that sees nothing else (see [`crate::archive`]);
//! `diff`: what is in the writable layer.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use ros_runtime::{Propagation, Root};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::Engine;
use super::container::Container;
use super::error::{ApiError, Result};
use super::mounts::{Kind, MountPoint};
use crate::archive::{Layers, MISSING, NO_FOLDER, READ_ONLY};

/// What is done to a container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A tar of a path.
    Get,
    /// A tar into a path.
    Put,
    /// What a path is.
    Stat,
    /// A tar of everything.
    Export,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Stat => "stat",
            Self::Export => "export",
        }
    }
}

/// Inherited by the next child under its own number. Nothing else is spawned in between: there is one thread.
fn inheritable(path: &str) -> std::io::Result<OwnedFd> {
    let open = OwnedFd::from(fs::File::open(path)?);
    fcntl_setfd(&open, FdFlags::empty())?;
    Ok(open)
}

impl Engine {
    /// Starts the child; its stdin and stdout are pipes.
    pub async fn archive(
        self: &Arc<Self>,
        container: &Container,
        verb: Verb,
        path: &str,
        keep_kinds: bool,
    ) -> Result<Child> {
        let exe = std::env::current_exe()?;
        let mut command = Command::new(exe);
        command.arg("archive");
        let mut inherited = Vec::new();
        match container.running() {
            Ok(process) => {
                let mut pass = |flag: &str, path: &str| -> Result<()> {
                    let open = inheritable(&format!("/proc/{}/{path}", process.pid()))?;
                    command.args([flag, &open.as_raw_fd().to_string()]);
                    inherited.push(open);
                    Ok(())
                };
                pass("--root-fd", "root")?;
                if container.record().users.is_some() {
                    pass("--users-fd", "ns/user")?;
                }
            }
            Err(_) => {
                let layers = self.root_at_rest(container, verb).await?;
                let text = serde_json::to_string(&layers).map_err(std::io::Error::from)?;
                command.args(["--layers", &text]);
            }
        }
        command.arg(verb.word());
        if keep_kinds {
            command.arg("--keep-kinds");
        }
        command.args(["--", path]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn()?;
        drop(inherited);
        Ok(child)
    }

    /// What a container that does not run would have as its root: an export is of its own files, without mounts.
    async fn root_at_rest(self: &Arc<Self>, container: &Container, verb: Verb) -> Result<Layers> {
        let record = container.record();
        let dir = container.dir();
        let root = Root {
            lower: self.layers(&record).await?,
            upper: dir.join("upper"),
            work: dir.join("work"),
        };
        let wanted = |mount: &&MountPoint| {
            verb != Verb::Export && mount.kind != Kind::Tmpfs && mount.source.exists()
        };
        let mounts = record.mounts.iter().filter(wanted).map(|mount| {
            // Nothing is mounted while a few files are copied.
            MountPoint { propagation: Propagation::Rprivate, ..mount.clone() }.to_mount(dir)
        });
        Ok(Layers { root, mounts: mounts.collect(), at: dir.join("upper") })
    }

    /// What was added (1), changed (0) and deleted (2) in the container's own layer.
    pub fn diff(&self, container: &Container) -> Result<Vec<Value>> {
        let lower = self.store.lower_dirs(&container.record().image)?;
        let mut found = Vec::new();
        changes(&container.dir().join("upper"), Path::new("/"), &lower, &mut found)?;
        // Where something is mounted is no change of the container's.
        let mounts: Vec<PathBuf> =
            container.record().mounts.iter().map(|mount| mount.target.clone()).collect();
        let own = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/sbin/docker-init"];
        let ours: Vec<&Path> =
            mounts.iter().map(PathBuf::as_path).chain(own.iter().map(Path::new)).collect();
        found.retain(|(path, _)| !ours.contains(&path.as_path()));
        // A folder that changed only because something is mounted in it did not change either.
        let all = found.clone();
        found.retain(|(path, kind)| {
            let below = |other: &Path| other != path && other.starts_with(path);
            let for_a_mount = *kind == 0 && ours.iter().any(|mount| below(mount));
            !for_a_mount || all.iter().any(|(other, _)| below(other))
        });
        found.sort();
        Ok(found.into_iter().map(|(path, kind)| json!({ "Path": path, "Kind": kind })).collect())
    }
}

/// Why the child did not do it.
pub async fn refusal(child: Child, path: &str) -> Option<ApiError> {
    let output = child.wait_with_output().await.ok()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(0) => None,
        Some(MISSING) => {
            Some(ApiError::missing(format!("Could not find the file {path} in container")))
        }
        Some(NO_FOLDER) => {
            Some(ApiError::bad(format!("extraction point is not a directory: {path}")))
        }
        Some(READ_ONLY) => {
            Some(ApiError { status: 403, message: "container rootfs is marked read-only".into() })
        }
        _ => Some(ApiError::internal(said)),
    }
}

fn changes(
    upper: &Path,
    inside: &Path,
    lower: &[PathBuf],
    found: &mut Vec<(PathBuf, u8)>,
) -> Result<()> {
    for entry in fs::read_dir(upper)? {
        let entry = entry?;
        let meta = entry.path().symlink_metadata()?;
        let path = inside.join(entry.file_name());
        let was_there = lower.iter().any(|layer| {
            layer.join(path.strip_prefix("/").unwrap_or(&path)).symlink_metadata().is_ok()
        });
        // overlayfs: a character device 0:0 hides what the layers below have.
        if meta.file_type().is_char_device() && meta.rdev() == 0 {
            found.push((path, 2));
            continue;
        }
        found.push((path.clone(), u8::from(!was_there)));
        if meta.is_dir() {
            changes(&entry.path(), &path, lower, found)?;
        }
    }
    Ok(())
}

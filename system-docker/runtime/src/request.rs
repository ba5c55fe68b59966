//! What the daemon hands to a shim: `request.json` and `exec.json`.

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::spec::IdRange;

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimRequest {
    /// Container id; also the name of its folder under the run folder.
    pub id: String,
    /// Root file system.
    pub root: Root,
    /// Mounts of the user, parents before children. What every container has (`/proc`, `/sys`, `/dev`…) is in `spec`.
    pub mounts: Vec<Mount>,
    /// From [`crate::spec`].
    pub spec: Spec,
    /// What its ids are outside of it, when it has a user namespace; its root's files belong to the same ids as without.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// `user[:group]`, names or numbers, looked up in the container's own `/etc/passwd` and `/etc/group`
    /// once its root is mounted; sets uid, gid, additional gids and HOME. Empty: root.
    #[serde(default)]
    pub user: String,
    /// Additional groups, names or numbers.
    #[serde(default)]
    pub group_add: Vec<String>,
    /// Terminal instead of pipes.
    #[serde(default)]
    pub tty: bool,
    /// Keep stdin open for attached clients; otherwise it is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Close stdin when the first client that attached with stdin goes away.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output is kept; none: nowhere.
    #[serde(default)]
    pub log: Option<Log>,
    /// The container's record folder; `exit.json` is written there too, so that it outlives a reboot.
    #[serde(default)]
    pub record: Option<PathBuf>,
}

/// Root file system: an overlay of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Layers, topmost first (overlayfs's own order); empty: `upper` alone is the root.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// overlayfs's work folder, on the file system of `upper`.
    pub work: PathBuf,
}

/// One mount of the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; made when it is missing.
    pub target: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Read-only.
    #[serde(default)]
    pub read_only: bool,
    /// In a user namespace: its files belong to the container's ids; else to the host's.
    #[serde(default)]
    pub mapped: bool,
}

/// What a mount is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A file or folder of the host's, which must exist.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Whether mounts below the source come along (Docker: yes).
        recursive: bool,
        /// Propagation.
        propagation: Propagation,
    },
    /// A new tmpfs.
    Tmpfs {
        /// `size=64m`, `mode=1777`, `noexec`…; Docker's default `nosuid,nodev,noexec` is the engine's to give.
        options: Vec<String>,
    },
}

/// Mount propagation, as in `--volume a:b:rslave`; the recursive kinds reach mounts below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Nothing crosses.
    Private,
    /// Nothing crosses; Docker's default.
    #[default]
    Rprivate,
    /// Host's mounts come in.
    Slave,
    /// Host's mounts come in.
    Rslave,
    /// Both ways.
    Shared,
    /// Both ways.
    Rshared,
}

impl Propagation {
    /// The mode that `word` names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "private" => Self::Private,
            "rprivate" => Self::Rprivate,
            "slave" => Self::Slave,
            "rslave" => Self::Rslave,
            "shared" => Self::Shared,
            "rshared" => Self::Rshared,
            _ => return None,
        })
    }

    /// Whether mounts made inside must reach the host.
    #[must_use]
    pub fn reaches_host(self) -> bool {
        matches!(self, Self::Shared | Self::Rshared)
    }
}

/// Docker's `json-file` log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The file; older ones are `<path>.1`, `<path>.2`….
    pub path: PathBuf,
    /// Rotates when the file would grow over it, in bytes; 0: never.
    pub max_size: u64,
    /// Number of files kept, at least 1.
    pub max_files: u32,
}

/// One more process in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Exec id; unique within the container.
    pub id: String,
    /// The command.
    pub args: Vec<String>,
    /// Added to the container's own environment; the same name replaces.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory; empty: the container's.
    #[serde(default)]
    pub cwd: String,
    /// `user[:group]`; empty: the container's.
    #[serde(default)]
    pub user: String,
    /// All capabilities, and no seccomp profile.
    #[serde(default)]
    pub privileged: bool,
    /// Terminal instead of pipes.
    #[serde(default)]
    pub tty: bool,
    /// Keep stdin open for the attached client.
    #[serde(default)]
    pub open_stdin: bool,
}

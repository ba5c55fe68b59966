//! What mount(8) makes of a line of fstab(5) before it calls mount(2): which words are flags, what is left for the file
//! system. mount.nfs(8) is part of it: NFS wants its server's address as a number, and a version both sides have.

use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// Versions of NFS that are tried when none is asked for, the newest first (nfs(5), `vers`).
const VERSIONS: [&str; 4] = ["vers=4.2", "vers=4.1", "vers=4.0", "vers=3"];
/// Options that say which version it is to be.
const VERSION_WORDS: [&str; 6] = ["vers=", "nfsvers=", "minorversion=", "v2", "v3", "v4"];

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file system's type.
    kind: String,
    /// What is mounted: a device, a folder, `host:/path`.
    device: String,
    /// Flags of mount(2).
    flags: MsFlags,
    /// Words for the file system itself.
    data: Vec<String>,
}

/// A word that is a flag of mount(2), and whether it sets or clears it.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "defaults" => (MsFlags::empty(), true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

/// Whether file systems of the type `kind` are on other machines.
#[must_use]
pub fn is_remote(kind: &str) -> bool {
    is_nfs(kind) || matches!(kind, "cifs" | "smb3" | "ceph" | "9p")
}

/// Whether `kind` is NFS.
#[must_use]
pub fn is_nfs(kind: &str) -> bool {
    matches!(kind, "nfs" | "nfs4")
}

impl Source {
    /// `options` are the words of fstab(5)'s fourth field, with commas between.
    #[must_use]
    pub fn new(kind: &str, device: &str, options: &str) -> Self {
        let mut source = Self {
            kind: kind.into(),
            device: device.into(),
            flags: MsFlags::empty(),
            data: Vec::new(),
        };
        for word in options.split(',').filter(|word| !word.is_empty()) {
            match flag(word) {
                Some((flags, true)) => source.flags |= flags,
                Some((flags, false)) => source.flags -= flags,
                None => source.data.push(word.to_owned()),
            }
        }
        source
    }

    /// Mounts it at `target`. May take as long as a server far away does: minutes, when that one is silent.
    ///
    /// # Errors
    /// As mount(2), with what was mounted; when NFS's server is not found, or has no version that this system can use.
    pub fn mount(&self, target: &Path) -> io::Result<()> {
        let told = |e: io::Error| {
            let text = format!("mount {} of type {}: {e}", self.device, self.kind);
            io::Error::new(e.kind(), text)
        };
        if is_nfs(&self.kind) {
            return self.mount_nfs(target).map_err(told);
        }
        self.once(target, &self.data).map_err(|e| told(e.into()))?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        if self.flags.contains(read_only) {
            // The kernel looks at no other flag when it binds.
            let flags = self.flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
                .map_err(|e| told(e.into()))?;
        }
        Ok(())
    }

    fn once(&self, target: &Path, data: &[String]) -> nix::Result<()> {
        let data = data.join(",");
        let data = (!data.is_empty()).then_some(data.as_str());
        mount(Some(self.device.as_str()), target, Some(self.kind.as_str()), self.flags, data)
    }

    fn mount_nfs(&self, target: &Path) -> io::Result<()> {
        let data = self.with_address()?;
        for version in self.versions() {
            let mut data = data.clone();
            data.extend(version.map(str::to_owned));
            if is_version_3(&data) && !keeps_locks_here(&data) {
                let text = "NFS 3 keeps its locks with rpc.statd, which is not here: add the option nolock, or use NFS 4";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            match self.once(target, &data) {
                Ok(()) => return Ok(()),
                // This version is not the server's, or not the kernel's.
                Err(Errno::EPROTONOSUPPORT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::EPROTONOSUPPORT.into())
    }

    /// What is tried in turn: none is a version that the options name.
    fn versions(&self) -> Vec<Option<&'static str>> {
        let named = |word: &String| VERSION_WORDS.iter().any(|start| word.starts_with(start));
        if self.data.iter().any(named) {
            return vec![None];
        }
        let fourth = self.kind == "nfs4";
        let versions = VERSIONS.into_iter().filter(|version| !(fourth && *version == "vers=3"));
        versions.map(Some).collect()
    }

    /// The words for NFS, with the server's address as a number.
    fn with_address(&self) -> io::Result<Vec<String>> {
        let mut data = self.data.clone();
        let own = data.iter().position(|word| word.starts_with("addr="));
        let server = match own {
            Some(at) => data.remove(at).trim_start_matches("addr=").to_owned(),
            None => {
                let end = self.device.find(":/").unwrap_or(self.device.len());
                self.device[..end].trim_matches(['[', ']']).to_owned()
            }
        };
        let found = (server.as_str(), 0)
            .to_socket_addrs()
            .map_err(|e| io::Error::new(e.kind(), format!("find the server {server:?}: {e}")))?;
        let address = found.map(|address| address.ip()).next();
        let address = address
            .ok_or_else(|| io::Error::other(format!("the server {server:?} has no address")))?;
        data.push(format!("addr={address}"));
        Ok(data)
    }
}

fn is_version_3(data: &[String]) -> bool {
    data.iter().any(|word| matches!(word.as_str(), "vers=3" | "nfsvers=3" | "v3"))
}

fn keeps_locks_here(data: &[String]) -> bool {
    data.iter().any(|word| matches!(word.as_str(), "nolock" | "local_lock=all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_and_data() {
        let source = Source::new("tmpfs", "tmpfs", "size=1m,ro,noexec,rw,uid=7");
        assert_eq!(source.flags, MsFlags::MS_NOEXEC);
        assert_eq!(source.data, ["size=1m", "uid=7"]);
    }

    #[test]
    fn nfs_gets_its_server_s_address_as_a_number() {
        for (device, options, expected) in [
            (":/export", "addr=127.0.0.1,nolock", &["nolock", "addr=127.0.0.1"][..]),
            ("127.0.0.1:/export", "vers=4", &["vers=4", "addr=127.0.0.1"]),
            ("[::1]:/export", "", &["addr=::1"]),
        ] {
            let source = Source::new("nfs", device, options);
            assert_eq!(source.with_address().unwrap(), expected, "{device}");
        }
        let wrong = Source::new("nfs", ":/export", "").with_address().unwrap_err().to_string();
        assert!(wrong.starts_with("find the server \"\""), "{wrong}");
    }

    #[test]
    fn versions_are_tried_unless_one_is_named() {
        let versions = |kind, options| Source::new(kind, "a:/b", options).versions();
        assert_eq!(versions("nfs", "soft"), VERSIONS.map(Some));
        assert_eq!(
            versions("nfs4", ""),
            VERSIONS[..3].iter().copied().map(Some).collect::<Vec<_>>()
        );
        for named in ["vers=3", "nfsvers=4.1", "v4.2", "soft,vers=4,minorversion=1"] {
            assert_eq!(versions("nfs", named), [None], "{named}");
        }
    }

    #[test]
    fn version_3_without_locks_of_its_own_is_refused() {
        for (options, refused) in [("vers=3", true), ("vers=3,nolock", false), ("v3", true)] {
            let target = Path::new("/nowhere/at/all");
            let source = Source::new("nfs", "127.0.0.1:/b", options);
            let kind = source.mount(target).unwrap_err().kind();
            assert_eq!(kind == io::ErrorKind::Unsupported, refused, "{options}");
        }
    }
}

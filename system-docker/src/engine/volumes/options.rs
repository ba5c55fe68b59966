//! Options of a volume: what is mounted where its data would be, as in `mount -t TYPE -o O DEVICE`.

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::engine::error::{ApiError, Result};

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: String,
    device: String,
    flags: MsFlags,
    data: Vec<String>,
}

/// A word of `o=` that is a flag of mount(2), and whether it sets or clears it.
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

impl Source {
    /// Reads the options `type`, `device` and `o`; none when there are none.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let unknown = options.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o"));
        if let Some(key) = unknown {
            return Err(ApiError::bad(format!(
                "invalid option: {key:?} (the local driver has type, device and o)"
            )));
        }
        if options.is_empty() {
            return Ok(None);
        }
        let text = |key: &str| options.get(key).cloned().filter(|text| !text.is_empty());
        let required = |key: &str| {
            text(key).ok_or_else(|| ApiError::bad(format!("missing required option: {key:?}")))
        };
        let mut source = Self {
            kind: required("type")?,
            device: required("device")?,
            flags: MsFlags::empty(),
            data: Vec::new(),
        };
        for word in text("o").unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            match flag(word) {
                Some((flags, true)) => source.flags |= flags,
                Some((flags, false)) => source.flags -= flags,
                None => source.data.push(word.to_owned()),
            }
        }
        Ok(Some(source))
    }

    /// Mounts it at `target`. May take as long as a server far away does.
    pub fn mount(&self, target: &Path) -> io::Result<()> {
        let data = self.data()?.join(",");
        let data = (!data.is_empty()).then_some(data.as_str());
        let kind = Some(self.kind.as_str());
        let told = |e: nix::Error| {
            let text = format!("mount {} of type {}: {e}", self.device, self.kind);
            io::Error::new(io::Error::from(e).kind(), text)
        };
        mount(Some(self.device.as_str()), target, kind, self.flags, data).map_err(told)?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        if self.flags.contains(read_only) {
            // The kernel looks at no other flag when it binds.
            let flags = self.flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(told)?;
        }
        Ok(())
    }

    /// What the file system itself is told. NFS wants its server's address as a number, which mount.nfs finds out
    /// elsewhere.
    fn data(&self) -> io::Result<Vec<String>> {
        let mut data = self.data.clone();
        if !matches!(self.kind.as_str(), "nfs" | "nfs4") {
            return Ok(data);
        }
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

/// Takes the mount away; containers that have it keep it.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(umount2(target, MntFlags::MNT_DETACH)?)
}

/// Whether something is mounted at `target`.
pub fn is_mounted(target: &Path) -> bool {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let target = target.to_string_lossy();
    info.lines().any(|line| line.split(' ').nth(4) == Some(&*target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_flags_and_data() {
        let given = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,ro,noexec,rw,uid=7")];
        let source = Source::parse(&options(&given)).unwrap().unwrap();
        assert_eq!(source.flags, MsFlags::MS_NOEXEC);
        assert_eq!(source.data, ["size=1m", "uid=7"]);
        assert_eq!(Source::parse(&options(&[])).unwrap(), None);
        for wrong in [
            &[("type", "tmpfs")][..],
            &[("device", "tmpfs")],
            &[("o", "ro")],
            &[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")],
        ] {
            assert_eq!(Source::parse(&options(wrong)).unwrap_err().status, 400, "{wrong:?}");
        }
    }

    #[test]
    fn nfs_gets_its_server_s_address_as_a_number() {
        for (device, o, expected) in [
            (":/export", "addr=127.0.0.1,nolock", &["nolock", "addr=127.0.0.1"][..]),
            ("127.0.0.1:/export", "vers=4", &["vers=4", "addr=127.0.0.1"]),
            ("[::1]:/export", "", &["addr=::1"]),
        ] {
            let given = options(&[("type", "nfs"), ("device", device), ("o", o)]);
            let source = Source::parse(&given).unwrap().unwrap();
            assert_eq!(source.data().unwrap(), expected, "{device}");
        }
    }
}

//! Device nodes of the host, as a container is given them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{major, minor};

use crate::{Device, DeviceKind};

/// The device at `host`, to be at `path` in the container.
///
/// # Errors
/// When there is no device there.
pub fn device(host: &Path, path: &Path, access: &str) -> io::Result<Device> {
    let meta = fs::metadata(host)
        .map_err(|e| io::Error::new(e.kind(), format!("device {}: {e}", host.display())))?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => DeviceKind::Char,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a device", host.display()),
            ));
        }
    };
    let number = meta.rdev();
    Ok(Device {
        path: path.to_owned(),
        kind,
        major: major(number),
        minor: minor(number),
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

/// Every device in the folder `host`, to be under `path`: `--device /dev/snd`, and `/dev` whole for a privileged
/// container. What a container has of its own is left out, as Docker does.
///
/// # Errors
/// When the folder cannot be read.
pub fn devices_under(host: &Path, path: &Path, access: &str) -> io::Result<Vec<Device>> {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "lxc", ".udev"];
    let mut found = Vec::new();
    for entry in fs::read_dir(host)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        if kind.is_dir() {
            found.extend(devices_under(&entry.path(), &path.join(&name), access)?);
        } else if (kind.is_char_device() || kind.is_block_device())
            && let Ok(device) = device(&entry.path(), &path.join(&name), access)
        {
            found.push(device);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_and_a_file_is_not_one() {
        let null = device(Path::new("/dev/null"), Path::new("/dev/zip"), "rw").unwrap();
        assert_eq!((null.kind, null.major, null.minor), (DeviceKind::Char, 1, 3));
        assert!(device(Path::new("/etc/passwd"), Path::new("/dev/x"), "r").is_err());
    }
}

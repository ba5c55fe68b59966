//! Options of a volume: what is mounted where its data would be, as in `mount -t TYPE -o O DEVICE`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use ros_sys::fstab::Source;
use ros_sys::mountinfo;

use crate::engine::error::{ApiError, Result};

/// Reads the options `type`, `device` and `o`; none when there are none.
pub fn parse(options: &BTreeMap<String, String>) -> Result<Option<Source>> {
    let unknown = options.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o"));
    if let Some(key) = unknown {
        return Err(ApiError::bad(format!(
            "invalid option: {key:?} (the local driver has type, device and o)"
        )));
    }
    if options.is_empty() {
        return Ok(None);
    }
    let text = |key: &str| options.get(key).filter(|text| !text.is_empty());
    let required = |key: &str| {
        text(key).ok_or_else(|| ApiError::bad(format!("missing required option: {key:?}")))
    };
    let o = text("o").map_or("", String::as_str);
    Ok(Some(Source::new(required("type")?, required("device")?, o)))
}

/// Takes the mount away; containers that have it keep it.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(umount2(target, MntFlags::MNT_DETACH)?)
}

/// Whether something is mounted at `target`.
pub fn is_mounted(target: &Path) -> bool {
    mountinfo::is_mounted(&mountinfo::own(), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_complete_or_refused() {
        let given = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")];
        let source = parse(&options(&given)).unwrap().unwrap();
        assert_eq!(source, Source::new("tmpfs", "tmpfs", "size=1m"));
        assert_eq!(parse(&options(&[])).unwrap(), None);
        for wrong in [
            &[("type", "tmpfs")][..],
            &[("device", "tmpfs")],
            &[("o", "ro")],
            &[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")],
        ] {
            assert_eq!(parse(&options(wrong)).unwrap_err().status, 400, "{wrong:?}");
        }
    }
}

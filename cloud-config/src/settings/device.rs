//! Names of devices: aliases, the kernel's own, and partitions of either.

use super::Settings;

impl Settings {
    /// What a device is called: an alias (`data`, `data.1`), the kernel's name (`vdb1`), or as it is.
    #[must_use]
    pub fn device(&self, name: &str) -> String {
        let (alias, number) = match name.rsplit_once('.') {
            Some((alias, number)) if number.bytes().all(|b| b.is_ascii_digit()) => (alias, number),
            _ => (name, ""),
        };
        match self.device_aliases.get(alias) {
            Some(device) => partition_of(device, number),
            None if is_kernels_name(name) => format!("/dev/{name}"),
            None => name.to_owned(),
        }
    }
}

/// Partition `number` of a device: `/dev/sda1`, `/dev/nvme0n1p1`, `/dev/disk/by-id/x-part1`; the device without a number.
#[must_use]
pub fn partition_of(device: &str, number: &str) -> String {
    let between = match device {
        _ if number.is_empty() => "",
        device if device.starts_with("/dev/disk/") => "-part",
        device if device.ends_with(|c: char| c.is_ascii_digit()) => "p",
        _ => "",
    };
    format!("{device}{between}{number}")
}

/// `sda`, `vdb1`, `xvdh`, `nvme0n1p2`, `mmcblk0`, without `/dev/`.
fn is_kernels_name(name: &str) -> bool {
    let heads = ["sd", "vd", "hd", "xvd", "nvme", "mmcblk"];
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    plain && heads.iter().any(|head| name.len() > head.len() && name.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_several_names() {
        let aliases = [("data", "/dev/nvme1n1"), ("swap", "/dev/sdc"), ("id", "/dev/disk/by-id/x")];
        let settings = Settings {
            device_aliases: aliases.map(|(name, device)| (name.into(), device.into())).into(),
            mounts: vec![vec!["data.1".into(), "/mnt".into()]],
            ..Settings::default()
        };
        let table = [
            ("data", "/dev/nvme1n1"),
            ("swap.2", "/dev/sdc2"),
            ("id.1", "/dev/disk/by-id/x-part1"),
            ("vdb1", "/dev/vdb1"),
            ("nvme0n1p2", "/dev/nvme0n1p2"),
            ("LABEL=a.1", "LABEL=a.1"),
            ("tmpfs", "tmpfs"),
            ("nas:/x", "nas:/x"),
        ];
        for (name, expected) in table {
            assert_eq!(settings.device(name), expected);
        }
        assert_eq!(settings.mounts()[0][0], "/dev/nvme1n1p1");
    }
}

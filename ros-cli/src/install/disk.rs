//! The disk that is asked for: whether it can be had, and what is on it. Only looked at: the installer itself takes it, and
//! the kernel has the last word then.

use anyhow::{Context, Result, bail};
use ros_api::disk::smallest;

use crate::os::plan::size;
use crate::services::disks::blank::Device;
use crate::services::superblock;

/// Devices that are no disks, by the kernel's names.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "sr", "fd", "md", "dm-", "mtdblock"];

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its node.
    pub node: String,
    /// The kernel's name.
    name: String,
    /// Bytes.
    pub size: u64,
    sector: u64,
    partition: bool,
    read_only: bool,
    /// Who uses it.
    user: Option<String>,
    /// What is on it, for people; nothing when it is blank.
    pub contents: Vec<String>,
}

impl Disk {
    /// Looks at what `path` names.
    ///
    /// # Errors
    /// When it is no device that can be read.
    pub fn look(path: &str) -> Result<Self> {
        let device = Device::at(path).with_context(|| path.to_owned())?;
        let look = || -> Result<Self> {
            Ok(Self {
                node: device.node.display().to_string(),
                name: device.name().to_owned(),
                size: device.size()?,
                sector: device.sector().unwrap_or(512),
                partition: device.is_partition(),
                read_only: device.is_read_only()?,
                user: device.user()?,
                contents: contents(&device)?,
            })
        };
        look().with_context(|| path.to_owned())
    }

    /// Refuses one that cannot be had, with everything that is against it.
    ///
    /// # Errors
    /// Says what.
    pub fn refuse(&self) -> Result<()> {
        let wrong = self.wrong();
        if wrong.is_empty() {
            return Ok(());
        }
        bail!("{}: {}", self.node, wrong.join("; "))
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.partition {
            wrong.push("it is a partition: name the whole disk".to_owned());
        }
        if NO_DISKS.iter().any(|kind| self.name.starts_with(kind)) {
            wrong.push("it is no disk that firmware boots from".to_owned());
        }
        if self.read_only {
            wrong.push("it cannot be written".to_owned());
        }
        if ![512, 4096].contains(&self.sector) {
            wrong.push(format!("its sectors have {} bytes: expected 512 or 4096", self.sector));
        }
        if let Some(user) = &self.user {
            wrong.push(format!("it is in use: {user}"));
        }
        wrong
    }

    /// Refuses one on which a release with `content` bytes of images does not fit.
    ///
    /// # Errors
    /// Says how much there is, and how much is needed.
    pub fn check_room(&self, content: u64) -> Result<()> {
        let needed = smallest(state(content));
        if self.size < needed {
            bail!(
                "{}: it has {}, and at least {} are needed",
                self.node,
                size(self.size),
                size(needed)
            );
        }
        Ok(())
    }
}

/// Bytes of the smallest STATE: the release, another one beside it that shares half, and what is written while it runs.
fn state(content: u64) -> u64 {
    content / 2 * 3 + (64 << 20)
}

/// Its partitions and file systems.
fn contents(device: &Device) -> Result<Vec<String>> {
    let volumes = superblock::volumes();
    let kind = |node: &std::path::Path| {
        let found = volumes.iter().find(|volume| volume.device == node);
        found.map(|volume| format!("{} {}", volume.fstype, volume.label).trim_end().to_owned())
    };
    let mut all: Vec<String> = kind(&device.node).into_iter().collect();
    for part in device.partitions()? {
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = Device::at(&part.display().to_string()).and_then(|part| part.size());
        let known: Vec<String> = bytes.ok().map(size).into_iter().chain(kind(&part)).collect();
        all.push(format!("{name} ({})", known.join(", ")));
    }
    if all.is_empty() && !device.is_blank()? {
        all.push("data".to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk {
            node: "/dev/vdb".into(),
            name: "vdb".into(),
            size: 4 << 30,
            sector: 512,
            partition: false,
            read_only: false,
            user: None,
            contents: Vec::new(),
        }
    }

    #[test]
    fn everything_that_is_against_a_disk_is_said_at_once() {
        assert!(disk().refuse().is_ok());
        let user = Some("vdb3 is mounted at /var".to_owned());
        let wrong = Disk { partition: true, read_only: true, user, ..disk() };
        let said = wrong.refuse().unwrap_err().to_string();
        for word in ["/dev/vdb: ", "a partition", "cannot be written", "mounted at /var"] {
            assert!(said.contains(word), "{said}");
        }
        for name in ["loop0", "sr0", "md127", "dm-1"] {
            assert!(Disk { name: name.into(), ..disk() }.refuse().is_err(), "{name}");
        }
        for name in ["sda", "vdb", "nvme0n1", "mmcblk0", "xvda", "sdr"] {
            assert!(Disk { name: name.into(), ..disk() }.refuse().is_ok(), "{name}");
        }
        assert!(Disk { sector: 520, ..disk() }.refuse().is_err());
    }

    #[test]
    fn room_is_for_the_release_and_another_one() {
        let content = 150 << 20;
        assert!(disk().check_room(content).is_ok());
        let needed = smallest(state(content));
        assert!(Disk { size: needed, ..disk() }.check_room(content).is_ok());
        let error = Disk { size: needed - 1, ..disk() }.check_room(content).unwrap_err();
        assert!(error.to_string().contains("are needed"), "{error}");
        let parts = ros_api::disk::partitions(needed).unwrap();
        assert!(parts[2].length >= content, "the partitions fit then");
    }

    #[test]
    fn what_is_no_device_is_said_with_its_name() {
        for wrong in ["/dev/none", "/etc/passwd", "/dev/null"] {
            let error = format!("{:#}", Disk::look(wrong).unwrap_err());
            assert!(error.starts_with(wrong), "{error}");
        }
    }
}

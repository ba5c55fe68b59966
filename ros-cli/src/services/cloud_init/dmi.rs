//! Which cloud this machine is in, by what its firmware says (SMBIOS, `/sys/class/dmi/id`), as cloud-init's
//! ds-identify does: nothing is asked over the network to find out.

use std::fs;
use std::path::Path;

use super::clouds::Cloud;

/// Azure's chassis.
const AZURE: &str = "7783-7084-3265-9085-8269-3286-77";

/// What the firmware says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmi {
    /// Maker of the machine.
    pub vendor: String,
    /// The machine's kind.
    pub product: String,
    /// Its serial number.
    pub serial: String,
    /// Its own id.
    pub uuid: String,
    /// Asset tag of its chassis.
    pub chassis: String,
}

impl Dmi {
    /// This machine's. What cannot be read is empty.
    #[must_use]
    pub fn machine() -> Self {
        Self::at(Path::new("/sys/class/dmi/id"))
    }

    fn at(dir: &Path) -> Self {
        let read = |name: &str| {
            fs::read_to_string(dir.join(name))
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        Self {
            vendor: read("sys_vendor"),
            product: read("product_name"),
            serial: read("product_serial"),
            uuid: read("product_uuid"),
            chassis: read("chassis_asset_tag"),
        }
    }

    /// The cloud, if it is one that is known.
    #[must_use]
    pub fn cloud(&self) -> Option<Cloud> {
        let vendor = self.vendor.as_str();
        let product = self.product.as_str();
        let starts = |text: &str, head: &str| text.to_lowercase().starts_with(head);
        Some(match () {
            () if vendor == "Amazon EC2"
                || starts(&self.uuid, "ec2")
                || starts(&self.serial, "ec2") =>
            {
                Cloud::Ec2
            }
            () if product == "Google Compute Engine" || self.serial.starts_with("GoogleCloud-") => {
                Cloud::Gce
            }
            () if self.chassis == AZURE => Cloud::Azure,
            () if vendor == "DigitalOcean" => Cloud::DigitalOcean,
            () if vendor == "Hetzner" => Cloud::Hetzner,
            () if vendor == "Vultr" => Cloud::Vultr,
            () if vendor == "Scaleway" => Cloud::Scaleway,
            () if product == "Alibaba Cloud ECS" => Cloud::Aliyun,
            () if product.starts_with("Exoscale") => Cloud::Exoscale,
            () if product.starts_with("CloudStack") => Cloud::ApacheCloudStack,
            () if matches!(product, "OpenStack Nova" | "OpenStack Compute") => Cloud::OpenStack,
            () if matches!(
                self.chassis.as_str(),
                "OpenTelekomCloud" | "SAP CCloud VM" | "HUAWEICLOUD" | "OpenStack Nova"
            ) =>
            {
                Cloud::OpenStack
            }
            () => return None,
        })
    }

    /// Whether VMware's hypervisor says that it is one: its guests can read what it was told for them.
    #[must_use]
    pub fn is_vmware(&self) -> bool {
        self.vendor.starts_with("VMware") || self.product.starts_with("VMware")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_are_known_by_their_firmware() {
        let table: [(&str, &str, Option<Cloud>); 14] = [
            ("sys_vendor", "Amazon EC2", Some(Cloud::Ec2)),
            ("product_uuid", "EC2E1916-9099-7CAF-FD21-012345ABCDEF", Some(Cloud::Ec2)),
            ("product_name", "Google Compute Engine", Some(Cloud::Gce)),
            ("chassis_asset_tag", AZURE, Some(Cloud::Azure)),
            ("sys_vendor", "DigitalOcean", Some(Cloud::DigitalOcean)),
            ("sys_vendor", "Hetzner", Some(Cloud::Hetzner)),
            ("sys_vendor", "Vultr", Some(Cloud::Vultr)),
            ("product_name", "Alibaba Cloud ECS", Some(Cloud::Aliyun)),
            ("product_name", "Exoscale Compute Platform", Some(Cloud::Exoscale)),
            ("product_name", "OpenStack Nova", Some(Cloud::OpenStack)),
            ("sys_vendor", "Scaleway", Some(Cloud::Scaleway)),
            ("product_name", "CloudStack KVM Hypervisor", Some(Cloud::ApacheCloudStack)),
            ("sys_vendor", "VMware, Inc.", None),
            ("sys_vendor", "QEMU", None),
        ];
        for (file, text, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(file), format!("{text}\n")).unwrap();
            let found = Dmi::at(dir.path());
            assert_eq!(found.cloud(), expected, "{file} {text}");
            assert_eq!(found.is_vmware(), text.starts_with("VMware"), "{file} {text}");
        }
    }
}

//! Azure: the provisioning volume (a DVD with `ovf-env.xml`), the Instance Metadata Service, and the wire server, which
//! is told that the machine is ready: the platform stops one that never says so.
//!
//! ```text
//!  ros cloud-init local     DVD ─► name, keys, password, custom data       (kept as `azure-iso`: no network needed)
//!  ros cloud-init network   IMDS ─► the same and more; custom data of the DVD beats IMDS's user data  (kept as `azure`)
//!                           wire server ◄─ Ready, once what was found is kept
//! ```
//!
//! The instance is known by the machine's own id, which both stages have.

use anyhow::{Context, Result};
use cloud_config::instance::InstanceData;
use reqwest::Method;
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use super::{LINK_LOCAL, bytes, json_of, unbase64};
use crate::services::cloud_init::dmi::Dmi;
use crate::services::cloud_init::url::{Request, ask};
use crate::services::cloud_init::volume;

/// The wire server.
const WIRE_SERVER: &str = "http://168.63.129.16";
/// What the volume has.
const OVF_ENV: &str = "ovf-env.xml";
/// What local data is kept as: the metadata service is still to be asked.
pub const ISO: &str = "azure-iso";

/// What is known of a machine, from either side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    name: String,
    keys: Vec<String>,
    user_data: Vec<u8>,
    /// A password for the machine's user, and whether sshd takes it.
    password: Option<(String, bool)>,
    id: String,
    region: Value,
    zone: Value,
}

impl Provisioned {
    /// As instance data of the machine with this id.
    pub fn instance(self, machine: &str) -> InstanceData {
        let machine = machine.to_lowercase();
        let meta = json!({
            "instance-id": if machine.is_empty() { self.id } else { machine }, "local-hostname": self.name,
            "public-keys": self.keys, "region": self.region, "availability-zone": self.zone,
        });
        let password = self.password.map(|(password, by_ssh)| {
            let keys = json!({ "password": password, "ssh_pwauth": by_ssh, "chpasswd": { "expire": false } });
            format!("#cloud-config\n{keys}\n").into_bytes()
        });
        let data = InstanceData::from_meta("azure", &meta, self.user_data);
        InstanceData { vendor_data: password.unwrap_or_default(), ..data }
    }

    /// What the metadata service says, with what only the volume has.
    fn with_volume(mut self, volume: Self) -> Self {
        let new = volume.keys.into_iter().filter(|key| !self.keys.contains(key));
        self.keys.extend(new.collect::<Vec<_>>());
        self.password = volume.password;
        if !volume.user_data.is_empty() {
            self.user_data = volume.user_data;
        }
        if self.name.is_empty() {
            self.name = volume.name;
        }
        self
    }
}

/// What the provisioning volume says; none when there is no such volume.
pub fn local() -> Option<InstanceData> {
    let found = on_volume()?;
    let data = found.instance(&Dmi::machine().uuid);
    Some(InstanceData { datasource: ISO.to_owned(), ..data })
}

fn on_volume() -> Option<Provisioned> {
    let text = volume::file_of_disc(OVF_ENV)?;
    let read = provisioned(&String::from_utf8_lossy(&text));
    read.inspect_err(|error| eprintln!("azure: {OVF_ENV}: {error:#}")).ok()
}

/// Asks the metadata service; a machine that has only the volume goes by that.
pub async fn fetch() -> Result<InstanceData> {
    let volume = on_volume();
    let found = match (metadata(LINK_LOCAL).await, volume) {
        (Ok(found), Some(volume)) => found.with_volume(volume),
        (Ok(found), None) => found,
        (Err(error), Some(volume)) => {
            eprintln!("azure: {error:#}: the provisioning volume alone counts");
            volume
        }
        (Err(error), None) => return Err(error),
    };
    Ok(found.instance(&Dmi::machine().uuid))
}

/// What the metadata service says.
pub async fn metadata(base: &str) -> Result<Provisioned> {
    let url = format!("{base}/metadata/instance?api-version=2021-08-01");
    let all = json_of(Request::get(&url).header("Metadata", "true")).await?;
    let compute = &all["compute"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let keys = compute["publicKeys"].as_array().into_iter().flatten();
    let name = compute["osProfile"]["computerName"].as_str().or(compute["name"].as_str());
    Ok(Provisioned {
        name: name.unwrap_or_default().to_owned(),
        keys: keys.map(|key| text(&key["keyData"]).trim().to_owned()).collect(),
        user_data: unbase64(&text(&compute["userData"]))?,
        password: None,
        id: text(&compute["vmId"]).to_lowercase(),
        region: compute["location"].clone(),
        zone: compute["zone"].clone(),
    })
}

/// What `ovf-env.xml` says.
fn provisioned(text: &str) -> Result<Provisioned> {
    let document = Document::parse(text.trim_start_matches('\u{feff}')).context("not XML")?;
    let set = named(document.root_element(), "LinuxProvisioningConfigurationSet")
        .context("expected a LinuxProvisioningConfigurationSet")?;
    let text = |name: &str| {
        let text = named(set, name).and_then(|node| node.text()).unwrap_or_default();
        text.trim().to_owned()
    };
    let all = set.descendants().filter(|node| node.tag_name().name() == "PublicKey");
    let keys = all.filter_map(|key| Some(named(key, "Value")?.text()?.trim().to_owned()));
    let by_ssh = text("DisableSshPasswordAuthentication").eq_ignore_ascii_case("false");
    // The platform blanks the volume's password when the machine was made.
    let password = Some(text("UserPassword")).filter(|word| !word.is_empty() && word != "REDACTED");
    Ok(Provisioned {
        name: text("HostName"),
        keys: keys.filter(|key| !key.is_empty()).collect(),
        user_data: unbase64(&text("CustomData"))?,
        password: password.map(|password| (password, by_ssh)),
        ..Provisioned::default()
    })
}

/// The first element of this name, in whichever namespace.
fn named<'a, 'input>(within: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    within.descendants().find(|node| node.tag_name().name() == name)
}

/// Tells the wire server that the machine is ready, for the incarnation that it names.
pub async fn report_ready() -> Result<()> {
    report_ready_to(WIRE_SERVER).await
}

async fn report_ready_to(base: &str) -> Result<()> {
    let ask_wire =
        |request: Request| Request { pauses: 3, ..request }.header("x-ms-version", "2012-11-30");
    let goal = bytes(ask_wire(Request::get(&format!("{base}/machine/?comp=goalstate")))).await?;
    let goal = String::from_utf8_lossy(&goal).into_owned();
    let goal = Document::parse(goal.trim_start_matches('\u{feff}')).context("the goal state")?;
    let of = |name: &str| {
        let text = named(goal.root_element(), name).and_then(|node| node.text());
        text.map(str::trim).with_context(|| format!("the goal state has no {name}"))
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health><GoalStateIncarnation>{}</GoalStateIncarnation><Container>\
         <ContainerId>{}</ContainerId><RoleInstanceList><Role><InstanceId>{}</InstanceId><Health><State>Ready</State>\
         </Health></Role></RoleInstanceList></Container></Health>",
        of("Incarnation")?,
        of("ContainerId")?,
        of("InstanceId")?,
    );
    let request = Request {
        method: Method::POST,
        body,
        ..Request::get(&format!("{base}/machine?comp=health"))
    };
    ask(&ask_wire(request).header("Content-Type", "text/xml; charset=utf-8")).await.map(|_| ())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Shaped as the platform writes it.
    const OVF: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<ns0:Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1"
 xmlns:ns1="http://schemas.microsoft.com/windowsazure" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <ns1:ProvisioningSection><ns1:Version>1.0</ns1:Version>
  <ns1:LinuxProvisioningConfigurationSet>
   <ns1:ConfigurationSetType>LinuxProvisioningConfiguration</ns1:ConfigurationSetType>
   <ns1:HostName>by-dvd</ns1:HostName><ns1:UserName>ann</ns1:UserName><ns1:UserPassword>Secret1</ns1:UserPassword>
   <ns1:DisableSshPasswordAuthentication>false</ns1:DisableSshPasswordAuthentication>
   <ns1:SSH><ns1:PublicKeys><ns1:PublicKey><ns1:Fingerprint>AB</ns1:Fingerprint><ns1:Path>/home/ann/.ssh/authorized_keys</ns1:Path>
    <ns1:Value>ssh-rsa DVD ann</ns1:Value></ns1:PublicKey></ns1:PublicKeys></ns1:SSH>
   <ns1:CustomData>I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogZnJvbS1kdmQK</ns1:CustomData>
  </ns1:LinuxProvisioningConfigurationSet></ns1:ProvisioningSection>
 <ns1:PlatformSettingsSection><ns1:Version>1.0</ns1:Version></ns1:PlatformSettingsSection>
</ns0:Environment>"#;

    #[test]
    fn the_volume_has_name_keys_password_and_custom_data() {
        let found = provisioned(OVF).unwrap();
        let data = found.clone().instance("02AAB8A4-74EF-476E-8182-F6D2BA4166A6");
        assert_eq!(data.instance_id, "02aab8a4-74ef-476e-8182-f6d2ba4166a6");
        assert_eq!(data.user_data, b"#cloud-config\nhostname: from-dvd\n");
        let meta: Value = serde_json::from_str(&data.meta_data).unwrap();
        assert_eq!(meta["local-hostname"], "by-dvd");
        assert_eq!(meta["public-keys"], json!(["ssh-rsa DVD ann"]));
        let vendor = String::from_utf8(data.vendor_data.clone()).unwrap();
        let mut wrong = Vec::new();
        let layer = cloud_config::Layer::Instance;
        let password = cloud_config::layers::checked(&vendor, layer, "vendor", &mut wrong).unwrap();
        assert_eq!(wrong, []);
        assert_eq!(password.get("password").unwrap().to_json(), "Secret1");
        assert_eq!(password.get("ssh_pwauth").unwrap().to_json(), true);

        let blanked = OVF
            .replace("Secret1", "REDACTED")
            .replace("I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogZnJvbS1kdmQK", "");
        let blanked = provisioned(&blanked).unwrap();
        assert_eq!((blanked.password, blanked.user_data.len()), (None, 0));
        for wrong in ["", "<a>", "<Environment/>", &OVF.replace("I2N", "*")] {
            assert!(provisioned(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn custom_data_of_the_volume_beats_user_data_of_the_service() {
        let service = Provisioned {
            name: "by-imds".into(),
            keys: vec!["ssh-rsa DVD ann".into(), "ssh-rsa IMDS".into()],
            user_data: b"#!/bin/sh\n".to_vec(),
            id: "vm".into(),
            ..Provisioned::default()
        };
        let both = service.clone().with_volume(provisioned(OVF).unwrap());
        assert_eq!((both.name.as_str(), both.keys.len()), ("by-imds", 2));
        assert_eq!(both.user_data, b"#cloud-config\nhostname: from-dvd\n");
        let without = Provisioned { user_data: Vec::new(), ..provisioned(OVF).unwrap() };
        assert_eq!(service.clone().with_volume(without).user_data, service.user_data);
        assert_eq!(service.instance("").instance_id, "vm");
    }

    /// For the tests of all clouds.
    pub async fn ready(base: &str) -> Result<()> {
        report_ready_to(base).await
    }
}

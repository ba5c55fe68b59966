//! Instance data: found once for each instance, kept under `/var/lib/ros/instance`, where the configuration has it
//! as a layer.
//!
//! Order: the kernel command line's file or URL, then the datasource that it names (`ds=`), or those that are
//! configured, or, when none is, the local ones: a volume `cidata` (NoCloud, Proxmox), then `config-2` (config-drive),
//! then what the firmware says is there (VMware's guestinfo, Azure's provisioning volume); and, when there is nothing
//! local, the cloud that the firmware names. A machine without any asks nobody and waits for nothing.
//!
//! A cloud is asked once: as long as the machine's own id (SMBIOS) is the one that was there when it answered, its
//! answer stays.

pub mod clouds;
pub mod dmi;
pub mod guestinfo;
pub mod url;
pub mod volume;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cloud_config::instance::{self, InstanceData};
use cloud_config::{Settings, cmdline, redact};
use ros_api::paths;

use self::clouds::{Cloud, azure};
use self::dmi::Dmi;
use self::volume::Mounted;
use super::configuration::Configuration;
use super::container::Service;
use super::superblock::{self, Volume};

/// The service that reads local sources, before the network.
pub const SERVICE: &str = "cloud-init";
/// Includes inside of includes.
const ROUNDS: usize = 3;
/// Includes of one round.
const MOST_INCLUDES: usize = 32;
/// The one that reads a URL or asks a cloud, after the network; only when there is something to ask.
pub const NETWORK_SERVICE: &str = "cloud-init-network";

/// Where instance data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A volume `cidata`.
    NoCloud,
    /// A volume `config-2`.
    ConfigDrive,
    /// A file of this machine.
    File(String),
    /// A document, or the folder of one.
    Url(String),
    /// What VMware's hypervisor was told.
    Guestinfo,
    /// Azure's provisioning volume.
    AzureIso,
    /// A cloud's metadata service.
    Cloud(Cloud),
    /// Parts that user data includes.
    Includes,
}

impl Source {
    /// `nocloud`, `configdrive`, `file:PATH`, `url:URL`, or a URL alone.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("nocloud", "") => Some(Self::NoCloud),
            // Proxmox writes volumes of either kind.
            ("proxmox", "") => Some(Self::NoCloud),
            ("configdrive" | "config-drive", "") => Some(Self::ConfigDrive),
            ("vmware" | "guestinfo", "") => Some(Self::Guestinfo),
            ("file", path) => Some(Self::File(path.to_owned())),
            ("url", url) => Some(Self::Url(url.to_owned())),
            ("http" | "https", _) => Some(Self::Url(text.to_owned())),
            (name, _) => Cloud::named(name).map(Self::Cloud),
        }
    }
}

/// What is looked at, in order, and what could not be understood. Without any that is asked for it is what can be there.
fn sources(settings: &Settings, kernel: &str, dmi: &Dmi) -> (Vec<Source>, Vec<String>) {
    let mut unknown = Vec::new();
    let cmdline = cmdline::parse(kernel);
    let mut all: Vec<Source> = cmdline.url.as_deref().map(from_cmdline).into_iter().collect();
    let asked = match &cmdline.datasource {
        Some(name) => std::slice::from_ref(name),
        None => settings.ros.cloud_init.datasources.as_slice(),
    };
    for text in asked.iter().filter(|text| *text != "none") {
        match Source::parse(text) {
            Some(Source::Cloud(Cloud::Azure)) => {
                all.extend([Source::AzureIso, Source::Cloud(Cloud::Azure)]);
            }
            Some(source) => all.push(source),
            None => unknown.push(format!(
                "datasource {text:?}: expected nocloud, configdrive, proxmox, vmware, a cloud, file:PATH, url:URL or none"
            )),
        }
    }
    if asked.is_empty() {
        all.extend([Source::NoCloud, Source::ConfigDrive]);
        all.extend(dmi.is_vmware().then_some(Source::Guestinfo));
        all.extend((dmi.cloud() == Some(Cloud::Azure)).then_some(Source::AzureIso));
    }
    (all, unknown)
}

fn from_cmdline(text: &str) -> Source {
    match text.strip_prefix("file://").or_else(|| text.starts_with('/').then_some(text)) {
        Some(path) => Source::File(path.to_owned()),
        None => Source::Url(text.to_owned()),
    }
}

/// What needs the network, if something is asked for, or the firmware names a cloud that did not answer yet.
#[must_use]
pub fn network_source(settings: &Settings) -> Option<Source> {
    let kernel = cmdline::of_machine();
    let dir = Path::new(paths::INSTANCE);
    choose(settings, &kernel, &Dmi::machine(), dir)
}

fn choose(settings: &Settings, kernel: &str, dmi: &Dmi, dir: &Path) -> Option<Source> {
    let known = instance::instance_id(dir).is_some();
    let kept = std::fs::read_to_string(dir.join("datasource")).unwrap_or_default();
    let same_machine = !dmi.uuid.is_empty()
        && std::fs::read_to_string(dir.join("machine")).is_ok_and(|old| old.trim() == dmi.uuid);
    let seed = cmdline::parse(&dmi.serial).url.as_deref().map(from_cmdline);
    let listed = sources(settings, kernel, dmi).0.into_iter().chain(seed);
    let mut asked = listed.filter(|source| matches!(source, Source::Url(_) | Source::Cloud(_)));
    let found = asked.next().or_else(|| {
        let automatic = settings.ros.cloud_init.datasources.is_empty()
            && cmdline::parse(kernel).datasource.is_none();
        // What was local counts where it was found: a disk that was moved into a cloud asks that.
        let here = same_machine || dmi.uuid.is_empty();
        let local =
            known && here && matches!(kept.as_str(), "nocloud" | "configdrive" | "file" | "vmware");
        dmi.cloud().filter(|_| automatic && !local).map(Source::Cloud)
    });
    match found {
        Some(Source::Cloud(cloud)) if known && same_machine && kept == cloud.name() => None,
        found => found,
    }
    .or_else(|| (!instance::includes(dir).is_empty()).then_some(Source::Includes))
}

/// Whether this machine has no instance data yet, or not from this cloud.
#[must_use]
pub fn is_news(source: &Source) -> bool {
    matches!(source, Source::Cloud(_))
        || instance::instance_id(Path::new(paths::INSTANCE)).is_none()
}

/// The oneshot that reads it: the same image, after the network, before `waiting`.
#[must_use]
pub fn network_service(service: &Service, waiting: Vec<String>) -> Service {
    let mut other = service.clone();
    NETWORK_SERVICE.clone_into(&mut other.name);
    other.spec.entrypoint = ["/usr/bin/ros", "cloud-init", "network"].map(str::to_owned).to_vec();
    other.spec.ros.after = vec!["network".into()];
    other.spec.ros.before = waiting;
    other.spec.ros.health_window = Some("120s".into());
    other
}

/// `ros cloud-init local`: the first local source that is there. None is no error.
///
/// # Errors
/// When what was found cannot be kept.
pub fn local() -> Result<ExitCode> {
    let configuration = Configuration::load();
    let kernel = cmdline::of_machine();
    let dmi = Dmi::machine();
    let (sources, unknown) = sources(&configuration.settings, &kernel, &dmi);
    unknown.iter().for_each(|warning| eprintln!("{warning}"));
    let volumes = superblock::volumes();
    for source in sources {
        let found = match &source {
            Source::NoCloud => on_volume(&volumes, "cidata", InstanceData::from_nocloud),
            Source::ConfigDrive => on_volume(&volumes, "config-2", InstanceData::from_config_drive),
            Source::File(path) => from_file(path),
            Source::Guestinfo => guestinfo::local(),
            Source::AzureIso => azure::local(),
            Source::Url(_) | Source::Cloud(_) | Source::Includes => None,
        };
        if let Some(data) = found {
            return keep(&data).map(|()| ExitCode::SUCCESS);
        }
    }
    println!("no local instance data");
    Ok(ExitCode::SUCCESS)
}

/// `ros cloud-init network`: the URL or the cloud, then what its user data includes.
///
/// # Errors
/// When it cannot be fetched or kept.
pub async fn network() -> Result<ExitCode> {
    let configuration = Configuration::load();
    let Some(source) = network_source(&configuration.settings) else {
        println!("nothing is asked for over the network");
        return Ok(ExitCode::SUCCESS);
    };
    match source {
        Source::Url(url) => keep(&from_url(&url).await?)?,
        Source::Cloud(cloud) => {
            keep(&cloud.fetch().await.with_context(|| format!("ask {}", cloud.name()))?)?;
            if cloud == Cloud::Azure {
                tell_azure().await;
            }
        }
        _ => {}
    }
    included(Path::new(paths::INSTANCE)).await?;
    Ok(ExitCode::SUCCESS)
}

/// The platform stops a machine that never says that it is ready. When it cannot be told, the cloud is asked, and told,
/// again at the next boot.
async fn tell_azure() {
    if let Err(error) = azure::report_ready().await {
        eprintln!("azure: report ready: {error:#}");
        let _ = std::fs::remove_file(Path::new(paths::INSTANCE).join("machine"));
    }
}

/// A folder has NoCloud's files in it, anything else is user data itself.
async fn from_url(url: &str) -> Result<InstanceData> {
    if !url.ends_with('/') {
        let body = url::fetch(url)
            .await?
            .with_context(|| format!("{}: not found", redact::without_credentials(url)))?;
        return Ok(InstanceData::from_user_data(body, "url"));
    }
    let dir = Path::new(paths::RUN_ROS).join("seed");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for name in ["user-data", "meta-data", "vendor-data", "network-config"] {
        let text = url::fetch(&format!("{url}{name}")).await?.unwrap_or_default();
        std::fs::write(dir.join(name), text).with_context(|| format!("keep {name}"))?;
    }
    InstanceData::from_nocloud(&dir).context("read the seed")
}

/// Fetches what user data includes, and what that includes, up to a bound. One that cannot be had does not keep the
/// others back.
async fn included(dir: &Path) -> Result<()> {
    for round in 0..ROUNDS {
        let urls = instance::includes(dir);
        if urls.is_empty() {
            return Ok(());
        }
        let mut fetched = Vec::new();
        for address in urls.iter().take(MOST_INCLUDES) {
            match url::fetch(address).await {
                Ok(Some(bytes)) => fetched.push((address.clone(), bytes)),
                Ok(None) => eprintln!("#include {address}: not found"),
                Err(error) => eprintln!("#include: {error:#}"),
            }
        }
        instance::keep_included(dir, round, &fetched).context("keep what was included")?;
    }
    Ok(())
}

/// Labels are compared without case: VFAT has upper case only.
fn on_volume(
    volumes: &[Volume],
    label: &str,
    read: fn(&Path) -> Option<InstanceData>,
) -> Option<InstanceData> {
    let named = volumes.iter().filter(|volume| volume.label.eq_ignore_ascii_case(label));
    named.into_iter().find_map(|volume| match Mounted::new(volume, Path::new(volume::RUN)) {
        Ok(mounted) => read(mounted.dir()),
        Err(error) => {
            eprintln!("{error:#}");
            None
        }
    })
}

fn from_file(path: &str) -> Option<InstanceData> {
    if path.ends_with('/') {
        return InstanceData::from_nocloud(Path::new(path));
    }
    match std::fs::read(path) {
        Ok(bytes) => Some(InstanceData::from_user_data(bytes, "file")),
        Err(error) => {
            eprintln!("read {path}: {error}");
            None
        }
    }
}

fn keep(data: &InstanceData) -> Result<()> {
    let dir = Path::new(paths::INSTANCE);
    let another =
        data.save(dir).with_context(|| format!("keep instance data in {}", dir.display()))?;
    let machine = dir.join("machine");
    ros_api::durable::write(&machine, Dmi::machine().uuid.as_bytes(), 0o600)?;
    let news = if another { ", another one than before" } else { "" };
    println!("instance {} from {}{news}", data.instance_id, data.datasource);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_an_order() {
        let mut settings = Settings::default();
        let none = Dmi::default();
        let local = [Source::NoCloud, Source::ConfigDrive];
        assert_eq!(sources(&settings, "quiet", &none).0, local);
        let (found, _) = sources(&settings, "cloud-config-url=http://h/x", &none);
        assert_eq!(found[0], Source::Url("http://h/x".into()));
        let (found, _) = sources(&settings, "cloud-config-url=file:///boot/c.yml", &none);
        assert_eq!(found[0], Source::File("/boot/c.yml".into()));
        let (found, _) = sources(&settings, "ds=nocloud;s=/oem/seed/", &none);
        assert_eq!(found, [Source::File("/oem/seed/".into()), Source::NoCloud]);
        assert_eq!(sources(&settings, "ds=Hetzner", &none).0, [Source::Cloud(Cloud::Hetzner)]);
        assert_eq!(sources(&settings, "ds=None", &none).0, []);
        settings.ros.cloud_init.datasources = vec!["url:http://h/".into(), "moon".into()];
        let (found, unknown) = sources(&settings, "", &none);
        assert_eq!((found.len(), unknown.len()), (1, 1));
        settings.ros.cloud_init.datasources = vec!["proxmox".into(), "vmware".into()];
        assert_eq!(sources(&settings, "", &none).0, [Source::NoCloud, Source::Guestinfo]);
    }

    #[test]
    fn the_firmware_says_what_else_is_there() {
        let settings = Settings::default();
        let of = |dmi: &Dmi| sources(&settings, "", dmi).0[2..].to_vec();
        let vmware = Dmi { vendor: "VMware, Inc.".into(), ..Dmi::default() };
        let azure = Dmi { chassis: "7783-7084-3265-9085-8269-3286-77".into(), ..Dmi::default() };
        assert_eq!(of(&Dmi::default()), []);
        assert_eq!(of(&vmware), [Source::Guestinfo]);
        assert_eq!(of(&azure), [Source::AzureIso]);
        let azure_is_asked = Some(Source::Cloud(Cloud::Azure));
        let dir = tempfile::tempdir().unwrap();
        let keep = |datasource: &str| {
            let data = InstanceData {
                instance_id: "i".into(),
                datasource: datasource.into(),
                ..InstanceData::default()
            };
            data.save(dir.path()).unwrap();
        };
        keep(clouds::azure::ISO);
        let asked = choose(&settings, "", &azure, dir.path());
        assert_eq!(asked, azure_is_asked, "the volume is not the whole of it");
        keep("vmware");
        assert_eq!(choose(&settings, "", &vmware, dir.path()), None);
        assert_eq!(choose(&settings, "ds=none", &azure, dir.path()), None);
    }

    #[test]
    fn a_cloud_is_asked_once_for_each_machine() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let hetzner = Dmi { vendor: "Hetzner".into(), uuid: "u-1".into(), ..Dmi::default() };
        let asked = |settings: &Settings, dmi: &Dmi| choose(settings, "quiet", dmi, dir.path());
        assert_eq!(asked(&settings, &Dmi::default()), None);
        assert_eq!(asked(&settings, &hetzner), Some(Source::Cloud(Cloud::Hetzner)));
        let data = InstanceData {
            instance_id: "42".into(),
            datasource: "hetzner".into(),
            ..InstanceData::default()
        };
        data.save(dir.path()).unwrap();
        std::fs::write(dir.path().join("machine"), "u-1").unwrap();
        assert_eq!(asked(&settings, &hetzner), None);
        let copied = Dmi { uuid: "u-2".into(), ..hetzner.clone() };
        assert_eq!(
            asked(&settings, &copied),
            Some(Source::Cloud(Cloud::Hetzner)),
            "a copied disk asks again"
        );
        InstanceData { datasource: "nocloud".into(), ..data }.save(dir.path()).unwrap();
        let moved = asked(&settings, &copied);
        assert_eq!(moved, Some(Source::Cloud(Cloud::Hetzner)), "the volume was another machine's");
        std::fs::write(dir.path().join("machine"), "u-2").unwrap();
        assert_eq!(asked(&settings, &copied), None, "a volume was there");
        let mut named = Settings::default();
        named.ros.cloud_init.datasources = vec!["none".into()];
        std::fs::remove_file(dir.path().join("instance-id")).unwrap();
        assert_eq!(asked(&named, &hetzner), None);
        named.ros.cloud_init.datasources = vec!["gce".into()];
        assert_eq!(asked(&named, &hetzner), Some(Source::Cloud(Cloud::Gce)));
        let serial = Dmi { serial: "ds=nocloud;s=http://10.0.2.2/".into(), ..Dmi::default() };
        assert_eq!(asked(&settings, &serial), Some(Source::Url("http://10.0.2.2/".into())));
    }
}

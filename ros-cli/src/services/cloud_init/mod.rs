//! Instance data: found once for each instance, kept under `/var/lib/ros/instance`, where the configuration has it
//! as a layer.
//!
//! Order: the kernel command line's file or URL, then the datasources that are configured, or, when none is, the
//! local ones: a volume `cidata` (NoCloud), then `config-2` (config-drive).

pub mod url;
pub mod volume;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cloud_config::Settings;
use cloud_config::cmdline;
use cloud_config::instance::InstanceData;
use ros_api::paths;

use self::volume::Mounted;
use super::configuration::Configuration;
use super::container::Service;
use super::superblock::{self, Volume};

/// The service that reads local sources, before the network.
pub const SERVICE: &str = "cloud-init";
/// The one that reads a URL, after the network; only when there is one.
pub const NETWORK_SERVICE: &str = "cloud-init-network";

/// Where instance data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A volume `cidata`.
    NoCloud,
    /// A volume `config-2`.
    ConfigDrive,
    /// A file of this machine.
    File(String),
    /// A document, or the folder of one.
    Url(String),
}

impl Source {
    /// `nocloud`, `configdrive`, `file:PATH`, `url:URL`, or a URL alone.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("nocloud", "") => Some(Self::NoCloud),
            ("configdrive" | "config-drive", "") => Some(Self::ConfigDrive),
            ("file", path) => Some(Self::File(path.to_owned())),
            ("url", url) => Some(Self::Url(url.to_owned())),
            ("http" | "https", _) => Some(Self::Url(text.to_owned())),
            _ => None,
        }
    }
}

fn sources(settings: &Settings, kernel: &str) -> (Vec<Source>, Vec<String>) {
    let mut unknown = Vec::new();
    let mut all: Vec<Source> =
        cmdline::parse(kernel).url.as_deref().map(from_cmdline).into_iter().collect();
    for text in &settings.ros.cloud_init.datasources {
        match Source::parse(text) {
            Some(source) => all.push(source),
            None => unknown.push(format!(
                "datasource {text:?}: expected nocloud, configdrive, file:PATH or url:URL"
            )),
        }
    }
    if settings.ros.cloud_init.datasources.is_empty() {
        all.extend([Source::NoCloud, Source::ConfigDrive]);
    }
    (all, unknown)
}

fn from_cmdline(text: &str) -> Source {
    match text.strip_prefix("file://").or_else(|| text.starts_with('/').then_some(text)) {
        Some(path) => Source::File(path.to_owned()),
        None => Source::Url(text.to_owned()),
    }
}

/// The URL that needs the network, if one is asked for.
#[must_use]
pub fn network_source(settings: &Settings) -> Option<String> {
    let kernel = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let url = |source| match source {
        Source::Url(url) => Some(url),
        _ => None,
    };
    sources(settings, &kernel).0.into_iter().find_map(url)
}

/// The oneshot that reads it: the same image, after the network.
#[must_use]
pub fn network_service(service: &Service) -> Service {
    let mut other = service.clone();
    NETWORK_SERVICE.clone_into(&mut other.name);
    other.spec.entrypoint = ["/usr/bin/ros", "cloud-init", "network"].map(str::to_owned).to_vec();
    other.spec.ros.after = vec!["network".into()];
    other.spec.ros.before = Vec::new();
    other.spec.ros.health_window = Some("120s".into());
    other
}

/// `ros cloud-init local`: the first local source that is there. None is no error.
///
/// # Errors
/// When what was found cannot be kept.
pub fn local() -> Result<ExitCode> {
    let configuration = Configuration::load();
    let kernel = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (sources, unknown) = sources(&configuration.settings, &kernel);
    unknown.iter().for_each(|warning| eprintln!("{warning}"));
    let volumes = superblock::volumes();
    for source in sources {
        let found = match &source {
            Source::NoCloud => on_volume(&volumes, "cidata", InstanceData::from_nocloud),
            Source::ConfigDrive => on_volume(&volumes, "config-2", InstanceData::from_config_drive),
            Source::File(path) => from_file(path),
            Source::Url(_) => None,
        };
        if let Some(data) = found {
            return keep(&data).map(|()| ExitCode::SUCCESS);
        }
    }
    println!("no local instance data");
    Ok(ExitCode::SUCCESS)
}

/// `ros cloud-init network`: the URL.
///
/// # Errors
/// When it cannot be fetched or kept.
pub async fn network() -> Result<ExitCode> {
    let configuration = Configuration::load();
    let Some(url) = network_source(&configuration.settings) else {
        println!("no URL is configured");
        return Ok(ExitCode::SUCCESS);
    };
    // A folder has NoCloud's files in it, anything else is user data itself.
    let data = if url.ends_with('/') {
        let user_data = url::fetch(&format!("{url}user-data")).await?.unwrap_or_default();
        let meta_data = url::fetch(&format!("{url}meta-data")).await?.unwrap_or_default();
        let dir = Path::new(paths::RUN_ROS).join("seed");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        std::fs::write(dir.join("user-data"), user_data).context("keep user-data")?;
        std::fs::write(dir.join("meta-data"), meta_data).context("keep meta-data")?;
        InstanceData::from_nocloud(&dir).context("read the seed")?
    } else {
        let body = url::fetch(&url).await?.with_context(|| format!("{url}: not found"))?;
        InstanceData::from_user_data(body, "url")
    };
    keep(&data)?;
    Ok(ExitCode::SUCCESS)
}

/// Labels are compared without case: VFAT has upper case only.
fn on_volume(
    volumes: &[Volume],
    label: &str,
    read: fn(&Path) -> Option<InstanceData>,
) -> Option<InstanceData> {
    let named = volumes.iter().filter(|volume| volume.label.eq_ignore_ascii_case(label));
    named.into_iter().find_map(|volume| match Mounted::new(volume, Path::new("/mnt")) {
        Ok(mounted) => read(mounted.dir()),
        Err(error) => {
            eprintln!("{error:#}");
            None
        }
    })
}

fn from_file(path: &str) -> Option<InstanceData> {
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
        let local = [Source::NoCloud, Source::ConfigDrive];
        assert_eq!(sources(&settings, "quiet").0, local);
        let (found, _) = sources(&settings, "cloud-config-url=http://h/x");
        assert_eq!(found[0], Source::Url("http://h/x".into()));
        let (found, _) = sources(&settings, "cloud-config-url=file:///boot/c.yml");
        assert_eq!(found[0], Source::File("/boot/c.yml".into()));
        settings.ros.cloud_init.datasources = vec!["url:http://h/".into(), "moon".into()];
        let (found, unknown) = sources(&settings, "");
        assert_eq!((found.len(), unknown.len()), (1, 1));
    }
}

//! What the configuration says about the host itself, applied where it lives: in the host's namespaces. Doing it
//! twice changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use cloud_config::settings::{Interface, WriteFile};
use cloud_config::{Settings, Sources, layers};
use ros_api::{durable, paths};

use super::applied::{self, Trials};
use super::configuration::Configuration;
use super::mounts::{self, Mount};
use super::{disks, host_name, registries, remote_mounts, swap};

/// Applies everything that is the host's at boot, once instance data is there; what went wrong is answered, the
/// rest is done all the same.
#[must_use]
pub fn apply(settings: &Settings) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut again = None;
    match Trials::machine().go_back_from_earlier_boot() {
        Ok(false) => {}
        Ok(true) => {
            wrong.push(
                "configuration: a change on trial was cut off by a reboot: it is gone".into(),
            );
            again = Some(Configuration::load().settings);
        }
        Err(error) => wrong.push(format!("configuration: {error:#}")),
    }
    let settings = again.as_ref().unwrap_or(settings);
    wrong.extend(disks::apply(settings));
    wrong.extend(now(settings));
    for (what, outcome) in [
        ("bootcmd", bootcmd(settings)),
        ("swap", swap::apply(settings)),
        ("random_seed", seed_random(settings)),
        ("ntp", files_of_services(settings)),
        ("configuration", remember()),
    ] {
        wrong.extend(outcome.err().map(|error| format!("{what}: {error:#}")));
    }
    wrong
}

/// Applies what can change at any time: name, kernel settings, modules, mounts, registries.
#[must_use]
pub fn now(settings: &Settings) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut attempt = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            wrong.push(format!("{what}: {error:#}"));
        }
    };
    let name = settings.host_name();
    attempt("hostname", host_name::set(name).and_then(|()| host_name::write(Path::new("/"), name)));
    for (key, value) in &settings.ros.sysctl {
        attempt(&format!("sysctl {key}"), sysctl(key, value));
    }
    let drivers: Vec<&str> = network_modules(settings);
    for module in settings.ros.modules.iter().map(String::as_str).chain(drivers) {
        attempt(&format!("module {module}"), load(module));
    }
    attempt("registries", registries::publish(settings));
    let mounts = wanted_mounts(settings);
    wrong.extend(mounts::apply(&mounts));
    if let Err(error) = remote_mounts::start(&mounts) {
        wrong.push(format!("mounts: {error:#}"));
    }
    wrong
}

/// Drivers that the kernel does not load by itself where the network service asks for a link.
fn network_modules(settings: &Settings) -> Vec<&'static str> {
    let entries = settings.ros.network.interfaces.values();
    let any = |wanted: fn(&Interface) -> bool| entries.clone().any(wanted);
    let table = [
        ("bonding", any(|entry| entry.bond.is_some() || !entry.bond_opts.is_empty())),
        ("bridge", any(|entry| entry.bridge.is_some())),
        ("8021q", any(|entry| !entry.vlans.is_empty())),
    ];
    table.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
}

/// Keeps what counts from here on, for `ros config diff`, and the user's file when it is good.
fn remember() -> Result<()> {
    let sources = Sources::machine();
    applied::remember(&cloud_config::load(&sources).tree)?;
    layers::remember_good(&sources.user)?;
    Ok(())
}

/// Files that services read: chrony's sources.
///
/// # Errors
/// When one cannot be written.
pub fn files_of_services(settings: &Settings) -> Result<()> {
    let dir = Path::new(paths::RUN_ROS).join("ntp");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(durable::write(&dir.join("ros.sources"), ntp_sources(settings).as_bytes(), 0o644)?)
}

/// chrony.conf(5): what is configured is preferred to what the image names.
fn ntp_sources(settings: &Settings) -> String {
    let sound = |name: &&String| !name.is_empty() && !name.contains(char::is_whitespace);
    let lines = |kind: &str, names: &[String]| -> String {
        names.iter().filter(sound).map(|name| format!("{kind} {name} iburst prefer\n")).collect()
    };
    let ntp = &settings.ntp;
    let peers = ntp.peers.iter().filter(sound).map(|name| format!("peer {name}\n"));
    lines("server", &ntp.servers) + &lines("pool", &ntp.pools) + &peers.collect::<String>()
}

/// `random_seed`: stirred into the kernel's pool, which takes anything.
fn seed_random(settings: &Settings) -> Result<()> {
    let Some(seed) = &settings.random_seed else { return Ok(()) };
    let encoding = if seed.encoding == "raw" { "" } else { &seed.encoding };
    let file = WriteFile {
        path: "random_seed".into(),
        content: seed.data.clone(),
        encoding: encoding.into(),
        ..WriteFile::default()
    };
    let bytes = file.decoded().map_err(|why| anyhow!(why))?;
    fs::write("/dev/urandom", bytes).context("write /dev/urandom")
}

/// Runs what the boot stage did not know of yet: `bootcmd` of instance data that is new in this boot.
fn bootcmd(settings: &Settings) -> Result<()> {
    let path = Path::new(paths::BOOTCMD_RUN);
    let mut done: Vec<Vec<String>> =
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut failed = Vec::new();
    for words in settings.bootcmd.iter().map(cloud_config::settings::Command::words) {
        if done.contains(&words) {
            continue;
        }
        done.push(words.clone());
        fs::write(path, serde_json::to_vec(&done)?)
            .with_context(|| format!("write {}", path.display()))?;
        let Some((program, arguments)) = words.split_first() else { continue };
        let ended = Command::new(program).args(arguments).output();
        match ended.with_context(|| format!("run {words:?}")) {
            Ok(output) if output.status.success() => {}
            Ok(output) => failed
                .push(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// `mounts` as the host does them. Binds are the console's: they are about what its user sees.
#[must_use]
pub fn wanted_mounts(settings: &Settings) -> Vec<Mount> {
    all_mounts(settings).into_iter().filter(|mount| !mount.is_bind()).collect()
}

/// All of `mounts`.
#[must_use]
pub fn all_mounts(settings: &Settings) -> Vec<Mount> {
    let mount = |[source, target, fstype, options]: &[String; 4]| Mount {
        source: source.clone(),
        target: target.clone(),
        fstype: fstype.clone(),
        options: options.clone(),
    };
    settings.mounts().iter().map(mount).collect()
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key).context("not a kernel setting's name")?;
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value.trim()) {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("write {}", path.display()))
}

/// sysctl(8): dots separate, or slashes when a part has a dot.
fn sysctl_path(key: &str) -> Option<PathBuf> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let sound = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then(|| Path::new("/proc/sys").join(path))
}

/// A module that is loaded stays as it is.
///
/// # Errors
/// When there is no such module, or it does not load.
pub fn load(module: &str) -> Result<()> {
    let name = module.split_whitespace().next().unwrap_or_default().replace('-', "_");
    if Path::new("/sys/module").join(&name).is_dir() {
        return Ok(());
    }
    let mut modprobe = if Path::new("/sbin/modprobe").exists() {
        Command::new("/sbin/modprobe")
    } else {
        let mut busybox = Command::new("/bin/busybox");
        busybox.arg("modprobe");
        busybox
    };
    let ended = modprobe.args(module.split_whitespace()).output().context("run modprobe")?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_servers_are_preferred_and_drivers_loaded() {
        let json = serde_json::json!({
            "ntp": { "servers": ["a", "b c"], "pools": ["p"] },
            "ros": { "network": { "interfaces": { "eth0": { "vlans": "10" }, "eth1": { "bond": "bond0" } } } },
        });
        let settings: Settings = serde_json::from_value(json).unwrap();
        assert_eq!(ntp_sources(&settings), "server a iburst prefer\npool p iburst prefer\n");
        assert_eq!(network_modules(&settings), ["bonding", "8021q"]);
    }

    #[test]
    fn a_setting_stays_below_proc_sys() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward").unwrap(),
            Path::new("/proc/sys/net/ipv4/ip_forward")
        );
        for wrong in ["../etc/passwd", "a..b", ""] {
            assert_eq!(sysctl_path(wrong), None, "{wrong}");
        }
    }
}

//! What the configuration says about the host itself, applied where it lives: in the host's namespaces. Doing it
//! twice changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cloud_config::Settings;
use ros_api::paths;

use super::host_name;
use super::mounts::{self, Mount};

/// Applies name, kernel settings, modules and mounts; what went wrong is answered, the rest is done all the same.
#[must_use]
pub fn apply(settings: &Settings) -> Vec<String> {
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
    for module in &settings.ros.modules {
        attempt(&format!("module {module}"), load(module));
    }
    attempt("bootcmd", bootcmd(settings));
    wrong.extend(mounts::apply(&wanted_mounts(settings)));
    wrong
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

fn load(module: &str) -> Result<()> {
    let ended = Command::new("/sbin/modprobe")
        .args(module.split_whitespace())
        .output()
        .context("run modprobe")?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

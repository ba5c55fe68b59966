//! What the configuration says before the daemon starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ros_api::durable::named;
use ros_api::paths;

use crate::child;
use crate::config;
use crate::kmsg;
use crate::steps::Machine;

/// One command of `bootcmd` may take so long.
const BOOTCMD: Duration = Duration::from_secs(120);

/// Reads all layers; what is wrong with them is told, and stops nothing.
pub fn read(machine: &mut Machine) -> io::Result<String> {
    let (early, complaints) = config::load();
    for complaint in &complaints {
        kmsg::warn(&format!("configuration: {complaint}"));
    }
    machine.config = early;
    Ok(if complaints.is_empty() {
        String::new()
    } else {
        format!("{} complaints", complaints.len())
    })
}

/// Sets the host's name when one is configured.
pub fn hostname(machine: &mut Machine) -> io::Result<String> {
    match &machine.config.hostname {
        Some(name) => set_hostname(name).map(|()| name.clone()),
        None => Ok("ros, by default".into()),
    }
}

/// Tells the kernel and the two files the host's name.
///
/// # Errors
/// When the kernel refuses it or a file cannot be written.
pub fn set_hostname(name: &str) -> io::Result<()> {
    let short = name.split('.').next().unwrap_or(name);
    rustix::system::sethostname(short.as_bytes())
        .map_err(|e| io::Error::other(format!("host name {short:?}: {e}")))?;
    let path = Path::new("/etc/hostname");
    fs::write(path, format!("{short}\n")).map_err(|e| named("write", path, &e))?;
    let names = if short == name { short.to_owned() } else { format!("{name} {short}") };
    let hosts = Path::new("/etc/hosts");
    let text = fs::read_to_string(hosts).map_err(|e| named("read", hosts, &e))?;
    let others = text.lines().filter(|line| !line.starts_with("127.0.1.1"));
    let text: String = others.map(|line| format!("{line}\n")).collect();
    fs::write(hosts, format!("{text}127.0.1.1\t{names}\n")).map_err(|e| named("write", hosts, &e))
}

/// Writes kernel settings; one that is refused does not keep the others back.
pub fn sysctl(machine: &mut Machine) -> io::Result<String> {
    let mut set = 0;
    for (key, value) in &machine.config.sysctl {
        match sysctl_path(key).map(|path| fs::write(path, value)) {
            Some(Ok(())) => set += 1,
            Some(Err(e)) => kmsg::warn(&format!("sysctl {key}={value}: {e}")),
            None => kmsg::warn(&format!("sysctl {key}: not a kernel setting's name")),
        }
    }
    Ok(format!("{set} set"))
}

/// `net.ipv4.ip_forward` → its file. With slashes as separators, dots are part of a name (sysctl(8)).
fn sysctl_path(key: &str) -> Option<PathBuf> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let sound = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then(|| Path::new("/proc/sys").join(path))
}

/// Loads the modules that the configuration names (`name option=value …`).
pub fn modules(machine: &mut Machine) -> io::Result<String> {
    let wanted = machine.config.modules.clone();
    let Some(loader) = machine.loader.as_mut().filter(|_| !wanted.is_empty()) else {
        return Ok("none".into());
    };
    let mut loaded = 0;
    for entry in &wanted {
        let (name, options) = entry.trim().split_once(' ').unwrap_or((entry.trim(), ""));
        match loader.load_any(name, options.trim()) {
            Ok(new) => loaded += new,
            Err(e) => kmsg::warn(&format!("configuration: modules: {e}")),
        }
        machine.watchdog.feed();
    }
    Ok(format!("{loaded} loaded"))
}

/// Runs `bootcmd`, one after the other, each bounded.
pub fn bootcmd(machine: &mut Machine) -> io::Result<String> {
    let commands = machine.config.bootcmd.clone();
    remember(&commands)?;
    for words in &commands {
        let Some((program, args)) = words.split_first() else { continue };
        let shown = words.join(" ");
        match child::run(child::command(program).args(args), &mut machine.watchdog, Some(BOOTCMD)) {
            Ok(ended) if ended.status.success() => kmsg::info(&ended.output),
            Ok(ended) => {
                kmsg::info(&ended.output);
                kmsg::warn(&format!(
                    "bootcmd {shown:?} ended with {}: {}",
                    ended.code(),
                    ended.last_line()
                ));
            }
            Err(e) => kmsg::warn(&format!("bootcmd {shown:?}: {e}")),
        }
    }
    Ok(format!("{} run", commands.len()))
}

/// Tells bring-up what is run here: instance data that it finds may have more.
fn remember(commands: &[Vec<String>]) -> io::Result<()> {
    let path = Path::new(paths::BOOTCMD_RUN);
    let text = serde_json::to_vec(commands)?;
    fs::write(path, text).map_err(|e| named("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_stays_below_proc_sys() {
        let table = [
            ("net.ipv4.ip_forward", Some("/proc/sys/net/ipv4/ip_forward")),
            ("net/ipv4/conf/eth0.1/rp_filter", Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter")),
            ("../../etc/passwd", None),
            ("/etc/passwd", None),
            ("kernel..x", None),
            ("", None),
        ];
        for (key, expected) in table {
            assert_eq!(sysctl_path(key).as_deref(), expected.map(Path::new), "{key:?}");
        }
    }
}

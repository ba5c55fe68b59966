//! The machine's name: the kernel's, and the files that repeat it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Line of `/etc/hosts` that is the machine's own (hosts(5)).
const OWN: &str = "127.0.1.1";

/// Has the kernel know the machine as `name`; only its first part, when it has several.
///
/// # Errors
/// When the kernel refuses.
pub fn set(name: &str) -> Result<()> {
    rustix::system::sethostname(short(name).as_bytes())
        .with_context(|| format!("set host name {name}"))
}

/// Repeats `name` in `/etc/hostname` and `/etc/hosts` below `root`. They are written in place: they may be
/// mounts.
///
/// # Errors
/// When one cannot be written.
pub fn write(root: &Path, name: &str) -> Result<()> {
    let (own, hosts) = (root.join("etc/hostname"), root.join("etc/hosts"));
    let old = fs::read_to_string(&hosts).unwrap_or_default();
    fs::write(&own, format!("{}\n", short(name)))
        .with_context(|| format!("write {}", own.display()))?;
    fs::write(&hosts, with_own_line(&old, name))
        .with_context(|| format!("write {}", hosts.display()))
}

fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn with_own_line(hosts: &str, name: &str) -> String {
    let mut text = String::new();
    if !hosts.lines().any(|line| line.split_whitespace().any(|word| word == "localhost")) {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    }
    for line in hosts.lines().filter(|line| line.split_whitespace().next() != Some(OWN)) {
        text.push_str(line);
        text.push('\n');
    }
    let names =
        if short(name) == name { name.to_owned() } else { format!("{name} {}", short(name)) };
    text + &format!("{OWN}\t{names}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_has_one_line() {
        let first = with_own_line("", "a.example");
        assert_eq!(first, "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\ta.example a\n");
        let hosts = "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 other\n";
        assert_eq!(
            with_own_line(hosts, "new"),
            "127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1\tnew\n"
        );
    }
}

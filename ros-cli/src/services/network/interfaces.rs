//! The machine's network interfaces, as `/sys/class/net` shows them, and which configuration entry each one
//! has.
//!
//! An entry is named by an exact name (`eth0`), a glob (`eth*`) or a hardware address (`mac=52:54:*`); its
//! `match` key, when there is one, is read in place of its name. A hardware address beats an exact name,
//! that beats a glob.

use std::fs;
use std::path::Path;

/// `ARPHRD_ETHER` in `/sys/class/net/<name>/type`.
const ETHERNET: &str = "1";

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, lower case.
    pub mac: String,
}

/// The ethernet interfaces that stand for hardware (a virtual machine's included), by name: no bridges,
/// bonds, veth pairs of containers and the like.
#[must_use]
pub fn present() -> Vec<Interface> {
    present_in(Path::new("/sys/class/net"))
}

fn present_in(dir: &Path) -> Vec<Interface> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<Interface> =
        entries.flatten().filter_map(|entry| interface(&entry.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn interface(path: &Path) -> Option<Interface> {
    let read =
        |name: &str| fs::read_to_string(path.join(name)).map(|text| text.trim().to_owned()).ok();
    let hardware = path.join("device").exists() && read("type")? == ETHERNET;
    let name = path.file_name()?.to_str()?.to_owned();
    // A part of a bond has the bond's address; its own is kept beside it.
    let mac = read("bonding_slave/perm_hwaddr").or_else(|| read("address"))?;
    hardware.then_some(Interface { name, mac: mac.to_lowercase() })
}

/// Whether the interface has a link. One that is not up yet has none.
#[must_use]
pub fn has_carrier(name: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{name}/carrier"))
        .is_ok_and(|text| text.trim() == "1")
}

/// How an entry was found to be an interface's; the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Glob,
    Name,
    Mac,
}

fn fit(pattern: &str, interface: &Interface) -> Option<Fit> {
    if let Some(mac) = pattern.strip_prefix("mac=").or_else(|| pattern.strip_prefix("mac:")) {
        return glob(&mac.to_lowercase(), &interface.mac).then_some(Fit::Mac);
    }
    if pattern == interface.name {
        return Some(Fit::Name);
    }
    glob(pattern, &interface.name).then_some(Fit::Glob)
}

/// The entry of `interface`: `entries` are patterns, each with anything.
#[must_use]
pub fn entry_of<'a, T>(
    interface: &Interface,
    entries: impl Iterator<Item = (&'a str, T)>,
) -> Option<T> {
    let fitting = entries.filter_map(|(pattern, entry)| Some((fit(pattern, interface)?, entry)));
    fitting.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, entry)| entry)
}

/// Whether `text` is what `pattern` says; `*` stands for anything, `?` for one character, `[a-c]` for one of these.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut single = pattern.to_owned();
    // Two stars are folders to this library, and nothing else to us than one.
    while single.contains("**") {
        single = single.replace("**", "*");
    }
    glob::Pattern::new(&single).map_or(pattern == text, |pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let table = [
            ("eth*", "eth0", true),
            ("eth*", "ens3", false),
            ("*", "", true),
            ("e?s*", "ens3", true),
            ("eth0", "eth01", false),
            ("52:54:*:56", "52:54:00:12:34:56", true),
            ("", "x", false),
            ("**s**3", "ens3", true),
            ("en[sp]3", "ens3", true),
            ("e[", "e[", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        assert!(!glob(&"*a".repeat(40), &format!("{}b", "a".repeat(80))));
    }

    #[test]
    fn a_hardware_address_beats_a_name_and_that_a_glob() {
        let interface = Interface { name: "ens3".into(), mac: "52:54:00:00:00:01".into() };
        let best = |patterns: &[&'static str]| {
            entry_of(&interface, patterns.iter().map(|pattern| (*pattern, *pattern)))
        };
        assert_eq!(best(&["*", "ens3", "mac=52:54:00:*"]), Some("mac=52:54:00:*"));
        assert_eq!(best(&["mac=52:54:00:00:00:01", "ens3", "*"]), Some("mac=52:54:00:00:00:01"));
        assert_eq!(best(&["*", "ens3"]), Some("ens3"));
        assert_eq!(best(&["e*", "*"]), Some("e*"), "the first of two globs");
        assert_eq!(best(&["eth0", "mac=00:*"]), None);
    }

    #[test]
    fn only_hardware_counts() {
        let dir = tempfile::tempdir().unwrap();
        let add = |name: &str, kind: &str, device: bool| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("type"), format!("{kind}\n")).unwrap();
            fs::write(path.join("address"), "52:54:00:AB:00:01\n").unwrap();
            if device {
                fs::create_dir(path.join("device")).unwrap();
            }
        };
        add("lo", "772", false);
        add("ens3", "1", true);
        add("veth1", "1", false);
        add("docker0", "1", false);
        assert_eq!(
            present_in(dir.path()),
            [Interface { name: "ens3".into(), mac: "52:54:00:ab:00:01".into() }]
        );
    }
}

//! The one `resolv.conf`: the configuration's name servers, or else what each interface was told.
//!
//! dhcpcd's hook keeps one file for each interface and protocol beside it (`ens3.dhcp`, `ens3.ra`); the
//! whole is put together from them and replaced by rename, so that a reader sees the old or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::durable;

/// glibc reads no more (`MAXNS` in resolv.h).
const MOST_SERVERS: usize = 3;

/// Name servers and search domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses, best first.
    pub servers: Vec<String>,
    /// Domains tried for a short name.
    pub search: Vec<String>,
}

impl Dns {
    /// What dhcpcd tells its hook in the environment (`new_domain_name_servers`…).
    #[must_use]
    pub fn from_hook(environment: &BTreeMap<String, String>) -> Self {
        let words = |names: &[&str]| {
            let values = names.iter().filter_map(|name| environment.get(*name));
            unique(values.flat_map(|value| value.split_whitespace()).map(str::to_owned))
        };
        Self {
            servers: words(&[
                "new_domain_name_servers",
                "new_dhcp6_name_servers",
                "nd1_rdnss",
                "nd1_rdnss1_servers",
            ]),
            search: words(&[
                "new_domain_search",
                "new_domain_name",
                "new_dhcp6_domain_search",
                "nd1_dnssl",
                "nd1_dnssl1_search",
            ]),
        }
    }

    fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty()
    }

    fn parse(text: &str) -> Self {
        let words = |key: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(key));
            unique(lines.flat_map(str::split_whitespace).map(str::to_owned))
        };
        Self { servers: words("nameserver "), search: words("search ") }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        for server in self.servers.iter().take(MOST_SERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        text
    }
}

fn unique(words: impl Iterator<Item = String>) -> Vec<String> {
    words.fold(Vec::new(), |mut seen, word| {
        if !seen.contains(&word) {
            seen.push(word);
        }
        seen
    })
}

/// `resolv.conf` from what was configured and what was told: each list that is configured replaces the
/// told one.
#[must_use]
pub fn merged(configured: &Dns, told: &[Dns]) -> Dns {
    let pick = |own: &Vec<String>, from: fn(&Dns) -> &Vec<String>| {
        if own.is_empty() {
            unique(told.iter().flat_map(|dns| from(dns).clone()))
        } else {
            own.clone()
        }
    };
    Dns {
        servers: pick(&configured.servers, |dns| &dns.servers),
        search: pick(&configured.search, |dns| &dns.search),
    }
}

/// Name of the file with what was configured.
const CONFIGURED: &str = "configured";

/// Keeps what was configured in `dir`, for the hook.
///
/// # Errors
/// When it cannot be written.
pub fn configure(dir: &Path, dns: &Dns) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    durable::write(&dir.join(CONFIGURED), dns.text().as_bytes(), 0o644)?;
    publish(dir)
}

/// Keeps what `source` (`ens3.dhcp`) was told in `dir`; nothing, when it is no longer there.
///
/// # Errors
/// When it cannot be written.
pub fn tell(dir: &Path, source: &str, dns: Option<&Dns>) -> Result<()> {
    let file = dir.join(format!("{source}.told"));
    match dns.filter(|dns| !dns.is_empty()) {
        Some(dns) => durable::write(&file, dns.text().as_bytes(), 0o644)?,
        None => match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", file.display()));
            }
            _ => {}
        },
    }
    publish(dir)
}

/// Puts `resolv.conf` together.
fn publish(dir: &Path) -> Result<()> {
    let configured = fs::read_to_string(dir.join(CONFIGURED)).unwrap_or_default();
    let mut files: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "told"))
        .collect();
    files.sort();
    let told: Vec<Dns> =
        files.iter().filter_map(|file| Some(Dns::parse(&fs::read_to_string(file).ok()?))).collect();
    let text = merged(&Dns::parse(&configured), &told).text();
    Ok(durable::write(&dir.join("resolv.conf"), text.as_bytes(), 0o644)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], search: &[&str]) -> Dns {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Dns { servers: owned(servers), search: owned(search) }
    }

    #[test]
    fn what_is_configured_replaces_what_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let read = || fs::read_to_string(dir.path().join("resolv.conf")).unwrap();
        configure(dir.path(), &Dns::default()).unwrap();
        assert_eq!(read(), "");
        tell(dir.path(), "a.dhcp", Some(&dns(&["10.0.2.3"], &["lan"]))).unwrap();
        tell(dir.path(), "b.ra", Some(&dns(&["10.0.2.3", "fd00::3"], &[]))).unwrap();
        assert_eq!(read(), "search lan\nnameserver 10.0.2.3\nnameserver fd00::3\n");
        configure(dir.path(), &dns(&["1.1.1.1"], &[])).unwrap();
        assert_eq!(read(), "search lan\nnameserver 1.1.1.1\n");
        tell(dir.path(), "a.dhcp", None).unwrap();
        tell(dir.path(), "a.dhcp", None).unwrap();
        assert_eq!(read(), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_hooks_words_are_read() {
        let environment = BTreeMap::from([
            ("new_domain_name_servers".to_owned(), "10.0.2.3 10.0.2.4".to_owned()),
            ("new_dhcp6_name_servers".to_owned(), "fd00::3".to_owned()),
            ("new_domain_name".to_owned(), "lan".to_owned()),
        ]);
        assert_eq!(
            Dns::from_hook(&environment),
            dns(&["10.0.2.3", "10.0.2.4", "fd00::3"], &["lan"])
        );
    }
}

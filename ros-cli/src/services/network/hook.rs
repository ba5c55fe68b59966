//! What dhcpcd runs at every change (`dhcpcd-run-hooks(8)`): it keeps the name servers, and says when the
//! machine has an address.
//!
//! dhcpcd tells what happened in the environment: `reason`, `interface`, `protocol`, `new_*`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::durable;

use super::ready;
use super::resolv::{self, Dns};

/// Who gave this machine an address: where CloudStack's metadata is.
pub const DHCP_SERVER: &str = "/run/ros/dhcp-server";

/// Where things are that the hook writes.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Folder of `resolv.conf`.
    pub resolv: &'a Path,
    /// The marker that the network is ready.
    pub ready: &'a Path,
    /// What was done in this boot: what dhcpcd was given is added, so that a start that does not want it takes it away.
    pub done: &'a Path,
}

/// What a reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// There is an address, and what came with it.
    Up,
    /// What came with the address is no longer true.
    Down,
    /// Neither.
    Other,
}

fn change(reason: &str) -> Change {
    match reason {
        "BOUND" | "RENEW" | "REBIND" | "REBOOT" | "STATIC" | "INFORM" | "TIMEOUT" | "IPV4LL"
        | "BOUND6" | "RENEW6" | "REBIND6" | "REBOOT6" | "STATIC6" | "INFORM6" | "DELEGATED6"
        | "ROUTERADVERT" => Change::Up,
        "EXPIRE" | "NAK" | "RELEASE" | "STOP" | "FAIL" | "NOCARRIER" | "DEPARTED" | "STOPPED"
        | "EXPIRE6" | "RELEASE6" | "STOP6" | "FAIL6" => Change::Down,
        _ => Change::Other,
    }
}

/// Which of an interface's sources a reason is about.
fn source(reason: &str) -> &'static str {
    match reason {
        "ROUTERADVERT" => "ra",
        reason if reason.ends_with('6') => "dhcp6",
        _ => "dhcp",
    }
}

/// The interface whose routes are to be set again: it has an address now.
#[must_use]
pub fn routes_due(environment: &BTreeMap<String, String>) -> Option<&str> {
    let reason = environment.get("reason").map_or("", String::as_str);
    let interface = environment.get("interface")?;
    (change(reason) == Change::Up && !interface.is_empty()).then_some(interface)
}

/// Whether the change gives the machine an address. A router's advertisement alone may not.
fn gives_address(reason: &str, environment: &BTreeMap<String, String>) -> bool {
    change(reason) == Change::Up
        && (reason != "ROUTERADVERT" || environment.keys().any(|name| name.starts_with("nd1_addr")))
}

/// The address that dhcpcd was given, or gave itself, as `lease LINK ADDRESS`. A fixed one is none.
fn lease(reason: &str, interface: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    let given = ["BOUND", "RENEW", "REBIND", "REBOOT", "TIMEOUT", "IPV4LL"].contains(&reason);
    let address = environment.get("new_ip_address").filter(|_| given)?;
    let prefix = environment.get("new_subnet_cidr").map_or("32", String::as_str);
    Some(format!("lease {interface} {address}/{prefix}"))
}

fn remember(file: &Path, line: &str) -> Result<()> {
    let mut text = std::fs::read_to_string(file).unwrap_or_default();
    if text.lines().any(|known| known == line) {
        return Ok(());
    }
    text += &format!("{line}\n");
    durable::write(file, text.as_bytes(), 0o644)?;
    Ok(())
}

/// Acts on what dhcpcd says.
///
/// # Errors
/// When a file cannot be written.
pub fn run(environment: &BTreeMap<String, String>, places: Places<'_>) -> Result<()> {
    let word = |name: &str| environment.get(name).map_or("", String::as_str);
    let (reason, interface) = (word("reason"), word("interface"));
    if interface.is_empty() || interface.contains('/') {
        return Ok(());
    }
    let told = Dns::from_hook(environment);
    match change(reason) {
        Change::Up => {
            resolv::tell(places.resolv, &format!("{interface}.{}", source(reason)), Some(&told))?
        }
        Change::Down if matches!(reason, "NOCARRIER" | "DEPARTED" | "STOPPED") => {
            for source in ["dhcp", "dhcp6", "ra"] {
                resolv::tell(places.resolv, &format!("{interface}.{source}"), None)?;
            }
        }
        Change::Down => {
            resolv::tell(places.resolv, &format!("{interface}.{}", source(reason)), None)?
        }
        Change::Other => {}
    }
    if let Some(lease) = lease(reason, interface, environment) {
        remember(places.done, &lease)?;
    }
    if gives_address(reason, environment) {
        // Before the marker: who waits for that may read it.
        if let Some(server) = environment.get("new_dhcp_server_identifier") {
            let file = places.ready.with_file_name("dhcp-server");
            std::fs::write(&file, server).with_context(|| format!("write {}", file.display()))?;
        }
        ready::mark(places.ready, &format!("{interface}: {reason}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_address_makes_the_network_ready_and_its_servers_known() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("network.ready");
        let done = dir.path().join("done");
        let places = Places { resolv: dir.path(), ready: &ready, done: &done };
        let told = |words: &[(&str, &str)]| run(&environment(words), places).unwrap();
        let resolv = || std::fs::read_to_string(dir.path().join("resolv.conf")).unwrap_or_default();

        told(&[("reason", "CARRIER"), ("interface", "ens3")]);
        told(&[
            ("reason", "ROUTERADVERT"),
            ("interface", "ens3"),
            ("nd1_rdnss1_servers", "fd00::3"),
        ]);
        assert!(!ready.exists(), "no address yet");
        told(&[
            ("reason", "BOUND"),
            ("interface", "ens3"),
            ("new_domain_name_servers", "10.0.2.3"),
            ("new_dhcp_server_identifier", "10.0.2.2"),
            ("new_ip_address", "10.0.2.15"),
            ("new_subnet_cidr", "24"),
        ]);
        assert!(ready.exists());
        for reason in ["RENEW", "STATIC"] {
            let address = if reason == "STATIC" { "10.0.9.9" } else { "10.0.2.15" };
            told(&[
                ("reason", reason),
                ("interface", "ens3"),
                ("new_ip_address", address),
                ("new_subnet_cidr", "24"),
                ("new_domain_name_servers", "10.0.2.3"),
            ]);
        }
        let leases = std::fs::read_to_string(&done).unwrap();
        assert_eq!(leases, "lease ens3 10.0.2.15/24\n", "once, and no fixed address");
        assert_eq!(std::fs::read_to_string(dir.path().join("dhcp-server")).unwrap(), "10.0.2.2");
        assert_eq!(resolv(), "nameserver 10.0.2.3\nnameserver fd00::3\n");
        told(&[("reason", "EXPIRE"), ("interface", "ens3")]);
        assert_eq!(resolv(), "nameserver fd00::3\n");
        told(&[("reason", "NOCARRIER"), ("interface", "ens3")]);
        assert_eq!(resolv(), "");
        assert!(ready.exists(), "ready once is ready");
    }

    #[test]
    fn routes_are_set_again_when_an_address_is_there() {
        let table =
            [("STATIC", Some("v7")), ("BOUND", Some("v7")), ("CARRIER", None), ("STOP", None)];
        for (reason, expected) in table {
            let environment = environment(&[("reason", reason), ("interface", "v7")]);
            assert_eq!(routes_due(&environment), expected, "{reason}");
        }
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, done) = (dir.path().join("r"), dir.path().join("d"));
        let places = Places { resolv: dir.path(), ready: &ready, done: &done };
        run(&environment(&[("reason", "BOUND"), ("interface", "../x")]), places).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

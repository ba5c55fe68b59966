//! Debian's `interfaces` (interfaces(5)) as a network document of version 1: config-drives of Proxmox, and older ones of
//! OpenStack, have their network in these words.

use serde_json::{Map, Value as Json, json};

/// The document; null when there is no interface in it but the loopback.
#[must_use]
pub fn to_version_1(text: &str) -> Json {
    let mut all = Interfaces::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [comment, ..] if comment.starts_with('#') => {}
            ["iface", name, family, method, ..] => all.begin(name, family, method),
            [key, ref values @ ..] => all.option(key, values),
        }
    }
    all.document()
}

#[derive(Default)]
struct Interfaces {
    /// Name, what is known of the link, and its subnets.
    links: Vec<(String, Map<String, Json>, Vec<Json>)>,
    /// Whether options are about the last link: those of the loopback, and those before any, are not.
    inside: bool,
    servers: Vec<Json>,
    search: Vec<Json>,
}

impl Interfaces {
    fn begin(&mut self, name: &str, family: &str, method: &str) {
        self.inside = method != "loopback";
        if !self.inside {
            return;
        }
        let kind = match (family, method) {
            ("inet6", "dhcp") => "dhcp6",
            ("inet6", "auto") => "ipv6_slaac",
            (_, "dhcp") => "dhcp4",
            ("inet6", "static") => "static6",
            (_, "static") => "static",
            _ => "manual",
        };
        let subnet = json!({ "type": kind });
        match self.links.iter_mut().find(|(known, _, _)| known == name) {
            Some((_, _, subnets)) => subnets.push(subnet),
            None => self.links.push((name.to_owned(), Map::new(), vec![subnet])),
        }
    }

    fn option(&mut self, key: &str, values: &[&str]) {
        let all = || values.iter().map(|value| json!(value)).collect::<Vec<_>>();
        match key.replace('-', "_").as_str() {
            "dns_nameservers" | "dns_nameserver" => self.servers.extend(all()),
            "dns_search" | "dns_domain" => self.search.extend(all()),
            key => self.of_link(key, values.first().copied().unwrap_or_default()),
        }
    }

    fn of_link(&mut self, key: &str, value: &str) {
        let Some((_, link, subnets)) = self.links.last_mut().filter(|_| self.inside) else {
            return;
        };
        match key {
            "address" | "netmask" | "gateway" => {
                if let Some(subnet) = subnets.last_mut() {
                    subnet[key] = json!(value);
                }
            }
            "hwaddress" => {
                link.insert("mac_address".into(), json!(value));
            }
            "mtu" => {
                link.insert("mtu".into(), json!(value.parse::<u32>().ok()));
            }
            _ => {}
        }
    }

    fn document(self) -> Json {
        let links = self.links.into_iter().map(|(name, mut link, subnets)| {
            link.insert("type".into(), json!("physical"));
            link.insert("name".into(), json!(name));
            // One that is only named has no subnet: it is up, without an address.
            let real = subnets.into_iter().filter(|subnet| subnet["type"] != "manual");
            link.insert("subnets".into(), real.collect());
            Json::Object(link)
        });
        let mut config: Vec<Json> = links.collect();
        if config.is_empty() {
            return Json::Null;
        }
        if !self.servers.is_empty() || !self.search.is_empty() {
            let dns =
                json!({ "type": "nameserver", "address": self.servers, "search": self.search });
            config.push(dns);
        }
        json!({ "version": 1, "config": config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netplan;

    /// As Proxmox writes it: name servers stand with the loopback, prefix lengths where masks are for IPv6.
    #[test]
    fn proxmox_interfaces() {
        let text = "auto lo\niface lo inet loopback\n\n        dns_nameservers 192.0.2.53 2001:db8::53\n        dns_search lab.example\n\
            auto eth0\niface eth0 inet static\n        address 192.0.2.7\n        netmask 255.255.255.0\n        gateway 192.0.2.1\n\
            iface eth0 inet6 static\n        address 2001:db8::7\n        netmask 64\n        gateway 2001:db8::1\n\
            auto eth1\niface eth1 inet dhcp\niface eth1 inet6 auto\n";
        let (network, wrong) = netplan::convert(&to_version_1(text));
        assert_eq!(wrong, Vec::<String>::new());
        let eth0 = &network["interfaces"]["eth0"];
        assert_eq!(eth0["addresses"], json!(["192.0.2.7/24", "2001:db8::7/64"]));
        assert_eq!(
            (&eth0["gateway"], &eth0["gateway_ipv6"]),
            (&json!("192.0.2.1"), &json!("2001:db8::1"))
        );
        assert_eq!(network["interfaces"]["eth1"]["dhcp"], true);
        let dns =
            json!({ "nameservers": ["192.0.2.53", "2001:db8::53"], "search": ["lab.example"] });
        assert_eq!(network["dns"], dns);
    }

    #[test]
    fn only_a_loopback_is_nothing() {
        assert_eq!(to_version_1("auto lo\niface lo inet loopback\n mtu 9\n# a\n"), Json::Null);
        assert_eq!(to_version_1(""), Json::Null);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(iface (e0|lo) inet6? (static|dhcp|auto|x)|address|netmask 24|gateway a|mtu 9|dns-search x|[ -~]|\n){0,40}") {
            let _ = netplan::convert(&to_version_1(&text));
        }
    }
}

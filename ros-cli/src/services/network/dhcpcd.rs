//! What dhcpcd is told: `dhcpcd.conf(5)`, made from the links that are wanted. Pure.
//!
//! dhcpcd does DHCP for IPv4, router solicitation and DHCPv6 for IPv6, and keeps the first static address of
//! each family. What it has no words for is in [`commands`]: further addresses, routes, an IPv6 gateway, the MTU;
//! those are `ip` command lines, run once before it starts, addresses before the routes that need them.

use std::fmt::Write;
use std::net::IpAddr;

/// What an interface is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface's name.
    pub name: String,
    /// Ask for addresses.
    pub dhcp: bool,
    /// Fixed ones, `address/prefix`, of either family.
    pub addresses: Vec<String>,
    /// IPv4 router.
    pub gateway: Option<IpAddr>,
    /// IPv6 router.
    pub gateway_ipv6: Option<IpAddr>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// A link-local IPv4 address when nobody answers.
    pub ipv4ll: bool,
    /// Ask for an IPv6 address; none: as for IPv4.
    pub dhcp6: Option<bool>,
    /// Further routes.
    pub routes: Vec<Route>,
}

/// A further route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Destination, or `default`.
    pub to: String,
    /// Router.
    pub via: Option<IpAddr>,
    /// Lower is better.
    pub metric: Option<u32>,
    /// Routing table.
    pub table: Option<u32>,
    /// The router is on the link whatever the addresses say.
    pub on_link: bool,
}

impl Route {
    fn command(&self, name: &str) -> String {
        let v6 = self.to.contains(':') || self.via.is_some_and(|via| via.is_ipv6());
        let mut line = format!("{}route replace {}", if v6 { "-6 " } else { "" }, self.to);
        line.extend(self.via.map(|via| format!(" via {via}")));
        line.push_str(&format!(" dev {name}"));
        line.extend(self.metric.map(|metric| format!(" metric {metric}")));
        line.extend(self.table.map(|table| format!(" table {table}")));
        if self.on_link {
            line.push_str(" onlink");
        }
        line
    }
}

impl Link {
    fn of_family(&self, v6: bool) -> impl Iterator<Item = &String> {
        self.addresses.iter().filter(move |address| address.contains(':') == v6)
    }

    /// Whether an address is expected at all.
    #[must_use]
    pub fn expects_address(&self) -> bool {
        self.dhcp || self.ipv4ll || self.dhcp6 == Some(true) || !self.addresses.is_empty()
    }
}

/// For all interfaces. No ARP probing and no random delay: a machine that boots asks at once. Its device
/// plug-in is left out: it would wait for a udev of its own.
const HEAD: &str = "\
# Written by ros from the configuration at each start: changes are lost.
clientid
hostname
persistent
noarp
nodelay
nodev
option domain_name_servers, domain_name, domain_search
option classless_static_routes, interface_mtu, host_name, rapid_commit
require dhcp_server_identifier
";

/// The text of `dhcpcd.conf`. `hook` is run at every change.
#[must_use]
pub fn config(links: &[Link], hook: &str) -> String {
    let mut text = format!("{HEAD}script {hook}\n");
    let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    if names.is_empty() {
        // Without a name every interface would be taken.
        text.push_str("denyinterfaces *\n");
    } else {
        let _ = writeln!(text, "allowinterfaces {}", names.join(" "));
    }
    for link in links {
        let _ = writeln!(text, "\ninterface {}", link.name);
        options(link).iter().for_each(|option| text.push_str(&format!("  {option}\n")));
    }
    text
}

fn options(link: &Link) -> Vec<String> {
    let mut options = Vec::new();
    if !link.ipv4ll {
        options.push("noipv4ll".to_owned());
    }
    match link.of_family(false).next() {
        Some(address) => {
            options.push(format!("static ip_address={address}"));
            options.extend(link.gateway.map(|gateway| format!("static routers={gateway}")));
        }
        None if !link.dhcp => options.push("nodhcp".to_owned()),
        None => {}
    }
    options
        .extend(link.of_family(true).next().map(|address| format!("static ip6_address={address}")));
    let dhcp6 = link.dhcp6.unwrap_or(link.dhcp);
    if !dhcp6 {
        options.push("nodhcp6".to_owned());
    }
    if !dhcp6 && link.gateway_ipv6.is_some() {
        options.push("noipv6rs".to_owned());
    }
    options
}

/// What is done by `ip`, each a command line without the program's name.
#[must_use]
pub fn commands(link: &Link) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    let mut add = |line: String| lines.push(line.split(' ').map(str::to_owned).collect());
    let name = &link.name;
    if let Some(mtu) = link.mtu {
        add(format!("link set dev {name} mtu {mtu}"));
    }
    add(format!("link set dev {name} up"));
    // The first of each family too, which dhcpcd then finds in place: routes need them now.
    for address in link.of_family(false).chain(link.of_family(true)) {
        add(format!("address replace {address} dev {name}"));
    }
    lines.extend(routes(link));
    lines
}

/// The routes of a link. Set at the start, and by the hook at each change: they go with the address that they need.
#[must_use]
pub fn routes(link: &Link) -> Vec<Vec<String>> {
    let name = &link.name;
    let default =
        link.gateway_ipv6.map(|via| format!("-6 route replace default via {via} dev {name}"));
    let all = default.into_iter().chain(link.routes.iter().map(|route| route.command(name)));
    all.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// What takes away what an earlier start of this boot did and `links` do not want. `done` has its lines: those of
/// [`commands`], and `lease LINK ADDRESS` for what dhcpcd was given. dhcpcd leaves all of it when it ends (`persistent`), so
/// that a network that starts again loses no connection.
#[must_use]
pub fn undo(done: &[&str], links: &[Link]) -> Vec<Vec<String>> {
    let wanted: Vec<String> = links.iter().flat_map(commands).map(|line| line.join(" ")).collect();
    let not_wanted = done.iter().rev().filter(|line| !wanted.iter().any(|kept| kept == *line));
    let undone = not_wanted.filter_map(|line| match line.strip_prefix("lease ") {
        None => line.contains("replace ").then(|| line.replacen("replace ", "del ", 1)),
        Some(_) if is_leased(line, links) => None,
        Some(lease) => {
            let (link, address) = lease.split_once(' ')?;
            Some(format!("address del {address} dev {link}"))
        }
    });
    undone.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Whether `line` is a lease that `links` still ask for.
#[must_use]
pub fn is_leased(line: &str, links: &[Link]) -> bool {
    let of = |link: &&Link| line.starts_with(&format!("lease {} ", link.name));
    links.iter().find(of).is_some_and(|link| link.dhcp || link.ipv4ll)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link { name: name.into(), ..Default::default() }
    }

    #[test]
    fn dhcp_is_asked_on_the_named_interfaces_only() {
        let text = config(
            &[Link { dhcp: true, ..link("ens3") }, Link { dhcp: true, ..link("eth1") }],
            "/hook",
        );
        assert!(text.contains("script /hook\nallowinterfaces ens3 eth1\n\ninterface ens3\n  noipv4ll\n\ninterface eth1\n"));
        assert!(config(&[], "/hook").contains("denyinterfaces *\n"));
    }

    #[test]
    fn what_an_earlier_start_did_and_nobody_wants_is_undone() {
        let fixed = Link { addresses: vec!["10.0.0.5/24".into()], ..link("a") };
        let asking = Link { dhcp: true, ..link("b") };
        let done = [
            "link set dev a up",
            "address replace 10.0.0.5/24 dev a",
            "address replace 10.0.0.6/24 dev a",
            "-6 route replace default via fe80::1 dev a",
            "lease a 10.0.2.15/24",
            "lease b 10.0.3.15/24",
            "lease gone 10.0.4.15/24",
        ];
        let lines: Vec<String> =
            undo(&done, &[fixed, asking]).iter().map(|line| line.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "address del 10.0.4.15/24 dev gone",
                "address del 10.0.2.15/24 dev a",
                "-6 route del default via fe80::1 dev a",
                "address del 10.0.0.6/24 dev a",
            ]
        );
    }

    #[test]
    fn options_of_a_link() {
        let fixed = Link {
            addresses: vec![
                "10.0.0.5/24".into(),
                "fd00::5/64".into(),
                "10.0.0.6/24".into(),
                "fd00::6/64".into(),
            ],
            gateway: Some("10.0.0.1".parse().unwrap()),
            gateway_ipv6: Some("fe80::1".parse().unwrap()),
            mtu: Some(1400),
            routes: vec![
                Route {
                    to: "10.9.0.0/16".into(),
                    via: "10.0.0.9".parse().ok(),
                    metric: Some(5),
                    ..Route::default()
                },
                Route {
                    to: "default".into(),
                    via: "fe80::2".parse().ok(),
                    table: Some(7),
                    on_link: true,
                    ..Route::default()
                },
            ],
            ..link("a")
        };
        let table: [(Link, &[&str]); 6] = [
            (Link { dhcp6: Some(true), ..link("a") }, &["noipv4ll", "nodhcp"]),
            (Link { dhcp: true, ..link("a") }, &["noipv4ll"]),
            (Link { dhcp: true, ipv4ll: true, ..link("a") }, &[]),
            (link("a"), &["noipv4ll", "nodhcp", "nodhcp6"]),
            (
                Link { dhcp: true, addresses: vec!["fd00::5/64".into()], ..link("a") },
                &["noipv4ll", "static ip6_address=fd00::5/64"],
            ),
            (
                fixed.clone(),
                &[
                    "noipv4ll",
                    "static ip_address=10.0.0.5/24",
                    "static routers=10.0.0.1",
                    "static ip6_address=fd00::5/64",
                    "nodhcp6",
                    "noipv6rs",
                ],
            ),
        ];
        for (link, expected) in table {
            assert_eq!(options(&link), expected, "{link:?}");
        }
        let lines: Vec<String> = commands(&fixed).iter().map(|line| line.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "link set dev a mtu 1400",
                "link set dev a up",
                "address replace 10.0.0.5/24 dev a",
                "address replace 10.0.0.6/24 dev a",
                "address replace fd00::5/64 dev a",
                "address replace fd00::6/64 dev a",
                "-6 route replace default via fe80::1 dev a",
                "route replace 10.9.0.0/16 via 10.0.0.9 dev a metric 5",
                "-6 route replace default via fe80::2 dev a table 7 onlink",
            ]
        );
    }
}

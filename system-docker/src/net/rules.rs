//! What the firewall shall say, from the networks and published ports that there are: a pure function to tables of
//! expressions, which [`super::nft`] writes. The whole table is written anew at each change, in one transaction.
//!
//! The number of rules does not depend on how many networks or ports there are: those are elements of sets.
//!
//! ```text
//!  prerouting (raw)  to 127/8 from elsewhere: drop          what route_localnet of the bridges would let in
//!  prerouting (nat)  ─┐ @ports4 / @ports6: protocol . port . address (or any of ours) → dnat
//!  output (nat)      ─┘
//!  forward           replies, and what was published: accept; within a bridge: accept; from bridge to bridge: drop;
//!                    from or to an internal one: drop; from outside to a container: drop
//!  postrouting (nat) from a bridge to elsewhere; back into a bridge by a published port; from 127/8: masquerade
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::nft::{Base, Chain, Expr, Family, Hook, Set, Table, Verdict, reg};

/// Our table in the host's namespace.
pub const TABLE: &str = "system-docker";
/// Our table in a container's.
pub const RESOLVER_TABLE: &str = "system-docker-dns";

/// A bridge as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// Interface.
    pub bridge: String,
    /// Nothing goes in or out.
    pub internal: bool,
    /// What goes out has the host's address.
    pub masquerade: bool,
}

/// Transport of a port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As in `80/tcp`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A port of this machine that is a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Transport.
    pub protocol: Protocol,
    /// Here; an unspecified address is any of this machine's.
    pub here: SocketAddr,
    /// There.
    pub there: SocketAddr,
}

const ACCEPT: Expr = Expr::Verdict(Verdict::Accept);
const DROP: Expr = Expr::Verdict(Verdict::Drop);

/// The host's table.
pub fn host(networks: &[Bridged], ports: &[Published]) -> Table {
    let bridges = |wanted: &dyn Fn(&Bridged) -> bool| -> Vec<Vec<u8>> {
        networks.iter().filter(|network| wanted(network)).map(|n| padded(&n.bridge)).collect()
    };
    let same = bridges(&|_| true).into_iter().map(|name| [name.clone(), name].concat()).collect();
    Table {
        family: Family::Inet,
        name: TABLE,
        sets: vec![
            Set::of_links("bridges", 1, bridges(&|_| true)),
            Set::of_links("internal", 1, bridges(&|network| network.internal)),
            Set::of_links("masquerade", 1, bridges(&|network| network.masquerade)),
            Set::of_links("same", 2, same),
            Set::of_ports("ports4", Family::Ip, elements(ports, true)),
            Set::of_ports("ports6", Family::Ip6, elements(ports, false)),
        ],
        chains: vec![
            Chain::base("guard", Base::Filter, Hook::Prerouting, -300, guard()),
            Chain::plain("ports", published()),
            Chain::base("prerouting", Base::Nat, Hook::Prerouting, -100, to_ports()),
            Chain::base("output", Base::Nat, Hook::Output, -100, to_ports()),
            Chain::base("forward", Base::Filter, Hook::Forward, 0, forward()),
            Chain::base("postrouting", Base::Nat, Hook::Postrouting, 100, postrouting()),
        ],
    }
}

/// The table in a container's namespace: what asks 127.0.0.11 is answered by the sockets at `udp` and `tcp`.
pub fn resolver(address: Ipv4Addr, udp: u16, tcp: u16) -> Table {
    let rule = |protocol: Protocol, port: u16| {
        let mut rule = daddr_is(address);
        rule.extend(protocol_is(protocol));
        rule.push(Expr::Payload { base: Expr::TRANSPORT, offset: 2, length: 2, to: reg(0) });
        rule.push(Expr::equal(53u16.to_be_bytes()));
        rule.push(Expr::Immediate { to: reg(0), data: address.octets().to_vec() });
        rule.push(Expr::Immediate { to: reg(1), data: port.to_be_bytes().to_vec() });
        rule.push(Expr::Dnat { family: Family::Ip, address: reg(0), port: reg(1) });
        rule
    };
    let rules = vec![rule(Protocol::Udp, udp), rule(Protocol::Tcp, tcp)];
    Table {
        family: Family::Ip,
        name: RESOLVER_TABLE,
        sets: Vec::new(),
        chains: vec![Chain::base("output", Base::Nat, Hook::Output, -100, rules)],
    }
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// Each part of a concatenation takes whole words of four bytes.
fn word(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn elements(ports: &[Published], v4: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let element = |port: &Published| {
        let key = [
            word(&[port.protocol.number()]),
            word(&port.here.port().to_be_bytes()),
            octets(port.here.ip()),
        ];
        let data = [octets(port.there.ip()), word(&port.there.port().to_be_bytes())];
        (key.concat(), data.concat())
    };
    ports
        .iter()
        .filter(|port| port.here.is_ipv4() == v4 && port.there.is_ipv4() == v4)
        .map(element)
        .collect()
}

fn family_is(family: Family) -> Vec<Expr> {
    vec![Expr::Meta { key: Expr::NFPROTO, to: reg(0) }, Expr::equal([family.number()])]
}

fn protocol_is(protocol: Protocol) -> Vec<Expr> {
    vec![Expr::Meta { key: Expr::L4PROTO, to: reg(0) }, Expr::equal([protocol.number()])]
}

fn daddr_is(address: Ipv4Addr) -> Vec<Expr> {
    vec![
        Expr::Payload { base: Expr::NETWORK, offset: 16, length: 4, to: reg(0) },
        Expr::equal(address.octets()),
    ]
}

/// The first byte of the address at `offset` of an IPv4 head is 127.
fn is_loopback(offset: u32) -> Vec<Expr> {
    let mut rule = family_is(Family::Ip);
    rule.push(Expr::Payload { base: Expr::NETWORK, offset, length: 1, to: reg(0) });
    rule.push(Expr::equal([127]));
    rule
}

fn iif(set: &'static str, within: bool) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Expr::IIFNAME, to: reg(0) },
        Expr::Lookup { set, key: reg(0), to: None, invert: !within },
    ]
}

fn oif(set: &'static str, within: bool) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Expr::OIFNAME, to: reg(0) },
        Expr::Lookup { set, key: reg(0), to: None, invert: !within },
    ]
}

fn rule(parts: impl IntoIterator<Item = Vec<Expr>>, end: Expr) -> Vec<Expr> {
    parts.into_iter().flatten().chain([end]).collect()
}

/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
fn was_published() -> Vec<Expr> {
    vec![Expr::CtBits { key: Expr::CT_STATUS, bits: 1 << 5 }]
}

fn guard() -> Vec<Vec<Expr>> {
    let from_elsewhere =
        vec![Expr::Meta { key: Expr::IIFNAME, to: reg(0) }, Expr::unequal(padded("lo"))];
    vec![rule([is_loopback(16), from_elsewhere], DROP)]
}

fn to_ports() -> Vec<Vec<Expr>> {
    vec![vec![Expr::Verdict(Verdict::Jump("ports"))]]
}

/// For each family: the very address first, then any address of ours.
fn published() -> Vec<Vec<Expr>> {
    let lookup = |family: Family, set: &'static str, exact: bool| {
        let (offset, length) = if family == Family::Ip { (16, 4) } else { (24, 16) };
        let words = length / 4;
        let mut rule = family_is(family);
        if family == Family::Ip6 {
            // What comes from ::1 cannot leave the loopback: better refused at once than never answered.
            rule.push(Expr::Payload { base: Expr::NETWORK, offset, length, to: reg(0) });
            rule.push(Expr::unequal(Ipv6Addr::LOCALHOST.octets()));
        }
        if !exact {
            rule.push(Expr::DestinationIsLocal { scratch: reg(0) });
        }
        rule.push(Expr::Meta { key: Expr::L4PROTO, to: reg(0) });
        rule.push(Expr::Payload { base: Expr::TRANSPORT, offset: 2, length: 2, to: reg(1) });
        rule.push(match exact {
            true => Expr::Payload { base: Expr::NETWORK, offset, length, to: reg(2) },
            false => Expr::Immediate { to: reg(2), data: vec![0; length as usize] },
        });
        let to = reg(2 + words);
        rule.push(Expr::Lookup { set, key: reg(0), to: Some(to), invert: false });
        rule.push(Expr::Dnat { family, address: to, port: reg(2 + 2 * words) });
        rule
    };
    vec![
        lookup(Family::Ip, "ports4", true),
        lookup(Family::Ip, "ports4", false),
        lookup(Family::Ip6, "ports6", true),
        lookup(Family::Ip6, "ports6", false),
    ]
}

fn forward() -> Vec<Vec<Expr>> {
    // Established and related.
    let reply = vec![Expr::CtBits { key: Expr::CT_STATE, bits: 2 | 4 }];
    let within = vec![
        Expr::Meta { key: Expr::IIFNAME, to: reg(0) },
        Expr::Meta { key: Expr::OIFNAME, to: reg(4) },
        Expr::Lookup { set: "same", key: reg(0), to: None, invert: false },
    ];
    vec![
        rule([reply], ACCEPT),
        rule([within], ACCEPT),
        rule([iif("internal", true)], DROP),
        rule([oif("internal", true)], DROP),
        rule([oif("bridges", true), was_published()], ACCEPT),
        rule([oif("bridges", true)], DROP),
    ]
}

fn postrouting() -> Vec<Vec<Expr>> {
    vec![
        rule([iif("masquerade", true), oif("bridges", false)], Expr::Masquerade),
        rule([iif("bridges", true), oif("bridges", true), was_published()], Expr::Masquerade),
        rule([is_loopback(12), oif("bridges", true)], Expr::Masquerade),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bridge: &str, internal: bool) -> Bridged {
        Bridged { bridge: bridge.into(), internal, masquerade: !internal }
    }

    #[test]
    fn networks_and_ports_are_elements_not_rules() {
        let count = |table: &Table| table.chains.iter().map(|c| c.rules.len()).sum::<usize>();
        let none = host(&[], &[]);
        let port = |here: &str, there: &str| Published {
            protocol: Protocol::Tcp,
            here: here.parse().unwrap(),
            there: there.parse().unwrap(),
        };
        let ports = [port("0.0.0.0:8080", "172.30.0.2:80"), port("[::]:8080", "[fd00::2]:80")];
        let some = host(&[network("br-a", false), network("br-b", true)], &ports);
        assert_eq!(count(&none), count(&some));
        let sizes: Vec<(&str, usize)> =
            some.sets.iter().map(|set| (set.name, set.elements.len())).collect();
        let expected = [
            ("bridges", 2),
            ("internal", 1),
            ("masquerade", 1),
            ("same", 2),
            ("ports4", 1),
            ("ports6", 1),
        ];
        assert_eq!(sizes, expected);
    }

    /// In a network namespace of its own, which only root can make.
    #[test]
    fn the_kernel_takes_the_tables() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: network namespaces are made by root");
            return;
        }
        let tried = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            let port = |number: u16, v6: bool| Published {
                protocol: Protocol::Tcp,
                here: SocketAddr::new(if v6 { [0; 16].into() } else { [0; 4].into() }, number),
                there: SocketAddr::new(if v6 { [7; 16].into() } else { [7; 4].into() }, number),
            };
            let ports: Vec<Published> =
                (1..2000).flat_map(|number| [port(number, false), port(number, true)]).collect();
            let networks: Vec<Bridged> =
                (0..300).map(|number| network(&format!("br-{number}"), number % 2 == 0)).collect();
            crate::net::nft::replace(&host(&networks, &ports))?;
            crate::net::nft::replace(&host(&[], &[]))?;
            crate::net::nft::replace(&resolver(Ipv4Addr::new(127, 0, 0, 11), 1000, 1001))?;
            crate::net::nft::remove(Family::Inet, TABLE)?;
            crate::net::nft::remove(Family::Inet, TABLE)
        });
        tried.join().unwrap().unwrap();
    }

    #[test]
    fn a_port_s_key_is_protocol_port_address_in_whole_words() {
        let port = Published {
            protocol: Protocol::Udp,
            here: "127.0.0.1:53".parse().unwrap(),
            there: "172.30.0.2:5353".parse().unwrap(),
        };
        let (key, data) = elements(&[port], true).remove(0);
        assert_eq!(key, [17, 0, 0, 0, 0, 53, 0, 0, 127, 0, 0, 1]);
        assert_eq!(data, [172, 30, 0, 2, 0x14, 0xe9, 0, 0]);
    }
}

//! Ranges and addresses: which are free. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Ranges that networks without one of their own are cut from, /24 each. Not Docker's first ones, which the user's own
/// engine on the same machine takes; not 172.31, which clouds give to machines.
const POOLS: [&str; 4] = ["172.30.0.0/16", "172.29.0.0/16", "172.28.0.0/16", "192.168.208.0/20"];
const CUT: u8 = 24;

/// A range of a network's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All of it.
    pub subnet: IpNet,
    /// The bridge's own address.
    pub gateway: IpAddr,
    /// Addresses are given from this part only.
    pub range: Option<IpNet>,
    /// Addresses of somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// Whether two ranges have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// A range that nobody has.
pub fn free_subnet(taken: &[IpNet]) -> Option<IpNet> {
    let pools = POOLS.iter().filter_map(|text| text.parse::<Ipv4Net>().ok());
    pools
        .filter_map(|pool| pool.subnets(CUT).ok())
        .flatten()
        .map(IpNet::V4)
        .find(|subnet| !taken.iter().any(|other| overlap(subnet, other)))
}

/// A range of IPv6 that nobody else has, in all likelihood (RFC 4193): 56 random bits.
pub fn local_subnet(random: [u8; 7]) -> IpNet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random);
    IpNet::V6(Ipv6Net::new_assert(octets.into(), 64))
}

/// The first address of a range that a host may have.
pub fn first_host(subnet: &IpNet) -> Option<IpAddr> {
    let (first, last) = bounds(subnet);
    (first <= last).then(|| address(first, subnet.addr().is_ipv4()))
}

/// An address of the range that nobody has.
pub fn free_address(subnet: &Subnet, taken: &[IpAddr]) -> Option<IpAddr> {
    let v4 = subnet.subnet.addr().is_ipv4();
    let (low, high) = bounds(&subnet.subnet);
    let (from, to) = subnet.range.as_ref().map_or((low, high), |range| {
        (number(range.network()).max(low), number(range.broadcast()).min(high))
    });
    let free = |address: &IpAddr| {
        *address != subnet.gateway
            && !subnet.auxiliary.values().any(|other| other == address)
            && !taken.contains(address)
    };
    (from..=to).map(|bits| address(bits, v4)).find(free)
}

/// The address of IPv6 that has in `subnet` the place that `v4` has in its own range: neighbours know the pair by one
/// hardware address, so both had better move together.
pub fn counterpart(subnet: &Subnet, v4: Ipv4Net, taken: &[IpAddr]) -> Option<IpAddr> {
    let place = u128::from(v4.addr().to_bits() - v4.network().to_bits());
    let wanted = address(number(subnet.subnet.network()).checked_add(place)?, false);
    let range = subnet.range.unwrap_or(subnet.subnet);
    let free = range.contains(&wanted)
        && wanted != subnet.gateway
        && !subnet.auxiliary.values().any(|other| *other == wanted)
        && !taken.contains(&wanted);
    free.then_some(wanted)
}

/// First and last address that a host may have.
fn bounds(subnet: &IpNet) -> (u128, u128) {
    let (low, high) = (number(subnet.network()), number(subnet.broadcast()));
    match subnet {
        IpNet::V4(v4) if v4.prefix_len() < 31 => (low + 1, high - 1),
        IpNet::V6(v6) if v6.prefix_len() < 127 => (low + 1, high),
        _ => (low, high),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_free_range_overlaps_nothing_that_is_there() {
        for (taken, expected) in [
            (vec![], Some("172.30.0.0/24")),
            (vec!["172.30.0.0/24"], Some("172.30.1.0/24")),
            (vec!["172.30.0.0/16", "10.0.0.0/8"], Some("172.29.0.0/24")),
            (vec!["172.30.1.7/32", "172.30.0.128/25"], Some("172.30.2.0/24")),
            (vec!["172.16.0.0/12"], Some("192.168.208.0/24")),
            (vec!["172.16.0.0/12", "192.168.0.0/16"], None),
        ] {
            let taken: Vec<IpNet> = taken.into_iter().map(net).collect();
            assert_eq!(free_subnet(&taken), expected.map(net), "{taken:?}");
        }
    }

    #[test]
    fn addresses_are_given_once_and_from_the_range() {
        let case = |subnet: &str, range: Option<&str>, taken: &[&str]| {
            let subnet = Subnet {
                gateway: first_host(&net(subnet)).unwrap(),
                subnet: net(subnet),
                range: range.map(net),
                auxiliary: BTreeMap::from([("a".into(), "10.0.0.3".parse().unwrap())]),
            };
            let taken: Vec<IpAddr> = taken.iter().map(|text| text.parse().unwrap()).collect();
            free_address(&subnet, &taken).map(|address| address.to_string())
        };
        for (subnet, range, taken, expected) in [
            ("10.0.0.0/24", None, &[][..], Some("10.0.0.2")),
            ("10.0.0.0/24", None, &["10.0.0.2"], Some("10.0.0.4")),
            ("10.0.0.0/24", Some("10.0.0.128/25"), &[], Some("10.0.0.128")),
            ("10.0.0.0/29", Some("10.0.0.4/30"), &["10.0.0.4", "10.0.0.5", "10.0.0.6"], None),
            ("10.0.0.0/30", None, &[], Some("10.0.0.2")),
            ("fd00::/64", None, &["fd00::2"], Some("fd00::3")),
        ] {
            assert_eq!(case(subnet, range, taken).as_deref(), expected, "{subnet} {range:?}");
        }
    }

    #[test]
    fn both_addresses_have_the_same_place() {
        let subnet = Subnet {
            subnet: net("fd00::/64"),
            gateway: "fd00::1".parse().unwrap(),
            range: None,
            auxiliary: BTreeMap::new(),
        };
        let case = |v4: &str, taken: &[IpAddr]| counterpart(&subnet, v4.parse().unwrap(), taken);
        let expected: IpAddr = "fd00::4d".parse().unwrap();
        assert_eq!(case("172.30.0.77/24", &[]), Some(expected));
        assert_eq!(case("172.30.0.77/24", &[expected]), None);
        assert_eq!(case("172.30.0.1/24", &[]), None, "the gateway's");
    }

    #[test]
    fn local_ranges_are_unique_local_addresses() {
        assert_eq!(local_subnet([1, 2, 3, 4, 5, 6, 7]).to_string(), "fd01:203:405:607::/64");
    }
}

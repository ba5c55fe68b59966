//! A network as it was made: validated from what a client asked for, kept in `networks/<id>.json`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use bollard_stubs::models::{Ipam, IpamConfig, NetworkCreateRequest};
use ipnet::IpNet;
use ros_api::Digest;
use serde::{Deserialize, Serialize};

use super::ipam::{self, Subnet};
use crate::engine::error::{ApiError, Result};
use crate::engine::time::now;
use crate::net::link::Bridge;
use crate::net::rules::Bridged;

/// The network that Docker has from the start.
pub const BRIDGE: &str = "bridge";
/// Its interface; not `docker0`, which is the user's engine's.
const BRIDGE_INTERFACE: &str = "system-docker0";
/// What our bridges are labelled with, before the network's id.
pub const LABEL: &str = "system-docker network ";
/// Names that are no networks of a user's.
pub const PREDEFINED: [&str; 3] = [BRIDGE, "host", "none"];

/// A bridge network. Never changed once made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// Its name, of no other network's.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// Nothing goes in or out.
    pub internal: bool,
    /// For other engines; kept and shown.
    pub attachable: bool,
    /// Whether IPv6 was asked for.
    pub ipv6: bool,
    /// One of IPv4, and one of IPv6 if asked for.
    pub subnets: Vec<Subnet>,
    /// Options as they were written.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// Options understood.
    pub bridge: Settings,
}

/// Options of the bridge driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Interface.
    pub interface: String,
    /// 0: the kernel's.
    pub mtu: u32,
    /// What goes out has the host's address.
    pub masquerade: bool,
    /// Containers talk to each other.
    pub between: bool,
    /// Where ports are published that name no address.
    pub publish_at: Option<IpAddr>,
}

/// The id of a network that was never made.
pub fn predefined_id(name: &str) -> String {
    Digest::of(format!("network {name}").as_bytes()).hex()
}

impl Network {
    /// What `asked` describes; `occupied` are ranges it must keep out of, if it does not name its own.
    pub fn new(
        id: String,
        asked: &NetworkCreateRequest,
        occupied: &[IpNet],
        random: [u8; 7],
    ) -> Result<Self> {
        refuse(asked)?;
        check_name(&asked.name)?;
        let options = asked.options.clone().unwrap_or_default();
        let bridge = Settings::parse(&options, &id)?;
        let ipv6 = asked.enable_ipv6 == Some(true) || has_ipv6_subnet(asked);
        let subnets = subnets(asked.ipam.as_ref(), ipv6, occupied, random)?;
        Ok(Self {
            bridge,
            id,
            name: asked.name.clone(),
            created: now(),
            internal: asked.internal.unwrap_or(false),
            attachable: asked.attachable.unwrap_or(false),
            ipv6,
            subnets,
            options: options.into_iter().collect(),
            labels: asked.labels.clone().unwrap_or_default(),
        })
    }

    /// The network `bridge`, made when the first container asks for it.
    pub fn predefined_bridge(occupied: &[IpNet]) -> Result<Self> {
        let asked = NetworkCreateRequest { name: BRIDGE.into(), ..Default::default() };
        let mut network = Self::new(predefined_id(BRIDGE), &asked, occupied, [0; 7])?;
        network.bridge.interface = BRIDGE_INTERFACE.into();
        Ok(network)
    }

    /// What the kernel is asked for.
    pub fn to_bridge(&self) -> Bridge {
        let id = self.id.as_bytes();
        let mut mac = [0x02, 0x42, 0, 0, 0, 0];
        for (at, octet) in mac[2..].iter_mut().enumerate() {
            let pair = id.get(at * 2..at * 2 + 2).and_then(|two| std::str::from_utf8(two).ok());
            *octet = pair.and_then(|two| u8::from_str_radix(two, 16).ok()).unwrap_or(0);
        }
        let own = |subnet: &Subnet| IpNet::new(subnet.gateway, subnet.subnet.prefix_len()).ok();
        Bridge {
            name: self.bridge.interface.clone(),
            label: format!("{LABEL}{}", self.id),
            mac,
            mtu: self.bridge.mtu,
            addresses: self.subnets.iter().filter_map(own).collect(),
        }
    }

    /// What the firewall is told.
    pub fn to_bridged(&self) -> Bridged {
        Bridged {
            bridge: self.bridge.interface.clone(),
            internal: self.internal,
            masquerade: self.bridge.masquerade && !self.internal,
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let unusable = |c: char| c.is_control() || "/\\:".contains(c);
    if name.trim() != name || name.is_empty() || name.contains(unusable) {
        return Err(ApiError::bad(format!(
            "invalid network name {name:?}: expected one without slashes, colons, and blanks around it"
        )));
    }
    Ok(())
}

/// What a network of one machine cannot be.
fn refuse(asked: &NetworkCreateRequest) -> Result<()> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match filled(&asked.driver).as_deref() {
        None | Some("bridge" | "default") => {}
        Some(one @ ("host" | "null")) => {
            return Err(ApiError::forbidden(format!(
                "only one instance of \"{one}\" network is allowed"
            )));
        }
        Some(other) => {
            return Err(ApiError::missing(format!(
                "could not find plugin {other} in v1 plugin registry: plugin not found (there is the driver bridge)"
            )));
        }
    }
    if let Some(scope) = filled(&asked.scope).filter(|scope| scope != "local") {
        return Err(ApiError::bad(format!("scope {scope:?} is not available: networks are local")));
    }
    let ipam = asked.ipam.clone().unwrap_or_default();
    if let Some(driver) = filled(&ipam.driver).filter(|driver| driver != "default") {
        return Err(ApiError::bad(format!("IPAM driver {driver:?} is not available")));
    }
    let set = |flag: Option<bool>| flag == Some(true);
    let from = asked.config_from.as_ref().and_then(|from| filled(&from.network));
    for (is_set, what) in [
        (ipam.options.is_some_and(|options| !options.is_empty()), "options for IPAM"),
        (set(asked.ingress), "an ingress network"),
        (set(asked.config_only) || from.is_some(), "a network of configuration alone"),
        (asked.enable_ipv4 == Some(false), "a network without IPv4"),
    ] {
        if is_set {
            return Err(ApiError::bad(format!("{what} is not available")));
        }
    }
    Ok(())
}

impl Settings {
    fn parse(options: &HashMap<String, String>, id: &str) -> Result<Self> {
        let mut settings = Self {
            interface: format!("br-{}", &id[..12]),
            mtu: 0,
            masquerade: true,
            between: true,
            publish_at: None,
        };
        for (name, value) in options {
            settings.set(name, value).map_err(|expected| {
                ApiError::bad(format!("network option {name}={value:?}: {expected}"))
            })?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> std::result::Result<(), &'static str> {
        let flag = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("expected true or false"),
        };
        match name {
            "com.docker.network.bridge.name" => {
                let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                if value.is_empty() || value.len() > 15 || !value.chars().all(ok) {
                    return Err("expected the name of an interface, of at most 15 characters");
                }
                self.interface = value.to_owned();
            }
            "com.docker.network.bridge.enable_ip_masquerade" => self.masquerade = flag()?,
            "com.docker.network.bridge.enable_icc" => self.between = flag()?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                let address: Ipv4Addr = value.parse().map_err(|_| "expected an IPv4 address")?;
                self.publish_at = Some(address.into());
            }
            "com.docker.network.driver.mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                self.mtu = mtu.ok_or("expected a number from 68 to 65535")?;
            }
            _ => return Err("there is no such option here"),
        }
        Ok(())
    }
}

/// Who names an IPv6 subnet asks for IPv6.
fn has_ipv6_subnet(asked: &NetworkCreateRequest) -> bool {
    let configs = asked.ipam.iter().flat_map(|ipam| ipam.config.iter().flatten());
    let mut subnets = configs.filter_map(|config| config.subnet.as_deref());
    subnets.any(|subnet| subnet.parse::<IpNet>().is_ok_and(|net| net.addr().is_ipv6()))
}

fn subnets(
    ipam: Option<&Ipam>,
    ipv6: bool,
    occupied: &[IpNet],
    random: [u8; 7],
) -> Result<Vec<Subnet>> {
    let configs = ipam.and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let asked: Vec<Subnet> = configs
        .iter()
        .filter(|config| !empty(&config.subnet) || !empty(&config.gateway))
        .map(subnet)
        .collect::<Result<_>>()?;
    let of = |v4: bool| asked.iter().filter(move |s| s.subnet.addr().is_ipv4() == v4).cloned();
    if of(true).count() > 1 || of(false).count() > 1 {
        return Err(ApiError::bad("a bridge network has one subnet of each family"));
    }
    let cut = || ipam::free_subnet(occupied).ok_or_else(exhausted);
    let mut all = vec![of(true).next().map_or_else(|| cut().and_then(plain), Ok)?];
    if ipv6 {
        all.push(of(false).next().map_or_else(|| plain(ipam::local_subnet(random)), Ok)?);
    }
    Ok(all)
}

fn exhausted() -> ApiError {
    ApiError::internal(
        "could not find an available, non-overlapping address range: give one by --subnet",
    )
}

fn plain(subnet: IpNet) -> Result<Subnet> {
    let gateway = ipam::first_host(&subnet).ok_or_else(exhausted)?;
    Ok(Subnet { subnet, gateway, range: None, auxiliary: BTreeMap::new() })
}

fn subnet(config: &IpamConfig) -> Result<Subnet> {
    let text = config.subnet.as_deref().unwrap_or_default();
    let wrong = |what: String| ApiError::bad(format!("invalid network config: {what}"));
    let subnet: IpNet =
        text.parse().map_err(|_| wrong(format!("invalid subnet {text:?}: invalid CIDR")))?;
    if subnet != subnet.trunc() {
        return Err(wrong(format!("invalid subnet {subnet}: it should be {}", subnet.trunc())));
    }
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let inside = |text: &str, what: &str| {
        let address: IpAddr =
            text.parse().map_err(|_| wrong(format!("invalid {what} {text:?}")))?;
        match subnet.contains(&address) {
            true => Ok(address),
            false => Err(wrong(format!("{what} {address} is not in the subnet {subnet}"))),
        }
    };
    let mut made = plain(subnet).map_err(|_| wrong(format!("{subnet} has no address to give")))?;
    if let Some(gateway) = filled(&config.gateway) {
        made.gateway = inside(&gateway, "gateway")?;
    }
    if let Some(text) = filled(&config.ip_range) {
        let range: IpNet = text.parse().map_err(|_| wrong(format!("invalid ip-range {text:?}")))?;
        if !subnet.contains(&range) {
            return Err(wrong(format!("ip-range {range} is not in the subnet {subnet}")));
        }
        made.range = Some(range);
    }
    for (name, address) in config.auxiliary_addresses.iter().flatten() {
        made.auxiliary.insert(name.clone(), inside(address, "auxiliary address")?);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(config: Vec<IpamConfig>, ipv6: bool) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: "front".into(),
            enable_ipv6: Some(ipv6),
            ipam: Some(Ipam { config: Some(config), ..Default::default() }),
            ..Default::default()
        }
    }

    fn config(subnet: &str, range: &str, gateway: &str) -> IpamConfig {
        let text = |text: &str| Some(text.to_owned());
        IpamConfig {
            subnet: text(subnet),
            ip_range: text(range),
            gateway: text(gateway),
            auxiliary_addresses: None,
        }
    }

    fn make(asked: &NetworkCreateRequest) -> Result<Network> {
        Network::new("0123456789abcdef".repeat(4), asked, &[], [1; 7])
    }

    #[test]
    fn subnets_are_checked() {
        type Case<'a> = (&'a [IpamConfig], bool, Option<&'a [&'a str]>);
        let table: [Case<'_>; 9] = [
            (&[], false, Some(&["172.30.0.0/24 172.30.0.1"])),
            (
                &[],
                true,
                Some(&["172.30.0.0/24 172.30.0.1", "fd01:101:101:101::/64 fd01:101:101:101::1"]),
            ),
            (&[config("10.1.0.0/16", "", "10.1.0.9")], false, Some(&["10.1.0.0/16 10.1.0.9"])),
            (
                &[config("fd00:1::/64", "", "")],
                true,
                Some(&["172.30.0.0/24 172.30.0.1", "fd00:1::/64 fd00:1::1"]),
            ),
            (
                &[config("fd00:1::/64", "", "")],
                false,
                Some(&["172.30.0.0/24 172.30.0.1", "fd00:1::/64 fd00:1::1"]),
            ),
            (&[config("10.1.0.1/16", "", "")], false, None),
            (&[config("10.1.0.0/16", "", "10.2.0.1")], false, None),
            (&[config("10.1.0.0/16", "10.0.0.0/8", "")], false, None),
            (&[config("nonsense", "", "")], false, None),
        ];
        for (config, ipv6, expected) in table {
            let shown = make(&asked(config.to_vec(), ipv6)).ok().map(|network| {
                let show = |s: &Subnet| format!("{} {}", s.subnet, s.gateway);
                network.subnets.iter().map(show).collect::<Vec<_>>()
            });
            let expected = expected.map(|list| list.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(shown, expected, "{config:?}");
        }
    }

    #[test]
    fn what_is_not_available_is_refused() {
        let plain = asked(Vec::new(), false);
        let with = |edit: fn(&mut NetworkCreateRequest)| {
            let mut one = plain.clone();
            edit(&mut one);
            make(&one).map_err(|error| error.status).err()
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|one| one.driver = Some("overlay".into())), Some(404));
        assert_eq!(with(|one| one.driver = Some("host".into())), Some(403));
        assert_eq!(with(|one| one.name = "a b".into()), None);
        assert_eq!(with(|one| one.name = "a/b".into()), Some(400));
        assert_eq!(with(|one| one.name = " a".into()), Some(400));
        assert_eq!(with(|one| one.ingress = Some(true)), Some(400));
        assert_eq!(with(|one| one.enable_ipv4 = Some(false)), Some(400));
        let option = |name: &str, value: &str| {
            let options = HashMap::from([(name.to_owned(), value.to_owned())]);
            Settings::parse(&options, &plain_id()).map_err(|error| error.status).err()
        };
        assert_eq!(option("com.docker.network.driver.mtu", "1400"), None);
        assert_eq!(option("com.docker.network.driver.mtu", "1"), Some(400));
        assert_eq!(option("com.docker.network.bridge.name", "much-too-long-for-a-link"), Some(400));
        assert_eq!(option("com.docker.network.bridge.enable_icc", "maybe"), Some(400));
        assert_eq!(option("what", "is this"), Some(400));
    }

    fn plain_id() -> String {
        "0".repeat(64)
    }
}

//! Published ports: what was asked for, and which of this machine's ports are taken for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use bollard_stubs::models::{HostConfig, PortBinding};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::endpoint::{Attachment, Live};
use crate::engine::container::Record;
use crate::engine::error::{ApiError, Result};
use crate::net::relay::Relay;
use crate::net::rules::{Protocol, Published};

/// How many ports of a range, or of the kernel's choice, are tried.
const MOST_TRIES: usize = 64;

/// What keeps others off a port.
#[derive(Debug)]
pub enum Hold {
    /// Bound and no more: the firewall takes what comes.
    Bound(#[expect(dead_code, reason = "it is there to be dropped")] Socket),
    /// What comes from `::1` is taken here.
    Relayed(#[expect(dead_code, reason = "it is there to be dropped")] Relay),
}

impl Hold {
    /// Holds `here` for what a container has at `there`.
    fn new(
        socket: Socket,
        protocol: Protocol,
        here: IpAddr,
        there: SocketAddr,
    ) -> std::io::Result<Self> {
        match is_relayed(protocol, here) {
            true => Relay::start(socket, there).map(Self::Relayed),
            false => Ok(Self::Bound(socket)),
        }
    }

    /// Binds it anew, for a container that an earlier daemon started; none where there is nothing behind it.
    pub fn again(port: &Port, live: &Live) -> Option<std::io::Result<Self>> {
        let (protocol, here) = (port.protocol, port.here);
        let there = behind(live, protocol, here.ip(), port.private)?;
        let socket = hold(protocol, here);
        Some(socket.and_then(|socket| Self::new(socket, protocol, here.ip(), there)))
    }
}

/// Whether what is asked at `here` may come from `::1`, which the firewall cannot pass on.
fn is_relayed(protocol: Protocol, here: IpAddr) -> bool {
    let here_too = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    protocol == Protocol::Tcp && here_too.contains(&here)
}

/// Where a container listens for what comes to `here`: at its address of that family. What is relayed finds the other too.
fn behind(live: &Live, protocol: Protocol, here: IpAddr, private: u16) -> Option<SocketAddr> {
    let other = || live.address(true).filter(|_| is_relayed(protocol, here));
    let own = live.address(here.is_ipv4()).or_else(other)?;
    Some(SocketAddr::new(own.addr(), private))
}

/// A port of this machine that is a container's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Transport.
    pub protocol: Protocol,
    /// Port in the container.
    pub private: u16,
    /// Address and port of this machine.
    pub here: SocketAddr,
}

/// What a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    protocol: Protocol,
    private: u16,
    address: Option<IpAddr>,
    /// None: any.
    ports: Option<RangeInclusive<u16>>,
}

/// `80/tcp`, or `80`.
pub fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let wrong = || ApiError::bad(format!("invalid port {text:?}: expected such as 80/tcp"));
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number: u16 = number.parse().map_err(|_| wrong())?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => return Err(ApiError::bad("ports of SCTP cannot be published here")),
        _ => return Err(wrong()),
    };
    if number == 0 { Err(wrong()) } else { Ok((number, protocol)) }
}

/// Whether anything is to be published.
pub fn is_asked(host: &HostConfig) -> bool {
    host.publish_all_ports == Some(true)
        || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
}

/// Refuses bindings that make no sense.
pub fn check(host: &HostConfig) -> Result<()> {
    wishes(host, &[]).map(drop)
}

fn wishes(host: &HostConfig, exposed: &[String]) -> Result<Vec<Wish>> {
    let bindings = host.port_bindings.clone().unwrap_or_default();
    let mut all = Vec::new();
    for (text, list) in &bindings {
        let (private, protocol) = parse_port(text)?;
        for binding in list.iter().flatten() {
            all.push(wish(private, protocol, binding)?);
        }
    }
    if host.publish_all_ports == Some(true) {
        for text in exposed {
            let (private, protocol) = parse_port(text)?;
            if !all.iter().any(|wish| (wish.private, wish.protocol) == (private, protocol)) {
                all.push(wish(private, protocol, &PortBinding::default())?);
            }
        }
    }
    // Those that name a port come first: no free one is taken from them.
    all.sort_by_key(|wish| (wish.ports.is_none(), wish.private, wish.protocol));
    Ok(all)
}

fn wish(private: u16, protocol: Protocol, binding: &PortBinding) -> Result<Wish> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let address = filled(&binding.host_ip)
        .map(|text| {
            text.parse().map_err(|_| ApiError::bad(format!("invalid IP address: {text:?}")))
        })
        .transpose()?;
    let ports = filled(&binding.host_port)
        .filter(|text| text != "0")
        .map(|text| {
            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
            let range = low.parse().ok().zip(high.parse().ok());
            range
                .filter(|(low, high)| 0 < *low && low <= high)
                .map(|(low, high)| low..=high)
                .ok_or_else(|| ApiError::bad(format!("invalid host port: {text:?}")))
        })
        .transpose()?;
    Ok(Wish { protocol, private, address, ports })
}

/// Takes ports of this machine for a container that is about to run in `attachment`, whose networks publish at
/// `default`. What keeps others off comes with them.
pub fn take(
    record: &Record,
    attachment: &Attachment,
    default: Option<IpAddr>,
) -> Result<(Vec<Port>, Vec<Hold>)> {
    let exposed = record.config.exposed_ports.clone().unwrap_or_default();
    let (mut ports, mut holds) = (Vec::new(), Vec::new());
    // Only internal networks, or none: nothing from outside gets in.
    let Some(live) = attachment.gateway().and_then(|endpoint| endpoint.live.as_ref()) else {
        return Ok((ports, holds));
    };
    for wish in wishes(&record.host_config, &exposed)? {
        let addresses: Vec<IpAddr> = match wish.address.or(default) {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        // Where no address was named, the families of the container count.
        let named = wish.address.or(default).is_some();
        let there = |address: &IpAddr| {
            let there = behind(live, wish.protocol, *address, wish.private)?;
            (named || there.is_ipv4() == address.is_ipv4()).then_some((*address, there))
        };
        let reachable: Vec<(IpAddr, SocketAddr)> = addresses.iter().filter_map(there).collect();
        if reachable.is_empty() {
            return Err(ApiError::bad(format!(
                "port {}/{} cannot be published at {}: the container has no address of that family",
                wish.private,
                wish.protocol.word(),
                addresses.first().map(ToString::to_string).unwrap_or_default()
            )));
        }
        let here: Vec<IpAddr> = reachable.iter().map(|(address, _)| *address).collect();
        let (port, sockets) = hold_one(&wish, &here)?;
        for ((address, there), socket) in reachable.iter().zip(sockets) {
            holds.push(Hold::new(socket, wish.protocol, *address, *there)?);
            let here = SocketAddr::new(*address, port);
            ports.push(Port { protocol: wish.protocol, private: wish.private, here });
        }
    }
    Ok((ports, holds))
}

/// One port, the same at every address.
fn hold_one(wish: &Wish, addresses: &[IpAddr]) -> Result<(u16, Vec<Socket>)> {
    let fixed: Vec<u16> = wish.ports.clone().map_or_else(|| vec![0; MOST_TRIES], Iterator::collect);
    let only = fixed.len() == 1;
    for wanted in fixed {
        match hold_at(wish.protocol, addresses, wanted) {
            Ok(held) => return Ok(held),
            Err((at, error)) if only => return Err(refused(at, &error)),
            Err((at, error)) if error.kind() != std::io::ErrorKind::AddrInUse => {
                return Err(refused(at, &error));
            }
            Err(_) => {}
        }
    }
    Err(ApiError::internal("all ports are allocated"))
}

type Refused = (SocketAddr, std::io::Error);

fn hold_at(
    protocol: Protocol,
    addresses: &[IpAddr],
    wanted: u16,
) -> std::result::Result<(u16, Vec<Socket>), Refused> {
    let (mut port, mut sockets) = (wanted, Vec::new());
    for address in addresses {
        let at = SocketAddr::new(*address, port);
        let socket = hold(protocol, at).map_err(|error| (at, error))?;
        let own = socket.local_addr().map_err(|error| (at, error))?;
        port = own.as_socket().map_or(port, |own| own.port());
        sockets.push(socket);
    }
    Ok((port, sockets))
}

/// A socket that is bound and does not listen: whoever binds the same port is told that it is taken, as with Docker.
fn hold(protocol: Protocol, at: SocketAddr) -> std::io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // It will listen, so nobody else can; and an earlier daemon's connections are no obstacle.
    socket.set_reuse_address(is_relayed(protocol, at.ip()))?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// In Docker's words.
fn refused(at: SocketAddr, error: &std::io::Error) -> ApiError {
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => "port is already allocated".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        _ => error.to_string(),
    };
    ApiError::internal(format!(
        "driver failed programming external connectivity on endpoint: Bind for {at} failed: {why}"
    ))
}

/// What the firewall is told of a container's ports.
pub fn published(attachment: &Attachment) -> Vec<Published> {
    let Some(live) = attachment.gateway().and_then(|endpoint| endpoint.live.as_ref()) else {
        return Vec::new();
    };
    let publish = |port: &Port| {
        let there = live.address(port.here.is_ipv4())?;
        Some(Published {
            protocol: port.protocol,
            here: port.here,
            there: SocketAddr::new(there.addr(), port.private),
        })
    };
    attachment.ports.iter().filter_map(publish).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn host(bindings: &[(&str, &str, &str)]) -> HostConfig {
        let mut ports: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
        for (port, address, at) in bindings {
            let binding =
                PortBinding { host_ip: Some((*address).into()), host_port: Some((*at).into()) };
            ports.entry((*port).into()).or_default().get_or_insert_default().push(binding);
        }
        HostConfig { port_bindings: Some(ports), ..Default::default() }
    }

    #[test]
    fn bindings_are_parsed_or_refused() {
        let all =
            wishes(&host(&[("80/tcp", "", "8080"), ("53/udp", "127.0.0.1", "")]), &[]).unwrap();
        let expected = [
            Wish { protocol: Protocol::Tcp, private: 80, address: None, ports: Some(8080..=8080) },
            Wish {
                protocol: Protocol::Udp,
                private: 53,
                address: Some([127, 0, 0, 1].into()),
                ports: None,
            },
        ];
        assert_eq!(all, expected);
        for wrong in [
            ("80/xyz", "", "1"),
            ("80/sctp", "", "1"),
            ("0", "", "1"),
            ("x", "", "1"),
            ("80", "here", "1"),
            ("80", "", "70000"),
            ("80", "", "9-8"),
        ] {
            assert!(check(&host(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn exposed_ports_are_published_on_demand() {
        let mut config = host(&[("80/tcp", "", "8080")]);
        let exposed = ["80/tcp".to_owned(), "443/tcp".to_owned()];
        assert_eq!(wishes(&config, &exposed).unwrap().len(), 1);
        config.publish_all_ports = Some(true);
        let all = wishes(&config, &exposed).unwrap();
        assert_eq!(all.iter().map(|wish| wish.private).collect::<Vec<_>>(), [80, 443]);
    }

    #[test]
    fn a_port_that_is_taken_is_refused_and_a_free_one_is_found() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = own.local_addr().unwrap();
        let wish =
            |ports| Wish { protocol: Protocol::Tcp, private: 80, address: Some(taken.ip()), ports };
        let error = hold_one(&wish(Some(taken.port()..=taken.port())), &[taken.ip()]).unwrap_err();
        assert!(error.message.ends_with("port is already allocated"), "{error}");
        let (port, held) = hold_one(&wish(None), &[taken.ip()]).unwrap();
        assert_ne!(port, taken.port());
        let again = hold(Protocol::Tcp, SocketAddr::new(taken.ip(), port));
        assert!(again.is_err(), "a held port was given again");
        drop(held);
    }
}

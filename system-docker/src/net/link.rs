//! Links, addresses and routes. Every function works in the network namespace of the thread that calls it, and may be
//! repeated: what is there already is no error.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use ipnet::IpNet;
use netlink_bindings::rt_addr::{self, IfaFlags, Ifaddrmsg};
use netlink_bindings::rt_link::{self, IfinfoFlags, Ifinfomsg};
use netlink_bindings::rt_route::{self, Rtmsg};
use netlink_socket2::{NetlinkSocket, ReplyError};
use nix::errno::Errno;

/// `linux/rtnetlink.h`, `linux/socket.h`.
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A bridge as it shall be.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Interface name.
    pub name: String,
    /// Says whose it is, whatever its name.
    pub label: String,
    /// Hardware address, fixed: a bridge without one changes it with every port.
    pub mac: [u8; 6],
    /// 0: the kernel's.
    pub mtu: u32,
    /// Its own addresses, the containers' gateways.
    pub addresses: Vec<IpNet>,
}

/// One end of a container's connection.
#[derive(Clone, Debug)]
pub struct Plug {
    /// Host's end.
    pub host: String,
    /// Name in the container.
    pub device: String,
    /// Bridge that the host's end goes to.
    pub bridge: String,
    /// Hardware address in the container.
    pub mac: [u8; 6],
    /// 0: the kernel's.
    pub mtu: u32,
    /// Addresses in the container.
    pub addresses: Vec<IpNet>,
    /// Whether this port may not talk to others like it.
    pub isolated: bool,
}

/// A link that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// The number of its other end, which may be in another namespace.
    pub peer: Option<i32>,
    /// Whether it is a bridge.
    pub is_bridge: bool,
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn up(index: i32) -> Ifinfomsg {
    let mut header = Ifinfomsg::new();
    header.ifi_index = index;
    header.ifi_flags = IfinfoFlags::Up as u32;
    header.ifi_change = IfinfoFlags::Up as u32;
    header
}

/// The kernel counts both from 1, and writes them without a sign in some places.
fn unsigned(number: i32) -> u32 {
    number.try_into().unwrap_or(0)
}

/// The kernel's own words, where it has any.
fn told(what: &str) -> impl FnOnce(ReplyError) -> io::Error + '_ {
    move |error| io::Error::new(error.as_io_error().kind(), format!("{what}: {error}"))
}

fn is(error: &ReplyError, errno: Errno) -> bool {
    error.as_io_error().raw_os_error() == Some(errno as i32)
}

/// The link of a name.
pub fn find(name: &str) -> io::Result<Option<Link>> {
    let mut request = rt_link::Request::new().op_getlink_do(&Ifinfomsg::new());
    request.encode().push_ifname_bytes(name.as_bytes());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request)?;
    match replies.recv_one() {
        Ok((header, attributes)) => Ok(Some(Link {
            index: header.ifi_index,
            name: name.to_owned(),
            peer: attributes.get_link().ok().and_then(|link| link.try_into().ok()),
            is_bridge: attributes
                .get_linkinfo()
                .and_then(|info| info.get_kind())
                .is_ok_and(|kind| kind == c"bridge"),
        })),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(error) => Err(told(&format!("find link {name}"))(error)),
    }
}

/// Names of all links, and what they are labelled with.
pub fn names() -> io::Result<Vec<(String, String)>> {
    let request = rt_link::Request::new().op_getlink_dump(&Ifinfomsg::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request)?;
    let mut names = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, attributes) = reply.map_err(told("list links"))?;
        if let Ok(name) = attributes.get_ifname() {
            let label = attributes.get_ifalias().unwrap_or_default();
            let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
            names.push((text(name), text(label)));
        }
    }
    Ok(names)
}

/// Removes a link, if it is there.
pub fn remove(name: &str) -> io::Result<()> {
    let mut request = rt_link::Request::new().op_dellink_do(&Ifinfomsg::new());
    request.encode().push_ifname_bytes(name.as_bytes());
    let removed = NetlinkSocket::new().request(&request)?.recv_ack();
    match removed {
        Err(error) if !is(&error, Errno::ENODEV) => {
            Err(told(&format!("remove link {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// Makes the bridge what it shall be, and lets packets through it.
pub fn ensure_bridge(bridge: &Bridge) -> io::Result<()> {
    let index = match find(&bridge.name)? {
        Some(link) if !link.is_bridge => {
            return Err(io::Error::other(format!("{} is there and is no bridge", link.name)));
        }
        Some(link) => link.index,
        None => make_bridge(bridge)?,
    };
    for address in &bridge.addresses {
        add_address(index, *address)?;
    }
    let mut request = rt_link::Request::new().op_setlink_do(&up(index));
    request.encode().push_ifalias_bytes(bridge.label.as_bytes());
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("set up {}", bridge.name)))?;
    forward(bridge)
}

fn make_bridge(bridge: &Bridge) -> io::Result<i32> {
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&up(0));
    let mut attributes = request.encode().push_ifname_bytes(bridge.name.as_bytes());
    attributes = attributes.push_address(&bridge.mac);
    if bridge.mtu > 0 {
        attributes = attributes.push_mtu(bridge.mtu);
    }
    attributes.nested_linkinfo().push_kind(c"bridge").end_nested();
    let what = format!("make bridge {}", bridge.name);
    NetlinkSocket::new().request(&request)?.recv_ack().map_err(told(&what))?;
    find(&bridge.name)?.map(|link| link.index).ok_or_else(|| io::Error::other(what))
}

/// A published port answers at 127.0.0.1 too, which takes `route_localnet`; [`super::rules`] closes what that opens.
fn forward(bridge: &Bridge) -> io::Result<()> {
    sysctl(&format!("net/ipv4/conf/{}/route_localnet", bridge.name), "1")?;
    sysctl("net/ipv4/ip_forward", "1")?;
    if !bridge.addresses.iter().any(|address| address.addr().is_ipv6()) {
        return sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", bridge.name), "1");
    }
    sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", bridge.name), "0")?;
    if read_sysctl("net/ipv6/conf/all/forwarding") == "1" {
        return Ok(());
    }
    keep_router_advertisements()?;
    sysctl("net/ipv6/conf/all/forwarding", "1")
}

/// A machine that forwards no longer hears routers, unless told to: its own default route would run out.
fn keep_router_advertisements() -> io::Result<()> {
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let name = format!("net/ipv6/conf/{}/accept_ra", entry.file_name().to_string_lossy());
        if read_sysctl(&name) == "1" {
            sysctl(&name, "2")?;
        }
    }
    Ok(())
}

fn read_sysctl(name: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default().trim().to_owned()
}

/// Sets a parameter; a kernel without IPv6 has none of its.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys").join(name), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && name.starts_with("net/ipv6") => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("set {name}: {e}"))),
        Ok(()) => Ok(()),
    }
}

fn set(header: Ifinfomsg, name: &str) -> io::Result<()> {
    let request = rt_link::Request::new().op_setlink_do(&header);
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("set up {name}")))
}

fn add_address(index: i32, address: IpNet) -> io::Result<()> {
    let mut header = Ifaddrmsg::new();
    header.ifa_family = family(address.addr());
    header.ifa_prefixlen = address.prefix_len();
    header.ifa_index = unsigned(index);
    let mut request = rt_addr::Request::new().set_create().set_replace().op_newaddr_do(&header);
    let attributes = request.encode().push_local(address.addr());
    match address {
        IpNet::V4(v4) => drop(attributes.push_broadcast(v4.broadcast())),
        // The address is ours to give: nobody else has it, and it shall be usable at once.
        IpNet::V6(_) => drop(attributes.push_flags(IfaFlags::Nodad as u32)),
    }
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("give address {address}")))
}

/// Makes the pair, puts the host's end into its bridge and the other into the container's namespace.
pub fn plug(plug: &Plug, namespace: &File) -> io::Result<()> {
    remove(&plug.host)?;
    let bridge = find(&plug.bridge)?
        .ok_or_else(|| io::Error::other(format!("bridge {} is gone", plug.bridge)))?;
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&up(0));
    let mut attributes = request
        .encode()
        .push_ifname_bytes(plug.host.as_bytes())
        .push_master(unsigned(bridge.index));
    if plug.mtu > 0 {
        attributes = attributes.push_mtu(plug.mtu);
    }
    attributes.nested_linkinfo().push_kind(c"veth").end_nested();
    let what = format!("make {} in {}", plug.host, plug.bridge);
    NetlinkSocket::new().request(&request)?.recv_ack().map_err(told(&what))?;
    let moved = move_peer(plug, namespace);
    if moved.is_err() {
        // What is left of it is of no use.
        let _ = remove(&plug.host);
    }
    moved
}

fn move_peer(plug: &Plug, namespace: &File) -> io::Result<()> {
    if plug.isolated {
        fs::write(format!("/sys/class/net/{}/brport/isolated", plug.host), "1")?;
    }
    let peer = find(&plug.host)?
        .and_then(|link| link.peer)
        .ok_or_else(|| io::Error::other(format!("{} has no other end", plug.host)))?;
    let mut header = Ifinfomsg::new();
    header.ifi_index = peer;
    let mut request = rt_link::Request::new().op_setlink_do(&header);
    let fd = unsigned(namespace.as_raw_fd());
    let mut attributes = request.encode().push_net_ns_fd(fd);
    if plug.mtu > 0 {
        attributes = attributes.push_mtu(plug.mtu);
    }
    attributes.push_ifname_bytes(plug.device.as_bytes());
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("give {} to the container", plug.device)))
}

/// In the container's namespace: the loopback.
pub fn loopback() -> io::Result<()> {
    match find("lo")? {
        Some(link) => set(up(link.index), "lo"),
        None => Ok(()),
    }
}

/// In the container's namespace: hardware address, addresses, up.
pub fn configure(plug: &Plug) -> io::Result<()> {
    let gone = || io::Error::other(format!("{} is not in the container", plug.device));
    let index = find(&plug.device)?.ok_or_else(gone)?.index;
    let has_v6 = plug.addresses.iter().any(|address| address.addr().is_ipv6());
    let disabled = if has_v6 { "0" } else { "1" };
    sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", plug.device), disabled)?;
    let mut header = Ifinfomsg::new();
    header.ifi_index = index;
    let mut request = rt_link::Request::new().op_setlink_do(&header);
    request.encode().push_address(&plug.mac);
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("give {} its hardware address", plug.device)))?;
    set(up(index), &plug.device)?;
    plug.addresses.iter().try_for_each(|address| add_address(index, *address))
}

/// In the container's namespace: the way out, one for each family; replaces what there was.
pub fn default_routes(gateways: &[IpAddr]) -> io::Result<()> {
    for family in [AF_INET, AF_INET6] {
        while drop_default_route(family)? {}
    }
    gateways.iter().try_for_each(|gateway| add_default_route(*gateway))
}

fn route_header(family: u8) -> Rtmsg {
    let mut header = Rtmsg::new();
    header.rtm_family = family;
    header.rtm_table = RT_TABLE_MAIN;
    header
}

fn drop_default_route(family: u8) -> io::Result<bool> {
    let request = rt_route::Request::new().op_delroute_do(&route_header(family));
    let dropped = NetlinkSocket::new().request(&request)?.recv_ack();
    // A namespace without any route yet, or without IPv6, has none to drop.
    let none = [
        Errno::ESRCH,
        Errno::ENOENT,
        Errno::ENODEV,
        Errno::ENETUNREACH,
        Errno::EAFNOSUPPORT,
        Errno::EOPNOTSUPP,
    ];
    match dropped {
        Ok(()) => Ok(true),
        Err(error) if none.iter().any(|errno| is(&error, *errno)) => Ok(false),
        Err(error) => Err(told("drop the default route")(error)),
    }
}

fn add_default_route(gateway: IpAddr) -> io::Result<()> {
    let mut header = route_header(family(gateway));
    header.rtm_protocol = RTPROT_STATIC;
    header.rtm_type = RTN_UNICAST;
    let mut request = rt_route::Request::new().set_create().set_replace().op_newroute_do(&header);
    request.encode().push_gateway(gateway);
    let done = NetlinkSocket::new().request(&request)?.recv_ack();
    done.map_err(told(&format!("default route by {gateway}")))
}

/// Ranges that this machine has a route to: not to be given to a network.
pub fn occupied() -> io::Result<Vec<IpNet>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = rt_route::Request::new().op_getroute_dump(&route_header(family));
        let mut socket = NetlinkSocket::new();
        let mut replies = socket.request(&request)?;
        while let Some(reply) = replies.recv() {
            let (header, attributes) = reply.map_err(told("list routes"))?;
            if header.rtm_dst_len > 0
                && let Ok(to) = attributes.get_dst()
                && let Ok(range) = IpNet::new(to, header.rtm_dst_len)
            {
                all.push(range);
            }
        }
    }
    Ok(all)
}

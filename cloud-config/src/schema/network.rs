//! Keys of `ros.network`, and cloud-init's own network documents.

use super::Effect::{Group, Nothing, Refused};
use super::From::{CloudInit, Ours, Rancher};
use super::Kind::{
    Address, Any, Bool, Cidr, Command, Either, Int, List, Map, OneOrMany, Range, Struct, Text, Word,
};
use super::{Key, Kind, TEXTS};

const NO_WIFI: &str =
    "wireless networks need firmware and wpa_supplicant, which no release has yet: use a cable";
const NO_MODEM: &str = "modems need pppd, which no release has";

const fn r(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key::new(name, kind, Group, Rancher, default, doc)
}

const fn o(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key::new(name, kind, Group, Ours, default, doc)
}

/// `ros.network`
pub const NETWORK: Kind = Struct(&[
    r(
        "interfaces",
        Map(&INTERFACE),
        "every one does DHCP",
        "Interfaces, by name, glob (`eth*`) or hardware address (`mac=52:54:*`).",
    ),
    r("dns", DNS, "from DHCP", "Name servers."),
    r("dhcp_timeout", Int, "20", "Seconds that the boot waits for an address."),
    r(
        "pre_cmds",
        List(&Command),
        "",
        "Commands before the network is set up, in the network service.",
    ),
    r("post_cmds", List(&Command), "", "Commands after that."),
    r("http_proxy", Text, "", "Proxy for HTTP, for pulls and in the environment of logins."),
    r("https_proxy", Text, "", "Proxy for HTTPS."),
    r("no_proxy", Text, "", "Hosts that are reached without it."),
    Key::new("wifi_networks", Map(&Any), Refused(NO_WIFI), Rancher, "", ""),
    Key::new("modem_networks", Map(&Any), Refused(NO_MODEM), Rancher, "", ""),
]);

const DNS: Kind = Struct(&[
    r("nameservers", List(&Address), "from DHCP", "Addresses, best first; three at most count."),
    r("search", TEXTS, "from DHCP", "Domains tried for a short name."),
]);

const INTERFACE: Kind = Struct(&[
    r("match", Text, "the entry's name", "What it applies to: a name, a glob or `mac=…`."),
    r("dhcp", Bool, "true without an address", "Ask for an IPv4 address."),
    o("dhcp6", Bool, "like dhcp", "Ask for an IPv6 address."),
    r("dhcp_args", Text, "", "Not taken: further options of dhcpcd.")
        .refused("dhcpcd is told by its own file: open an issue for what is missing"),
    r("address", Cidr, "", "One address with its prefix length."),
    r("addresses", List(&Cidr), "", "Addresses with their prefix length, IPv4 and IPv6."),
    r("ipv4ll", Bool, "false", "Take a link-local IPv4 address when nobody answers."),
    r("gateway", Address, "", "IPv4 router."),
    r("gateway_ipv6", Address, "", "IPv6 router."),
    o("routes", List(&ROUTE), "", "Further routes."),
    r("mtu", Range(68, 65_535), "the driver's", "Largest packet in bytes."),
    o("mac", Text, "its own", "Hardware address to take."),
    r("bridge", Text, "", "`true`: it is a bridge; a name: it is a port of that one."),
    o("bridge_opts", Struct(BRIDGE), "", "Options of a bridge."),
    r("bond", Text, "", "The bond that it is a part of; the bond is made."),
    r(
        "bond_opts",
        Map(&Text),
        "",
        "Options of a bond, named as in Linux's bonding.rst; on the bond's own entry, or a part's.",
    ),
    r(
        "vlans",
        Either(&[List(&Text), Text]),
        "",
        "VLANs on it: `100`, `200:name`; a list, or separated by commas.",
    ),
    r("pre_up", List(&Command), "", "Commands before it is set up, in the network service."),
    r("post_up", List(&Command), "", "Commands after that."),
    Key::new("wifi_network", Text, Refused(NO_WIFI), Rancher, "", ""),
]);

const BRIDGE: &[Key] = &[
    o("stp", Bool, "false", "Spanning tree."),
    o("forward_delay", Range(0, 30), "0", "Seconds until a port forwards."),
    o("vlan_filtering", Bool, "false", "Ports keep their VLANs apart."),
];

const ROUTE: Kind = Struct(&[
    o("to", Text, "", "Destination with its prefix length, or `default`.").needed(),
    o("via", Address, "on the link", "Router."),
    o("metric", Range(0, 4_294_967_295), "the kernel's", "Lower is better."),
    o("table", Range(1, 4_294_967_295), "main", "Routing table."),
    o("on_link", Bool, "false", "The router is on the link whatever the addresses say."),
]);

const fn c(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key::new(name, kind, Group, CloudInit, "", doc)
}

/// `network` as cloud-init writes it: what is in it is read by [`crate::netplan`].
pub const NETPLAN: Kind = Struct(&[
    c("version", Word(&["1", "2"]), "Form of the document."),
    c("config", OneOrMany(&Any), "Version 1: physical, bond, bridge, vlan, nameserver, route."),
    c("ethernets", Map(&Any), "Version 2: interfaces."),
    c("bonds", Map(&Any), "Version 2: bonds."),
    c("bridges", Map(&Any), "Version 2: bridges."),
    c("vlans", Map(&Any), "Version 2: VLANs."),
    Key::new("renderer", Text, Nothing("dhcpcd and netlink do it"), CloudInit, "", ""),
    Key::new("wifis", Map(&Any), Refused(NO_WIFI), CloudInit, "", ""),
    Key::new("modems", Map(&Any), Refused(NO_MODEM), CloudInit, "", ""),
    Key::new("tunnels", Map(&Any), Refused("tunnels are not set up by ros"), CloudInit, "", ""),
    Key::new(
        "vrfs",
        Map(&Any),
        Refused("routing domains are not set up by ros"),
        CloudInit,
        "",
        "",
    ),
    Key::new(
        "dummy-devices",
        Map(&Any),
        Refused("dummy devices are not set up by ros"),
        CloudInit,
        "",
        "",
    ),
]);

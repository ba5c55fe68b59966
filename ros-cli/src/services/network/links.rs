//! Bonds, bridges and VLANs: which links are made, in which order, from which entries. Pure.
//!
//! ```text
//!  hardware ──bond:──► bond ──┬─bridge:─► bridge ──┐
//!     └────────bridge:────────┘    each may carry VLANs, which have entries of their own
//! ```

use std::collections::BTreeSet;

use cloud_config::settings::{Bridge, Interface as Entry, Network};

use super::interfaces::{Interface, entry_of};

/// Longest name of a link (`IFNAMSIZ` less its end).
const LONGEST: usize = 15;

/// What is done to links before they get addresses, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a link away that was made for another configuration.
    Gone { name: String },
    /// Make a bond.
    Bond { name: String, options: Vec<(String, String)> },
    /// Make a bridge.
    Bridge { name: String, options: Bridge },
    /// Make a VLAN on a link.
    Vlan { name: String, parent: String, id: u16 },
    /// Make a link a part of a bond or a bridge: taken down for a bond, as the kernel wants it.
    Join { part: String, whole: String, down: bool },
    /// Set the hardware address.
    Mac { name: String, mac: [u8; 6] },
    /// Bring it up.
    Up { name: String },
}

impl Step {
    /// The link that it makes.
    #[must_use]
    pub fn makes(&self) -> Option<&str> {
        match self {
            Self::Bond { name, .. } | Self::Bridge { name, .. } | Self::Vlan { name, .. } => {
                Some(name)
            }
            _ => None,
        }
    }
}

/// `steps`, and before them what takes the links away that were made `earlier` and are not any more.
#[must_use]
pub fn instead_of(earlier: &[&str], steps: &[Step]) -> Vec<Step> {
    let stays = |name: &&&str| steps.iter().any(|step| step.makes() == Some(**name));
    let gone = earlier.iter().filter(|name| !stays(name));
    let gone = gone.map(|name| Step::Gone { name: (*name).to_owned() });
    gone.chain(steps.iter().cloned()).collect()
}

/// What is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// In order.
    pub steps: Vec<Step>,
    /// Names of links that are made: they have entries like others.
    pub made: Vec<String>,
    /// Links that are parts of others, and get no addresses of their own.
    pub parts: BTreeSet<String>,
}

/// The entry of a link that is made: by its name.
fn named<'a>(network: &'a Network, name: &str) -> Option<&'a Entry> {
    network.interfaces.get(name)
}

/// The entry of an interface that is present.
#[must_use]
pub fn entry<'a>(network: &'a Network, interface: &Interface) -> Option<&'a Entry> {
    let patterns = network.interfaces.iter();
    let patterns = patterns.filter(|(_, entry)| !is_made(entry));
    entry_of(
        interface,
        patterns.map(|(name, entry)| (entry.matches.as_deref().unwrap_or(name), entry)),
    )
}

fn is_made(entry: &Entry) -> bool {
    entry.bridge.as_deref() == Some("true")
}

/// What `network` makes of the interfaces that are `present`; what cannot be is answered.
#[must_use]
pub fn topology(network: &Network, present: &[Interface]) -> (Topology, Vec<String>) {
    let mut out = Topology::default();
    let mut wrong = Vec::new();
    let hardware: Vec<(&str, &Entry)> = present
        .iter()
        .filter_map(|interface| Some((interface.name.as_str(), entry(network, interface)?)))
        .collect();
    bonds(network, &hardware, &mut out, &mut wrong);
    let bonds: Vec<String> = out.made.clone();
    let with_bonds: Vec<(&str, &Entry)> = hardware
        .iter()
        .copied()
        .chain(bonds.iter().filter_map(|name| Some((name.as_str(), named(network, name)?))))
        .collect();
    let vlan_parents = with_bonds.clone();
    vlans(&vlan_parents, &mut out, &mut wrong);
    let vlans: Vec<String> =
        out.made.iter().filter(|name| !bonds.contains(name)).cloned().collect();
    let all: Vec<(&str, &Entry)> = with_bonds
        .iter()
        .copied()
        .chain(vlans.iter().filter_map(|name| Some((name.as_str(), named(network, name)?))))
        .collect();
    bridges(network, &all, &mut out, &mut wrong);
    let on_bridges: Vec<(&str, &Entry)> = network
        .interfaces
        .iter()
        .filter(|(_, entry)| is_made(entry))
        .map(|(name, entry)| (name.as_str(), entry))
        .collect();
    self::vlans(&on_bridges, &mut out, &mut wrong);
    macs(network, &hardware, &mut out, &mut wrong);
    (out, wrong)
}

fn is_link_name(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace)
        && !matches!(name, "." | ".." | "all" | "default")
}

fn bonds(
    network: &Network,
    hardware: &[(&str, &Entry)],
    out: &mut Topology,
    wrong: &mut Vec<String>,
) {
    let mut wanted: Vec<&str> =
        hardware.iter().filter_map(|(_, entry)| entry.bond.as_deref()).collect();
    let own = network
        .interfaces
        .iter()
        .filter(|(_, entry)| !entry.bond_opts.is_empty() && entry.bond.is_none());
    wanted.extend(own.map(|(name, _)| name.as_str()));
    wanted.sort_unstable();
    wanted.dedup();
    for name in wanted {
        if !is_link_name(name) {
            wrong.push(format!("bond {name:?}: no name of a link"));
            continue;
        }
        let parts: Vec<&(&str, &Entry)> =
            hardware.iter().filter(|(_, entry)| entry.bond.as_deref() == Some(name)).collect();
        let of_parts = parts
            .iter()
            .find(|(_, entry)| !entry.bond_opts.is_empty())
            .map(|(_, entry)| &entry.bond_opts);
        let options = named(network, name)
            .map(|entry| &entry.bond_opts)
            .filter(|options| !options.is_empty())
            .or(of_parts);
        let options = options
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.replace('-', "_"), value.clone()))
            .collect();
        out.steps.push(Step::Bond { name: name.to_owned(), options });
        out.made.push(name.to_owned());
        for (part, _) in parts {
            out.parts.insert((*part).to_owned());
            out.steps.push(Step::Join {
                part: (*part).to_owned(),
                whole: name.to_owned(),
                down: true,
            });
        }
        out.steps.push(Step::Up { name: name.to_owned() });
    }
}

/// `100`, `200:name`.
fn vlans(parents: &[(&str, &Entry)], out: &mut Topology, wrong: &mut Vec<String>) {
    for (parent, entry) in parents {
        for text in &entry.vlans {
            let (id, name) =
                text.split_once(':').map_or((text.as_str(), None), |(id, name)| (id, Some(name)));
            let name = name.map_or_else(|| format!("{parent}.{id}"), str::to_owned);
            match id.trim().parse::<u16>() {
                Ok(id) if (1..=4094).contains(&id) && is_link_name(&name) => {
                    // A parent without addresses of its own must be up all the same.
                    out.steps.push(Step::Up { name: (*parent).to_owned() });
                    out.steps.push(Step::Vlan {
                        name: name.clone(),
                        parent: (*parent).to_owned(),
                        id,
                    });
                    out.made.push(name);
                }
                _ => wrong.push(format!(
                    "{parent}: vlans: {text:?}: expected 1 to 4094, and a name after ':'"
                )),
            }
        }
    }
}

fn bridges(
    network: &Network,
    links: &[(&str, &Entry)],
    out: &mut Topology,
    wrong: &mut Vec<String>,
) {
    let own = network
        .interfaces
        .iter()
        .filter(|(_, entry)| is_made(entry))
        .map(|(name, _)| name.as_str());
    let of_port = |entry: &'_ Entry| {
        entry.bridge.clone().filter(|bridge| !matches!(bridge.as_str(), "true" | "false" | ""))
    };
    let mut wanted: BTreeSet<String> = own.map(str::to_owned).collect();
    wanted.extend(links.iter().filter_map(|(_, entry)| of_port(entry)));
    for name in wanted {
        if !is_link_name(&name) {
            wrong.push(format!("bridge {name:?}: no name of a link"));
            continue;
        }
        let options =
            named(network, &name).map(|entry| entry.bridge_opts.clone()).unwrap_or_default();
        out.steps.push(Step::Bridge { name: name.clone(), options });
        for (port, _) in links.iter().filter(|(_, entry)| of_port(entry).as_deref() == Some(&name))
        {
            out.parts.insert((*port).to_owned());
            out.steps.push(Step::Join {
                part: (*port).to_owned(),
                whole: name.clone(),
                down: false,
            });
            out.steps.push(Step::Up { name: (*port).to_owned() });
        }
        out.steps.push(Step::Up { name: name.clone() });
        out.made.push(name);
    }
}

/// Hardware addresses are set first.
fn macs(
    network: &Network,
    hardware: &[(&str, &Entry)],
    out: &mut Topology,
    wrong: &mut Vec<String>,
) {
    let made: Vec<String> = out.made.clone();
    let made = made.iter().filter_map(|name| Some((name.as_str(), named(network, name)?)));
    for (name, entry) in hardware.iter().copied().chain(made) {
        let Some(text) = &entry.mac else { continue };
        match mac(text) {
            Some(mac) => {
                let step = Step::Mac { name: name.to_owned(), mac };
                let at = out.steps.iter().position(|step| makes(step, name)).map_or(0, |at| at + 1);
                out.steps.insert(at, step);
            }
            None => wrong.push(format!("{name}: mac {text:?}: expected 52:54:00:12:34:56")),
        }
    }
}

fn makes(step: &Step, link: &str) -> bool {
    matches!(step, Step::Bond { name, .. } | Step::Bridge { name, .. } | Step::Vlan { name, .. } if name == link)
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split([':', '-']).map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok().filter(|mac: &[u8; 6]| mac[0] & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn present(names: &[&str]) -> Vec<Interface> {
        let one = |(at, name): (usize, &&str)| Interface {
            name: (*name).into(),
            mac: format!("52:54:00:00:00:0{at}"),
        };
        names.iter().enumerate().map(one).collect()
    }

    fn network(json: serde_json::Value) -> Network {
        serde_json::from_value(json!({ "interfaces": json })).unwrap()
    }

    #[test]
    fn what_was_made_for_another_configuration_goes_first() {
        let vlan = Step::Vlan { name: "v7".into(), parent: "eth0".into(), id: 7 };
        let up = Step::Up { name: "bond0".into() };
        let steps = instead_of(&["bond0", "v7"], &[vlan.clone(), up.clone()]);
        assert_eq!(steps, [Step::Gone { name: "bond0".into() }, vlan, up]);
        assert_eq!(instead_of(&[], &[]), []);
    }

    #[test]
    fn a_vlan_on_a_bond_in_a_bridge() {
        let network = network(json!({
            "eth*": {"bond": "bond0"},
            "bond0": {"bond_opts": {"mode": "active-backup"}, "vlans": ["7:v7"], "mac": "02:00:00:00:00:01"},
            "v7": {"bridge": "br0"},
            "br0": {"bridge": "true", "address": "10.0.0.1/24", "bridge_opts": {"stp": true}},
        }));
        let (topology, wrong) = topology(&network, &present(&["eth0", "eth1"]));
        assert_eq!(wrong, Vec::<String>::new());
        let shown: Vec<String> = topology
            .steps
            .iter()
            .map(|step| match step {
                Step::Gone { name } => format!("gone {name}"),
                Step::Bond { name, options } => format!("bond {name} {options:?}"),
                Step::Bridge { name, options } => format!("bridge {name} {}", options.stp),
                Step::Vlan { name, parent, id } => format!("vlan {name} {parent} {id}"),
                Step::Join { part, whole, down } => format!("join {part} {whole} {down}"),
                Step::Mac { name, .. } => format!("mac {name}"),
                Step::Up { name } => format!("up {name}"),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "bond bond0 [(\"mode\", \"active-backup\")]",
                "mac bond0",
                "join eth0 bond0 true",
                "join eth1 bond0 true",
                "up bond0",
                "up bond0",
                "vlan v7 bond0 7",
                "bridge br0 true",
                "join v7 br0 false",
                "up v7",
                "up br0",
            ]
        );
        assert_eq!(topology.made, ["bond0", "v7", "br0"]);
        assert_eq!(topology.parts, ["eth0", "eth1", "v7"].map(String::from).into());
    }

    #[test]
    fn what_cannot_be_is_said() {
        let network = network(json!({
            "eth0": {"vlans": "5000,x,7", "mac": "01:00:00:00:00:00"}, "eth1": {"bond": "a name that is long"},
        }));
        let (topology, wrong) = topology(&network, &present(&["eth0", "eth1"]));
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert_eq!(topology.made, ["eth0.7"]);
    }
}

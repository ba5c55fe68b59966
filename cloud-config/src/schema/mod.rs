//! Every key that is read, as data: its type, what it does and when, where it is known from. [`crate::check`] holds
//! documents against it; `docs/cloud-config.md` and the JSON Schema are made from it.

pub mod cloud;
pub mod json;
pub mod network;
pub mod path;
pub mod ros;
pub mod table;

pub use cloud::DOCUMENT;

/// Kind of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any scalar, taken as text.
    Text,
    /// A text that is never shown.
    Secret,
    /// `true`, `false`, `yes`, `no`, `on`, `off`; also quoted.
    Bool,
    /// A whole number.
    Int,
    /// A whole number from the first to the second.
    Range(i64, i64),
    /// A file mode in octal: `'0644'`.
    Mode,
    /// A number of bytes: `512M`, `2G`, `auto`.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A host name (RFC 1123).
    HostName,
    /// An IPv4 or IPv6 address.
    Address,
    /// An address with its prefix length: `192.0.2.5/24`.
    Cidr,
    /// An absolute path.
    Path,
    /// Anything.
    Any,
    /// A list.
    List(&'static Kind),
    /// A list, or one value that stands for a list of one.
    OneOrMany(&'static Kind),
    /// A list of exactly this many values, missing ones at the end being empty.
    Row(usize),
    /// Any keys, values of one kind.
    Map(&'static Kind),
    /// These keys.
    Struct(&'static [Key]),
    /// The first of these that has the value's shape: scalar, list or mapping.
    Either(&'static [Kind]),
    /// A shell line, or a list of words.
    Command,
}

/// What a key does, and when a change of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once: `ros config set` and `ros config apply` do it.
    Now,
    /// When the service that reads it starts again; `ros config apply` restarts it.
    Restart(&'static str),
    /// At the next boot.
    Boot,
    /// Once for each instance.
    Instance,
    /// At the next boot, and only when it is on the kernel command line: files are not known yet when it counts.
    Cmdline,
    /// It is a group of keys that say it themselves.
    Group,
    /// Accepted so that other systems' files can be used, does nothing here: why.
    Nothing(&'static str),
    /// An error: why it cannot be had.
    Refused(&'static str),
}

/// Where a key is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// RancherOS.
    Rancher,
    /// cloud-init.
    CloudInit,
    /// Both.
    Both,
    /// Ours.
    Ours,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub kind: Kind,
    /// Whether a structure without it is wrong.
    pub required: bool,
    /// What it does.
    pub effect: Effect,
    /// Where it is known from.
    pub from: From,
    /// What counts when it is absent, for people.
    pub default: &'static str,
    /// The first release that reads it.
    pub since: &'static str,
    /// What it is for, one sentence.
    pub doc: &'static str,
}

impl Key {
    /// A key; see the fields.
    const fn new(
        name: &'static str,
        kind: Kind,
        effect: Effect,
        from: From,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self { name, kind, required: false, effect, from, default, since: "v1.0", doc }
    }

    /// The same, and a structure without it is wrong.
    const fn needed(self) -> Self {
        Self { required: true, ..self }
    }

    /// The same, but it cannot be had.
    const fn refused(self, why: &'static str) -> Self {
        Self { effect: Effect::Refused(why), ..self }
    }

    /// One that is accepted and does nothing.
    const fn nothing(name: &'static str, from: From, why: &'static str) -> Self {
        Self::new(name, Kind::Any, Effect::Nothing(why), from, "", "")
    }
}

/// A list of texts.
const TEXTS: Kind = Kind::List(&Kind::Text);
/// Texts, or one.
const SOME_TEXTS: Kind = Kind::OneOrMany(&Kind::Text);

impl Kind {
    /// The alternative of an [`Kind::Either`] that a value of this shape is held against; itself otherwise.
    #[must_use]
    pub fn for_shape(self, value: &crate::tree::Value) -> Self {
        match self {
            Self::Either(kinds) => {
                *kinds.iter().find(|kind| kind.takes(value)).or(kinds.first()).unwrap_or(&Self::Any)
            }
            kind => kind,
        }
    }

    fn takes(self, value: &crate::tree::Value) -> bool {
        use crate::tree::Value;
        match self {
            Self::Any => true,
            Self::List(_) | Self::Row(_) => matches!(value, Value::List(_)),
            Self::OneOrMany(_) | Self::Command => !matches!(value, Value::Map(_)),
            Self::Map(_) | Self::Struct(_) => matches!(value, Value::Map(_)),
            Self::Bool => {
                matches!(value, Value::Scalar { text, .. } if crate::check::boolean(text).is_some())
            }
            _ => matches!(value, Value::Scalar { .. }),
        }
    }
}

/// The key named `name` among `keys`; cloud-init's older spelling with `-` is the same as with `_`.
#[must_use]
pub fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    keys.iter().find(|key| key.name == name).or_else(|| {
        keys.iter().find(|key| name.contains('-') && key.name == name.replace('-', "_"))
    })
}

/// The kind at a dotted path; `None` when there is no such key.
#[must_use]
pub fn kind_at(path: &str) -> Option<Kind> {
    at(path).map(|(kind, _)| kind)
}

/// What the key at a dotted path does: the nearest key on the way that says so.
#[must_use]
pub fn effect_at(path: &str) -> Option<Effect> {
    at(path).map(|(_, effect)| effect)
}

fn at(path: &str) -> Option<(Kind, Effect)> {
    let parts = path::split(path)?;
    parts.iter().try_fold((DOCUMENT, Effect::Group), |(kind, effect), part| {
        inside(kind, part).map(|(kind, inner)| (kind, inner.unwrap_or(effect)))
    })
}

fn inside(kind: Kind, part: &str) -> Option<(Kind, Option<Effect>)> {
    match kind {
        Kind::Struct(keys) => {
            let key = find(keys, part)?;
            Some((key.kind, (key.effect != Effect::Group).then_some(key.effect)))
        }
        Kind::Map(inner) | Kind::List(inner) | Kind::OneOrMany(inner) => Some((*inner, None)),
        Kind::Either(kinds) => kinds.iter().find_map(|kind| inside(*kind, part)),
        Kind::Any => Some((Kind::Any, None)),
        Kind::Row(_) | Kind::Command => Some((Kind::Text, None)),
        _ => None,
    }
}

/// Visits every key with its dotted path; members of lists and of free mappings are `[]` and `<name>`.
pub fn walk(visit: &mut impl FnMut(&str, &Key)) {
    walk_kind(DOCUMENT, "", visit);
}

fn walk_kind(kind: Kind, path: &str, visit: &mut impl FnMut(&str, &Key)) {
    match kind {
        Kind::Struct(keys) => {
            for key in keys {
                let here = crate::check::join(path, key.name);
                visit(&here, key);
                walk_kind(key.kind, &here, visit);
            }
        }
        Kind::List(inner) | Kind::OneOrMany(inner) => {
            walk_kind(*inner, &format!("{path}[]"), visit)
        }
        Kind::Map(inner) => walk_kind(*inner, &format!("{path}.<name>"), visit),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| walk_kind(*kind, path, visit)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_ancestor_is_known() {
        let keys = "ssh_authorized_keys write_files hostname mounts runcmd bootcmd rancher.console rancher.environment \
            rancher.services rancher.bootstrap rancher.cloud_init_services rancher.services_include \
            rancher.repositories rancher.system_docker.bip rancher.docker.tls_args rancher.docker.log_opts \
            rancher.bootstrap_docker.graph rancher.registry_auths.h.auth rancher.cloud_init.datasources rancher.debug \
            rancher.log rancher.rm_usr rancher.no_sharedroot rancher.recovery rancher.force_console_rebuild \
            rancher.disable rancher.modules rancher.network.pre_cmds rancher.network.post_cmds \
            rancher.network.dhcp_timeout rancher.network.dns.nameservers rancher.network.dns.search \
            rancher.network.http_proxy rancher.network.https_proxy rancher.network.no_proxy \
            rancher.network.wifi_networks.a.ssid rancher.network.modem_networks.a.apn rancher.ssh.keys \
            rancher.ssh.daemon rancher.ssh.port rancher.ssh.listen_address rancher.state.dev rancher.state.fstype \
            rancher.state.wait rancher.state.required rancher.state.autoformat rancher.state.directory \
            rancher.state.mdadm_scan rancher.state.lvm_scan rancher.state.cryptsetup rancher.state.script \
            rancher.state.rngd rancher.state.oem_fstype rancher.state.oem_dev rancher.state.boot_fstype \
            rancher.state.boot_dev rancher.upgrade.url rancher.upgrade.image rancher.upgrade.rollback \
            rancher.upgrade.policy rancher.defaults.hostname rancher.defaults.docker rancher.defaults.network \
            rancher.defaults.system_docker_logs rancher.resize_device rancher.sysctl rancher.restart_services \
            rancher.hypervisor_service rancher.shutdown_timeout rancher.http_load_retries rancher.preload_wait \
            rancher.password rancher.autologin";
        for key in keys.split_whitespace() {
            assert!(kind_at(key).is_some(), "{key}");
        }
        for key in "match dhcp dhcp_args address addresses ipv4ll gateway gateway_ipv6 mtu bridge bond bond_opts \
            vlans pre_up post_up wifi_network"
            .split_whitespace()
        {
            assert!(kind_at(&format!("ros.network.interfaces.eth0.{key}")).is_some(), "{key}");
        }
    }

    #[test]
    fn names_are_unique_and_every_key_says_what_it_is() {
        let mut seen = std::collections::BTreeSet::new();
        walk(&mut |path, key| {
            assert!(seen.insert(path.to_owned()), "{path} twice");
            let told = !key.doc.is_empty()
                || matches!(key.effect, Effect::Nothing(why) | Effect::Refused(why) if !why.is_empty());
            assert!(told, "{path} does not say what it is for");
        });
        assert!(seen.len() > 300, "{}", seen.len());
    }

    #[test]
    fn an_effect_is_inherited() {
        assert_eq!(effect_at("ros.network.dns.search"), Some(Effect::Restart("network")));
        assert_eq!(effect_at("hostname"), Some(Effect::Now));
        assert!(matches!(effect_at("packages"), Some(Effect::Nothing(_))));
        assert_eq!(effect_at("hostnam"), None);
    }
}

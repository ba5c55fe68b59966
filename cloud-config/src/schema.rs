//! Every key that is read, as data: what kind of value it has. [`crate::check`] holds documents against it.

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
    /// A file mode in octal: `'0644'`.
    Mode,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A host name (RFC 1123).
    HostName,
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
    /// A boolean, or a list of texts.
    BoolOrList,
    /// A shell line, or a list of words.
    Command,
    /// Read elsewhere, without effect in ros: accepted with a warning that says so.
    Ignored,
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
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: false }
}

const fn needed(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: true }
}

const TEXTS: Kind = Kind::List(&Kind::Text);
const ENCODINGS: &[&str] = &[
    "",
    "text/plain",
    "b64",
    "base64",
    "gz",
    "gzip",
    "gz+b64",
    "gz+base64",
    "gzip+b64",
    "gzip+base64",
];

/// A whole document.
pub const DOCUMENT: Kind = Kind::Struct(&[
    key("hostname", Kind::HostName),
    key("ssh_authorized_keys", Kind::OneOrMany(&Kind::Text)),
    key("write_files", Kind::List(&WRITE_FILE)),
    key("runcmd", Kind::List(&Kind::Command)),
    key("bootcmd", Kind::List(&Kind::Command)),
    key("mounts", Kind::List(&Kind::Row(4))),
    key("ros", ROS),
    key("users", Kind::Ignored),
    key("groups", Kind::Ignored),
    key("packages", Kind::Ignored),
    key("package_update", Kind::Ignored),
    key("package_upgrade", Kind::Ignored),
    key("chpasswd", Kind::Ignored),
    key("ssh_pwauth", Kind::Ignored),
    key("password", Kind::Ignored),
    key("timezone", Kind::Ignored),
    key("ntp", Kind::Ignored),
    key("locale", Kind::Ignored),
    key("growpart", Kind::Ignored),
    key("resize_rootfs", Kind::Ignored),
    key("disk_setup", Kind::Ignored),
    key("fs_setup", Kind::Ignored),
    key("swap", Kind::Ignored),
    key("power_state", Kind::Ignored),
    key("final_message", Kind::Ignored),
    key("ca_certs", Kind::Ignored),
    key("phone_home", Kind::Ignored),
    key("fqdn", Kind::Ignored),
    key("manage_etc_hosts", Kind::Ignored),
    key("preserve_hostname", Kind::Ignored),
    key("disable_root", Kind::Ignored),
]);

const WRITE_FILE: Kind = Kind::Struct(&[
    needed("path", Kind::Text),
    key("content", Kind::Text),
    key("encoding", Kind::Word(ENCODINGS)),
    key("owner", Kind::Text),
    key("permissions", Kind::Mode),
    key("append", Kind::Bool),
    key("container", Kind::Text),
    key("defer", Kind::Bool),
]);

const ROS: Kind = Kind::Struct(&[
    key("network", NETWORK),
    key("services", Kind::Map(&Kind::Any)),
    key("services_include", Kind::Map(&Kind::Bool)),
    key("sysctl", Kind::Map(&Kind::Text)),
    key("modules", TEXTS),
    key("upgrade", UPGRADE),
    key("registries", Kind::Map(&REGISTRY)),
    key("registry_auths", Kind::Map(&REGISTRY_AUTH)),
    key("state", STATE),
    key("ssh", SSH),
    key("console", Kind::Text),
    key("user", Kind::Word(&["ros", "root"])),
    key("environment", Kind::Map(&Kind::Text)),
    key("debug", Kind::Bool),
    key("autologin", Kind::OneOrMany(&Kind::Text)),
    key("password", Kind::Secret),
    key("cloud_init", Kind::Struct(&[key("datasources", TEXTS)])),
    key("defaults", Kind::Struct(&[key("hostname", Kind::HostName)])),
    key("shutdown_timeout", Kind::Int),
    key("recovery", Kind::Bool),
    key("generation", Kind::Int),
    key("watchdog", Kind::Int),
    key("on_failure", Kind::Word(&["shell", "reboot"])),
]);

const NETWORK: Kind = Kind::Struct(&[
    key("interfaces", Kind::Map(&INTERFACE)),
    key("dns", Kind::Struct(&[key("nameservers", TEXTS), key("search", TEXTS)])),
    key("dhcp_timeout", Kind::Int),
    key("http_proxy", Kind::Text),
    key("https_proxy", Kind::Text),
    key("no_proxy", Kind::Text),
]);

const INTERFACE: Kind = Kind::Struct(&[
    key("match", Kind::Text),
    key("dhcp", Kind::Bool),
    key("dhcp6", Kind::Bool),
    key("address", Kind::Text),
    key("addresses", TEXTS),
    key("gateway", Kind::Text),
    key("gateway_ipv6", Kind::Text),
    key("mtu", Kind::Int),
]);

const UPGRADE: Kind = Kind::Struct(&[
    key("repository", Kind::Text),
    key("image", Kind::Text),
    key("url", Kind::Text),
    key("policy", Kind::Word(&["none", "check", "stage", "auto"])),
    key("health", TEXTS),
]);

const REGISTRY: Kind = Kind::Struct(&[
    key("mirrors", TEXTS),
    key("plain_http", Kind::Bool),
    key("username", Kind::Text),
    key("password", Kind::Secret),
    key("ca", Kind::Text),
]);

const REGISTRY_AUTH: Kind = Kind::Struct(&[
    key("auth", Kind::Secret),
    key("username", Kind::Text),
    key("password", Kind::Secret),
]);

const STATE: Kind = Kind::Struct(&[
    key("dev", Kind::Text),
    key("fstype", Kind::Text),
    key("wait", Kind::Any),
    key("required", Kind::Bool),
    key("autoformat", Kind::BoolOrList),
]);

const SSH: Kind = Kind::Struct(&[
    key("daemon", Kind::Bool),
    key("port", Kind::Int),
    key("listen_address", Kind::Text),
]);

/// The kind at a dotted path; `None` when there is no such key.
#[must_use]
pub fn kind_at(path: &str) -> Option<Kind> {
    path.split('.').try_fold(DOCUMENT, |kind, part| match kind {
        Kind::Struct(keys) => {
            let name = if part == "rancher" { "ros" } else { part };
            keys.iter().find(|key| key.name == name).map(|key| key.kind)
        }
        Kind::Map(inner) | Kind::List(inner) | Kind::OneOrMany(inner) => Some(*inner),
        Kind::Any => Some(Kind::Any),
        _ => None,
    })
}

//! Top-level keys: those of cloud-init (its module reference, release 25) and of RancherOS.

use super::Effect::{Boot, Group, Instance, Nothing, Now, Restart};
use super::From::{Both, CloudInit, Rancher};
use super::Kind::{
    Any, Bool, Command, Either, HostName, Int, List, Map, Mode, OneOrMany, Path, Range, Row,
    Secret, Size, Struct, Text, Word,
};
use super::network::NETPLAN;
use super::ros::ROS;
use super::{Key, Kind, SOME_TEXTS, TEXTS};

const CONSOLE: super::Effect = Restart("console");
const NO_PACKAGES: &str =
    "ros has no package manager: what is to run is a service image (ros.services)";
const NOT_HERE: &str = "it configures a program that is not part of ros";
const CLOUD_INIT_ITSELF: &str = "it configures cloud-init itself, which ros does not run";

/// Words of `write_files.encoding`.
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

const fn c(
    name: &'static str,
    kind: Kind,
    effect: super::Effect,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key::new(name, kind, effect, CloudInit, default, doc)
}

const fn none(name: &'static str, why: &'static str) -> Key {
    Key::nothing(name, CloudInit, why)
}

/// A whole document.
pub const DOCUMENT: Kind = Struct(&[
    Key::new(
        "hostname",
        HostName,
        Now,
        Both,
        "from the datasource, else `ros`",
        "Name of the machine.",
    ),
    c(
        "fqdn",
        HostName,
        Now,
        "",
        "Full name of the machine; its first label is the host name when `hostname` is absent.",
    ),
    c(
        "prefer_fqdn_over_hostname",
        Bool,
        Now,
        "false",
        "Take the name from `fqdn` even when `hostname` is there.",
    ),
    Key::new(
        "ssh_authorized_keys",
        OneOrMany(&Text),
        CONSOLE,
        Both,
        "",
        "Public keys that may log in as the machine's user; lists of several layers add up.",
    ),
    Key::new(
        "write_files",
        List(&WRITE_FILE),
        Instance,
        Both,
        "",
        "Files to write, once for each instance and console.",
    ),
    Key::new(
        "runcmd",
        List(&Command),
        Instance,
        Both,
        "",
        "Commands for the first boot of an instance, once the console is up.",
    ),
    Key::new(
        "bootcmd",
        List(&Command),
        Boot,
        Both,
        "",
        "Commands for every boot, before services.",
    ),
    Key::new(
        "mounts",
        List(&Row(6)),
        Now,
        Both,
        "",
        "File systems and swap, each `[what, where, type, options]`; `what` may be `LABEL=`, `UUID=`, a folder (option `bind`) or `host:/path` (NFS: when the network is there, tried until its server is too).",
    ),
    Key::new(
        "ros",
        ROS,
        Group,
        super::From::Ours,
        "",
        "What only ros knows; RancherOS's `rancher` is read as the same.",
    ),
    c(
        "mount_default_fields",
        Row(6),
        Now,
        "[~, ~, auto, 'defaults,nofail']",
        "What stands in for fields that a row of `mounts` leaves out.",
    ),
    c("swap", SWAP, Boot, "", "A swap file."),
    c(
        "users",
        Either(&[List(&Either(&[USER, Text])), Text]),
        CONSOLE,
        "[default]",
        "Users of the console; `default` is the machine's own user.",
    ),
    c(
        "groups",
        Either(&[List(&Either(&[Map(&SOME_TEXTS), Text])), Map(&SOME_TEXTS), Text]),
        CONSOLE,
        "",
        "Groups of the console, each a name, or a name with its members.",
    ),
    c(
        "user",
        Either(&[USER, Text]),
        Nothing("the machine's own user is `ros` or `root`: see ros.user"),
        "",
        "",
    ),
    c(
        "password",
        Secret,
        CONSOLE,
        "",
        "Password of the machine's user, plain or hashed; sshd takes it only with `ssh_pwauth`.",
    ),
    c("chpasswd", CHPASSWD, CONSOLE, "", "Passwords of the console's users."),
    c("ssh_pwauth", Bool, CONSOLE, "false", "Whether sshd takes passwords."),
    c("ssh_keys", SSH_KEYS, CONSOLE, "", "The machine's own host keys."),
    c(
        "disable_root",
        Bool,
        Nothing("root logs in only when ros.user is root, and then by key"),
        "",
        "",
    ),
    c(
        "disable_root_opts",
        Text,
        Nothing("root logs in only when ros.user is root, and then by key"),
        "",
        "",
    ),
    none("ssh_deletekeys", "host keys are made once for each machine and kept"),
    none("ssh_genkeytypes", "ed25519 and ecdsa keys are made"),
    none("ssh_import_id", "keys are not fetched from somewhere else: use ssh_authorized_keys"),
    none("ssh_publish_hostkeys", CLOUD_INIT_ITSELF),
    none("ssh_quiet_keygen", CLOUD_INIT_ITSELF),
    none("ssh_fp_console_blacklist", CLOUD_INIT_ITSELF),
    none("ssh_key_console_blacklist", CLOUD_INIT_ITSELF),
    none("ssh", CLOUD_INIT_ITSELF),
    none("no_ssh_fingerprints", CLOUD_INIT_ITSELF),
    none("authkey_hash", CLOUD_INIT_ITSELF),
    none("allow_public_ssh_keys", "the datasource's keys are always taken"),
    c(
        "timezone",
        Text,
        CONSOLE,
        "UTC",
        "Zone of the console, such as `Europe/Zurich`; the system's services keep UTC.",
    ),
    c("locale", Text, Nothing("the console speaks C.UTF-8: it has no other locale"), "", ""),
    none("locale_configfile", "the console speaks C.UTF-8: it has no other locale"),
    none("keyboard", "the kernel's own keyboard layout is used"),
    c(
        "ntp",
        Either(&[NTP, Bool]),
        Restart("ntp"),
        "pool.ntp.org",
        "Time servers; they are preferred to the image's own pool.",
    ),
    c("ca_certs", CA_CERTS, CONSOLE, "", "Certificates that the console trusts."),
    c("growpart", Any, Nothing("STATE always grows to its disk"), "", ""),
    c("resize_rootfs", Either(&[Bool, Text]), Nothing("STATE always grows to its disk"), "", ""),
    c(
        "disk_setup",
        Map(&DISK_SETUP),
        Boot,
        "",
        "Disks to partition, by their device; one with anything on it is left as it is.",
    ),
    c(
        "fs_setup",
        List(&FS_SETUP),
        Boot,
        "",
        "File systems to make, before `mounts`; a device that has one is left as it is.",
    ),
    c(
        "device_aliases",
        Map(&Path),
        Boot,
        "",
        "Further names of disks, for disk_setup, fs_setup and mounts; `name.1` is a partition.",
    ),
    c(
        "power_state",
        POWER_STATE,
        Instance,
        "",
        "Reboots or switches off when the first boot of an instance is done.",
    ),
    c(
        "final_message",
        Text,
        Boot,
        "",
        "Said on the console when the boot is done; `$UPTIME`, `$TIMESTAMP`, `$VERSION` and `$DATASOURCE` are filled in.",
    ),
    c("phone_home", PHONE_HOME, Instance, "", "Tells a URL that an instance came up."),
    c("random_seed", RANDOM_SEED, Boot, "", "Stirs bytes into the kernel's random numbers."),
    c(
        "manage_resolv_conf",
        Bool,
        Restart("network"),
        "true when `resolv_conf` is there",
        "Whether `resolv_conf` counts.",
    ),
    c(
        "resolv_conf",
        RESOLV_CONF,
        Restart("network"),
        "",
        "Name servers and search domains; ros.network.dns beats it.",
    ),
    c(
        "network",
        NETPLAN,
        Restart("network"),
        "",
        "cloud-init's own network document, version 1 or 2; ros.network beats it.",
    ),
    none("manage_etc_hosts", "ros keeps its own line of /etc/hosts and leaves the others"),
    none("preserve_hostname", "the configuration names the machine at every boot"),
    none("create_hostname_file", "/etc/hostname is always written"),
    none("packages", NO_PACKAGES),
    none("package_update", NO_PACKAGES),
    none("package_upgrade", NO_PACKAGES),
    none("package_reboot_if_required", NO_PACKAGES),
    none("apt", NO_PACKAGES),
    none("apt_update", NO_PACKAGES),
    none("apt_upgrade", NO_PACKAGES),
    none("apt_pipelining", NO_PACKAGES),
    none("apt_mirror", NO_PACKAGES),
    none("apt_sources", NO_PACKAGES),
    none("apt_preserve_sources_list", NO_PACKAGES),
    none("apk_repos", NO_PACKAGES),
    none("yum_repos", NO_PACKAGES),
    none("yum_repo_dir", NO_PACKAGES),
    none("zypper", NO_PACKAGES),
    none("snap", NO_PACKAGES),
    none("rh_subscription", NO_PACKAGES),
    none("ubuntu_advantage", NO_PACKAGES),
    none("ubuntu_pro", NO_PACKAGES),
    none("drivers", "modules are part of the release; ros.modules loads them"),
    none("landscape", NOT_HERE),
    none("byobu_by_default", NOT_HERE),
    none("chef", NOT_HERE),
    none("puppet", NOT_HERE),
    none("salt_minion", NOT_HERE),
    none("mcollective", NOT_HERE),
    none("ansible", NOT_HERE),
    none("lxd", NOT_HERE),
    none("fan", NOT_HERE),
    none("spacewalk", NOT_HERE),
    none("rsyslog", "the syslog service has its own configuration: ros.services.syslog"),
    none("grub_dpkg", NOT_HERE),
    none("wireguard", NOT_HERE),
    none("rpi", NOT_HERE),
    none("autoinstall", "it is for Ubuntu's installer: see `ros install`"),
    none("updates", CLOUD_INIT_ITSELF),
    none("output", "runcmd talks to /var/log/cloud-init-output.log of the console"),
    none("reporting", CLOUD_INIT_ITSELF),
    none("merge_how", "parts merge as layers do: maps merge, lists replace, ssh keys add up"),
    none("merge_type", "parts merge as layers do: maps merge, lists replace, ssh keys add up"),
    none("vendor_data", CLOUD_INIT_ITSELF),
    none("system_info", CLOUD_INIT_ITSELF),
    none("datasource", "datasources are named by ros.cloud_init.datasources"),
    none("datasource_list", "datasources are named by ros.cloud_init.datasources"),
    none("cloud_init_modules", CLOUD_INIT_ITSELF),
    none("cloud_config_modules", CLOUD_INIT_ITSELF),
    none("cloud_final_modules", CLOUD_INIT_ITSELF),
    none("unverified_modules", CLOUD_INIT_ITSELF),
    none("def_log_file", CLOUD_INIT_ITSELF),
    none("syslog_fix_perms", CLOUD_INIT_ITSELF),
    none("log_cfgs", CLOUD_INIT_ITSELF),
    none("launch_index", CLOUD_INIT_ITSELF),
    none("disable_ec2_metadata", "the metadata address stays reachable: block it with a firewall"),
    none("migrate", CLOUD_INIT_ITSELF),
    none("bootcmd_timeout", "each command of bootcmd may take two minutes"),
]);

const WRITE_FILE: Kind = Struct(&[
    Key::new("path", Path, Group, Both, "", "Where.").needed(),
    Key::new("content", Text, Group, Both, "empty", "What."),
    Key::new("encoding", Word(ENCODINGS), Group, Both, "text/plain", "How `content` is written."),
    Key::new("owner", Text, Group, Both, "root:root", "`user[:group]`, names or numbers."),
    Key::new("permissions", Mode, Group, Both, "0644", "File mode in octal."),
    c("append", Bool, Group, "false", "Add to the file."),
    c("defer", Bool, Group, "false", "Write it after users are made; otherwise before."),
    Key::new(
        "container",
        Text,
        Group,
        Rancher,
        "console",
        "Service whose container receives the file; only the console does.",
    ),
    c("source", Any, Nothing("files are not fetched: give `content`"), "", ""),
]);

const SWAP: Kind = Struct(&[
    c("filename", Path, Group, "/var/swap.img", "Where it is; only below /var it is kept."),
    c("size", Size, Group, "0: none", "Bytes, or `auto`: as much as there is memory."),
    c("maxsize", Size, Group, "", "Most that `auto` takes."),
]);

const USER: Kind = Struct(&[
    c("name", Text, Group, "", "Login name.").needed(),
    c("gecos", Text, Group, "the name", "Real name."),
    c("homedir", Path, Group, "/home/<name>", "Home folder."),
    c("uid", Range(1, 65_533), Group, "the next free from 1001", "User number."),
    c("primary_group", Text, Group, "one named like the user", "The user's first group."),
    c(
        "groups",
        Either(&[List(&Text), Text]),
        Group,
        "",
        "Further groups, a list or separated by commas.",
    ),
    c("shell", Path, Group, "/bin/bash", "Login shell."),
    c(
        "sudo",
        Either(&[List(&Text), Bool, Text]),
        Group,
        "none",
        "Rules of sudoers(5) without the name.",
    ),
    c("doas", Any, Nothing("there is sudo"), "", ""),
    c("lock_passwd", Bool, Group, "true", "No password lets the user in."),
    c("passwd", Secret, Group, "", "Hashed password, as crypt(5) has it."),
    c("hashed_passwd", Secret, Group, "", "The same; it also replaces a password that is there."),
    c("plain_text_passwd", Secret, Group, "", "A password."),
    c("ssh_authorized_keys", OneOrMany(&Text), Group, "", "Public keys that may log in."),
    c("ssh_import_id", Any, Nothing("keys are not fetched from somewhere else"), "", ""),
    c("ssh_redirect_user", Any, Nothing("there is no default user to send to"), "", ""),
    c("no_create_home", Bool, Group, "false", "Make no home folder."),
    c("system", Bool, Group, "false", "A user for a program: no home folder, number below 1000."),
    c("no_user_group", Any, Nothing("every user has a group"), "", ""),
    c("no_log_init", Any, Nothing("there is no log of logins by user number"), "", ""),
    c("selinux_user", Any, Nothing("there is no SELinux policy"), "", ""),
    c("snapuser", Any, Nothing("there is no snap"), "", ""),
    c("inactive", Either(&[Int, Text]), Nothing("passwords do not expire"), "", ""),
    c("expiredate", Text, Group, "never", "Day from which the account is closed: `2030-12-31`."),
]);

const CHPASSWD: Kind = Struct(&[
    c("expire", Bool, Group, "false", "Ask for a new password at the first login."),
    c("users", List(&PASSWORD), Group, "", "Users and passwords."),
    c(
        "list",
        Either(&[List(&Secret), Secret]),
        Group,
        "",
        "The older form: lines `name:password`.",
    ),
]);

const PASSWORD: Kind = Struct(&[
    c("name", Text, Group, "", "Login name.").needed(),
    c("password", Secret, Group, "", "Password, or its hash."),
    c(
        "type",
        Word(&["hash", "text", "RANDOM"]),
        Group,
        "hash",
        "What `password` is; `RANDOM` locks the password: it would have to be shown.",
    ),
]);

const SSH_KEYS: Kind = Struct(&[
    c("rsa_private", Secret, Group, "", "Private key, PEM."),
    c("rsa_public", Text, Group, "", "Public key."),
    c("rsa_certificate", Text, Group, "", "Host certificate."),
    c("ecdsa_private", Secret, Group, "", "Private key, PEM."),
    c("ecdsa_public", Text, Group, "", "Public key."),
    c("ecdsa_certificate", Text, Group, "", "Host certificate."),
    c("ed25519_private", Secret, Group, "", "Private key, PEM."),
    c("ed25519_public", Text, Group, "", "Public key."),
    c("ed25519_certificate", Text, Group, "", "Host certificate."),
]);

const NTP: Kind = Struct(&[
    c("enabled", Bool, Group, "true", "Whether the clock is set by others' clocks."),
    c("servers", TEXTS, Group, "", "Servers to ask."),
    c("pools", TEXTS, Group, "pool.ntp.org", "Names with many servers."),
    c("peers", TEXTS, Group, "", "Machines that keep each other's time."),
    c("allow", Any, Nothing("the clock is not served to others"), "", ""),
    c("ntp_client", Text, Nothing("it is chrony"), "", ""),
    c("config", Any, Nothing("chrony's configuration is made from the other keys"), "", ""),
]);

const CA_CERTS: Kind = Struct(&[
    c("trusted", OneOrMany(&Text), Group, "", "Certificates, PEM."),
    c("remove_defaults", Bool, Group, "false", "Trust no others."),
]);

const DISK_SETUP: Kind = Struct(&[
    c(
        "table_type",
        Word(&["gpt", "mbr"]),
        Group,
        "gpt",
        "Kind of partition table; ros makes gpt either way.",
    ),
    c(
        "layout",
        Either(&[Bool, List(&Any), Text]),
        Group,
        "false",
        "`true`: one partition; a list: shares of the disk in percent, each a number or `[share, type]`; `false`: nothing.",
    ),
    c(
        "overwrite",
        Bool,
        Group,
        "false",
        "Once for each instance, even when there is something on it; never when it is in use.",
    ),
]);

const FS_SETUP: Kind = Struct(&[
    c("label", Text, Group, "", "Label of the file system."),
    c("filesystem", Word(&["ext2", "ext3", "ext4", "swap", "vfat"]), Group, "", "Its kind.")
        .needed(),
    c("device", Text, Group, "", "The device, or an alias; `alias.1` is a partition.").needed(),
    c(
        "partition",
        Either(&[Int, Text]),
        Group,
        "",
        "Which partition of it; `none`: the whole device; `auto`: one that has this file system already, or the device.",
    ),
    c(
        "overwrite",
        Bool,
        Group,
        "false",
        "Once for each instance, even when there is something on it; never when it is in use.",
    ),
    c("replace_fs", Any, Nothing("overwrite says it"), "", ""),
    c("extra_opts", SOME_TEXTS, Group, "", "Further arguments of mkfs."),
    c("cmd", Any, Nothing("the program is chosen by `filesystem`"), "", ""),
]);

const POWER_STATE: Kind = Struct(&[
    c("mode", Word(&["poweroff", "reboot", "halt"]), Group, "", "What.").needed(),
    c("delay", Text, Group, "now", "Minutes to wait: `+5`."),
    c("message", Text, Group, "", "Said on the console."),
    none("timeout", "it comes when runcmd has ended, however long that takes"),
    c(
        "condition",
        Either(&[Bool, List(&Text), Text]),
        Group,
        "true",
        "Only when true, or when this command succeeds.",
    ),
]);

const PHONE_HOME: Kind = Struct(&[
    c("url", Text, Group, "", "Where; `$INSTANCE_ID` is filled in.").needed(),
    c("post", Either(&[List(&Word(PHONE)), Word(&["all"])]), Group, "all", "What is told."),
    c("tries", Range(1, 100), Group, "10", "How often it is tried."),
]);

const PHONE: &[&str] =
    &["pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn"];

const RANDOM_SEED: Kind = Struct(&[
    c("data", Secret, Group, "", "The bytes."),
    c(
        "encoding",
        Word(&["raw", "base64", "b64", "gzip", "gz"]),
        Group,
        "raw",
        "How `data` is written.",
    ),
    c("file", Any, Nothing("it is always the kernel's own pool"), "", ""),
    c("command", Any, Nothing("the kernel gathers its own"), "", ""),
    c("command_required", Any, Nothing("the kernel gathers its own"), "", ""),
]);

const RESOLV_CONF: Kind = Struct(&[
    c("nameservers", List(&Kind::Address), Group, "", "Name servers."),
    c("searchdomains", TEXTS, Group, "", "Domains tried for a short name."),
    c("domain", Text, Group, "", "The machine's own domain, tried first."),
    c("sortlist", Any, Nothing("resolvers no longer read it"), "", ""),
    c("options", Any, Nothing("resolvers' own defaults are used"), "", ""),
]);

//! Keys under `ros:` (or `rancher:`).

use super::Effect::{self, Cmdline, Group, Nothing, Now, Restart};
use super::From::{Both, Ours, Rancher};
use super::Kind::{
    Any, Bool, Either, HostName, Int, List, Map, OneOrMany, Range, Secret, Struct, Text, Word,
};
use super::network::NETWORK;
use super::{Key, Kind, TEXTS};

const CONSOLE: Effect = Restart("console");
const ONE_INIT: &str = "there is one set of services, without stages before it";
const DOCKER: Effect = Restart("docker");
const OTHER_IMAGE: &str =
    "another engine is another image of the service: ros.services.docker.image";
const OWN_PATHS: &str = "the service keeps to its own paths and sockets";
const DAEMON: &str = "system-docker keeps to its own paths and sockets; mirrors and plain HTTP are in ros.registries";
const OWN_ROOT: &str = "the console has its own root file system and nothing of it is shared";
const NO_SCAN: &str = "STATE lies on a plain partition";
const PARTITIONS: &str = "partitions are found by their labels ROS_BOOT and ROS_STATE";

/// Known to RancherOS and read here too.
const fn r(
    name: &'static str,
    kind: Kind,
    effect: Effect,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key::new(name, kind, effect, Rancher, default, doc)
}

/// Ours alone.
const fn o(
    name: &'static str,
    kind: Kind,
    effect: Effect,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key::new(name, kind, effect, Ours, default, doc)
}

const fn none(name: &'static str, kind: Kind, why: &'static str) -> Key {
    Key::new(name, kind, Nothing(why), Rancher, "", "")
}

/// Everything under `ros:`.
pub const ROS: Kind = Struct(&[
    r("network", NETWORK, Restart("network"), "", "The network."),
    r(
        "services",
        Map(&Any),
        Effect::Boot,
        "",
        "Service name to changes of its definition, or a whole one in Compose's words.",
    ),
    r(
        "services_include",
        Map(&Bool),
        Effect::Boot,
        "",
        "Service name to whether it runs. An optional part of the release that is named here is fetched once all else runs.",
    ),
    none("bootstrap", Map(&Any), ONE_INIT),
    none("cloud_init_services", Map(&Any), ONE_INIT),
    none("repositories", Map(&Any), "services are images: name one in ros.services"),
    r("sysctl", Map(&Text), Now, "", "Kernel settings, as sysctl(8) names them."),
    r("modules", TEXTS, Now, "", "Kernel modules, each with its options after it."),
    r("upgrade", UPGRADE, Now, "", "Where releases come from."),
    o("registries", Map(&REGISTRY), Now, "", "Registry host to how it is reached."),
    r(
        "registry_auths",
        Map(&REGISTRY_AUTH),
        Now,
        "",
        "Registry host to credentials, as Docker has them.",
    ),
    r("state", STATE, Cmdline, "", "The STATE partition."),
    r("ssh", SSH, CONSOLE, "", "sshd."),
    none(
        "console",
        Text,
        "there is one console: another image of it is named by ros.services.console.image",
    ),
    o("user", Word(&["ros", "root"]), CONSOLE, "ros", "The machine's own user."),
    r("environment", Map(&Text), CONSOLE, "", "Environment of logins."),
    r("debug", Bool, Cmdline, "false", "Say more while booting."),
    r("autologin", OneOrMany(&Text), CONSOLE, "", "Terminals where nobody is asked who they are."),
    r(
        "password",
        Secret,
        CONSOLE,
        "",
        "Password of the machine's user for its terminals, plain or hashed.",
    ),
    r(
        "disable",
        List(&Word(&["password", "autologin"])),
        CONSOLE,
        "",
        "Ways to log in that are not taken, whatever else is configured.",
    ),
    r("cloud_init", CLOUD_INIT, Group, "", "Where instance data comes from."),
    r("defaults", DEFAULTS, Group, "", "What counts when nothing else says it."),
    none("shutdown_timeout", Int, "every service's own stop_grace_period counts"),
    r("recovery", Bool, Cmdline, "false", "A shell instead of the system."),
    o("generation", Int, Cmdline, "", "Generation to boot, set by the boot loader."),
    o(
        "watchdog",
        Int,
        Cmdline,
        "60",
        "Seconds until the hardware watchdog resets the machine; 0 is off.",
    ),
    o(
        "on_failure",
        Word(&["shell", "reboot"]),
        Cmdline,
        "shell",
        "What to do when the machine cannot boot.",
    ),
    r("resize_device", Text, Nothing("STATE always grows to its disk"), "", ""),
    none("restart_services", TEXTS, "`ros config apply` restarts what a change concerns"),
    none("hypervisor_service", Bool, "guest tools are services of their own: ros.services"),
    none("http_load_retries", Int, "services are not loaded over HTTP"),
    none("preload_wait", Bool, "nothing is loaded at boot: all is on the disk"),
    none("log", Bool, "services' logs are in `ros service logs`"),
    none("rm_usr", Bool, OWN_ROOT),
    none("no_sharedroot", Bool, OWN_ROOT),
    none(
        "force_console_rebuild",
        Bool,
        "`ros service` makes a container anew when its definition changes",
    ),
    r("docker", USERS_ENGINE, Group, "", "The user's engine (`ros service enable docker`)."),
    Key::new("system_docker", ENGINE, Nothing(DAEMON), Both, "", ""),
    Key::new("bootstrap_docker", ENGINE, Nothing(ONE_INIT), Both, "", ""),
]);

const UPGRADE: Kind = Struct(&[
    o(
        "repository",
        Text,
        Group,
        "",
        "Repository of `os:<tag>` images, such as `registry:5000/os`.",
    ),
    r("image", Text, Group, "", "RancherOS's name for `repository`."),
    r("url", Text, Group, "", "A releases file (`current:`, `available:`): URL or path."),
    r(
        "policy",
        Word(&["none", "check", "stage", "auto", "download", "apply"]),
        CONSOLE,
        "none",
        "What the machine does about newer releases by itself: say it, install it, go to it (`download`: stage, `apply`: auto).",
    ),
    o(
        "channel",
        Text,
        Group,
        "all but pre-releases",
        "Pattern of the tags that it takes by itself, such as `v1.*`.",
    ),
    o("every", Text, CONSOLE, "6h", "How often it looks."),
    o(
        "jitter",
        Text,
        Group,
        "30m",
        "How much later at most, so that many machines do not come at once.",
    ),
    o(
        "window",
        OneOrMany(&Text),
        Group,
        "any time",
        "When it may install by itself, in UTC: `sat,sun 02:00-04:00`.",
    ),
    o(
        "metered",
        OneOrMany(&Text),
        Group,
        "",
        "Interfaces, by name or glob, whose bytes cost: nothing is fetched by itself over them.",
    ),
    o(
        "health",
        TEXTS,
        Group,
        "",
        "What held before a change of the OS must hold after it: command lines, or addresses that must answer.",
    ),
    o(
        "signatures",
        Map(&SIGNATURES),
        Group,
        "",
        "Repository, folder of repositories, registry or `default` to whose signatures count there; the closest name counts.",
    ),
    o(
        "kexec",
        Bool,
        Group,
        "false",
        "A boot that a change of the OS needs is done without firmware and boot loader, when the kernel can.",
    ),
    r("rollback", Text, Nothing("the generation before is always kept: `ros os rollback`"), "", ""),
]);

const SIGNATURES: Kind = Struct(&[
    o(
        "policy",
        Word(&["required", "warn", "off"]),
        Group,
        "required",
        "What becomes of a release without a valid signature: refused, said, or nothing.",
    ),
    o(
        "keys",
        TEXTS,
        Group,
        "",
        "Public keys (ECDSA P-256), PEM or paths of files with them; one signature by any of them will do.",
    ),
    o(
        "signed_as",
        Text,
        Group,
        "the repository itself",
        "The repository that signatures name, when releases come from a copy of it.",
    ),
]);

const REGISTRY: Kind = Struct(&[
    o("mirrors", TEXTS, Group, "", "Tried first, in order."),
    o("plain_http", Bool, Group, "false", "HTTP without TLS."),
    o("username", Text, Group, "", "User."),
    o("password", Secret, Group, "", "Password."),
    o("ca", Text, Group, "", "Certificates to trust, PEM or the path of a file with them."),
]);

const REGISTRY_AUTH: Kind = Struct(&[
    r("auth", Secret, Group, "", "Base64 of `user:password`."),
    r("username", Text, Group, "", "User."),
    r("password", Secret, Group, "", "Password."),
    r("email", Text, Nothing("registries no longer ask for it"), "", ""),
]);

const STATE: Kind = Struct(&[
    r(
        "dev",
        Text,
        Group,
        "LABEL=ROS_STATE",
        "`LABEL=`, `UUID=`, a device, or `none`: everything in RAM.",
    ),
    r(
        "wait",
        Either(&[Bool, Int]),
        Group,
        "",
        "Seconds to wait for the device; `true`: as many as usual, `false`: none.",
    ),
    r("required", Bool, Group, "false", "A machine without it does not boot."),
    r(
        "autoformat",
        Either(&[Bool, List(&Text)]),
        Group,
        "false",
        "Format an empty disk: any, or one of these.",
    ),
    none("fstype", Text, "it is ext4"),
    none("directory", Text, "STATE is its own partition"),
    none("mdadm_scan", Bool, NO_SCAN),
    none("lvm_scan", Bool, NO_SCAN),
    none("cryptsetup", Bool, NO_SCAN),
    none("script", Text, "bootcmd runs before services"),
    none("rngd", Bool, "the kernel gathers its own random numbers"),
    none("oem_fstype", Text, PARTITIONS),
    none("oem_dev", Text, PARTITIONS),
    none("boot_fstype", Text, PARTITIONS),
    none("boot_dev", Text, PARTITIONS),
]);

const SSH: Kind = Struct(&[
    r("daemon", Bool, Group, "true", "Whether sshd runs."),
    r("port", Range(1, 65_535), Group, "22", "Its port."),
    r("listen_address", Text, Group, "all", "Its address."),
    r(
        "keys",
        Map(&Secret),
        Nothing("host keys are kept outside of the configuration; cloud-init's ssh_keys sets them"),
        "",
        "",
    ),
]);

const CLOUD_INIT: Kind = Struct(&[r(
    "datasources",
    TEXTS,
    Effect::Boot,
    "found by volumes and DMI",
    "`nocloud`, `configdrive`, `proxmox`, `vmware`, `ec2`, `gce`, `azure`, …, `url:URL`, `file:PATH`; `none` asks nobody.",
)]);

const DEFAULTS: Kind = Struct(&[
    r("hostname", HostName, Now, "ros", "Host name when nothing else names the machine."),
    none("docker", Any, "ros.docker is the only place"),
    none("network", Any, "ros.network is the only place"),
    none("system_docker_logs", Any, DAEMON),
]);

/// Options of the user's engine.
const USERS_ENGINE: Kind = Struct(&[
    r("bridge", Text, DOCKER, "docker0", "Bridge that containers are attached to; `none`: none."),
    r("bip", Kind::Cidr, DOCKER, "", "The bridge's address."),
    r("debug", Bool, DOCKER, "false", "Say more."),
    r("environment", TEXTS, DOCKER, "", "`NAME=value` for dockerd."),
    r("extra_args", TEXTS, DOCKER, "", "Arguments of dockerd."),
    r(
        "graph",
        Kind::Path,
        DOCKER,
        "/var/lib/docker",
        "Folder of all its data, below /var, /mnt or /media.",
    ),
    r("group", Text, DOCKER, "docker", "Who may use its socket."),
    r("host", OneOrMany(&Text), DOCKER, "", "Addresses that it listens on beside its socket."),
    r(
        "insecure_registry",
        OneOrMany(&Text),
        DOCKER,
        "those of ros.registries with plain_http",
        "Registries that are reached by HTTP.",
    ),
    r("live_restore", Bool, DOCKER, "true", "Whether containers outlive the engine."),
    r("log_driver", Text, DOCKER, "json-file", "Where containers' output goes."),
    r("log_opts", Map(&Text), DOCKER, "max-size=25m max-file=2", "Options of that."),
    r("registry_mirror", Text, DOCKER, "", "Mirror of Docker Hub."),
    r("storage_driver", Text, DOCKER, "overlay2", "How layers are kept."),
    r("userland_proxy", Bool, DOCKER, "true", "Whether published ports have a process each."),
    none("engine", Text, OTHER_IMAGE),
    none("args", TEXTS, "options are keys here, or ros.docker.extra_args"),
    r("tls", Bool, DOCKER, "false", "Listen on TCP too, to who has a certificate."),
    r(
        "tls_args",
        TEXTS,
        DOCKER,
        "`--tlsverify` with the files of /etc/docker/tls, on port 2376",
        "dockerd's arguments for that.",
    ),
    r("server_cert", Text, DOCKER, "", "Its certificate, PEM: /etc/docker/tls/server-cert.pem."),
    r("server_key", Secret, DOCKER, "", "The key of that: /etc/docker/tls/server-key.pem."),
    r("ca_cert", Text, DOCKER, "", "Authority of clients, PEM: /etc/docker/tls/ca.pem."),
    none("ca_key", Secret, "no certificates are made here"),
    none("storage_context", Text, "the engine has its own root file system"),
    none("exec", Bool, OWN_PATHS),
    none("config_file", Text, OWN_PATHS),
    none("containerd", Text, OWN_PATHS),
    none("exec_root", Text, OWN_PATHS),
    none("pid_file", Text, OWN_PATHS),
    none("restart", Bool, "containers that are to restart say so themselves"),
    none("selinux_enabled", Bool, "there is no SELinux in this kernel's policy"),
]);

/// RancherOS's options of an engine.
const ENGINE: Kind = Struct(&[
    e("engine", Text),
    e("tls", Bool),
    e("tls_args", TEXTS),
    e("args", TEXTS),
    e("extra_args", TEXTS),
    e("server_cert", Text),
    e("server_key", Secret),
    e("ca_cert", Text),
    e("ca_key", Secret),
    e("environment", TEXTS),
    e("storage_context", Text),
    e("exec", Bool),
    e("bridge", Text),
    e("bip", Text),
    e("config_file", Text),
    e("containerd", Text),
    e("debug", Bool),
    e("exec_root", Text),
    e("group", Text),
    e("graph", Text),
    e("host", TEXTS),
    e("insecure_registry", TEXTS),
    e("live_restore", Bool),
    e("log_driver", Text),
    e("log_opts", Map(&Text)),
    e("pid_file", Text),
    e("registry_mirror", Text),
    e("restart", Bool),
    e("selinux_enabled", Bool),
    e("storage_driver", Text),
    e("userland_proxy", Bool),
]);

const fn e(name: &'static str, kind: Kind) -> Key {
    Key::new(name, kind, Group, Rancher, "", "As dockerd's option of that name.")
}

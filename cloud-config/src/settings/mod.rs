//! The configuration as the programs use it: typed, complete, with defaults.

mod cloud;
mod device;
mod docker;
mod network;

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::document::BINARY;

pub use self::cloud::{
    CaCerts, Chpasswd, DiskSetup, FsSetup, Groups, Ntp, Password, PhoneHome, PowerState,
    RandomSeed, ResolvConf, Share, SwapFile, User, UserEntry,
};
pub use self::device::partition_of;
pub use self::docker::{Docker, TLS};
pub use self::network::{Bridge, Dns, Interface, Network, Route};

/// Everything that is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Host name; none: the metadata's, or the default.
    pub hostname: Option<String>,
    /// Keys that may log in.
    pub ssh_authorized_keys: Vec<String>,
    /// Files to write.
    pub write_files: Vec<WriteFile>,
    /// Commands for the first boot of an instance, after the console is up.
    pub runcmd: Vec<Command>,
    /// Commands for every boot, before services.
    pub bootcmd: Vec<Command>,
    /// `[device, mount point, type, options]`, up to six fields as in fstab(5).
    pub mounts: Vec<Vec<String>>,
    /// What stands for fields that a row of `mounts` leaves out.
    pub mount_default_fields: Vec<String>,
    /// What only ros knows.
    pub ros: Ros,
    /// Full name.
    pub fqdn: Option<String>,
    /// `fqdn` names the machine even when `hostname` does.
    pub prefer_fqdn_over_hostname: bool,
    /// A swap file.
    pub swap: Option<SwapFile>,
    /// Users of the console.
    pub users: cloud::Users,
    /// Groups of the console, with members.
    pub groups: Groups,
    /// Password of the machine's user.
    pub password: Option<String>,
    /// Passwords of users.
    pub chpasswd: Chpasswd,
    /// Whether sshd takes passwords.
    pub ssh_pwauth: bool,
    /// Host keys: `ed25519_private`, `ed25519_public`…
    pub ssh_keys: BTreeMap<String, String>,
    /// Zone of the console.
    pub timezone: Option<String>,
    /// Time servers.
    pub ntp: Ntp,
    /// Certificates that the console trusts.
    pub ca_certs: CaCerts,
    /// Further names of devices, for the keys of disks and `mounts`.
    pub device_aliases: BTreeMap<String, String>,
    /// Disks to partition.
    pub disk_setup: BTreeMap<String, DiskSetup>,
    /// File systems to make.
    pub fs_setup: Vec<FsSetup>,
    /// What to do when the first boot of an instance is done.
    pub power_state: Option<PowerState>,
    /// Said when the boot is done.
    pub final_message: Option<String>,
    /// Who is told that the instance came up.
    pub phone_home: Option<PhoneHome>,
    /// Bytes for the kernel's random numbers.
    pub random_seed: Option<RandomSeed>,
    /// Whether [`Settings::resolv_conf`] counts.
    pub manage_resolv_conf: Option<bool>,
    /// Name servers in cloud-init's words.
    pub resolv_conf: ResolvConf,
    /// cloud-init's own network document; [`crate::netplan`] reads it.
    pub network: serde_json::Value,
}

/// A shell line, or words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// For `sh -c`.
    Line(String),
    /// Program and arguments.
    Words(Vec<String>),
}

impl Command {
    /// Program and arguments.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            Self::Words(words) => words.clone(),
        }
    }
}

/// One entry of `write_files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteFile {
    /// Absolute path.
    pub path: String,
    /// As written; see [`WriteFile::decoded`].
    pub content: String,
    /// `b64`, `gz+b64`, … or empty.
    pub encoding: String,
    /// `user[:group]`; root when empty.
    pub owner: String,
    /// File mode; 0644 when absent.
    pub permissions: Option<u32>,
    /// Add to the file instead of replacing it.
    pub append: bool,
    /// Service whose container receives the file; the console when empty.
    pub container: String,
    /// Write it after users are made.
    pub defer: bool,
}

/// Largest file that `write_files` unpacks to, in bytes.
const MAX_FILE: u64 = 64 << 20;

impl WriteFile {
    /// The file's bytes.
    ///
    /// # Errors
    /// When the content is not encoded as `encoding` says.
    pub fn decoded(&self) -> Result<Vec<u8>, String> {
        let binary = self.content.strip_prefix(BINARY);
        let mut bytes = binary.unwrap_or(&self.content).as_bytes().to_vec();
        let (zipped, coded) = match self.encoding.as_str() {
            "" | "text/plain" => (false, binary.is_some()),
            "b64" | "base64" => (false, true),
            // Zipped, it is no text: `!!binary`, or base64 without it being said.
            _ => (true, true),
        };
        if coded {
            bytes.retain(|b| !b.is_ascii_whitespace());
            let engine = base64::engine::general_purpose::STANDARD;
            bytes = engine.decode(&bytes).map_err(|e| format!("{}: not base64: {e}", self.path))?;
        }
        if zipped {
            bytes = gunzip(&bytes).map_err(|e| format!("{}: not gzip: {e}", self.path))?;
        }
        Ok(bytes)
    }
}

/// Unpacks gzip, up to a bound.
/// Unpacks gzip, up to the largest file that there may be.
///
/// # Errors
/// When it is no gzip, or larger.
pub fn gunzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).take(MAX_FILE + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("unpacks to more than 64 MiB"));
    }
    Ok(unpacked)
}

/// The part under `ros:` (or `rancher:`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ros {
    /// Network.
    pub network: Network,
    /// Service name → changes to its definition, or a whole one; `{enabled: false}` switches it off.
    pub services: BTreeMap<String, serde_json::Value>,
    /// Service name → whether it runs.
    pub services_include: BTreeMap<String, bool>,
    /// `name: value` for `/proc/sys`.
    pub sysctl: BTreeMap<String, String>,
    /// Kernel modules: a name, and options after it.
    pub modules: Vec<String>,
    /// Where releases come from.
    pub upgrade: Upgrade,
    /// Registry host → how to talk to it.
    pub registries: BTreeMap<String, Registry>,
    /// Registry host → credentials, as RancherOS has them.
    pub registry_auths: BTreeMap<String, RegistryAuth>,
    /// Sshd.
    pub ssh: Ssh,
    /// `ros` (default) or `root`: who logs in.
    pub user: Option<String>,
    /// Environment of logins.
    pub environment: BTreeMap<String, String>,
    /// Ways to log in that are not taken.
    pub disable: Vec<String>,
    /// Terminals that log in by themselves.
    pub autologin: Vec<String>,
    /// Password of the machine's user, plain or hashed.
    pub password: Option<String>,
    /// Datasources.
    pub cloud_init: CloudInit,
    /// Options of the user's engine.
    pub docker: Docker,
    /// Used if unset elsewhere.
    pub defaults: Defaults,
}

/// Where releases come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upgrade {
    /// Repository of `os:<tag>` images, such as `registry:5000/os`.
    pub repository: Option<String>,
    /// RancherOS's name for it.
    pub image: Option<String>,
    /// A releases file (`current:`, `available:`): URL or path.
    pub url: Option<String>,
    /// What the machine does about newer releases by itself.
    pub policy: UpgradePolicy,
    /// Pattern of the tags that it takes by itself: `v1.*`.
    pub channel: Option<String>,
    /// How often it looks: `6h`.
    pub every: Option<String>,
    /// How much later at most: `30m`.
    pub jitter: Option<String>,
    /// When it may install by itself: `sat,sun 02:00-04:00`, in UTC.
    pub window: Vec<String>,
    /// Interfaces whose bytes cost: nothing is fetched by itself over them.
    pub metered: Vec<String>,
    /// What held before a change of the OS must hold after it: command lines, or addresses that must answer.
    pub health: Vec<String>,
    /// Repository, a folder of repositories, registry or `default` → whose signatures count there.
    pub signatures: BTreeMap<String, Signatures>,
    /// A boot that a change of the OS needs is done without firmware and boot loader.
    pub kexec: bool,
}

/// What a machine does about newer releases by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradePolicy {
    /// Nothing.
    #[default]
    None,
    /// It looks, and says what there is.
    Check,
    /// It installs them, and goes on with what runs.
    #[serde(alias = "download")]
    Stage,
    /// It goes to them.
    #[serde(alias = "apply")]
    Auto,
}

/// Whose signatures count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signatures {
    /// What becomes of a release without a valid one.
    pub policy: SignaturePolicy,
    /// Public keys: PEM texts, or paths of files with them.
    pub keys: Vec<String>,
    /// The repository that releases are signed for, when they come from a copy of it.
    pub signed_as: Option<String>,
}

/// What becomes of a release without a valid signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignaturePolicy {
    /// It is refused.
    #[default]
    Required,
    /// It is said.
    Warn,
    /// Nobody looks.
    Off,
}

impl Upgrade {
    /// What counts for signatures in `repository`: the longest name that it, or a folder that it is in, has.
    #[must_use]
    pub fn signatures_for(&self, repository: &str) -> Option<(&str, &Signatures)> {
        let folders = repository.match_indices('/').map(|(end, _)| &repository[..end]);
        let mut scopes: Vec<&str> = folders.collect();
        scopes.push(repository);
        let named = scopes.into_iter().rev().chain(["default"]);
        named
            .filter_map(|scope| self.signatures.get_key_value(scope))
            .next()
            .map(|(k, v)| (k.as_str(), v))
    }

    /// The repository, by either name.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref().or(self.image.as_deref())
    }
}

/// How to talk to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Tried first, in order.
    pub mirrors: Vec<String>,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// Credentials.
    pub username: Option<String>,
    /// Credentials.
    pub password: Option<String>,
    /// PEM certificates to trust, or the path of a file with them.
    pub ca: Option<String>,
}

/// Credentials as RancherOS has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryAuth {
    /// Base64 of `user:password`.
    pub auth: Option<String>,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

/// Sshd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ssh {
    /// Whether it runs.
    pub daemon: bool,
    /// Port.
    pub port: u16,
    /// Address; all when none.
    pub listen_address: Option<String>,
}

impl Default for Ssh {
    fn default() -> Self {
        Self { daemon: true, port: 22, listen_address: None }
    }
}

/// Datasources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudInit {
    /// `nocloud`, `configdrive`, `url:…`, `file:…`; all local ones when empty.
    pub datasources: Vec<String>,
}

/// Used if unset elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    /// Host name.
    pub hostname: Option<String>,
}

impl Settings {
    /// Registries with RancherOS's credentials merged in.
    #[must_use]
    pub fn registries(&self) -> BTreeMap<String, Registry> {
        let mut all = self.ros.registries.clone();
        for (host, auth) in &self.ros.registry_auths {
            let entry = all.entry(host.clone()).or_default();
            let (user, password) = auth.credentials();
            entry.username = entry.username.take().or(user);
            entry.password = entry.password.take().or(password);
        }
        all
    }

    /// The host name to use.
    #[must_use]
    pub fn host_name(&self) -> &str {
        let (short, full) = (self.hostname.as_deref(), self.fqdn.as_deref());
        let named = if self.prefer_fqdn_over_hostname { full.or(short) } else { short.or(full) };
        named.or(self.ros.defaults.hostname.as_deref()).unwrap_or("ros")
    }

    /// All of `mounts`, each with four fields.
    #[must_use]
    pub fn mounts(&self) -> Vec<[String; 4]> {
        let field = |row: &[String], index: usize| {
            let fields = [row.get(index), self.mount_default_fields.get(index)];
            let given = fields.into_iter().flatten().find(|text| !text.is_empty());
            given.cloned().unwrap_or_default()
        };
        let mut rows: Vec<[String; 4]> =
            self.mounts.iter().map(|row| std::array::from_fn(|index| field(row, index))).collect();
        rows.iter_mut().for_each(|row| row[0] = self.device(&row[0]));
        rows
    }

    /// Whether a password may be used (`ros.disable`).
    #[must_use]
    pub fn allows(&self, way: &str) -> bool {
        !self.ros.disable.iter().any(|disabled| disabled == way)
    }
}

impl RegistryAuth {
    fn credentials(&self) -> (Option<String>, Option<String>) {
        let coded = self.auth.as_ref().and_then(|auth| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
        });
        let (user, password) = coded.unzip();
        (self.username.clone().or(user), self.password.clone().or(password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_and_rows_are_filled() {
        let mut settings = Settings { fqdn: Some("a.example".into()), ..Settings::default() };
        assert_eq!(settings.host_name(), "a.example");
        settings.hostname = Some("b".into());
        assert_eq!(settings.host_name(), "b");
        settings.prefer_fqdn_over_hostname = true;
        assert_eq!(settings.host_name(), "a.example");
        settings.mounts = vec![vec!["/dev/x".into(), "/x".into()]];
        settings.mount_default_fields = ["", "", "auto", "ro"].map(String::from).to_vec();
        assert_eq!(settings.mounts(), [["/dev/x", "/x", "auto", "ro"].map(String::from)]);
    }

    #[test]
    fn the_closest_scope_of_signatures_counts() {
        let entry = |name: &str| {
            (name.to_owned(), Signatures { signed_as: Some(name.into()), ..Signatures::default() })
        };
        let all = ["h:5000/a/os", "h:5000/a", "h:5000", "default"].map(entry);
        let mut upgrade = Upgrade { signatures: BTreeMap::from(all), ..Upgrade::default() };
        let table = [
            ("h:5000/a/os", "h:5000/a/os"),
            ("h:5000/a/os-other", "h:5000/a"),
            ("h:5000/b/os", "h:5000"),
            ("h:50/os", "default"),
            ("os", "default"),
        ];
        for (repository, expected) in table {
            assert_eq!(upgrade.signatures_for(repository).unwrap().0, expected, "{repository}");
        }
        upgrade.signatures.remove("default");
        assert_eq!(upgrade.signatures_for("os"), None);
    }

    #[test]
    fn encodings_are_cloud_inits() {
        let file = |encoding: &str, content: &str| WriteFile {
            path: "/a".into(),
            content: content.into(),
            encoding: encoding.into(),
            ..WriteFile::default()
        };
        assert_eq!(file("", "hi").decoded().unwrap(), b"hi");
        assert_eq!(file("b64", "aGk=\n").decoded().unwrap(), b"hi");
        assert_eq!(file("", "!!binary //4=").decoded().unwrap(), [0xff, 0xfe]);
        let zipped = "H4sIAAAAAAAAA8vIBACsKpPYAgAAAA==";
        for encoding in ["gz", "gzip", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64"] {
            assert_eq!(file(encoding, zipped).decoded().unwrap(), b"hi", "{encoding}");
        }
        assert!(file("b64", "?").decoded().unwrap_err().contains("/a"));
    }
}

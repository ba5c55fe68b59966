//! cloud-init's keys, typed: users, passwords, disks, certificates, and what is told to whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::check::size;

/// A list of texts, one text with commas or blanks between them, or a boolean that says all or none.
pub(super) fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => items.iter().map(text_of).collect(),
        Value::String(text) => {
            let parts = text.split([',', ' ']).map(str::trim);
            parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    })
}

/// Lines: a list of them, or one text.
fn lines<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => items.iter().map(text_of).collect(),
        Value::String(text) => text.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

/// sudo rules: `false` is none.
fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => items.iter().map(text_of).collect(),
        Value::String(text) if !matches!(text.to_lowercase().as_str(), "" | "false") => vec![text],
        _ => Vec::new(),
    })
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// All of `users`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Users(pub Vec<UserEntry>);

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let entries = match Value::deserialize(from)? {
            Value::String(text) => {
                let names = text.split(',').map(|name| UserEntry::Name(name.trim().to_owned()));
                names.collect()
            }
            Value::Array(items) => {
                items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect()
            }
            _ => Vec::new(),
        };
        Ok(Self(entries))
    }
}

/// One of `users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserEntry {
    /// `default`, or the name of a user without more.
    Name(String),
    /// A user.
    User(Box<User>),
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Real name.
    pub gecos: Option<String>,
    /// Home folder.
    pub homedir: Option<String>,
    /// User number.
    pub uid: Option<u32>,
    /// First group.
    pub primary_group: Option<String>,
    /// Further groups.
    #[serde(deserialize_with = "words")]
    pub groups: Vec<String>,
    /// Login shell.
    pub shell: Option<String>,
    /// Rules of sudoers(5) without the name.
    #[serde(deserialize_with = "rules")]
    pub sudo: Vec<String>,
    /// No password lets the user in.
    pub lock_passwd: Option<bool>,
    /// Hashed password for a new user.
    pub passwd: Option<String>,
    /// Hashed password.
    pub hashed_passwd: Option<String>,
    /// A password.
    pub plain_text_passwd: Option<String>,
    /// Public keys.
    pub ssh_authorized_keys: Vec<String>,
    /// No home folder.
    pub no_create_home: bool,
    /// A user for a program.
    pub system: bool,
    /// `2030-12-31`.
    pub expiredate: Option<String>,
}

/// Group name → members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Groups(pub BTreeMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut groups = BTreeMap::new();
        add_groups(&mut groups, &Value::deserialize(from)?);
        Ok(Self(groups))
    }
}

fn add_groups(groups: &mut BTreeMap<String, Vec<String>>, value: &Value) {
    match value {
        Value::String(text) => {
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                groups.entry(name.to_owned()).or_default();
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_groups(groups, item)),
        Value::Object(map) => {
            for (name, members) in map {
                let named: Vec<String> = match members {
                    Value::Array(items) => items.iter().map(text_of).collect(),
                    Value::String(text) => text.split(',').map(|m| m.trim().to_owned()).collect(),
                    _ => Vec::new(),
                };
                groups.entry(name.clone()).or_default().extend(named);
            }
        }
        _ => {}
    }
}

/// Passwords of users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chpasswd {
    /// Ask for a new one at the first login.
    pub expire: bool,
    /// Users and passwords.
    pub users: Vec<Password>,
    /// Lines `name:password`.
    #[serde(deserialize_with = "lines")]
    pub list: Vec<String>,
}

/// A user's password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Password {
    /// Login name.
    pub name: String,
    /// Password, or its hash.
    pub password: String,
    /// `hash`, `text` or `RANDOM`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A swap file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwapFile {
    /// Where it is.
    pub filename: Option<String>,
    /// Bytes, or `auto`.
    pub size: Option<String>,
    /// Most that `auto` takes.
    pub maxsize: Option<String>,
}

impl SwapFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        self.filename.as_deref().unwrap_or("/var/swap.img")
    }

    /// How many bytes, given how many of memory there are; none when there is to be none.
    #[must_use]
    pub fn bytes(&self, memory: u64) -> Option<u64> {
        let bytes = match self.size.as_deref() {
            None => return None,
            Some("auto") => memory,
            Some(text) => size(text)?,
        };
        let most = self.maxsize.as_deref().and_then(size).unwrap_or(u64::MAX);
        Some(bytes.min(most)).filter(|bytes| *bytes > 0)
    }
}

/// Time servers; `ntp: false` is `enabled: false`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ntp {
    /// Whether the clock is set by others'.
    pub enabled: Option<bool>,
    /// Servers.
    pub servers: Vec<String>,
    /// Names with many servers.
    pub pools: Vec<String>,
    /// Machines that keep each other's time.
    pub peers: Vec<String>,
}

impl<'de> Deserialize<'de> for Ntp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let texts = |key: &str| {
            value[key]
                .as_array()
                .map(|items| items.iter().map(text_of).collect())
                .unwrap_or_default()
        };
        Ok(Self {
            enabled: value.as_bool().or(value["enabled"].as_bool()),
            servers: texts("servers"),
            pools: texts("pools"),
            peers: texts("peers"),
        })
    }
}

/// Certificates that the console trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaCerts {
    /// PEM.
    pub trusted: Vec<String>,
    /// Trust no others.
    pub remove_defaults: bool,
}

/// A disk to partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSetup {
    /// `gpt` or `mbr`.
    pub table_type: String,
    /// `true`, or shares in percent.
    pub layout: Value,
    /// Write over data.
    pub overwrite: bool,
}

/// A partition to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Percent of the disk.
    pub percent: u8,
    /// Its type: a number of MBR tables in hexadecimal (`82`, `83`, `ef`), or a GUID; empty: Linux's own.
    pub kind: String,
}

impl DiskSetup {
    /// The partitions; none: the table is left as it is.
    ///
    /// # Errors
    /// When `layout` is not shares that fit on a disk.
    pub fn shares(&self) -> Result<Vec<Share>, String> {
        let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
        let share = |item: &Value| {
            let (number, kind) = match item.as_array() {
                Some(pair) => (pair.first()?, pair.get(1).map(text).unwrap_or_default()),
                None => (item, String::new()),
            };
            let percent: u8 = text(number).trim_end_matches('%').parse().ok()?;
            (1..=100).contains(&percent).then_some(Share { percent, kind })
        };
        let whole = || Some(vec![Share { percent: 100, kind: String::new() }]);
        let shares: Option<Vec<Share>> = match &self.layout {
            Value::Null | Value::Bool(false) => Some(Vec::new()),
            Value::Bool(true) => whole(),
            Value::String(text) => match crate::check::boolean(text) {
                Some(true) => whole(),
                Some(false) => Some(Vec::new()),
                None => None,
            },
            Value::Array(items) => items.iter().map(share).collect(),
            _ => None,
        };
        shares
            .filter(|all| all.iter().map(|share| u32::from(share.percent)).sum::<u32>() <= 100)
            .ok_or_else(|| "layout: expected true, or shares of at most 100 percent".to_owned())
    }
}

/// A file system to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsSetup {
    /// Label.
    pub label: Option<String>,
    /// `ext4`, `swap`…
    pub filesystem: String,
    /// Device.
    pub device: String,
    /// Number of its partition; none: the device as it is named.
    pub partition: Option<Value>,
    /// Write over data.
    pub overwrite: bool,
    /// Further arguments of mkfs.
    #[serde(deserialize_with = "words")]
    pub extra_opts: Vec<String>,
}

/// What to do when the first boot of an instance is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PowerState {
    /// `poweroff`, `reboot`, `halt`.
    pub mode: String,
    /// `now`, `+5`.
    pub delay: Option<String>,
    /// Said on the console.
    pub message: Option<String>,
    /// Only when true, or when this command succeeds.
    pub condition: Value,
}

/// Who is told that the instance came up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhoneHome {
    /// Where.
    pub url: String,
    /// `all`, or some.
    #[serde(deserialize_with = "words")]
    pub post: Vec<String>,
    /// How often it is tried.
    pub tries: Option<u32>,
}

/// Bytes for the kernel's random numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RandomSeed {
    /// The bytes.
    pub data: String,
    /// How they are written.
    pub encoding: String,
}

/// Name servers in cloud-init's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvConf {
    /// Addresses.
    pub nameservers: Vec<String>,
    /// Domains.
    pub searchdomains: Vec<String>,
    /// The machine's own, tried first.
    pub domain: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_that_people_write_mean_the_same() {
        let users: Users = serde_json::from_value(
            json!(["default", {"name": "a", "groups": "x, y", "sudo": false}]),
        )
        .unwrap();
        assert_eq!(users.0[0], UserEntry::Name("default".into()));
        let UserEntry::User(user) = &users.0[1] else { panic!() };
        assert_eq!(
            (user.groups.clone(), user.sudo.clone()),
            (vec!["x".to_owned(), "y".into()], vec![])
        );
        let expected =
            BTreeMap::from([("a".to_owned(), vec!["m".to_owned()]), ("b".into(), vec![])]);
        for form in [json!([{"a": ["m"]}, "b"]), json!({"a": "m", "b": null})] {
            assert_eq!(serde_json::from_value::<Groups>(form).unwrap().0, expected);
        }
        assert_eq!(serde_json::from_value::<Ntp>(json!(false)).unwrap().enabled, Some(false));
    }

    #[test]
    fn swap_and_shares() {
        let swap = |size: &str| SwapFile {
            size: Some(size.into()),
            maxsize: Some("1G".into()),
            ..SwapFile::default()
        };
        assert_eq!(swap("512M").bytes(0), Some(512 << 20));
        assert_eq!(swap("auto").bytes(4 << 30), Some(1 << 30));
        assert_eq!(swap("0").bytes(1), None);
        let disk = |layout: Value| DiskSetup { layout, ..DiskSetup::default() }.shares();
        let share = |percent: u8, kind: &str| Share { percent, kind: kind.into() };
        assert_eq!(disk(json!([33, [67, 82]])), Ok(vec![share(33, ""), share(67, "82")]));
        assert_eq!(disk(json!(["50%"])), Ok(vec![share(50, "")]));
        assert_eq!(disk(json!(true)), Ok(vec![share(100, "")]));
        assert_eq!(disk(json!("no")), Ok(vec![]));
        assert!(disk(json!([60, 60])).is_err() && disk(json!("x")).is_err());
    }
}

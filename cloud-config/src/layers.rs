//! The layers of one machine, read from their files and merged.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ros_api::paths;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::diagnostic::Diagnostic;
use crate::schema::DOCUMENT;
use crate::settings::Settings;
use crate::tree::{Layer, Node, Origin, Value, merge};
use crate::{check, cmdline, document, edit, instance};

/// Where the layers are. Injectable, so that it all runs on a laptop.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Release defaults as YAML.
    pub release: Option<(String, String)>,
    /// OEM file.
    pub oem: PathBuf,
    /// Folder of fragments.
    pub fragments: PathBuf,
    /// Folder of instance data.
    pub instance: PathBuf,
    /// The user's file.
    pub user: PathBuf,
    /// Text of the kernel command line.
    pub cmdline: String,
}

/// The initrd's release defaults.
const INITRD_DEFAULTS: &str = "/etc/ros/release-defaults.yml";

impl Sources {
    /// Those of the machine this runs on; also inside a container that has `/var/lib/ros` and `/run/ros`.
    #[must_use]
    pub fn machine() -> Self {
        Self {
            release: release_defaults(),
            oem: paths::OEM_CONFIG.into(),
            fragments: paths::CLOUD_CONFIG_D.into(),
            instance: paths::INSTANCE.into(),
            user: paths::CLOUD_CONFIG.into(),
            cmdline: cmdline::of_machine(),
        }
    }
}

/// The running release's defaults; before it is known, those of the initrd.
fn release_defaults() -> Option<(String, String)> {
    let from_release = || {
        let text = fs::read_to_string(paths::RUN_RELEASE).ok()?;
        let release =
            ros_api::Release::parse(&text).ok().filter(|release| !release.defaults.is_null())?;
        let text = serde_yaml::to_string(&release.defaults).ok()?;
        Some((paths::RUN_RELEASE.to_owned(), text))
    };
    let from_initrd =
        || Some((INITRD_DEFAULTS.to_owned(), fs::read_to_string(INITRD_DEFAULTS).ok()?));
    from_release().or_else(from_initrd)
}

/// The merged configuration and what was wrong on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Merged, with origins.
    pub tree: Node,
    /// Typed.
    pub settings: Settings,
    /// Complaints, in order of layers.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads and merges all layers. Never fails: what cannot be read is a diagnostic.
#[must_use]
pub fn load(sources: &Sources) -> Loaded {
    let mut found = Vec::new();
    let mut layers: Vec<Option<Node>> = Vec::new();
    if let Some((file, text)) = &sources.release {
        layers.push(checked(text, Layer::Release, file, &mut found));
    }
    layers.push(read(&sources.oem, Layer::Oem, &mut found));
    for path in fragments(&sources.fragments, &mut found) {
        layers.push(read(&path, Layer::Fragment, &mut found));
    }
    for (file, text) in instance::documents(&sources.instance, &mut found) {
        layers.push(checked(&text, Layer::Instance, &file, &mut found));
    }
    layers.push(user(&sources.user, &mut found));
    let arguments = cmdline::parse(&sources.cmdline).config;
    layers.push(check::check(arguments, DOCUMENT, "", &mut found));

    let origin = Origin { layer: Layer::Release, file: "defaults".into(), line: 0, column: 0 };
    let mut tree = layers.into_iter().flatten().fold(Node::map(&origin), merge);
    own_words(&mut tree, &mut found);
    instance::add_metadata(&sources.instance, &mut tree, &mut found);
    let settings = typed(&tree, &mut found);
    Loaded { tree, settings, diagnostics: found }
}

/// cloud-init's words for the network become ours, below what ours say already.
fn own_words(tree: &mut Node, found: &mut Vec<Diagnostic>) {
    if let Some(document) = tree.get("network").cloned() {
        instance::put_network(tree, &document, found);
    }
    let managed = tree.get("manage_resolv_conf").map(Node::to_json);
    let unmanaged = managed.is_some_and(|value| {
        check::boolean(value.as_str().unwrap_or(&value.to_string())) == Some(false)
    });
    let Some(resolv) = tree.get("resolv_conf").cloned().filter(|_| !unmanaged) else { return };
    let mut search: Vec<Node> = resolv.get("domain").cloned().into_iter().collect();
    if let Some(Value::List(domains)) = resolv.get("searchdomains").map(|node| node.value.clone()) {
        search.extend(domains);
    }
    if let (Some(servers), None) =
        (resolv.get("nameservers"), tree.at("ros.network.dns.nameservers"))
    {
        tree.put("ros.network.dns.nameservers", servers.clone());
    }
    if !search.is_empty() && tree.at("ros.network.dns.search").is_none() {
        let list = Node { value: Value::List(search), origin: resolv.origin.clone() };
        tree.put("ros.network.dns.search", list);
    }
}

/// Parses one document and keeps what is right of it; `rancher:` is read as `ros:`.
#[must_use]
pub fn checked(text: &str, layer: Layer, file: &str, found: &mut Vec<Diagnostic>) -> Option<Node> {
    match document::parse(text, layer, file) {
        Ok(node) => check::check(renamed(node), DOCUMENT, "", found),
        Err(diagnostic) => {
            found.push(diagnostic);
            None
        }
    }
}

/// The settings that a checked tree says. A key that cannot be read after all is left out, alone.
pub(crate) fn typed(tree: &Node, found: &mut Vec<Diagnostic>) -> Settings {
    let mut json = check::to_json(tree, DOCUMENT);
    if let Ok(settings) = Settings::deserialize(&json) {
        return settings;
    }
    leave_out_unreadable(&mut json, tree, found);
    serde_json::from_value(json).unwrap_or_default()
}

fn leave_out_unreadable(json: &mut Json, tree: &Node, found: &mut Vec<Diagnostic>) {
    let Json::Object(all) = json else { return };
    let mut wrong = |path: &str, error: &serde_json::Error| {
        let origin = tree.at(path).map_or(&tree.origin, |node| &node.origin).clone();
        found.push(Diagnostic::error(origin, format!("cannot be used: {error}")).about(path));
    };
    all.retain(|key, value| {
        if key == "ros" {
            return true;
        }
        let alone = Settings::deserialize(&serde_json::json!({ key: value }));
        alone.inspect_err(|error| wrong(key, error)).is_ok()
    });
    if let Some(Json::Object(own)) = all.get_mut("ros") {
        own.retain(|key, value| {
            let alone = Settings::deserialize(&serde_json::json!({ "ros": { key: value } }));
            alone.inspect_err(|error| wrong(&format!("ros.{key}"), error)).is_ok()
        });
    }
}

pub(crate) fn renamed(mut node: Node) -> Node {
    let Value::Map(entries) = &mut node.value else { return node };
    let Some(index) = entries.iter().position(|(key, _)| key == "rancher") else { return node };
    let (_, ancestor) = entries.remove(index);
    match entries.iter().position(|(key, _)| key == "ros") {
        Some(own) => {
            let newer = std::mem::replace(&mut entries[own].1, ancestor.clone());
            entries[own].1 = merge(ancestor, newer);
        }
        None => entries.push(("ros".into(), ancestor)),
    }
    node
}

/// Largest file, in bytes: a boot must not read for ever, and what is fetched is no larger either.
const LARGEST: u64 = 16 << 20;

/// What is in a file of the configuration.
pub(crate) fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(bytes)
}

fn read(path: &Path, layer: Layer, found: &mut Vec<Diagnostic>) -> Option<Node> {
    match bytes_of(path) {
        Ok(bytes) => {
            checked(&String::from_utf8_lossy(&bytes), layer, &path.display().to_string(), found)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            found.push(unreadable(path, layer, &e));
            None
        }
    }
}

/// The user's own file; when nothing at all of it can be read, the last good one, so that no key and no address is
/// lost by a slip.
fn user(path: &Path, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let before = found.len();
    let own = read(path, Layer::User, found);
    if own.is_some() || found.len() == before {
        return own;
    }
    let good = good(path);
    let node = read(&good, Layer::User, &mut Vec::new())?;
    let message = "the last good configuration counts instead".to_owned();
    let hint = "`ros config edit` repairs the file, `ros config restore` puts the last good one back (--list shows all)";
    found.push(Diagnostic::warning(node.origin.clone(), message).hint(hint));
    Some(node)
}

/// Where the last good configuration of `user` is kept.
#[must_use]
pub fn good(user: &Path) -> PathBuf {
    let mut name = user.file_name().unwrap_or_default().to_owned();
    name.push(".good");
    user.with_file_name(name)
}

/// Keeps the user's own file as the last good one, when nothing is wrong with it. Answers whether it is good.
///
/// # Errors
/// When it cannot be read or written.
pub fn remember_good(user: &Path) -> io::Result<bool> {
    let text = edit::read(user)?;
    if edit::acceptable(&text, "").is_err() {
        return Ok(false);
    }
    let good = good(user);
    if edit::read(&good)? != text {
        ros_api::durable::write(&good, text.as_bytes(), 0o600)?;
    }
    Ok(true)
}

/// Fragments in name order, hidden ones left out.
fn fragments(dir: &Path, found: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            found.push(unreadable(dir, Layer::Fragment, &e));
            return Vec::new();
        }
    };
    let visible = |path: &PathBuf| {
        path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(visible).collect();
    files.sort();
    files
}

/// The complaint about a file that is there and cannot be read.
pub(crate) fn unreadable(path: &Path, layer: Layer, error: &io::Error) -> Diagnostic {
    let origin = Origin { layer, file: path.display().to_string(), line: 0, column: 0 };
    Diagnostic::error(origin, format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_their_order_and_a_wrong_file_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("d")).unwrap();
        fs::create_dir(path("i")).unwrap();
        fs::write(path("d/10-a.yml"), "hostname: a\nrancher: {sysctl: {x.y: 1}}\n").unwrap();
        fs::write(path("d/20-b.yml"), "hostname: b\nssh_authorized_keys: [k1]\n").unwrap();
        fs::write(path("d/.hidden.yml"), "hostname: hidden\n").unwrap();
        fs::write(
            path("i/user-data"),
            "#cloud-config\nssh_authorized_keys: [k2]\nros: {ssh: {port: 2022}}\n",
        )
        .unwrap();
        fs::write(path("i/meta-data"), "instance-id: i\nlocal-hostname: meta\npublic-keys: [k3]\n")
            .unwrap();
        fs::write(path("user.yml"), "hostname: [\n").unwrap();
        let sources = Sources {
            release: Some(("r".into(), "ros: {upgrade: {repository: 'h/os'}}\n".into())),
            oem: path("none"),
            fragments: path("d"),
            instance: path("i"),
            user: path("user.yml"),
            cmdline: "ros.ssh.port=2222".into(),
        };
        let loaded = load(&sources);
        assert_eq!(loaded.settings.hostname.as_deref(), Some("b"));
        assert_eq!(loaded.settings.ssh_authorized_keys, ["k1", "k2", "k3"]);
        assert_eq!(loaded.settings.ros.upgrade.repository(), Some("h/os"));
        assert_eq!(loaded.settings.ros.sysctl["x.y"], "1");
        assert_eq!(loaded.settings.ros.ssh.port, 2222);
        assert_eq!(loaded.tree.at("ros.ssh.port").unwrap().origin.layer, Layer::Cmdline);
        assert_eq!(loaded.diagnostics.len(), 1, "{:?}", loaded.diagnostics);
        assert!(loaded.diagnostics[0].origin.file.ends_with("user.yml"));
    }

    #[test]
    fn the_last_good_file_stands_in_for_one_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("cloud-config.yml");
        let sources = Sources {
            release: None,
            oem: dir.path().join("none"),
            fragments: dir.path().join("none"),
            instance: dir.path().join("none"),
            user: user.clone(),
            cmdline: String::new(),
        };
        fs::write(&user, "ssh_authorized_keys: [k]\n").unwrap();
        assert!(remember_good(&user).unwrap());
        fs::write(&user, "ssh_authorized_keys: [\n").unwrap();
        assert!(!remember_good(&user).unwrap());
        let loaded = load(&sources);
        assert_eq!(loaded.settings.ssh_authorized_keys, ["k"]);
        assert_eq!(loaded.diagnostics.len(), 2, "{:?}", loaded.diagnostics);
        fs::write(&user, "hostname: [x]\n").unwrap();
        assert!(load(&sources).settings.ssh_authorized_keys.is_empty(), "a readable file counts");
    }

    #[test]
    fn cloud_inits_words_for_the_network_are_below_ours() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("c.yml");
        let text = "network: {version: 2, ethernets: {eth0: {addresses: [10.0.0.2/24], mtu: 1400}}}\n\
                    resolv_conf: {nameservers: [9.9.9.9], domain: a.example}\nros: {network: {interfaces: {eth0: {mtu: 1300}}}}\n";
        fs::write(&user, text).unwrap();
        let none = dir.path().join("none");
        let sources = Sources {
            release: None,
            oem: none.clone(),
            fragments: none.clone(),
            instance: none,
            user,
            cmdline: String::new(),
        };
        let loaded = load(&sources);
        assert_eq!(loaded.diagnostics, []);
        let network = loaded.settings.ros.network;
        assert_eq!(network.interfaces["eth0"].mtu, Some(1300));
        assert_eq!(network.interfaces["eth0"].addresses, ["10.0.0.2/24"]);
        assert_eq!(
            (network.dns.nameservers, network.dns.search),
            (vec!["9.9.9.9".to_owned()], vec!["a.example".to_owned()])
        );
    }

    proptest::proptest! {
        /// Whatever stands where: the rest counts, and what is typed in the end is never unusable.
        #[test]
        fn no_document_makes_the_whole_unusable(
            key in proptest::sample::select(top_level()),
            value in "(true|-1|text|\\[\\]|\\{\\}|\\[a, \\{b: c\\}\\]|\\{a: \\[1\\], name: x\\}|~|\\[\\[a\\]\\]|'')",
            below in proptest::bool::ANY,
        ) {
            let text = if below {
                format!("ssh_authorized_keys: [kept]\nros:\n  {key}: {value}\n")
            } else {
                format!("{key}: {value}\nros: {{modules: [kept]}}\n")
            };
            let mut found = Vec::new();
            if let Some(node) = checked(&text, Layer::User, "f", &mut found) {
                let settings = typed(&node, &mut found);
                let kept = if below { &settings.ssh_authorized_keys } else { &settings.ros.modules };
                proptest::prop_assert!(kept.iter().any(|word| word == "kept") || text.contains("ros: {}") || key == "ros" || key == "ssh_authorized_keys", "{}: {:?}", text, found);
                proptest::prop_assert!(!found.iter().any(|wrong| wrong.message.starts_with("cannot be used")), "{:?}", found);
            }
        }
    }

    /// Names of keys at the top and below `ros`.
    fn top_level() -> Vec<String> {
        let mut names = Vec::new();
        crate::schema::walk(&mut |path, _| {
            let path = path.strip_prefix("ros.").unwrap_or(path);
            if !path.contains(['.', '[']) && path != "ros" {
                names.push(path.to_owned());
            }
        });
        names
    }
}

//! The kernel command line as configuration: `ros.a.b=value` (or `rancher.`), `cc.hostname=x`; a bare key is
//! `true`, `[a,b]` is a list, a repeated key becomes a list. And what names a datasource.
//! Quoting as the kernel does it: double quotes keep blanks together (Documentation/admin-guide/kernel-parameters).

use crate::tree::{Layer, Node, Origin, Value};

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// Configuration, not checked yet.
    pub config: Node,
    /// `cloud-config-url=`, or the seed of `ds=nocloud;s=URL`.
    pub url: Option<String>,
    /// The datasource that `ds=NAME` asks for, in lower case: `ec2`, `configdrive`, `none`.
    pub datasource: Option<String>,
}

/// Reads `/proc/cmdline`'s text.
#[must_use]
pub fn parse(text: &str) -> Cmdline {
    let origin = Origin { layer: Layer::Cmdline, file: "/proc/cmdline".into(), line: 0, column: 0 };
    let mut config = Node::map(&origin);
    let (mut url, mut datasource) = (None, None);
    for word in words(text) {
        let (key, value) = word.split_once('=').unwrap_or((word.as_str(), "true"));
        if key == "cloud-config-url" {
            url = Some(value.to_owned());
        } else if matches!(key, "ds" | "ci.ds" | "ci.datasource") {
            url = seed(value).or(url);
            datasource = named(value).or(datasource);
        } else if word == "cloud-init=disabled" {
            datasource = Some("none".into());
        } else if let Some(path) = config_path(key) {
            add(&mut config, &path, node(value, &origin));
        }
    }
    Cmdline { config, url, datasource }
}

/// The kernel command line of this machine, secrets included when this process may see them.
#[must_use]
pub fn of_machine() -> String {
    let whole = std::fs::read_to_string(ros_api::paths::RUN_CMDLINE);
    whole.or_else(|_| std::fs::read_to_string("/proc/cmdline")).unwrap_or_default()
}

/// What stands before ` -- `, when something stands after it: the kernel gives that to PID 1 alone, and it is what not
/// everybody may see.
#[must_use]
pub fn public(text: &str) -> Option<&str> {
    let mut quoted = false;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                let rest = &text[at..];
                if &text[start..at] == "--" && !rest.trim().is_empty() {
                    return Some(text[..start].trim_end());
                }
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    None
}

/// Words, with double quotes kept together and taken away.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn config_path(key: &str) -> Option<String> {
    if let Some(path) = key.strip_prefix("cc.") {
        return Some(path.to_owned()).filter(|path| !path.is_empty());
    }
    let path = key.strip_prefix("ros.").or_else(|| key.strip_prefix("rancher."))?;
    (!path.is_empty()).then(|| format!("ros.{path}"))
}

/// `Ec2`, `nocloud;s=…`; the name alone, as we write it.
fn named(value: &str) -> Option<String> {
    let name = value.split(';').next().unwrap_or(value).trim_matches(['[', ']']).to_lowercase();
    let name = if name == "nocloud-net" { "nocloud".into() } else { name };
    (!name.is_empty()).then_some(name)
}

/// `nocloud;s=URL` and `nocloud-net;s=URL`; the URL may also be a folder of this machine.
fn seed(value: &str) -> Option<String> {
    let mut parts = value.split(';');
    parts.next().filter(|name| name.starts_with("nocloud"))?;
    let url = parts
        .find_map(|part| part.strip_prefix("s=").or_else(|| part.strip_prefix("seedfrom=")))?;
    ["http", "file://", "/"].iter().any(|head| url.starts_with(head)).then(|| url.to_owned())
}

fn node(text: &str, origin: &Origin) -> Node {
    let scalar = |text: &str| Node {
        value: Value::Scalar { text: text.trim().to_owned(), quoted: false },
        origin: origin.clone(),
    };
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(items) => {
            let items =
                items.split(',').filter(|item| !item.trim().is_empty()).map(scalar).collect();
            Node { value: Value::List(items), origin: origin.clone() }
        }
        None => scalar(text),
    }
}

fn add(config: &mut Node, path: &str, node: Node) {
    let plain = || path.split('.').map(str::to_owned).collect();
    let parts: Vec<String> = crate::schema::path::split(path).unwrap_or_else(plain);
    let merged = match config.at_parts(&parts).map(|old| old.value.clone()) {
        Some(Value::List(mut items)) => {
            items.push(node.clone());
            Node { value: Value::List(items), ..node }
        }
        Some(old @ Value::Scalar { .. }) => {
            let first = Node { value: old, origin: node.origin.clone() };
            Node { value: Value::List(vec![first, node.clone()]), origin: node.origin }
        }
        _ => node,
    };
    config.put_parts(&parts, merged);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_configuration() {
        let text = "quiet ros.debug rancher.autologin=tty1 ros.autologin=ttyS0 cc.hostname=\"a b\" ros.sysctl.net.ipv4.ip_forward=1 \
                    ros.state.autoformat=[/dev/vda,/dev/vdb] root=/dev/x ds=nocloud;s=http://h/";
        let parsed = parse(text);
        let expected = serde_json::json!({
            "ros": {"debug": true, "autologin": ["tty1", "ttyS0"], "state": {"autoformat": ["/dev/vda", "/dev/vdb"]}, "sysctl": {"net.ipv4.ip_forward": 1}},
            "hostname": "a b",
        });
        assert_eq!(parsed.config.to_json(), expected);
        assert_eq!(parsed.url.as_deref(), Some("http://h/"));
        assert_eq!(parsed.datasource.as_deref(), Some("nocloud"));
    }

    #[test]
    fn what_follows_the_dashes_counts_and_is_not_public() {
        let table = [
            ("quiet ros.a=1 -- rancher.password=x\n", Some("quiet ros.a=1")),
            ("-- x", Some("")),
            ("quiet --", None),
            ("quiet -- \n", None),
            ("a=\"b -- c\" d", None),
            ("a --b c", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(public(text), expected, "{text:?}");
        }
        let config = parse("quiet -- rancher.password=x").config;
        assert_eq!(config.to_json()["ros"]["password"], "x");
    }

    #[test]
    fn a_datasource_is_named() {
        let table = [
            ("ds=Ec2", Some("ec2"), None),
            ("ci.ds=ConfigDrive quiet", Some("configdrive"), None),
            ("ds=nocloud-net;h=n1;s=file:///oem/seed/", Some("nocloud"), Some("file:///oem/seed/")),
            ("cloud-init=disabled", Some("none"), None),
            ("ds=", None, None),
            ("cloud-init=enabled", None, None),
        ];
        for (text, datasource, url) in table {
            let parsed = parse(text);
            assert_eq!((parsed.datasource.as_deref(), parsed.url.as_deref()), (datasource, url));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_panics(text in "([ -~]|ros\\.|cc\\.|rancher\\.|=|\\[|\\]|\"){0,80}") {
            let parsed = parse(&text);
            let mut found = Vec::new();
            let _ = crate::check::check(parsed.config, crate::schema::DOCUMENT, "", &mut found);
        }
    }
}

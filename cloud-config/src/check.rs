//! Holds a document against the schema: what is wrong is left out and reported, the rest is kept.

use std::net::IpAddr;

use serde_json::{Map, Value as Json};

use crate::diagnostic::Diagnostic;
use crate::schema::{Effect, Key, Kind, find};
use crate::tree::{Layer, Node, Value};

/// How many complaints there may be before nobody guesses any more what was meant.
const GUESSES: usize = 100;

/// The part of `node` that is as `kind` says; what is not goes to `found`.
#[must_use]
pub fn check(node: Node, kind: Kind, path: &str, found: &mut Vec<Diagnostic>) -> Option<Node> {
    if is_null(&node) {
        return None;
    }
    let Node { value, origin } = node;
    let kind = kind.for_shape(&value);
    let value = match (kind, value) {
        (Kind::Struct(keys), Value::Map(entries)) => {
            Value::Map(members(entries, keys, path, &origin, found)?)
        }
        (Kind::Map(inner), Value::Map(entries)) => Value::Map(
            entries
                .into_iter()
                .filter_map(|(key, node)| {
                    let kept = check(node, *inner, &join(path, &key), found)?;
                    Some((key, kept))
                })
                .collect(),
        ),
        (Kind::List(inner) | Kind::OneOrMany(inner), Value::List(items)) => Value::List(
            items
                .into_iter()
                .enumerate()
                .filter_map(|(index, node)| {
                    check(node, *inner, &join(path, &index.to_string()), found)
                })
                .collect(),
        ),
        (Kind::OneOrMany(inner), value) => {
            Value::List(vec![check(Node { value, origin: origin.clone() }, *inner, path, found)?])
        }
        (kind, value) => match misfit(kind, &value) {
            None => value,
            Some(expected) => {
                let what = if matches!(kind, Kind::Secret) { String::new() } else { shown(&value) };
                let message = format!("expected {expected}, this is {what}");
                let wrong = Diagnostic::error(origin, message).about(path);
                found.push(match hint(kind, &value) {
                    Some(hint) => wrong.hint(&hint),
                    None => wrong,
                });
                return None;
            }
        },
    };
    Some(Node { value, origin })
}

fn members(
    entries: Vec<(String, Node)>,
    keys: &[Key],
    path: &str,
    origin: &crate::Origin,
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<(String, Node)>> {
    let mut kept: Vec<(String, Node)> = Vec::with_capacity(entries.len());
    let mut wrong: Vec<&str> = Vec::new();
    for (name, node) in entries {
        let here = join(path, &name);
        let Some(key) = find(keys, &name) else {
            // Only so many: each is compared with every key that there is.
            let guess = (found.len() < GUESSES).then(|| nearest(&name, keys)).flatten();
            found.push(unknown(&node, &here, guess));
            continue;
        };
        match key.effect {
            Effect::Nothing(why) => {
                let message = format!("accepted, but does nothing in ros: {why}");
                found.push(Diagnostic::warning(node.origin, message).about(&here));
                continue;
            }
            Effect::Refused(why) => {
                found.push(Diagnostic::error(node.origin, format!("refused: {why}")).about(&here));
                continue;
            }
            Effect::Cmdline if node.origin.layer != Layer::Cmdline => {
                let message = "counts on the kernel command line only".to_owned();
                let hint = format!("`ros config kernel-args {here}=…`");
                found.push(
                    Diagnostic::warning(node.origin.clone(), message).about(&here).hint(&hint),
                );
            }
            _ => {}
        }
        let said = found.len();
        let good = check(node, key.kind, &here, found);
        if good.is_none() && found.len() > said {
            wrong.push(key.name);
        }
        kept.extend(good.map(|node| (key.name.to_owned(), node)));
    }
    let missing =
        keys.iter().find(|key| key.required && !kept.iter().any(|(name, _)| name == key.name));
    if let Some(key) = missing {
        if wrong.contains(&key.name) {
            return None;
        }
        let message = format!("the key {:?} is missing", key.name);
        found.push(Diagnostic::error(origin.clone(), message).about(path));
        return None;
    }
    Some(kept)
}

fn unknown(node: &Node, path: &str, guess: Option<&str>) -> Diagnostic {
    let diagnostic =
        Diagnostic::warning(node.origin.clone(), "no such key; it is left out".into()).about(path);
    match guess {
        Some(key) => diagnostic.hint(&format!("did you mean {key:?}?")),
        None => diagnostic,
    }
}

/// The key that `name` was meant to be, if one is near.
#[must_use]
pub fn nearest(name: &str, keys: &[Key]) -> Option<&'static str> {
    // Names much longer than any key are not compared: a hostile file has them.
    if name.len() > 64 {
        return None;
    }
    let (steps, key) = keys.iter().map(|key| (distance(name, key.name), key.name)).min()?;
    (steps <= 1 + name.len() / 4).then_some(key)
}

/// What `kind` expects, when `value` is not that.
fn misfit(kind: Kind, value: &Value) -> Option<String> {
    let Value::Scalar { text, .. } = value else { return misfit_shape(kind, value) };
    let (fits, expected) = match kind {
        Kind::Any | Kind::Text | Kind::Secret | Kind::Command => return None,
        Kind::Bool => (boolean(text).is_some(), "true or false"),
        Kind::Int => (text.parse::<i64>().is_ok(), "a whole number"),
        Kind::Range(from, to) => {
            let fits = text.parse::<i64>().is_ok_and(|number| (from..=to).contains(&number));
            return (!fits).then(|| format!("a whole number from {from} to {to}"));
        }
        Kind::Mode => (mode(text).is_some(), "a file mode in octal such as '0644'"),
        Kind::Size => (size(text).is_some() || text == "auto", "a size such as 512M, 2G or auto"),
        Kind::Word(words) => {
            let named: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
            return (!words.contains(&text.as_str()))
                .then(|| format!("one of {}", named.join(", ")));
        }
        Kind::HostName => (host_name(text), "a host name (letters, digits, '-' and '.')"),
        Kind::Address => (text.parse::<IpAddr>().is_ok(), "an IP address"),
        Kind::Cidr => (cidr(text), "an address with its prefix length, such as 192.0.2.5/24"),
        Kind::Path => (text.starts_with('/') && !text.contains('\0'), "an absolute path"),
        _ => return misfit_shape(kind, value),
    };
    (!fits).then(|| expected.to_owned())
}

fn misfit_shape(kind: Kind, value: &Value) -> Option<String> {
    let expected = match (kind, value) {
        (Kind::Any, _) | (Kind::Command, Value::List(_)) => return None,
        (Kind::Row(count), Value::List(items)) if !items.is_empty() && items.len() <= count => {
            return None;
        }
        (Kind::Row(count), _) => {
            return Some(format!(
                "a list of up to {count} texts [device, mount point, type, options]"
            ));
        }
        (Kind::Command, _) => "a shell line, or a list of words",
        (Kind::List(_) | Kind::OneOrMany(_), _) => "a list",
        (Kind::Map(_) | Kind::Struct(_), _) => "a mapping (key: value)",
        (Kind::Text | Kind::Secret, _) => "a text",
        // What it expects of a scalar, asked with one that nothing takes.
        _ => return misfit(kind, &Value::Scalar { text: "\0".into(), quoted: true }),
    };
    Some(expected.to_owned())
}

/// What to write instead, where that can be guessed.
fn hint(kind: Kind, value: &Value) -> Option<String> {
    let Value::Scalar { text, .. } = value else { return None };
    match kind {
        Kind::Word(words) => words
            .iter()
            .map(|word| (distance(text, word), word))
            .min()
            .filter(|(steps, word)| {
                !word.is_empty() && text.len() <= 64 && *steps <= 1 + text.len() / 4
            })
            .map(|(_, word)| format!("did you mean {word:?}?")),
        Kind::Cidr => text
            .parse::<IpAddr>()
            .ok()
            .map(|address| format!("write {address}/{}", if address.is_ipv4() { 24 } else { 64 })),
        Kind::List(_) => Some(format!("write [{}]", shown(value))),
        Kind::HostName if text.contains('_') => Some(format!("write {}", text.replace('_', "-"))),
        _ => None,
    }
}

/// The JSON that settings are read from: every value in the type that its kind has.
#[must_use]
pub fn to_json(node: &Node, kind: Kind) -> Json {
    match (kind.for_shape(&node.value), &node.value) {
        (Kind::Struct(keys), Value::Map(entries)) => Json::Object(
            entries
                .iter()
                .filter_map(|(name, node)| {
                    let key = find(keys, name)?;
                    Some((key.name.to_owned(), to_json(node, key.kind)))
                })
                .collect::<Map<_, _>>(),
        ),
        (Kind::Map(inner), Value::Map(entries)) => Json::Object(
            entries.iter().map(|(name, node)| (name.clone(), to_json(node, *inner))).collect(),
        ),
        (Kind::List(inner) | Kind::OneOrMany(inner), Value::List(items)) => {
            Json::Array(items.iter().map(|item| to_json(item, *inner)).collect())
        }
        (Kind::OneOrMany(inner), _) => Json::Array(vec![to_json(node, *inner)]),
        (Kind::Row(_) | Kind::Command, Value::List(items)) => {
            let text = |item: &Node| match &item.value {
                _ if is_null(item) => Json::from(""),
                Value::Scalar { .. } => to_json(item, Kind::Text),
                _ => Json::from(item.to_json().to_string()),
            };
            Json::Array(items.iter().map(text).collect())
        }
        (kind, Value::Scalar { text, .. }) => match kind {
            Kind::Bool => boolean(text).map_or(Json::Null, Json::Bool),
            Kind::Int | Kind::Range(..) => text.parse::<i64>().map_or(Json::Null, Json::from),
            Kind::Mode => mode(text).map_or(Json::Null, Json::from),
            Kind::Any => node.to_json(),
            _ => Json::from(text.as_str()),
        },
        _ => node.to_json(),
    }
}

/// Bytes of `512M`, `2G`, `1.5 GiB`…: factors of 1024.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let factor = match text.chars().last()?.to_ascii_uppercase() {
        'K' => 1u64 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1 << 40,
        _ => 1,
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        // At most 2^53 either way: exact enough for a fraction.
        Err(_) => number
            .parse::<f64>()
            .ok()
            .filter(|number| (0.0..9e6).contains(number))
            .map(|number| (number * factor as f64) as u64),
    }
}

fn cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest)
}

/// YAML 1.1's and 1.2's words, as cloud-init reads them.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Octal digits with or without `0` or `0o` in front.
#[must_use]
pub fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777)
}

fn host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, quoted: false } if matches!(text.as_str(), "" | "~" | "null"))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Scalar { text, .. } if text.len() <= 40 => format!("{text:?}"),
        Value::Scalar { .. } => "a long text".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

/// `a.b`.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Levenshtein distance.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::DOCUMENT;
    use crate::{Layer, document};

    fn checked(text: &str) -> (Json, Vec<String>) {
        let mut found = Vec::new();
        let node = document::parse(text, Layer::User, "f").unwrap();
        let node = check(node, DOCUMENT, "", &mut found).unwrap();
        (to_json(&node, DOCUMENT), found.iter().map(Diagnostic::line).collect())
    }

    #[test]
    fn one_wrong_key_does_not_take_the_others_along() {
        let (json, found) =
            checked("hostname: [a]\nros: {ssh: {daemon: yes}, sysctl: {a.b: 1}}\nhostnme: x\n");
        assert_eq!(
            json,
            serde_json::json!({"ros": {"ssh": {"daemon": true}, "sysctl": {"a.b": "1"}}})
        );
        assert_eq!(
            found,
            [
                "f:1:11: error: hostname: expected a host name (letters, digits, '-' and '.'), this is a list",
                "f:3:10: warning: hostnme: no such key; it is left out (did you mean \"hostname\"?)",
            ]
        );
    }

    #[test]
    fn modes_are_octal_quoted_or_not() {
        for text in ["0644", "'0644'", "644", "0o644"] {
            let (json, found) =
                checked(&format!("write_files: [{{path: /a, permissions: {text}}}]\n"));
            assert_eq!(json["write_files"][0]["permissions"], 0o644, "{text} {found:?}");
        }
        assert!(!checked("write_files: [{path: /a, permissions: 0998}]\n").1.is_empty());
    }

    #[test]
    fn a_file_without_a_path_is_refused() {
        let (json, found) = checked("write_files:\n- {content: x}\n- {path: /b}\n");
        assert_eq!(json["write_files"].as_array().unwrap().len(), 1);
        assert!(found[0].starts_with("f:2:3: error: write_files.0: the key \"path\""), "{found:?}");
    }

    #[test]
    fn each_kind_says_what_it_expects() {
        let table = [
            ("ros: {ssh: {port: 70000}}", "ros.ssh.port: expected a whole number from 1 to 65535"),
            ("ros: {network: {interfaces: {a: {address: 10.0.0.1}}}}", "(write 10.0.0.1/24)"),
            ("ros: {network: {interfaces: {a: {gateway: x}}}}", "expected an IP address"),
            ("write_files: [{path: a}]", "write_files.0.path: expected an absolute path"),
            ("runcmd: echo hi", "expected a list, this is \"echo hi\" (write [\"echo hi\"])"),
            ("hostname: a_b", "(write a-b)"),
            ("power_state: {mode: rebot}", "(did you mean \"reboot\"?)"),
            (
                "packages: [x]",
                "warning: packages: accepted, but does nothing in ros: ros has no package",
            ),
            (
                "ros: {network: {wifi_networks: {}}}",
                "error: ros.network.wifi_networks: refused: wireless",
            ),
            (
                "ros: {state: {dev: LABEL=X}}",
                "warning: ros.state: counts on the kernel command line only",
            ),
            ("swap: {size: many}", "expected a size"),
        ];
        for (text, expected) in table {
            let found = checked(text).1;
            assert!(found.iter().any(|line| line.contains(expected)), "{text}: {found:?}");
        }
    }

    #[test]
    fn older_spellings_are_the_same_keys() {
        let (json, found) =
            checked("ca-certs: {remove-defaults: true}\nusers: [{name: a, lock-passwd: no}]\n");
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(json["ca_certs"]["remove_defaults"], true);
        assert_eq!(json["users"][0]["lock_passwd"], false);
    }

    #[test]
    fn sizes() {
        let table = [
            ("512M", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("1.5GiB", Some(3 << 29)),
            ("7", Some(7)),
            ("x", None),
            ("", None),
            ("-1", None),
        ];
        for (text, expected) in table {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}

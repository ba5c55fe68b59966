//! Holds a document against the schema: what is wrong is left out and reported, the rest is kept.

use serde_json::{Map, Value as Json};

use crate::diagnostic::Diagnostic;
use crate::schema::{Key, Kind};
use crate::tree::{Node, Value};

/// The part of `node` that is as `kind` says; what is not goes to `found`.
#[must_use]
pub fn check(node: Node, kind: Kind, path: &str, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let origin = node.origin.clone();
    if is_null(&node) {
        return None;
    }
    let value = match (kind, node.value) {
        (Kind::Struct(keys), Value::Map(entries)) => {
            Value::Map(members(entries, keys, path, &origin, found)?)
        }
        (Kind::Map(inner), Value::Map(entries)) => Value::Map(
            entries
                .into_iter()
                .filter_map(|(key, node)| {
                    Some((key.clone(), check(node, *inner, &join(path, &key), found)?))
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
        (kind, value) => match fits(kind, &value) {
            Fit::Yes => value,
            Fit::No(expected) => {
                found.push(
                    Diagnostic::error(
                        origin,
                        format!("expected {expected}, this is {}", shown(&value)),
                    )
                    .about(path),
                );
                return None;
            }
            Fit::Unused => {
                let message = "accepted, but does nothing in ros".to_owned();
                found.push(Diagnostic::warning(origin, message).about(path));
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
    let mut kept = Vec::with_capacity(entries.len());
    for (name, node) in entries {
        let here = join(path, &name);
        match keys.iter().find(|key| key.name == name) {
            Some(key) => kept.extend(check(node, key.kind, &here, found).map(|node| (name, node))),
            None => found.push(unknown(&name, &node, &here, keys)),
        }
    }
    let missing =
        keys.iter().find(|key| key.required && !kept.iter().any(|(name, _)| name == key.name));
    if let Some(key) = missing {
        let message = format!("the key {:?} is missing", key.name);
        found.push(Diagnostic::error(origin.clone(), message).about(path));
        return None;
    }
    Some(kept)
}

fn unknown(name: &str, node: &Node, path: &str, keys: &[Key]) -> Diagnostic {
    let diagnostic =
        Diagnostic::warning(node.origin.clone(), "no such key; it is left out".into()).about(path);
    let nearest = keys.iter().map(|key| (distance(name, key.name), key.name)).min();
    match nearest {
        Some((steps, key)) if steps <= 1 + name.len() / 4 => {
            diagnostic.hint(&format!("did you mean {key:?}?"))
        }
        _ => diagnostic,
    }
}

enum Fit {
    Yes,
    No(String),
    Unused,
}

fn fits(kind: Kind, value: &Value) -> Fit {
    let no = |expected: &str| Fit::No(expected.to_owned());
    let text = match value {
        Value::Scalar { text, .. } => Some(text.as_str()),
        _ => None,
    };
    match (kind, text) {
        (Kind::Any, _) | (Kind::Text | Kind::Secret, Some(_)) => Fit::Yes,
        (Kind::Ignored, _) => Fit::Unused,
        (Kind::Text | Kind::Secret, None) => no("a text"),
        (Kind::Bool, text) => {
            if text.and_then(boolean).is_some() {
                Fit::Yes
            } else {
                no("true or false")
            }
        }
        (Kind::Int, text) => {
            if text.is_some_and(|text| text.parse::<i64>().is_ok()) {
                Fit::Yes
            } else {
                no("a whole number")
            }
        }
        (Kind::Mode, text) => {
            if text.is_some_and(|text| mode(text).is_some()) {
                Fit::Yes
            } else {
                no("a file mode in octal such as '0644'")
            }
        }
        (Kind::Word(words), text) => {
            if text.is_some_and(|text| words.contains(&text)) {
                Fit::Yes
            } else {
                let words: Vec<&str> =
                    words.iter().copied().filter(|word| !word.is_empty()).collect();
                Fit::No(format!("one of {}", words.join(", ")))
            }
        }
        (Kind::HostName, text) => {
            if text.is_some_and(host_name) {
                Fit::Yes
            } else {
                no("a host name (letters, digits, '-' and '.')")
            }
        }
        (Kind::Row(count), _) => match value {
            Value::List(items) if !items.is_empty() && items.len() <= count.max(6) => Fit::Yes,
            _ => Fit::No(format!("a list of {count} texts [device, mount point, type, options]")),
        },
        (Kind::BoolOrList, text) => match value {
            Value::List(_) => Fit::Yes,
            _ if text.and_then(boolean).is_some() => Fit::Yes,
            _ => no("true, false or a list of devices"),
        },
        (Kind::Command, _) => match value {
            Value::Map(_) => no("a shell line, or a list of words"),
            _ => Fit::Yes,
        },
        (Kind::List(_) | Kind::OneOrMany(_), _) => no("a list"),
        (Kind::Map(_) | Kind::Struct(_), _) => no("a mapping (key: value)"),
    }
}

/// The JSON that settings are read from: every value in the type that its kind has.
#[must_use]
pub fn to_json(node: &Node, kind: Kind) -> Json {
    match (kind, &node.value) {
        (Kind::Struct(keys), Value::Map(entries)) => Json::Object(
            entries
                .iter()
                .filter_map(|(name, node)| {
                    let key = keys.iter().find(|key| key.name == name)?;
                    Some((name.clone(), to_json(node, key.kind)))
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
        (Kind::Row(count), Value::List(items)) => {
            let mut row: Vec<Json> =
                items.iter().take(count).map(|item| to_json(item, Kind::Text)).collect();
            row.resize(count, Json::from(""));
            Json::Array(row)
        }
        (Kind::Command, Value::List(items)) => {
            Json::Array(items.iter().map(|item| to_json(item, Kind::Text)).collect())
        }
        (kind, Value::Scalar { text, .. }) => match kind {
            Kind::Bool | Kind::BoolOrList => boolean(text).map_or(Json::Null, Json::Bool),
            Kind::Int => text.parse::<i64>().map_or(Json::Null, Json::from),
            Kind::Mode => mode(text).map_or(Json::Null, Json::from),
            Kind::Any => node.to_json(),
            _ => Json::from(text.as_str()),
        },
        _ => node.to_json(),
    }
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
fn distance(a: &str, b: &str) -> usize {
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
            checked("hostname: [a]\nros: {debug: yes, sysctl: {a.b: 1}}\nhostnme: x\n");
        assert_eq!(json, serde_json::json!({"ros": {"debug": true, "sysctl": {"a.b": "1"}}}));
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
}

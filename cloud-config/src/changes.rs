//! What is different between two configurations: each key with its value before and after, and what the change does.

use crate::schema::{DOCUMENT, Effect, Kind, find};
use crate::tree::{Node, Value};

/// One key that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted path.
    pub path: String,
    /// The value before; none: it was not set.
    pub before: Option<Node>,
    /// The value after; none: it is not set any more.
    pub after: Option<Node>,
    /// What the key does.
    pub effect: Effect,
}

/// Everything that is different, in the order of keys.
#[must_use]
pub fn between(before: &Node, after: &Node) -> Vec<Change> {
    let mut all = Vec::new();
    compare(Some(before), Some(after), DOCUMENT, Effect::Group, "", &mut all);
    all
}

fn compare(
    before: Option<&Node>,
    after: Option<&Node>,
    kind: Kind,
    effect: Effect,
    path: &str,
    all: &mut Vec<Change>,
) {
    if before.map(Node::to_json) == after.map(Node::to_json) {
        return;
    }
    let shape = after.or(before).map_or(kind, |node| kind.for_shape(&node.value));
    let names = [entries(before), entries(after)].concat();
    if names.is_empty() || !matches!(shape, Kind::Struct(_) | Kind::Map(_)) {
        let (before, after) = (before.cloned(), after.cloned());
        all.push(Change { path: path.to_owned(), before, after, effect });
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let (inner, own) = match shape {
            Kind::Struct(keys) => find(keys, name).map_or((Kind::Any, None), |key| {
                (key.kind, (key.effect != Effect::Group).then_some(key.effect))
            }),
            Kind::Map(inner) => (*inner, None),
            _ => (Kind::Any, None),
        };
        let part = if name.contains('.') { format!("{name:?}") } else { name.to_owned() };
        let here = crate::check::join(path, &part);
        let of = |node: Option<&Node>| node.and_then(|node| node.get(name)).cloned();
        compare(of(before).as_ref(), of(after).as_ref(), inner, own.unwrap_or(effect), &here, all);
    }
}

fn entries(node: Option<&Node>) -> Vec<&str> {
    match node.map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.iter().map(|(name, _)| name.as_str()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, document};

    #[test]
    fn each_key_that_is_different_is_named_with_its_effect() {
        let node = |text: &str| document::parse(text, Layer::User, "f").unwrap();
        let before =
            node("hostname: a\nruncmd: [x]\nros: {ssh: {port: 22}, sysctl: {a.b: 1, c: 2}}\n");
        let after = node(
            "hostname: a\nruncmd: [y]\nros: {ssh: {port: 23}, sysctl: {a.b: 2, c: 2}, network: {dns: {search: [x]}}}\n",
        );
        let found: Vec<(String, Effect)> = between(&before, &after)
            .into_iter()
            .map(|change| (change.path, change.effect))
            .collect();
        let expected = [
            ("runcmd", Effect::Instance),
            ("ros.ssh.port", Effect::Restart("console")),
            ("ros.sysctl.\"a.b\"", Effect::Now),
            ("ros.network.dns.search", Effect::Restart("network")),
        ];
        assert_eq!(found, expected.map(|(path, effect)| (path.to_owned(), effect)));
        assert_eq!(between(&before, &before), []);
    }
}

//! The document tree: scalars as they were written, each with the place it came from; and the merge.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::Value as Json;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Layer of the configuration.
    pub layer: Layer,
    /// File, or another name for the source (`/proc/cmdline`).
    pub file: String,
    /// From 1; 0 when the source has no lines.
    pub line: usize,
    /// From 1; 0 when the source has no columns.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// The layers, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// What the release comes with.
    Release,
    /// What the vendor of the machine put on it.
    Oem,
    /// `cloud-config.d/*`.
    Fragment,
    /// From a datasource at first boot.
    Instance,
    /// What the user set.
    User,
    /// Kernel command line.
    Cmdline,
}

impl Layer {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Oem => "oem",
            Self::Fragment => "fragment",
            Self::Instance => "instance",
            Self::User => "user",
            Self::Cmdline => "cmdline",
        }
    }
}

/// One value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it is.
    pub origin: Origin,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// As written; `quoted` ones are always text.
    Scalar {
        /// The text without quotes.
        text: String,
        /// Whether it was quoted or a block.
        quoted: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in order.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A text.
    #[must_use]
    pub fn text(text: &str, origin: &Origin) -> Self {
        Self {
            value: Value::Scalar { text: text.to_owned(), quoted: true },
            origin: origin.clone(),
        }
    }

    /// An empty mapping.
    #[must_use]
    pub fn map(origin: &Origin) -> Self {
        Self { value: Value::Map(Vec::new()), origin: origin.clone() }
    }

    /// The member `key` of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The value at a dotted path of plain names; numbers go into lists.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
        self.at_parts(&parts)
    }

    /// The value at a path; numbers go into lists.
    #[must_use]
    pub fn at_parts<S: AsRef<str>>(&self, parts: &[S]) -> Option<&Self> {
        parts.iter().map(AsRef::as_ref).try_fold(self, |node, part| match &node.value {
            Value::List(items) => items.get(part.parse::<usize>().ok()?),
            _ => node.get(part),
        })
    }

    /// Puts `node` at a dotted path of plain names.
    pub fn put(&mut self, path: &str, node: Self) {
        self.put_parts(&path.split('.').collect::<Vec<_>>(), node);
    }

    /// Puts `node` at a path; mappings are made on the way, anything else there is replaced. In a list an index
    /// that is not there yet is the next one.
    pub fn put_parts<S: AsRef<str>>(&mut self, parts: &[S], node: Self) {
        let Some((key, rest)) = parts.split_first() else {
            *self = node;
            return;
        };
        let key = key.as_ref();
        if let (Value::List(items), Ok(index)) = (&mut self.value, key.parse::<usize>()) {
            let index = index.min(items.len());
            if index == items.len() {
                items.push(Self::map(&node.origin));
            }
            return items[index].put_parts(rest, node);
        }
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let index = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            entries.push((key.to_owned(), Self::map(&node.origin)));
            entries.len() - 1
        });
        entries[index].1.put_parts(rest, node);
    }

    /// Takes the value at a path away; answers whether it was there.
    pub fn remove_parts<S: AsRef<str>>(&mut self, parts: &[S]) -> bool {
        let Some((key, rest)) = parts.split_first() else { return false };
        let key = key.as_ref();
        match &mut self.value {
            Value::List(items) => match key.parse::<usize>().ok().filter(|at| *at < items.len()) {
                Some(at) if rest.is_empty() => {
                    items.remove(at);
                    true
                }
                Some(at) => items[at].remove_parts(rest),
                None => false,
            },
            Value::Map(entries) => {
                let Some(at) = entries.iter().position(|(name, _)| name == key) else {
                    return false;
                };
                if rest.is_empty() {
                    entries.remove(at);
                    return true;
                }
                entries[at].1.remove_parts(rest)
            }
            Value::Scalar { .. } => false,
        }
    }

    /// The same as JSON; unquoted scalars resolved by YAML's core schema.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Scalar { text, quoted: true } => Json::String(text.clone()),
            Value::Scalar { text, quoted: false } => resolve(text),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(
                entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect(),
            ),
        }
    }
}

/// YAML 1.2 core schema.
fn resolve(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" => return Json::Bool(true),
        "false" | "False" | "FALSE" => return Json::Bool(false),
        _ => {}
    }
    let leading_zero = text.len() > 1 && text.starts_with('0') && !text.contains('.');
    if leading_zero {
        return Json::String(text.to_owned());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Json::from(number);
    }
    let looks_numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if looks_numeric => {
            serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number)
        }
        _ => Json::String(text.to_owned()),
    }
}

/// Lists that grow instead of being replaced.
const APPENDED: [&str; 1] = ["ssh_authorized_keys"];

/// `upper` over `lower`: maps merge, lists and scalars replace, [`APPENDED`] lists grow without repeats.
#[must_use]
pub fn merge(lower: Node, upper: Node) -> Node {
    match (lower.value, upper.value) {
        (Value::Map(mut entries), Value::Map(above)) => {
            let mut places = HashMap::new();
            for (index, (name, _)) in entries.iter().enumerate() {
                places.entry(name.clone()).or_insert(index);
            }
            for (key, node) in above {
                match places.get(&key).copied() {
                    None => {
                        places.insert(key.clone(), entries.len());
                        entries.push((key, node));
                    }
                    Some(index) => {
                        let below =
                            std::mem::replace(&mut entries[index].1, Node::map(&upper.origin));
                        entries[index].1 = if APPENDED.contains(&key.as_str()) {
                            append(below, node)
                        } else {
                            merge(below, node)
                        };
                    }
                }
            }
            Node { value: Value::Map(entries), origin: lower.origin }
        }
        (_, value) => Node { value, origin: upper.origin },
    }
}

fn append(lower: Node, upper: Node) -> Node {
    match (lower.value, upper.value) {
        (Value::List(mut items), Value::List(above)) => {
            // Keys are texts; whatever else is there is no key, and may be there twice.
            let text = |node: &Node| match &node.value {
                Value::Scalar { text, .. } => Some(text.clone()),
                _ => None,
            };
            let mut there: HashSet<String> = items.iter().filter_map(text).collect();
            items.extend(
                above.into_iter().filter(|node| text(node).is_none_or(|key| there.insert(key))),
            );
            Node { value: Value::List(items), origin: lower.origin }
        }
        (_, value) => Node { value, origin: upper.origin },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use proptest::prelude::*;

    fn node(text: &str, layer: Layer) -> Node {
        document::parse(text, layer, "f").unwrap()
    }

    #[test]
    fn maps_merge_lists_replace_keys_append_and_origins_stay() {
        let lower = node("a: {x: 1, y: 2}\nl: [1, 2]\nssh_authorized_keys: [k1]\n", Layer::Release);
        let upper = node("a: {y: 3}\nl: [9]\nssh_authorized_keys: [k1, k2]\n", Layer::User);
        let merged = merge(lower, upper);
        let expected = serde_json::json!({"a": {"x": 1, "y": 3}, "l": [9], "ssh_authorized_keys": ["k1", "k2"]});
        assert_eq!(merged.to_json(), expected);
        assert_eq!(merged.at("a.x").unwrap().origin.layer, Layer::Release);
        assert_eq!(merged.at("a.y").unwrap().origin.layer, Layer::User);
        assert_eq!(merged.at("ssh_authorized_keys.1").unwrap().origin.layer, Layer::User);
    }

    #[test]
    fn a_mode_keeps_its_zero() {
        assert_eq!(node("m: 0644", Layer::User).to_json(), serde_json::json!({"m": "0644"}));
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let origin = Origin { layer: Layer::User, file: "f".into(), line: 1, column: 1 };
        let leaf_origin = origin.clone();
        let leaf = "[a-c]{1,2}".prop_map(move |text| Node::text(&text, &leaf_origin));
        let tree = leaf.prop_recursive(3, 16, 4, move |inner| {
            let (a, b) = (origin.clone(), origin.clone());
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3)
                    .prop_map(move |items| Node { value: Value::List(items), origin: a.clone() }),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(move |map| Node {
                    value: Value::Map(map.into_iter().collect()),
                    origin: b.clone()
                }),
            ]
        });
        tree.prop_filter("documents are maps", |node| matches!(node.value, Value::Map(_)))
    }

    /// Documents as they are once they were checked: what a key is does not depend on the layer.
    fn layer(layer: Layer) -> impl Strategy<Value = Node> {
        let origin = Origin { layer, file: layer.word().into(), line: 1, column: 1 };
        let leaf = {
            let origin = origin.clone();
            "[a-c]{1,2}".prop_map(move |text| Node::text(&text, &origin)).boxed()
        };
        let list = {
            let origin = origin.clone();
            prop::collection::vec(leaf.clone(), 0..3)
                .prop_map(move |items| Node { value: Value::List(items), origin: origin.clone() })
                .boxed()
        };
        let map = |members: BoxedStrategy<Vec<(String, Node)>>| {
            let origin = origin.clone();
            members
                .prop_map(move |map| Node { value: Value::Map(map), origin: origin.clone() })
                .boxed()
        };
        let some = |name: &'static str, node: BoxedStrategy<Node>| {
            prop::option::of(node)
                .prop_map(move |node| node.map(|node| (name.to_owned(), node)))
                .boxed()
        };
        let level = move |inner: Vec<BoxedStrategy<Option<(String, Node)>>>| {
            let mut all = vec![
                some("text", leaf.clone()),
                some("list", list.clone()),
                some("ssh_authorized_keys", list.clone()),
            ];
            all.extend(inner);
            all.prop_map(|members| members.into_iter().flatten().collect::<Vec<_>>()).boxed()
        };
        let inner = map(level(Vec::new()));
        map(level(vec![some("map", inner.clone()), some("other", inner)]))
    }

    /// Every value with its path.
    fn leaves(node: &Node, path: &str, all: &mut Vec<(String, Node)>) {
        match &node.value {
            Value::Map(entries) => {
                entries
                    .iter()
                    .for_each(|(name, node)| leaves(node, &format!("{path}.{name}"), all));
            }
            _ => all.push((path.to_owned(), node.clone())),
        }
    }

    fn sorted(node: &Node) -> Vec<(String, Node)> {
        let mut all = Vec::new();
        leaves(node, "", &mut all);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    proptest! {
        #[test]
        fn a_document_over_itself_and_over_what_has_it_changes_nothing(a in any_node(), b in any_node()) {
            prop_assert_eq!(merge(a.clone(), a.clone()).to_json(), a.to_json());
            let both = merge(a.clone(), b.clone());
            prop_assert_eq!(merge(a, both.clone()).to_json(), both.to_json());
            prop_assert_eq!(merge(both.clone(), b).to_json(), both.to_json());
        }

        #[test]
        fn layers_may_be_merged_in_any_grouping(
            a in layer(Layer::Release), b in layer(Layer::Instance), c in layer(Layer::User),
        ) {
            let left = merge(merge(a.clone(), b.clone()), c.clone());
            let right = merge(a, merge(b, c));
            prop_assert_eq!(left.to_json(), right.to_json());
            let origins = |node: &Node| sorted(node).into_iter().map(|(path, node)| (path, node.origin.layer)).filter(|(path, _)| !path.ends_with("keys")).collect::<Vec<_>>();
            prop_assert_eq!(origins(&left), origins(&right));
        }

        #[test]
        fn a_value_comes_from_the_highest_layer_that_has_it(
            a in layer(Layer::Release), b in layer(Layer::Instance), c in layer(Layer::User),
        ) {
            let merged = merge(merge(a.clone(), b.clone()), c.clone());
            for (path, node) in sorted(&merged) {
                let path = path.trim_start_matches('.');
                let highest = [&c, &b, &a].into_iter().find_map(|layer| layer.at(path)).unwrap();
                if path.ends_with("ssh_authorized_keys") {
                    let Value::List(keys) = &node.value else { panic!("a list") };
                    let all = [&a, &b, &c].into_iter().filter_map(|layer| layer.at(path));
                    let given: usize = all.map(|node| match &node.value { Value::List(keys) => keys.len(), _ => 0 }).sum();
                    prop_assert!(keys.len() <= given);
                    for key in keys {
                        let Some(Value::List(own)) = [&a, &b, &c].into_iter().find(|layer| {
                            layer.at(path).is_some_and(|node| matches!(&node.value, Value::List(own) if own.iter().any(|own| own.value == key.value)))
                        }).map(|layer| layer.at(path).unwrap().value.clone()) else { panic!("a key of no layer") };
                        prop_assert!(own.contains(key), "a key comes from the lowest layer that has it");
                    }
                } else {
                    prop_assert_eq!(&node, highest);
                }
            }
        }
    }
}

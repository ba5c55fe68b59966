//! The reference table of `docs/cloud-config.md`, made from the schema.

use std::fmt::Write as _;

use super::{Effect, From, Key, Kind, walk};

/// First and last line of the generated part of the document.
pub const BEGIN: &str =
    "<!-- made by `cargo run -p cloud-config --example reference`: do not edit below -->";

/// The tables: keys that count, then keys that are accepted only.
#[must_use]
pub fn markdown() -> String {
    let (mut used, mut unused) = (String::new(), String::new());
    walk(&mut |path, key| match key.effect {
        Effect::Nothing(why) => row_unused(&mut unused, path, key, "accepted, does nothing", why),
        Effect::Refused(why) => row_unused(&mut unused, path, key, "refused", why),
        _ => row(&mut used, path, key),
    });
    format!(
        "{BEGIN}\n\n## Keys\n\n| key | type | default | since | counts | from | what it is |\n|---|---|---|---|---|---|---|\n{used}\n\
         ## Keys that are accepted and do nothing, or are refused\n\n| key | since | | from | why |\n|---|---|---|---|---|\n{unused}"
    )
}

fn row(table: &mut String, path: &str, key: &Key) {
    let (kind, default) = (cell(&kind_name(key.kind)), cell(key.default));
    let needed = if key.required { " **(needed)**" } else { "" };
    let _ = writeln!(
        table,
        "| `{path}` | {kind} | {default} | {} | {} | {} | {}{needed} |",
        key.since,
        effect_name(key.effect),
        from_name(key.from),
        cell(key.doc)
    );
}

fn row_unused(table: &mut String, path: &str, key: &Key, word: &str, why: &str) {
    let _ = writeln!(
        table,
        "| `{path}` | {} | {word} | {} | {} |",
        key.since,
        from_name(key.from),
        cell(why)
    );
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A kind in words.
#[must_use]
pub fn kind_name(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Secret => "secret".into(),
        Kind::Bool => "boolean".into(),
        Kind::Int => "number".into(),
        Kind::Range(from, to) => format!("number, {from} to {to}"),
        Kind::Mode => "file mode".into(),
        Kind::Size => "size".into(),
        Kind::Word(words) => words
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::HostName => "host name".into(),
        Kind::Address => "address".into(),
        Kind::Cidr => "address/prefix".into(),
        Kind::Path => "absolute path".into(),
        Kind::Any => "anything".into(),
        Kind::List(inner) => format!("list of {}", kind_name(*inner)),
        Kind::OneOrMany(inner) => format!("{}, or a list", kind_name(*inner)),
        Kind::Row(count) => format!("list of up to {count} texts"),
        Kind::Map(inner) => format!("mapping of {}", kind_name(*inner)),
        Kind::Struct(_) => "mapping".into(),
        Kind::Either(kinds) => {
            kinds.iter().map(|kind| kind_name(*kind)).collect::<Vec<_>>().join(" or ")
        }
        Kind::Command => "shell line or words".into(),
    }
}

/// An effect in words.
#[must_use]
pub fn effect_name(effect: Effect) -> String {
    match effect {
        Effect::Now => "at once".into(),
        Effect::Restart(service) => format!("with {service}"),
        Effect::Boot => "next boot".into(),
        Effect::Instance => "once an instance".into(),
        Effect::Cmdline => "kernel command line".into(),
        Effect::Group => String::new(),
        Effect::Nothing(_) => "never".into(),
        Effect::Refused(_) => "refused".into(),
    }
}

fn from_name(from: From) -> &'static str {
    match from {
        From::Rancher => "RancherOS",
        From::CloudInit => "cloud-init",
        From::Both => "both",
        From::Ours => "ours",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cloud-config.md");
        let text = std::fs::read_to_string(path).unwrap();
        let at = text.find(BEGIN).expect("the mark of the generated part");
        assert!(
            text[at..] == markdown(),
            "stale: run `cargo run -p cloud-config --example reference`"
        );
    }
}

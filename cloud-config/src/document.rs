//! YAML text to a [`Node`] tree with positions, by saphyr. Anchors are resolved; the first document counts.

use base64::Engine as _;
use saphyr::{MarkedYaml, YamlData, YamlLoader};
use saphyr_parser::{Event, Parser, ScalarStyle, SpannedEventReceiver};

use crate::diagnostic::Diagnostic;
use crate::tree::{Layer, Node, Origin, Value};

/// Deeper documents are refused: no configuration needs it, and recursion has an end.
const MAX_DEPTH: usize = 32;

/// Parses `text`. An empty document is an empty mapping.
///
/// # Errors
/// Where the text is not YAML, or not a mapping.
pub fn parse(text: &str, layer: Layer, file: &str) -> Result<Node, Diagnostic> {
    let origin = |line, column| Origin { layer, file: file.to_owned(), line, column };
    let too_deep =
        |place| Diagnostic::error(place, format!("nested more than {MAX_DEPTH} levels deep"));
    let mut loader = YamlLoader::<MarkedYaml>::default();
    loader.early_parse(false);
    let failed = |error: saphyr_parser::ScanError| {
        let at = error.marker();
        Diagnostic::error(
            origin(at.line(), at.col() + 1),
            format!("this is not YAML: {}", error.info()),
        )
        .hint(
            "compare the indentation with the lines around, and quote values that have ':' or '#'",
        )
    };
    // Not `Parser::load`: that calls itself at each level, and what it is given may have any number.
    let mut depth = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(failed)?;
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH + 1 {
            return Err(too_deep(origin(span.start.line(), span.start.col() + 1)));
        }
        let ends = event == Event::DocumentEnd;
        loader.on_event(event, span);
        if ends {
            break;
        }
    }
    if let Some(error) = loader.error() {
        return Err(failed(error.clone()));
    }
    let documents = loader.into_documents();
    let Some(document) = documents.first() else { return Ok(Node::map(&origin(1, 1))) };
    let node = convert(document, &origin, 0)?;
    match node.value {
        Value::Map(_) => Ok(node),
        Value::Scalar { ref text, quoted: false } if text.is_empty() || text == "~" => {
            Ok(Node::map(&origin(1, 1)))
        }
        _ => Err(Diagnostic::error(node.origin, "expected a mapping (key: value)".into()).hint(
            "a cloud-config starts with the line #cloud-config and has keys at the left edge",
        )),
    }
}

/// What stands before base64 in the text of a scalar whose bytes are no text.
pub const BINARY: &str = "!!binary ";

fn convert(
    yaml: &MarkedYaml,
    origin: &impl Fn(usize, usize) -> Origin,
    depth: usize,
) -> Result<Node, Diagnostic> {
    let place = origin(yaml.span.start.line(), yaml.span.start.col() + 1);
    if depth > MAX_DEPTH {
        return Err(Diagnostic::error(place, format!("nested more than {MAX_DEPTH} levels deep")));
    }
    let value = match &yaml.data {
        YamlData::Representation(text, style, tag) => {
            let binary =
                tag.as_ref().filter(|tag| tag.is_yaml_core_schema() && tag.suffix == "binary");
            let quoted = binary.is_some() || !matches!(style, ScalarStyle::Plain);
            let text = if binary.is_some() { text_of_binary(text) } else { text.to_string() };
            Value::Scalar { text, quoted }
        }
        YamlData::Value(scalar) => Value::Scalar { text: format!("{scalar:?}"), quoted: false },
        YamlData::Sequence(items) => Value::List(
            items.iter().map(|item| convert(item, origin, depth + 1)).collect::<Result<_, _>>()?,
        ),
        YamlData::Mapping(entries) => {
            let mut map: Vec<(String, Node)> = Vec::with_capacity(entries.len());
            for (key, node) in entries {
                let key = convert(key, origin, depth + 1)?;
                let Value::Scalar { text, .. } = key.value else {
                    return Err(Diagnostic::error(key.origin, "a key must be one word".into()));
                };
                let node = convert(node, origin, depth + 1)?;
                map.push((text, node));
            }
            Value::Map(map)
        }
        YamlData::Tagged(_, inner) => return convert(inner, origin, depth + 1),
        YamlData::Alias(_) | YamlData::BadValue => {
            return Err(Diagnostic::error(place, "this value cannot be read".into()));
        }
    };
    Ok(Node { value, origin: place })
}

/// The text that a `!!binary` is. Bytes that are none stay as they are written, behind [`BINARY`]: whoever takes bytes decodes
/// them.
fn text_of_binary(base64: &str) -> String {
    let packed: String = base64.split_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&packed).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| BINARY.to_owned() + &packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn positions_are_those_an_editor_shows() {
        let node =
            parse("#cloud-config\nhostname: x\nros:\n  debug: true\n", Layer::User, "f").unwrap();
        assert_eq!(node.at("hostname").unwrap().origin.to_string(), "f:2:11");
        assert_eq!(node.at("ros.debug").unwrap().origin.to_string(), "f:4:10");
    }

    #[test]
    fn binary_is_text_where_it_is_one() {
        let text = "a: !!binary |\n  c2F5\n  IGhp\nb: !!binary H4sIAAAA\nc: !own c2F5\n";
        let node = parse(text, Layer::User, "f").unwrap().to_json();
        assert_eq!(node, serde_json::json!({"a": "say hi", "b": "!!binary H4sIAAAA", "c": "c2F5"}));
    }

    #[test]
    fn depth_has_an_end_in_every_form() {
        let flow = |depth: usize| format!("a: {}{}\n", "[".repeat(depth), "]".repeat(depth));
        let block = |depth: usize| format!("a:\n  {}b\n", "- ".repeat(depth));
        for deep in [flow(MAX_DEPTH + 1), block(MAX_DEPTH + 1), block(100_000)] {
            let error = parse(&deep, Layer::User, "f").unwrap_err();
            assert!(error.message.contains("levels deep"), "{error:?}");
        }
        for sound in [flow(MAX_DEPTH), block(MAX_DEPTH - 1)] {
            assert!(parse(&sound, Layer::User, "f").is_ok(), "{sound}");
        }
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let error = parse("a: b\n  c: d\n", Layer::User, "f").unwrap_err();
        assert_eq!(error.origin.line, 2, "{error:?}");
        assert!(parse("- a\n", Layer::User, "f").is_err());
        assert!(parse("", Layer::User, "f").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}") {
            let _ = parse(&text, Layer::User, "f");
        }
    }
}

//! The schema as JSON Schema (draft 2020-12), for editors.

use serde_json::{Map, Value, json};

use super::{DOCUMENT, Effect, Key, Kind};

/// The schema of a document.
#[must_use]
pub fn document() -> Value {
    let mut schema = of(DOCUMENT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("ros cloud-config");
    if let Some(properties) = schema["properties"].as_object_mut() {
        let ros = properties.get("ros").cloned().unwrap_or_default();
        properties.insert("rancher".into(), ros);
    }
    schema
}

fn of(kind: Kind) -> Value {
    match kind {
        Kind::Text | Kind::Secret => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Bool => json!({ "enum": [true, false, "true", "false", "yes", "no", "on", "off"] }),
        Kind::Int => json!({ "type": "integer" }),
        Kind::Range(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::Mode => json!({ "type": ["string", "integer"], "pattern": "^(0o?)?[0-7]{1,4}$" }),
        Kind::Size => json!({ "type": ["string", "integer"] }),
        Kind::Word(words) => words_of(words),
        Kind::HostName => {
            json!({ "type": "string", "maxLength": 253, "pattern": "^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$" })
        }
        Kind::Address => {
            json!({ "anyOf": [{ "type": "string", "format": "ipv4" }, { "type": "string", "format": "ipv6" }] })
        }
        Kind::Cidr => json!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" }),
        Kind::Path => json!({ "type": "string", "pattern": "^/" }),
        Kind::Any => json!({}),
        Kind::List(inner) => json!({ "type": "array", "items": of(*inner) }),
        Kind::OneOrMany(inner) => {
            json!({ "anyOf": [of(*inner), { "type": "array", "items": of(*inner) }] })
        }
        Kind::Row(count) => {
            json!({ "type": "array", "minItems": 1, "maxItems": count, "items": { "type": ["string", "number", "boolean", "null"] } })
        }
        Kind::Map(inner) => json!({ "type": "object", "additionalProperties": of(*inner) }),
        Kind::Struct(keys) => structure(keys),
        Kind::Either(kinds) => {
            json!({ "anyOf": kinds.iter().map(|kind| of(*kind)).collect::<Vec<_>>() })
        }
        Kind::Command => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": ["string", "number", "boolean"] } }] })
        }
    }
}

/// A word that YAML takes for a number may be written as one.
fn words_of(words: &[&str]) -> Value {
    let numbers = words.iter().filter_map(|word| word.parse::<i64>().ok()).map(Value::from);
    json!({ "enum": words.iter().map(|word| json!(word)).chain(numbers).collect::<Vec<_>>() })
}

fn structure(keys: &[Key]) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut schema =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = of(key.kind);
    match key.effect {
        Effect::Nothing(why) => {
            schema["description"] = json!(format!("Accepted, does nothing: {why}."));
            schema["deprecated"] = json!(true);
        }
        Effect::Refused(why) => {
            return json!({ "not": {}, "description": format!("Refused: {why}.") });
        }
        _ => schema["description"] = json!(key.doc),
    }
    if !key.default.is_empty() {
        schema["$comment"] = json!(format!("default: {}", key.default));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_there_and_what_is_not() {
        let schema = document();
        let ros = &schema["properties"]["rancher"]["properties"];
        assert_eq!(ros["ssh"]["properties"]["port"]["maximum"], 65_535);
        assert_eq!(schema["properties"]["packages"]["deprecated"], true);
        assert_eq!(schema["properties"]["write_files"]["items"]["required"], json!(["path"]));
        assert_eq!(schema["additionalProperties"], false);
        assert!(ros["network"]["properties"]["wifi_networks"]["not"].is_object());
    }
}

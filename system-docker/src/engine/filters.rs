//! Filters of lists, events and prunes: what clients ask for, and whether something passes. Names and ids are regular expressions, images'
//! names shell patterns, as in Docker.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use glob::{MatchOptions, Pattern};
use regex::RegexSet;
use serde_json::Value;

use super::error::{ApiError, Result};
use super::time::now;

/// Filters as clients send them: `{"label": ["a=b"]}` or `{"label": {"a=b": true}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Parses the query's JSON; `known` are the filters that the endpoint has.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = |_| ApiError::bad(format!("invalid filters: {text}"));
        let parsed: BTreeMap<String, Value> = serde_json::from_str(text).map_err(wrong)?;
        let mut filters = BTreeMap::new();
        for (name, values) in parsed {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad(format!(
                    "invalid filter '{name}': known are {}",
                    known.join(", ")
                )));
            }
            let values = match values {
                Value::Array(list) => {
                    list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
                }
                Value::Object(map) => map.keys().cloned().collect(),
                _ => {
                    return Err(ApiError::bad(format!("invalid filter '{name}': expected a list")));
                }
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// Whether any value of the filter passes; one that is not there lets all pass.
    pub fn any(&self, name: &str, passes: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(name)
            .is_none_or(|values| values.is_empty() || values.iter().any(|value| passes(value)))
    }

    /// Whether every value of the filter passes.
    pub fn all(&self, name: &str, passes: impl Fn(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(|values| values.iter().all(|value| passes(value)))
    }

    /// Whether the labels have every one that is asked for, and none that must not be there.
    pub fn labels(&self, labels: &HashMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|own| own == value),
            None => labels.contains_key(wanted),
        };
        self.all("label", has) && self.all("label!", |unwanted| !has(unwanted))
    }

    /// The moment of `until`, in nanoseconds since the epoch: a time, or how long ago (`24h`).
    pub fn until(&self) -> Result<Option<i64>> {
        let Some(text) = self.0.get("until").and_then(|values| values.first()) else {
            return Ok(None);
        };
        let ago = || duration_of(text).map(|length| now() - length);
        let moment = ago().or_else(|| super::time::parse(text));
        let wrong = || ApiError::bad(format!("until: {text:?} is neither a time nor a duration"));
        moment.ok_or_else(wrong).map(Some)
    }

    /// Whether the labels have none of those that `label!` names.
    pub fn without_labels(&self, labels: &HashMap<String, String>) -> bool {
        self.all("label!", |unwanted| match unwanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_none_or(|own| own != value),
            None => !labels.contains_key(unwanted),
        })
    }

    /// The values as regular expressions.
    pub fn patterns(&self, name: &str) -> Result<Patterns> {
        let Some(values) = self.0.get(name).filter(|values| !values.is_empty()) else {
            return Ok(Patterns(None));
        };
        let wrong = |e: regex::Error| ApiError::bad(format!("invalid filter '{name}': {e}"));
        RegexSet::new(values).map(|set| Patterns(Some(set))).map_err(wrong)
    }

    /// The values as shell patterns.
    pub fn globs(&self, name: &str) -> Result<Globs> {
        let Some(values) = self.0.get(name).filter(|values| !values.is_empty()) else {
            return Ok(Globs(None));
        };
        let parse = |text: &String| {
            let wrong = |e| ApiError::bad(format!("invalid filter '{name}={text}': {e}"));
            Pattern::new(text).map_err(wrong)
        };
        values.iter().map(parse).collect::<Result<_>>().map(|all| Globs(Some(all)))
    }

    /// The values as ports.
    pub fn ports(&self, name: &str) -> Result<Vec<Ports>> {
        let parse = |text: &String| {
            let wrong = || {
                let expected = "expected PORT[-PORT][/tcp|udp|sctp]";
                ApiError::bad(format!("invalid filter '{name}={text}': {expected}"))
            };
            Ports::parse(text).ok_or_else(wrong)
        };
        self.0.get(name).into_iter().flatten().map(parse).collect()
    }

    /// The first value that is none of `known`.
    pub fn unknown(&self, name: &str, known: &[&str]) -> Option<&str> {
        let values = self.0.get(name)?;
        values.iter().map(String::as_str).find(|value| !known.contains(value))
    }

    /// All values.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Regular expressions, found anywhere in a text; without one, all passes.
pub struct Patterns(Option<RegexSet>);

impl Patterns {
    /// Whether one is found.
    pub fn any(&self, text: &str) -> bool {
        self.0.as_ref().is_none_or(|set| set.is_match(text))
    }
}

/// Shell patterns of image names; without one, all passes.
pub struct Globs(Option<Vec<Pattern>>);

impl Globs {
    /// Whether one is of the whole name, or of what is before its tag. A star ends at a slash.
    pub fn any(&self, name: &str) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
        let matches = |pattern: &Pattern| {
            [name, repository].iter().any(|text| pattern.matches_with(text, options))
        };
        self.0.as_ref().is_none_or(|all| all.iter().any(matches))
    }
}

/// `80`, `80/udp`, `8000-8080/tcp`: ports of a protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>, String);

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let known = matches!(protocol, "tcp" | "udp" | "sctp");
        known.then_some(Self(first.parse().ok()?..=last.parse().ok()?, protocol.to_owned()))
    }

    /// Whether this port is among them.
    pub fn has(&self, port: u16, protocol: &str) -> bool {
        self.0.contains(&port) && self.1 == protocol
    }
}

/// Nanoseconds of `1h30m`, as Go writes durations; none when it is no duration.
fn duration_of(text: &str) -> Option<i64> {
    let mut total = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit());
        let end = unit.map_or(rest.len(), |unit| digits + unit);
        let factor = match &rest[digits..end] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(rest[..digits].parse::<i64>().ok()?.checked_mul(factor)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_have_both_forms() {
        let list = Filters::parse(r#"{"label":["a=b"],"status":["exited"]}"#, &["label", "status"])
            .unwrap();
        let map = Filters::parse(
            r#"{"label":{"a=b":true},"status":{"exited":true}}"#,
            &["label", "status"],
        )
        .unwrap();
        assert_eq!(list, map);
        assert!(list.labels(&HashMap::from([("a".to_owned(), "b".to_owned())])));
        assert!(!list.labels(&HashMap::from([("a".to_owned(), "c".to_owned())])));
        assert!(Filters::parse(r#"{"what":["x"]}"#, &["label", "status"]).is_err());
        assert!(Filters::parse("[", &["label", "status"]).is_err());
    }

    #[test]
    fn until_is_a_time_or_a_while_ago() {
        let until = |text: &str| {
            Filters::parse(&json!({ "until": [text] }).to_string(), &["until"]).unwrap().until()
        };
        assert!(until("1h30m").unwrap().unwrap() < now() - 5_399_000_000_000);
        assert_eq!(until("1700000000").unwrap(), Some(1_700_000_000_000_000_000));
        for wrong in ["soon", "1h30", "m"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Filters::default().until().unwrap(), None);
    }

    #[test]
    fn labels_can_be_unwanted() {
        let filters = Filters::parse(r#"{"label!":["a"]}"#, &["label!"]).unwrap();
        assert!(filters.labels(&HashMap::new()));
        assert!(!filters.labels(&HashMap::from([("a".to_owned(), String::new())])));
    }

    #[test]
    fn names_are_regular_expressions_and_images_patterns() {
        let filters = |name: &str, value: &str| {
            Filters::parse(&json!({ name: [value] }).to_string(), &[name]).unwrap()
        };
        for (pattern, text, expected) in [
            ("web", "a-web-1", true),
            ("^web", "a-web-1", false),
            ("^/?web$", "/web", true),
            ("web|db", "db", true),
            ("w.b", "wxb", true),
        ] {
            let patterns = filters("name", pattern).patterns("name").unwrap();
            assert_eq!(patterns.any(text), expected, "{pattern} {text}");
        }
        assert!(filters("name", "(").patterns("name").is_err());
        assert!(filters("name", "x").patterns("id").unwrap().any("what it may be"));
        for (pattern, text, expected) in [
            ("os*", "os-ntp:v1.2", true),
            ("os*:v1.?", "os-ntp:v1.2", true),
            ("os", "os:v1", true),
            ("os:v2*", "os:v1.2", false),
            ("o", "os:v1.2", false),
            ("*", "team/os:v1", false),
            ("*/[n-p]s", "team/os:v1", true),
        ] {
            let globs = filters("reference", pattern).globs("reference").unwrap();
            assert_eq!(globs.any(text), expected, "{pattern} {text}");
        }
        assert!(filters("reference", "[").globs("reference").is_err());
        // What takes hand-written matching longer than anybody waits.
        let globs = filters("reference", &"*a".repeat(40)).globs("reference").unwrap();
        assert!(!globs.any(&format!("{}b", "a".repeat(80))));
    }

    #[test]
    fn ports_have_ranges_and_protocols() {
        for (text, port, protocol, expected) in [
            ("80", 80, "tcp", true),
            ("80", 80, "udp", false),
            ("80-90/udp", 85, "udp", true),
            ("80-90/udp", 91, "udp", false),
        ] {
            assert_eq!(Ports::parse(text).unwrap().has(port, protocol), expected, "{text}");
        }
        for wrong in ["", ":80", "80/icmp", "70000", "a-b", "80-"] {
            assert_eq!(Ports::parse(wrong), None, "{wrong}");
        }
    }
}

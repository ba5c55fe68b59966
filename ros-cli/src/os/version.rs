//! The order of versions: numbers count as numbers, and a version with a suffix comes before the one without
//! (Semantic Versioning 2.0.0, 11).

use std::cmp::Ordering;

/// A version's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<'a> {
    Number(u64),
    Text(&'a str),
}

/// Which of two versions is newer: `v1.10` over `v1.9` over `v1.9-rc1`.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((a_core, a_suffix), (b_core, b_suffix)) = (split(a), split(b));
    compare_parts(a_core, b_core).then_with(|| match (a_suffix, b_suffix) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => compare_parts(a, b),
    })
}

/// Whether it is a version, and not a pre-release or a word such as `latest`.
#[must_use]
pub fn is_release(version: &str) -> bool {
    let (core, suffix) = split(version);
    suffix.is_none() && core.starts_with(|c: char| c.is_ascii_digit())
}

fn split(version: &str) -> (&str, Option<&str>) {
    let version = version.strip_prefix('v').unwrap_or(version);
    match version.split_once('-') {
        Some((core, suffix)) => (core, Some(suffix)),
        None => (version, None),
    }
}

fn compare_parts(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a).into_iter(), parts(b).into_iter());
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(Part::Number(a)), Some(Part::Number(b))) => a.cmp(&b),
            (Some(Part::Number(_)), Some(Part::Text(_))) => Ordering::Less,
            (Some(Part::Text(_)), Some(Part::Number(_))) => Ordering::Greater,
            (Some(Part::Text(a)), Some(Part::Text(b))) => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// `1.2rc3` → 1, 2, rc, 3.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for field in text.split(['.', '-', '_', '+']) {
        let mut rest = field;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            parts.push(match piece.parse() {
                Ok(number) if digits => Part::Number(number),
                _ => Part::Text(piece),
            });
            rest = after;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_from_other_tags() {
        let table =
            [("v1.2", true), ("1.2.3", true), ("v2-rc1", false), ("latest", false), ("v", false)];
        for (tag, expected) in table {
            assert_eq!(is_release(tag), expected, "{tag}");
        }
    }

    #[test]
    fn newer_versions_come_later() {
        let order = [
            "latest-a",
            "v0.9",
            "v1.0-rc1",
            "v1.0-rc2",
            "v1.0-rc10",
            "v1.0",
            "v1.0.1",
            "v1.2",
            "v1.9",
            "v1.10",
            "v2",
        ];
        for pair in order[1..].windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("v1.2", "1.2"), Ordering::Equal);
        assert_eq!(compare(order[0], order[0]), Ordering::Equal);
    }
}

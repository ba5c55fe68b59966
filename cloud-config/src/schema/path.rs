//! Dotted paths to keys: `ros.sysctl.net.ipv4.ip_forward`, `ros.registries.10.0.2.2:5000.plain_http`. Where a mapping
//! has free names, the schema says how far a name goes; double quotes keep one together in any case.

use super::{DOCUMENT, Kind, find};

/// The parts of `path`, `rancher` being `ros`; none when there is no such key.
#[must_use]
pub fn split(path: &str) -> Option<Vec<String>> {
    let words = words(path)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let own = match words.split_first() {
        Some((&"rancher", rest)) => [&["ros"], rest].concat(),
        Some(_) => words,
        None => return None,
    };
    inside(DOCUMENT, &own)
}

fn words(path: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    (!quoted && words.len() <= 64 && words.iter().all(|word| !word.is_empty())).then_some(words)
}

fn inside(kind: Kind, words: &[&str]) -> Option<Vec<String>> {
    let Some((first, rest)) = words.split_first() else { return Some(Vec::new()) };
    match kind {
        Kind::Struct(keys) => {
            let key = find(keys, first)?;
            Some([vec![key.name.to_owned()], inside(key.kind, rest)?].concat())
        }
        // The longest name whose rest is a key below it, and otherwise all of it.
        Kind::Map(inner) => (1..=words.len())
            .rev()
            .filter(|length| match inner {
                Kind::Struct(_) => true,
                Kind::Any => *length == 1,
                _ => *length == words.len(),
            })
            .filter_map(|length| {
                let below = self::inside(*inner, &words[length..])?;
                Some((length, below))
            })
            .max_by_key(|(length, below)| (!below.is_empty(), *length))
            .map(|(length, below)| [vec![words[..length].join(".")], below].concat()),
        Kind::List(inner) | Kind::OneOrMany(inner) => {
            first.parse::<usize>().ok()?;
            Some([vec![(*first).to_owned()], self::inside(*inner, rest)?].concat())
        }
        Kind::Either(kinds) => kinds.iter().find_map(|kind| self::inside(*kind, words)),
        Kind::Row(_) | Kind::Command => {
            (rest.is_empty() && first.parse::<usize>().is_ok()).then(|| vec![(*first).to_owned()])
        }
        Kind::Any => Some(words.iter().map(|word| (*word).to_owned()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_are_one_part() {
        let table: [(&str, Option<&[&str]>); 12] = [
            ("hostname", Some(&["hostname"])),
            ("rancher.debug", Some(&["ros", "debug"])),
            ("ros.sysctl.net.ipv4.ip_forward", Some(&["ros", "sysctl", "net.ipv4.ip_forward"])),
            (
                "ros.registries.10.0.2.2:5000.plain_http",
                Some(&["ros", "registries", "10.0.2.2:5000", "plain_http"]),
            ),
            ("ros.registries.10.0.2.2:5000", Some(&["ros", "registries", "10.0.2.2:5000"])),
            ("ros.registries.\"a.b\".ca", Some(&["ros", "registries", "a.b", "ca"])),
            (
                "ros.network.interfaces.eth0.address",
                Some(&["ros", "network", "interfaces", "eth0", "address"]),
            ),
            ("ros.services.web.image", Some(&["ros", "services", "web", "image"])),
            ("ssh_authorized_keys.0", Some(&["ssh_authorized_keys", "0"])),
            ("users.0.name", Some(&["users", "0", "name"])),
            ("hostname.x", None),
            ("nothing", None),
        ];
        for (path, expected) in table {
            let expected =
                expected.map(|parts| parts.iter().map(|part| (*part).to_owned()).collect());
            assert_eq!(split(path), expected, "{path}");
        }
        for wrong in ["", ".", "a..b", "\"", "ros."] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}

//! Hides secrets in what is shown: by the schema where it says so, by a key's name where anything may stand, and
//! credentials inside of URLs everywhere.

use crate::schema::{Kind, find};
use crate::tree::{Node, Value};

/// What stands in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// Words that make a key's value a secret where the schema has no say: environment variables, services.
const SECRET_WORDS: [&str; 8] =
    ["passw", "secret", "token", "private", "credential", "auth", "api_key", "apikey"];

/// `node`, of this kind, without secrets.
#[must_use]
pub fn redact(node: Node, kind: Kind) -> Node {
    let kind = kind.for_shape(&node.value);
    let value = match (kind, node.value) {
        (Kind::Secret, _) => hidden(),
        (Kind::Struct(keys), Value::Map(entries)) => {
            each(entries, |name| find(keys, name).map_or(Kind::Any, |key| key.kind))
        }
        (Kind::Map(inner), Value::Map(entries)) => each(entries, |_| *inner),
        (Kind::List(inner) | Kind::OneOrMany(inner), Value::List(items)) => {
            Value::List(items.into_iter().map(|item| redact(item, *inner)).collect())
        }
        (Kind::OneOrMany(inner), value) => {
            return redact(Node { value, origin: node.origin }, *inner);
        }
        (_, Value::Map(entries)) => each(entries, |_| Kind::Any),
        (_, Value::List(items)) => {
            Value::List(items.into_iter().map(|item| redact(item, Kind::Any)).collect())
        }
        (_, Value::Scalar { text, quoted }) => {
            Value::Scalar { text: without_credentials(&text), quoted }
        }
    };
    Node { value, origin: node.origin }
}

fn each(entries: Vec<(String, Node)>, kind: impl Fn(&str) -> Kind) -> Value {
    let member = |(name, node): (String, Node)| {
        let kind = kind(&name);
        let free = matches!(kind, Kind::Any | Kind::Text);
        let secret = free && matches!(node.value, Value::Scalar { .. }) && is_secret(&name);
        let node = if secret { Node { value: hidden(), ..node } } else { redact(node, kind) };
        (name, node)
    };
    Value::Map(entries.into_iter().map(member).collect())
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn hidden() -> Value {
    Value::Scalar { text: HIDDEN.to_owned(), quoted: true }
}

/// `https://user:password@host/` → `https://user:(hidden)@host/`.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = &rest[..rest.find(['/', '?', '#', ' ', '\n']).unwrap_or(rest.len())];
    let Some((user, _)) = authority.rsplit_once('@').and_then(|(info, _)| info.split_once(':'))
    else {
        return text.to_owned();
    };
    let host = authority.rsplit_once('@').map_or("", |(_, host)| host);
    format!("{scheme}://{user}:{HIDDEN}@{host}{}", &rest[authority.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::DOCUMENT;
    use crate::{Layer, layers};

    #[test]
    fn no_secret_is_shown_and_the_rest_is() {
        let text = "
password: SECRET
chpasswd: {users: [{name: a, password: SECRET}], list: ['a:SECRET', 'b:SECRET']}
users: [{name: a, passwd: SECRET, plain_text_passwd: SECRET, shell: /bin/sh}]
ssh_keys: {ed25519_private: SECRET, ed25519_public: shown}
ros:
  password: SECRET
  registries: {h: {username: shown, password: SECRET}}
  registry_auths: {h: {auth: SECRET}}
  network: {http_proxy: 'http://u:SECRET@proxy:3128/x'}
  environment: {DB_PASSWORD: SECRET, aws_secret_key: SECRET, PLAIN: shown}
  services: {s: {environment: {API_TOKEN: SECRET, A: shown}}}
";
        let mut found = Vec::new();
        let node = layers::checked(text, Layer::User, "f", &mut found).unwrap();
        assert!(found.is_empty(), "{found:?}");
        let shown = redact(node, DOCUMENT).to_json().to_string();
        assert!(!shown.contains("SECRET"), "{shown}");
        assert_eq!(shown.matches("shown").count(), 4, "{shown}");
        assert!(shown.contains("http://u:(hidden)@proxy:3128/x"), "{shown}");
    }
}

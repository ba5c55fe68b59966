//! A registry that lets in whoever has a token, and the server that gives tokens
//! (<https://distribution.github.io/distribution/spec/auth/token/>): who asks for what is let to do what.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ros_api::Reference;
use ros_image::{Error, Store, manifest_of};
use serde_json::json;

use crate::authority::Authority;
use crate::credentials::known;
use crate::http::{Head, answer, listen};
use crate::server::{Registry, fill};

/// `user:secret` in base64.
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Tokens of one authority. Anybody may pull `os`; `user` may do everything.
struct Tokens {
    authority: Authority,
    /// Scopes that were asked for.
    asked: Mutex<Vec<String>>,
}

impl Tokens {
    fn serve(&self, head: &Head) -> (&'static str, String) {
        let known = match head.header("Authorization") {
            Some(CREDENTIALS) => true,
            Some(_) => return ("401 Unauthorized", r#"{"details":"wrong password"}"#.into()),
            None => false,
        };
        let query = head.request().1.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let field = |name: &str| {
            let pairs = query.split(['?', '&']).filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
        };
        assert_eq!(field("service").as_deref(), Some("test-registry"));
        let scope = field("scope").unwrap();
        self.asked.lock().unwrap().push(scope.clone());
        let mut words = scope.split(':').skip(1);
        let (name, actions) = (words.next().unwrap(), words.next().unwrap());
        let actions: Vec<&str> = actions
            .split(',')
            .filter(|&action| known || (name, action) == ("os", "pull"))
            .collect();
        ("200 OK", json!({ "token": self.token(name, &actions) }).to_string())
    }

    /// A JSON web token, signed by the authority.
    fn token(&self, name: &str, actions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let pem = fs::read_to_string(self.authority.path("ca.pem")).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
        let claims = json!({
            "iss": "test", "sub": "", "aud": "test-registry", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": [{ "type": "repository", "name": name, "actions": actions }],
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            encode(head.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        format!("{signed}.{}", encode(&self.sign(signed.as_bytes())))
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign"]).arg(self.authority.path("ca.key"));
        let mut child = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        child.wait_with_output().unwrap().stdout
    }
}

#[tokio::test]
async fn tokens_are_asked_for_what_is_done() {
    assert_eq!(CREDENTIALS, format!("Basic {}", STANDARD.encode("user:secret")));
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let authority = Authority::new(&dir.path().join("authority"));
    let bundle = authority.path("ca.pem");
    let tokens = Arc::new(Tokens { authority, asked: Mutex::default() });
    let server = Arc::clone(&tokens);
    let port = listen(move |head, stream| {
        let (status, body) = server.serve(&head);
        answer(stream, status, &body);
    });
    let auth = format!(
        "auth: {{token: {{realm: 'http://127.0.0.1:{port}/token', service: test-registry, issuer: test, rootcertbundle: {}}}}}",
        bundle.display()
    );
    let registry = Registry::with(dir.path(), &[auth]);
    let host = format!("127.0.0.1:{}", registry.port);
    let image = |name: &str| format!("{host}/{name}:v1").parse::<Reference>().unwrap();
    let asked = || std::mem::take(&mut *tokens.asked.lock().unwrap());
    let store = Store::open(dir.path().join("store")).unwrap();

    // Nobody in particular: what all may see, and no more.
    let (nobody, user) = (known(&host, None), known(&host, Some(("user", "secret"))));
    let id = store.pull(&image("os"), &nobody, |_| ()).await.unwrap().id;
    assert!(asked().iter().all(|scope| scope == "repository:os:pull"));
    let refused = manifest_of(&image("private/os"), &nobody).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
    let refused = store.push(&id, &image("os"), &nobody, |_| ()).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");

    asked();
    store.pull(&image("private/os"), &user, |_| ()).await.unwrap();
    assert!(asked().iter().all(|scope| scope == "repository:private/os:pull"));
    store.push(&id, &image("os"), &user, |_| ()).await.unwrap();
    assert!(asked().iter().any(|scope| scope == "repository:os:pull,push"));

    let refused = manifest_of(&image("os"), &known(&host, Some(("user", "wrong")))).await;
    assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
}

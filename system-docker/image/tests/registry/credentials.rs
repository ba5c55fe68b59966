//! A registry that wants a name and a password (HTTP Basic, htpasswd).

use std::fs;

use ros_api::Reference;
use ros_image::{Error, Registries, RegistryOptions, Store};

use crate::server::{Registry, fill};

/// `user`, with the password `secret`.
const HTPASSWD: &str = "user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// The registry at `host` with credentials.
pub fn known(host: &str, credentials: Option<(&str, &str)>) -> Registries {
    let (username, password) = credentials.unzip();
    let (username, password) = (username.map(str::to_owned), password.map(str::to_owned));
    let options = RegistryOptions { username, password, ..RegistryOptions::default() };
    Registries { registries: [(host.to_owned(), options)].into(), ..Registries::default() }
}

#[tokio::test]
async fn only_the_right_ones_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let htpasswd = dir.path().join("htpasswd");
    fs::write(&htpasswd, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", htpasswd.display());
    let registry = Registry::with(dir.path(), &[auth]);
    let host = format!("127.0.0.1:{}", registry.port);
    let image: Reference = format!("{host}/os:v1").parse().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();

    for credentials in [None, Some(("user", "wrong")), Some(("nobody", "secret"))] {
        let refused =
            store.pull(&image, &known(&host, credentials), |_| ()).await.expect_err("let in");
        assert!(matches!(refused, Error::Unauthorized { .. }), "{credentials:?}: {refused:?}");
        assert!(refused.to_string().contains(&host), "{refused}");
        assert!(!format!("{refused:?}").contains("wrong"), "a password is not shown");
    }
    let right = known(&host, Some(("user", "secret")));
    let pulled = store.pull(&image, &right, |_| ()).await.unwrap();
    let other: Reference = format!("{host}/new/os:v2").parse().unwrap();
    store.push(&pulled.id, &other, &right, |_| ()).await.unwrap();
    let refused =
        store.push(&pulled.id, &other, &known(&host, None), |_| ()).await.expect_err("pushed");
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
}

//! Registries behind a proxy: the only one who knows where `registry.test` is.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;

use ros_api::Reference;
use ros_image::{Error, Proxies, Registries, RegistryOptions, Store, manifest_of};

use crate::authority::Authority;
use crate::http::{Head, answer, listen};
use crate::server::{Registry, fill, pass};

/// `user:secret` in base64.
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";

/// What the proxy was asked: verb and target.
type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that wants credentials, and for which every host is the registry at `registry`.
fn proxy(registry: u16) -> (u16, Asked) {
    let asked = Asked::default();
    let tell = Arc::clone(&asked);
    let port = listen(move |head: Head, client| {
        let (verb, target) = head.request();
        if head.header("Proxy-Authorization") != Some(CREDENTIALS) {
            return answer(client, "407 Proxy Authentication Required", "who are you?");
        }
        tell.lock().unwrap().push(format!("{verb} {target}"));
        join(client, registry, &head, verb == "CONNECT");
    });
    (port, asked)
}

/// Both ways, until one ends. A tunnel is confirmed; another request is the registry's to read.
fn join(mut client: TcpStream, registry: u16, head: &Head, tunnel: bool) {
    let mut server = TcpStream::connect(("127.0.0.1", registry)).unwrap();
    match tunnel {
        true => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(),
        false => server.write_all(head.text().as_bytes()).unwrap(),
    }
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || pass(from, to, u64::MAX, &AtomicU64::new(0)));
    pass(server, client, u64::MAX, &AtomicU64::new(0));
}

/// `registry.test` with these options, behind these proxies.
fn behind(options: RegistryOptions, proxies: Proxies) -> Registries {
    let registries = [("registry.test".to_owned(), options)].into();
    Registries { registries, proxies, ..Registries::default() }
}

#[tokio::test]
async fn a_registry_without_tls_is_asked_through_it() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let registry = Registry::start(dir.path());
    let (port, asked) = proxy(registry.port);
    let image: Reference = "registry.test/os:v1".parse().unwrap();
    let plain = RegistryOptions { plain_http: true, ..RegistryOptions::default() };
    let address = format!("http://user:secret@127.0.0.1:{port}");
    let by_proxy = Proxies { http_proxy: Some(address.clone()), ..Proxies::default() };

    let store = Store::open(dir.path().join("store")).unwrap();
    store.pull(&image, &behind(plain.clone(), by_proxy.clone()), |_| ()).await.unwrap();
    let first = asked.lock().unwrap().first().cloned();
    assert!(first.is_some_and(|first| first.starts_with("GET http://registry.test/v2/")));

    // Loopback is never behind a proxy, and neither is what is excepted.
    let count = asked.lock().unwrap().len();
    let near: Reference = format!("127.0.0.1:{}/os:v1", registry.port).parse().unwrap();
    manifest_of(&near, &behind(plain.clone(), by_proxy.clone())).await.unwrap();
    let excepted = Proxies { no_proxy: Some("a.example, .test".into()), ..by_proxy.clone() };
    let refused = manifest_of(&image, &behind(plain.clone(), excepted)).await.unwrap_err();
    assert!(matches!(refused, Error::Network { .. }), "{refused:?}");
    assert_eq!(asked.lock().unwrap().len(), count);

    let unknown = Proxies { http_proxy: Some(format!("http://127.0.0.1:{port}")), ..by_proxy };
    let refused = manifest_of(&image, &behind(plain, unknown)).await.unwrap_err();
    assert!(matches!(refused, Error::Network { .. }), "{refused:?}");
    assert!(format!("{refused:?}").contains("407"), "{refused:?}");
}

#[tokio::test]
async fn tls_goes_through_a_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let authority = Authority::new(&dir.path().join("authority"));
    authority.sign_server();
    let registry = Registry::with(dir.path(), &[authority.tls()]);
    let (port, asked) = proxy(registry.port);
    let image: Reference = "registry.test/os:v1".parse().unwrap();
    let ca = Some(authority.path("ca.pem"));
    let options = RegistryOptions { ca, ..RegistryOptions::default() };
    let address = format!("http://user:secret@127.0.0.1:{port}");
    let by_proxy = Proxies { https_proxy: Some(address), ..Proxies::default() };

    let store = Store::open(dir.path().join("store")).unwrap();
    store.pull(&image, &behind(options, by_proxy.clone()), |_| ()).await.unwrap();
    let all = asked.lock().unwrap().clone();
    assert!(!all.is_empty() && all.iter().all(|one| one == "CONNECT registry.test:443"), "{all:?}");

    // The tunnel is no authority: the registry's certificate is looked at as ever.
    let refused =
        manifest_of(&image, &behind(RegistryOptions::default(), by_proxy)).await.unwrap_err();
    assert!(matches!(refused, Error::Certificate { .. }), "{refused:?}");
}

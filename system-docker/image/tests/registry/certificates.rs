//! A registry whose certificate an authority of one's own signed.

use std::fs;
use std::path::Path;

use ros_api::Reference;
use ros_image::{Error, Registries, RegistryOptions, Store, manifest_of};

use crate::authority::Authority;
use crate::server::{Registry, fill};

/// The registry at `host` with the certificates in the file `ca`.
fn trusting(host: &str, ca: &Path) -> Registries {
    let options = RegistryOptions { ca: Some(ca.to_owned()), ..RegistryOptions::default() };
    Registries { registries: [(host.to_owned(), options)].into(), ..Registries::default() }
}

#[tokio::test]
async fn only_its_own_authority_makes_it_trusted() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let own = Authority::new(&dir.path().join("own"));
    let other = Authority::new(&dir.path().join("other"));
    own.sign_server();
    let registry = Registry::with(dir.path(), &[own.tls()]);
    let host = format!("127.0.0.1:{}", registry.port);
    let image: Reference = format!("{host}/os:v1").parse().unwrap();

    let store = Store::open(dir.path().join("store")).unwrap();
    let with_other = trusting(&host, &other.path("ca.pem"));
    let refused = store.pull(&image, &with_other, |_| ()).await.unwrap_err();
    assert!(matches!(refused, Error::Certificate { .. }), "{refused:?}");
    assert!(refused.hint().unwrap().contains("ros.registries"));
    assert!(store.images().unwrap().is_empty(), "nothing came");

    let bundle = dir.path().join("bundle.pem");
    let text = |authority: &Authority| fs::read_to_string(authority.path("ca.pem")).unwrap();
    fs::write(&bundle, format!("two of them\n{}{}", text(&other), text(&own))).unwrap();
    store.pull(&image, &trusting(&host, &bundle), |_| ()).await.unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_without_certificates_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    let image: Reference = "127.0.0.1:1/os:v1".parse().unwrap();
    for text in ["no PEM", "", broken] {
        fs::write(&file, text).unwrap();
        let refused = manifest_of(&image, &trusting("127.0.0.1:1", &file)).await.unwrap_err();
        assert!(matches!(refused, Error::NoCertificates { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&file.display().to_string()), "{refused}");
    }
    fs::remove_file(&file).unwrap();
    let refused = manifest_of(&image, &trusting("127.0.0.1:1", &file)).await.unwrap_err();
    assert!(matches!(refused, Error::Io { verb: "read", .. }), "{refused:?}");
}

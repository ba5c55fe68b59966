//! Signatures that lie beside an image in a real registry: what skopeo 1.18 once made there, byte for byte.

use std::path::Path;

use ros_api::{Digest, Reference};
use ros_image::{Attached, Registries, signatures_of};

use crate::server::{Registry, copy, write_layout};

const PAYLOAD: &[u8] =
    include_bytes!("../../../../ros-cli/src/os/fixtures/skopeo-1.18.payload.json");
const SIGNATURE: &str = include_str!("../../../../ros-cli/src/os/fixtures/skopeo-1.18.signature");
const SIGNED: &str = "sha256:0429b923ff980c034ed8c41c08927bd1510eb5bc3d90a6f3abba3c91812cede1";

/// An OCI layout with the signature image, as skopeo writes it.
fn layout(dir: &Path) {
    let annotations = format!(r#"{{"dev.cosignproject.cosign/signature":"{SIGNATURE}"}}"#);
    write_layout(dir, "application/vnd.dev.cosign.simplesigning.v1+json", PAYLOAD, &annotations);
}

#[tokio::test]
async fn they_are_found_beside_the_image_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let port = registry.port;
    let (signed, other) = (SIGNED.parse::<Digest>().unwrap(), Digest::of(b"other"));
    layout(&dir.path().join("layout"));
    let tag = format!("127.0.0.1:{port}/a/os:sha256-{}.sig", signed.hex());
    copy(&dir.path().join("layout"), &tag);

    let registries = Registries::default();
    let image: Reference = format!("127.0.0.1:{port}/a/os:v1").parse().unwrap();
    let found = signatures_of(&image, &signed, &registries).await.unwrap();
    let expected = Attached { payload: PAYLOAD.to_vec(), signature: SIGNATURE.into() };
    assert_eq!(found, [expected]);
    assert_eq!(signatures_of(&image, &other, &registries).await.unwrap(), []);
    let elsewhere: Reference = format!("127.0.0.1:{port}/b/os:v1").parse().unwrap();
    assert_eq!(signatures_of(&elsewhere, &signed, &registries).await.unwrap(), []);
    let nobody: Reference = "127.0.0.1:1/os:v1".parse().unwrap();
    assert!(signatures_of(&nobody, &signed, &registries).await.is_err(), "no answer is none");
}

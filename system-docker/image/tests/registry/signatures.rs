//! Signatures that lie beside an image in a real registry: what skopeo 1.18 once made there, byte for byte.

use std::fs;
use std::path::Path;

use ros_api::{Digest, Reference};
use ros_image::{Attached, Registries, signatures_of};

use crate::server::{Registry, copy};

const PAYLOAD: &[u8] =
    include_bytes!("../../../../ros-cli/src/os/fixtures/skopeo-1.18.payload.json");
const SIGNATURE: &str = include_str!("../../../../ros-cli/src/os/fixtures/skopeo-1.18.signature");
const SIGNED: &str = "sha256:0429b923ff980c034ed8c41c08927bd1510eb5bc3d90a6f3abba3c91812cede1";

/// An OCI layout with the signature image, as skopeo writes it.
fn layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = Digest::of(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, content.len())
    };
    let payload = put(PAYLOAD);
    let diff_id = Digest::of(PAYLOAD);
    let config = put(format!(
        r#"{{"architecture":"","os":"","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .as_bytes());
    let manifest = put(format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json",{payload},"annotations":{{"dev.cosignproject.cosign/signature":"{SIGNATURE}"}}}}]}}"#
    )
    .as_bytes());
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{manifest},"annotations":{{"org.opencontainers.image.ref.name":"s"}}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
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

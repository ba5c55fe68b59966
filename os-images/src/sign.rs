//! Signs built releases, as `skopeo copy --sign-by-sigstore-private-key` does it for an image in a registry: the
//! signature is an image of its own, `os:sha256-<hex>.sig`, in the release's layout, and goes wherever that goes.
//! OpenSSL holds the key: it may have a passphrase. Format: <https://github.com/sigstore/cosign>, `SIGNATURE_SPEC.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::{Digest, Reference, durable};
use serde_json::json;

use crate::build::Site;
use crate::command::{command, output};
use crate::oci::{CONFIG, Descriptor, Index, MANIFEST, Manifest, blob};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// How it is signed.
#[derive(clap::Args, Clone, Debug)]
pub struct Order {
    /// Private key, ECDSA P-256 in PEM: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    #[arg(long, value_name = "FILE")]
    pub key: std::path::PathBuf,
    /// The repository that it is signed for, such as `registry.example/os`.
    #[arg(long = "as", value_name = "REPOSITORY")]
    pub name: Reference,
}

/// Adds a signature to the release `version`; those of other keys stay.
///
/// # Errors
/// When the release is not built, or the key signs nothing.
pub fn sign(site: &Site, version: &str, order: &Order) -> Result<()> {
    let layout = site.release(version).join("oci");
    let mut images =
        Index::read(&layout).with_context(|| format!("release {version} is not built"))?;
    let release = images.iter().find(|(name, _)| *name == format!("os:{version}"));
    let digest = release.with_context(|| format!("{version} has no image os:{version}"))?.1.digest;
    let one = signature(&layout, &order.key, &order.name.with_tag(version), &digest)?;
    let tag = format!("os:sha256-{}.sig", digest.hex());
    let there = images.iter().position(|(name, _)| *name == tag).map(|at| images.remove(at).1);
    let mut layers = match there {
        Some(manifest) => {
            let text = blob(&layout, &manifest.digest)?;
            serde_json::from_slice::<Manifest>(&text).context("read the signatures")?.layers
        }
        None => Vec::new(),
    };
    layers.push(one);
    images.push((tag, manifest(&layout, layers)?));
    Index::write(&layout, images)
}

fn signature(layout: &Path, key: &Path, name: &Reference, digest: &Digest) -> Result<Descriptor> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": name.to_string()},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": "cosign container image signature",
        },
        "optional": {"creator": concat!("os-images ", env!("CARGO_PKG_VERSION"))},
    });
    let mut layer = put(layout, PAYLOAD, &serde_json::to_vec(&payload)?)?;
    let file = layout.join("blobs/sha256").join(layer.digest.hex());
    let mut openssl = command("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(key).arg(&file);
    let made = output(&mut openssl).context("sign")?;
    let mut base64 = command("openssl");
    let text = crate::command::with_input(base64.args(["base64", "-A"]), &made)?;
    let text = String::from_utf8(text).context("a signature in base64")?;
    layer.annotations = BTreeMap::from([(SIGNATURE.to_owned(), text.trim().to_owned())]);
    Ok(layer)
}

fn manifest(layout: &Path, layers: Vec<Descriptor>) -> Result<Descriptor> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = json!({
        "architecture": "", "os": "", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(layout, CONFIG, &serde_json::to_vec(&config)?)?;
    let manifest = Manifest { schema_version: 2, media_type: MANIFEST.into(), config, layers };
    put(layout, MANIFEST, &serde_json::to_vec(&manifest)?)
}

fn put(layout: &Path, media_type: &str, content: &[u8]) -> Result<Descriptor> {
    let digest = Digest::of(content);
    durable::write(&layout.join("blobs/sha256").join(digest.hex()), content, 0o644)?;
    Ok(Descriptor {
        media_type: media_type.into(),
        digest,
        size: content.len() as u64,
        annotations: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(out: &Path) -> Site {
        let layout = out.join("releases/v1/oci");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let image = put(&layout, MANIFEST, b"{}").unwrap();
        Index::write(&layout, vec![("os:v1".into(), image)]).unwrap();
        Site::at(out)
    }

    fn key(path: &Path) {
        let mut made = command("openssl");
        made.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
        output(made.arg(path)).unwrap();
    }

    #[test]
    fn signatures_of_two_keys_lie_beside_the_release_and_openssl_finds_them_right() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        let layout = site.release("v1").join("oci");
        let digest = Digest::of(b"{}");
        for name in ["a.pem", "b.pem"] {
            let key_file = dir.path().join(name);
            key(&key_file);
            let order = Order { key: key_file, name: "r.example/os".parse().unwrap() };
            sign(&site, "v1", &order).unwrap();
        }
        let images = Index::read(&layout).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images[1].0, format!("os:sha256-{}.sig", digest.hex()));
        let text = blob(&layout, &images[1].1.digest).unwrap();
        let manifest: Manifest = serde_json::from_slice(&text).unwrap();
        assert_eq!(manifest.layers.len(), 2);
        for (layer, name) in manifest.layers.iter().zip(["a.pem", "b.pem"]) {
            let payload = layout.join("blobs/sha256").join(layer.digest.hex());
            let said = std::fs::read_to_string(&payload).unwrap();
            assert!(said.contains(r#""docker-reference":"r.example/os:v1""#), "{said}");
            assert!(said.contains(&digest.to_string()), "{said}");
            let (public, made) = (dir.path().join("pub"), dir.path().join("sig"));
            let mut pkey = command("openssl");
            pkey.args(["pkey", "-pubout", "-in"]).arg(dir.path().join(name));
            output(pkey.arg("-out").arg(&public)).unwrap();
            let mut decode = command("openssl");
            let text = &layer.annotations[SIGNATURE];
            let bytes =
                crate::command::with_input(decode.args(["base64", "-d", "-A"]), text.as_bytes());
            std::fs::write(&made, bytes.unwrap()).unwrap();
            let mut verify = command("openssl");
            verify.args(["dgst", "-sha256", "-verify"]).arg(&public).arg("-signature").arg(&made);
            output(verify.arg(&payload)).unwrap();
        }
    }

    #[test]
    fn what_is_not_built_cannot_be_signed() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        let order = Order { key: "/nonexistent".into(), name: "r.example/os".parse().unwrap() };
        assert!(sign(&site, "v2", &order).unwrap_err().to_string().contains("not built"));
        assert!(format!("{:#}", sign(&site, "v1", &order).unwrap_err()).contains("openssl"));
        assert_eq!(Index::read(&site.release("v1").join("oci")).unwrap().len(), 1);
    }
}

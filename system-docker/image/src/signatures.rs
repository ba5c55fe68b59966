//! Signatures beside an image, as sigstore's clients (cosign, skopeo) attach them: the signatures of the manifest
//! `sha256:<hex>` are an image of their own in the same repository, under the tag `sha256-<hex>.sig`.
//!
//! ```text
//! manifest ─ layers: one a signature, type application/vnd.dev.cosign.simplesigning.v1+json
//!              ├ blob:                                          the payload that was signed, JSON
//!              └ annotation dev.cosignproject.cosign/signature: the signature, base64
//! ```
//!
//! They are only fetched here, bounded. What they are worth is for whoever trusts keys to say.
//! Format: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>

use ros_api::{Digest, Reference};

use crate::manifest::{Document, Manifest};
use crate::registry::{Endpoint, Registries, endpoints};
use crate::{Error, Result};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// A payload has some hundred bytes.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 32;

/// One signature. Nothing about it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What was signed.
    pub payload: Vec<u8>,
    /// The signature, base64.
    pub signature: String,
}

/// The signatures of the manifest `digest`, from the first host that has some; none is an empty list.
///
/// # Errors
/// As [`crate::manifest_of`], but for an image that has none.
pub async fn signatures_of(
    reference: &Reference,
    digest: &Digest,
    registries: &Registries,
) -> Result<Vec<Attached>> {
    let tag = reference.with_tag(&format!("sha256-{}.sig", digest.hex()));
    let mut failed = None;
    for endpoint in endpoints(&tag, registries)? {
        match attached(&endpoint, &tag).await {
            Ok(signatures) if !signatures.is_empty() => return Ok(signatures),
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or_else(|| Ok(Vec::new()), Err)
}

async fn attached(endpoint: &Endpoint, tag: &Reference) -> Result<Vec<Attached>> {
    let (_, text) = endpoint.document(&endpoint.name(tag), None).await?;
    let Document::Manifest(manifest) = Document::parse(&tag.to_string(), &text)? else {
        return Ok(Vec::new());
    };
    let mut signatures = Vec::new();
    for (layer, signature) in signed_layers(&manifest).take(MAX_SIGNATURES) {
        let payload = endpoint.config(&layer.digest, layer.size).await?;
        signatures.push(Attached { payload, signature: signature.clone() });
    }
    Ok(signatures)
}

fn signed_layers(
    manifest: &Manifest,
) -> impl Iterator<Item = (&crate::manifest::Descriptor, &String)> {
    let payloads = manifest
        .layers
        .iter()
        .filter(|layer| layer.media_type == PAYLOAD && layer.size <= MAX_PAYLOAD);
    payloads.filter_map(|layer| Some((layer, layer.annotations.get(SIGNATURE)?)))
}

impl Manifest {
    /// Whether it is no image but signatures of one.
    pub(crate) fn is_signatures(&self) -> bool {
        !self.layers.is_empty() && self.layers.iter().all(|layer| layer.media_type == PAYLOAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_payloads_with_a_signature_count() {
        let layer = |kind: &str, size: u64, notes: &str| {
            format!(
                r#"{{"mediaType":"{kind}","digest":"{}","size":{size},"annotations":{notes}}}"#,
                Digest::of(b"p")
            )
        };
        let signed = format!(r#"{{"{SIGNATURE}":"c2ln"}}"#);
        let manifest = |layers: &[String]| -> Manifest {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                layer("c", 1, "{}"),
                layers.join(",")
            );
            serde_json::from_str(&text).unwrap()
        };
        let all = manifest(&[
            layer(PAYLOAD, 300, &signed),
            layer(PAYLOAD, 300, "{}"),
            layer(PAYLOAD, MAX_PAYLOAD + 1, &signed),
        ]);
        assert_eq!(signed_layers(&all).count(), 1);
        assert!(all.is_signatures());
        assert!(!manifest(&[]).is_signatures());
        let image = manifest(&[layer("application/vnd.oci.image.layer.v1.tar", 300, &signed)]);
        assert!(!image.is_signatures() && signed_layers(&image).next().is_none());
    }
}

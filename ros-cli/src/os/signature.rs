//! Whether a signature on a release counts: a pure function of what was signed, by which key, and what is asked for.
//! Signatures are those that `cosign sign --key` and `skopeo copy --sign-by-sigstore-private-key` make: ECDSA P-256
//! over a small JSON document that names the image's digest and the repository it was signed for.
//! Format: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>

use base64::Engine as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use ros_api::{Digest, Reference};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

/// What the signed document calls itself.
const TYPE: &str = "cosign container image signature";
/// A public key on the curve P-256 in DER, up to its point (RFC 5480): the point is the rest.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    point: Vec<u8>,
    fingerprint: Digest,
}

/// Who signed a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// SHA-256 of the public key in DER: `openssl pkey -pubin -in KEY -outform der | sha256sum`.
    pub key: Digest,
    /// The name that it was signed for.
    pub name: String,
}

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "by key {} as {}", self.key.short(), self.name)
    }
}

/// A signature as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What was signed.
    pub payload: Vec<u8>,
    /// The signature, base64.
    pub signature: String,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The image, as it is fetched.
    pub image: &'a Reference,
    /// Its manifest.
    pub digest: Digest,
    /// The repository that it must be signed for; its own when there is none.
    pub signed_as: Option<&'a str>,
}

/// Why a release is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// There is no signature at all.
    #[error(
        "{image} is not signed: sign it (`skopeo copy --sign-by-sigstore-private-key …`), or set ros.upgrade.signatures to `warn` for its repository"
    )]
    Unsigned {
        /// The image.
        image: String,
    },
    /// There are signatures, none by a key that counts.
    #[error(
        "{image} has {count} signature(s), none by a key that counts here ({keys}): is a new key missing in ros.upgrade.signatures, or is it an impostor's?"
    )]
    OtherKey {
        /// The image.
        image: String,
        /// How many.
        count: usize,
        /// Keys that count.
        keys: String,
    },
    /// A signature by one of the keys, for other content.
    #[error(
        "{image} carries a signature of {signed}, and is {found}: the registry, or somebody on the way to it, gives a signature away from its image"
    )]
    OtherDigest {
        /// The image.
        image: String,
        /// What was signed.
        signed: String,
        /// What it is.
        found: Digest,
    },
    /// A signature by one of the keys, for another name.
    #[error(
        "{image} is signed as {signed}: it was put under another name; if it comes from a copy of that repository, say so with `signed_as` in ros.upgrade.signatures"
    )]
    OtherName {
        /// The image.
        image: String,
        /// The name in the signature.
        signed: String,
    },
    /// A signature by one of the keys, over something that is no statement about an image.
    #[error("{image} carries a signature over something else: {why}")]
    NoStatement {
        /// The image.
        image: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing to verify with.
    #[error(
        "{scope} must be signed, and no key is configured: add one to ros.upgrade.signatures.{scope}.keys"
    )]
    NoKey {
        /// The entry of the configuration.
        scope: String,
    },
    /// Not a key.
    #[error(
        "key {number} of ros.upgrade.signatures.{scope}: {why}: expected an ECDSA P-256 public key in PEM, or the path of a file with some"
    )]
    BadKey {
        /// The entry of the configuration.
        scope: String,
        /// Which, from 1 up.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// Signed, but older than what was good here.
    #[error(
        "{version} is older than {floor}, which was good here: an old release with all its holes is signed as well; --allow-downgrade goes there all the same"
    )]
    Older {
        /// What is asked for.
        version: String,
        /// The newest that was good.
        floor: String,
    },
}

impl Key {
    /// Every key of a PEM text.
    ///
    /// # Errors
    /// In words, when there is none or one of another kind.
    pub fn parse_all(pem: &str) -> Result<Vec<Self>, String> {
        let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes());
        let keys: Vec<Self> = keys
            .map(|key| Self::from_der(&key.map_err(|e| e.to_string())?))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err("there is no PUBLIC KEY in it".into()) } else { Ok(keys) }
    }

    fn from_der(der: &[u8]) -> Result<Self, String> {
        let point = der.strip_prefix(&P256).filter(|point| point.len() == 65 && point[0] == 4);
        let point = point.ok_or("the key is of another kind")?.to_vec();
        Ok(Self { point, fingerprint: Digest::of(der) })
    }

    fn made(&self, one: &Attached) -> bool {
        let engine = base64::engine::general_purpose::STANDARD;
        let Ok(signature) = engine.decode(one.signature.trim()) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(&one.payload, &signature).is_ok()
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Looks for a signature that counts: by one of `keys`, for this content, under this name.
///
/// # Errors
/// The nearest miss.
pub fn verify(asked: &Asked<'_>, keys: &[Key], attached: &[Attached]) -> Result<Signed, Untrusted> {
    let image = asked.image.to_string();
    let mut missed = match attached.len() {
        0 => Untrusted::Unsigned { image },
        count => {
            let keys: Vec<String> = keys.iter().map(|key| key.fingerprint.short()).collect();
            Untrusted::OtherKey { image, count, keys: keys.join(", ") }
        }
    };
    for one in attached {
        let Some(key) = keys.iter().find(|key| key.made(one)) else { continue };
        match statement(asked, &one.payload) {
            Ok(name) => return Ok(Signed { key: key.fingerprint, name }),
            Err(why) => missed = why,
        }
    }
    Err(missed)
}

/// The name that a payload, whose signature is right, was signed for, if it is about what is asked for.
fn statement(asked: &Asked<'_>, payload: &[u8]) -> Result<String, Untrusted> {
    let image = asked.image.to_string();
    let no_statement = |why: String| Untrusted::NoStatement { image: image.clone(), why };
    let Payload { critical } =
        serde_json::from_slice(payload).map_err(|error| no_statement(error.to_string()))?;
    if critical.r#type != TYPE {
        return Err(no_statement(format!("type {:?}, expected {TYPE:?}", critical.r#type)));
    }
    if critical.image.digest != asked.digest.to_string() {
        let (signed, found) = (critical.image.digest, asked.digest);
        return Err(Untrusted::OtherDigest { image, signed, found });
    }
    let signed = critical.identity.reference;
    let named: Reference = signed.parse().map_err(|error| no_statement(format!("{error}")))?;
    let expected = asked.signed_as.map_or_else(|| asked.image.name(), str::to_owned);
    // cosign signs for a repository, skopeo for a tag in it.
    let same_tag = match (&named.tag, &asked.image.tag) {
        (Some(signed), Some(asked)) => signed == asked,
        _ => true,
    };
    if named.name() == expected && same_tag {
        Ok(signed)
    } else {
        Err(Untrusted::OtherName { image, signed })
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    /// Made by skopeo 1.18 in a docker-registry at 127.0.0.1:15999, with a key of its own.
    const PAYLOAD: &[u8] = include_bytes!("fixtures/skopeo-1.18.payload.json");
    const SIGNATURE: &str = include_str!("fixtures/skopeo-1.18.signature");
    const PUBLIC: &str = include_str!("fixtures/skopeo-1.18.pub");
    const DIGEST: &str = "sha256:0429b923ff980c034ed8c41c08927bd1510eb5bc3d90a6f3abba3c91812cede1";

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
        }

        fn key(&self) -> Key {
            Key::from_der(&[&P256[..], self.0.public_key().as_ref()].concat()).unwrap()
        }

        fn sign(&self, name: &str, digest: &Digest, kind: &str) -> Attached {
            let payload = format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
            );
            let payload = payload.into_bytes();
            let made = self.0.sign(&SystemRandom::new(), &payload).unwrap();
            let signature = base64::engine::general_purpose::STANDARD.encode(made.as_ref());
            Attached { payload, signature }
        }
    }

    fn real() -> Attached {
        Attached { payload: PAYLOAD.to_vec(), signature: SIGNATURE.into() }
    }

    #[test]
    fn what_skopeo_signed_is_trusted_and_nothing_else() {
        let image: Reference = "127.0.0.1:15999/os:v1".parse().unwrap();
        let keys = Key::parse_all(PUBLIC).unwrap();
        let asked = Asked { image: &image, digest: DIGEST.parse().unwrap(), signed_as: None };
        let signed = verify(&asked, &keys, &[real()]).unwrap();
        assert_eq!(signed.name, "127.0.0.1:15999/os:v1");
        assert_eq!(signed.key, keys[0].fingerprint);
        // Each bit of the payload counts.
        for index in 0..PAYLOAD.len() {
            let mut one = real();
            one.payload[index] ^= 1;
            let missed = verify(&asked, &keys, &[one]).unwrap_err();
            assert!(matches!(missed, Untrusted::OtherKey { count: 1, .. }), "byte {index}");
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_error() {
        let (ours, other) = (Signer::new(), Signer::new());
        let image: Reference = "h:1/a/os:v2".parse().unwrap();
        let digest = Digest::of(b"m");
        let asked = Asked { image: &image, digest, signed_as: None };
        let sign = |name: &str| ours.sign(name, &digest, TYPE);
        let keys = [ours.key()];
        let says = |attached: &[Attached]| verify(&asked, &keys, attached).unwrap_err().to_string();
        let older = Digest::of(b"old");
        let table = [
            (vec![], "is not signed"),
            (vec![other.sign("h:1/a/os:v2", &digest, TYPE)], "none by a key that counts"),
            (vec![ours.sign("h:1/a/os:v2", &older, TYPE)], "carries a signature of"),
            (vec![sign("h:1/a/os:v1")], "is signed as h:1/a/os:v1"),
            (vec![sign("h:1/b/os:v2")], "is signed as h:1/b/os:v2"),
            (vec![sign("A B")], "not an image name"),
            (vec![ours.sign("h:1/a/os:v2", &digest, "receipt")], "type \"receipt\""),
        ];
        for (attached, word) in table {
            assert!(says(&attached).contains(word), "{word}: {}", says(&attached));
        }
        for name in ["h:1/a/os:v2", "h:1/a/os"] {
            assert_eq!(verify(&asked, &keys, &[sign(name)]).unwrap().name, name);
        }
        // A copy of a repository, and the digest itself asked for.
        let copy = Asked { signed_as: Some("up.example/os"), ..asked.clone() };
        verify(&copy, &keys, &[sign("up.example/os:v2")]).unwrap();
        assert!(verify(&copy, &keys, &[sign("h:1/a/os:v2")]).is_err());
        let by_digest = image.with_digest(digest);
        verify(&Asked { image: &by_digest, ..asked.clone() }, &keys, &[sign("h:1/a/os:v1")])
            .unwrap();
    }

    #[test]
    fn keys_rotate_and_one_good_signature_is_enough() {
        let (old, new) = (Signer::new(), Signer::new());
        let image: Reference = "h:1/os:v2".parse().unwrap();
        let digest = Digest::of(b"m");
        let asked = Asked { image: &image, digest, signed_as: None };
        let by = |signer: &Signer| signer.sign("h:1/os:v2", &digest, TYPE);
        let both = [old.key(), new.key()];
        for signer in [&old, &new] {
            let signed = verify(&asked, &both, &[by(signer)]).unwrap();
            assert_eq!(signed.key, signer.key().fingerprint);
        }
        let signed = verify(&asked, &both[1..], &[by(&old), by(&new)]).unwrap();
        assert_eq!(signed.key, new.key().fingerprint);
        assert!(verify(&asked, &both[1..], &[by(&old)]).is_err());
    }

    #[test]
    fn what_is_no_p256_key_is_refused() {
        let twice = format!("{PUBLIC}\n{PUBLIC}");
        assert_eq!(Key::parse_all(&twice).unwrap().len(), 2);
        let p384 = PUBLIC.replacen("MFkw", "MHYw", 1);
        for wrong in ["", "x", &p384, &PUBLIC.replace("PUBLIC", "PRIVATE")] {
            assert!(Key::parse_all(wrong).is_err(), "{wrong}");
        }
    }
}

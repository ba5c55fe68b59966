//! `/run/ros/registries.json`: how the daemon reaches registries, as the configuration says it. The daemon reads it
//! before each pull.
//!
//! ```text
//! {"registries": {"h:5000": {"plain_http": true, "mirrors": [], "username": …}}, "https_proxy": …, "no_proxy": …}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cloud_config::Settings;
use cloud_config::settings::{Network, Registry};
use ros_api::{Digest, durable};
use serde_json::{Map, Value, json};

/// The file.
const REGISTRIES: &str = "/run/ros/registries.json";
/// Certificates that the configuration has as text.
const CERTIFICATES: &str = "/run/ros/certificates";

/// Writes the file. It holds credentials: root alone reads it.
///
/// # Errors
/// When it cannot be written; the old one is whole then.
pub fn publish(settings: &Settings) -> Result<()> {
    let mut registries = settings.registries();
    for registry in registries.values_mut() {
        registry.ca =
            registry.ca.take().map(|ca| certificate(Path::new(CERTIFICATES), ca)).transpose()?;
    }
    let text = serde_json::to_vec(&document(&registries, &settings.ros.network))
        .context("encode registries")?;
    Ok(durable::write(Path::new(REGISTRIES), &text, 0o600)?)
}

fn document(registries: &BTreeMap<String, Registry>, network: &Network) -> Value {
    let entries: Map<String, Value> =
        registries.iter().map(|(host, registry)| (host.clone(), entry(registry))).collect();
    let mut document = json!({ "registries": entries });
    let proxies = [
        ("http_proxy", &network.http_proxy),
        ("https_proxy", &network.https_proxy),
        ("no_proxy", &network.no_proxy),
    ];
    put(&mut document, proxies);
    document
}

fn entry(registry: &Registry) -> Value {
    let mut entry = json!({ "mirrors": registry.mirrors, "plain_http": registry.plain_http });
    let optional =
        [("username", &registry.username), ("password", &registry.password), ("ca", &registry.ca)];
    put(&mut entry, optional);
    entry
}

/// The values that there are.
fn put(object: &mut Value, optional: [(&str, &Option<String>); 3]) {
    for (key, value) in optional {
        if let Some(value) = value {
            object[key] = json!(value);
        }
    }
}

/// The path of a certificate; one that is written out gets a file named by its digest.
fn certificate(dir: &Path, ca: String) -> Result<String> {
    if !ca.contains("-----BEGIN") {
        return Ok(ca);
    }
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path: PathBuf = dir.join(format!("{}.pem", Digest::of(ca.as_bytes()).short()));
    durable::write(&path, ca.as_bytes(), 0o644)?;
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_what_the_daemon_reads() {
        let registry =
            Registry { plain_http: true, username: Some("u".into()), ..Registry::default() };
        let network = Network { https_proxy: Some("http://p:1".into()), ..Network::default() };
        let expected = json!({
            "registries": { "h:5000": { "mirrors": [], "plain_http": true, "username": "u" } },
            "https_proxy": "http://p:1",
        });
        let registries = BTreeMap::from([("h:5000".into(), registry)]);
        assert_eq!(document(&registries, &network), expected);
    }

    #[test]
    fn a_written_out_certificate_gets_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(certificate(dir.path(), "/etc/ca.pem".into()).unwrap(), "/etc/ca.pem");
        let path = certificate(dir.path(), "-----BEGIN CERTIFICATE-----\n".into()).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().starts_with("-----BEGIN"));
    }
}

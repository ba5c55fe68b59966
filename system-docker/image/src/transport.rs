//! How a registry's host is spoken to: whose certificates count, and which proxy is between.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::registry::RegistryOptions;
use crate::{Error, Result};

const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(30);
/// Reached without a proxy, whatever else is said; Docker does the same.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxies, as curl and Docker have them in their environment. What is not said here, the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxies {
    /// For registries without TLS: `http://[user:password@]host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// For registries with TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    /// Hosts, domains and ranges that are reached without one, with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

impl Proxies {
    /// What counts: these, and for the rest what the environment says.
    #[must_use]
    pub fn effective(&self) -> Self {
        self.or(|name| env::var(name).ok())
    }

    fn or(&self, env: impl Fn(&str) -> Option<String>) -> Self {
        let either = |own: &Option<String>, name: &str| {
            let set = |text: &String| !text.is_empty();
            let from_env = || env(&name.to_uppercase()).filter(set).or_else(|| env(name));
            own.clone().or_else(from_env).filter(set)
        };
        Self {
            http_proxy: either(&self.http_proxy, "http_proxy"),
            https_proxy: either(&self.https_proxy, "https_proxy"),
            no_proxy: either(&self.no_proxy, "no_proxy"),
        }
    }
}

/// A client for one host.
pub(crate) fn client(
    host: &str,
    plain: bool,
    options: &RegistryOptions,
    proxies: &Proxies,
) -> Result<Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error only says that the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let certificates = options.ca.as_deref().map(|path| certificates(host, path)).transpose()?;
    let proxies = proxies.effective();
    let config = ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        extra_root_certificates: certificates.unwrap_or_default(),
        connect_timeout: Some(CONNECT),
        read_timeout: Some(READ),
        user_agent: concat!("ros/", env!("CARGO_PKG_VERSION")),
        http_proxy: proxies.http_proxy,
        https_proxy: proxies.https_proxy,
        no_proxy: Some([proxies.no_proxy.as_deref().unwrap_or_default(), LOOPBACK].join(",")),
        ..ClientConfig::default()
    };
    // `Client::new` would panic where there are no certificates.
    Client::try_from(config).map_err(|source| Error::Network { registry: host.to_owned(), source })
}

/// All certificates of a PEM file.
fn certificates(host: &str, path: &Path) -> Result<Vec<Certificate>> {
    let unusable = |why: String| {
        let (registry, path) = (host.to_owned(), path.to_owned());
        Error::NoCertificates { registry, path, why }
    };
    let text = fs::read(path).map_err(Error::on("read", path))?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() {
        return Err(unusable("there is none".into()));
    }
    let der = |one: CertificateDer| Certificate {
        encoding: CertificateEncoding::Der,
        data: one.to_vec(),
    };
    Ok(found.into_iter().map(der).collect())
}

/// Whether TLS broke at the other's certificate.
pub(crate) fn untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // An I/O error does not name what it wraps as its source, but that one's.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let wrapped = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static));
    wrapped.or_else(|| error.source()).is_some_and(untrusted)
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.starts_with("localhost:")
        || host.starts_with("127.")
        || host.starts_with("[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_goes_before_the_environment() {
        let own = Proxies { http_proxy: Some("http://own:1".into()), ..Proxies::default() };
        let env = |name: &str| match name {
            "HTTP_PROXY" | "https_proxy" => Some("http://env:2".to_owned()),
            "HTTPS_PROXY" | "NO_PROXY" => Some(String::new()),
            _ => None,
        };
        let found = own.or(env);
        assert_eq!(found.http_proxy.as_deref(), Some("http://own:1"));
        assert_eq!(found.https_proxy.as_deref(), Some("http://env:2"));
        assert_eq!(found.no_proxy, None);
    }
}

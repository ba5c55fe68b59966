//! Where the API is served: on its Unix socket, whose group may use it; and, when it is told so, on TCP with TLS for
//! whoever has a certificate of the authority that it is told. Who uses this API is root: TCP without that is refused.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Group that may use the socket, by number: the console's `docker-system`.
const SOCKET_GROUP: u32 = 989;
/// Who does not finish in time is nobody.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait in the kernel's queue.
const HANDSHAKES: usize = 64;
/// Docker's port for TLS.
const PORT: u16 = 2376;

/// An address beside the Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(SocketAddr);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like tcp://192.0.2.1:2376");
        let address = text.strip_prefix("tcp://").ok_or_else(wrong)?.trim_end_matches('/');
        let alone = || address.trim_matches(['[', ']']).parse::<IpAddr>();
        let address = address.parse().or_else(|_| alone().map(|ip| (ip, PORT).into()));
        address.map(Self).map_err(|_| wrong())
    }
}

/// Docker's own options.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// tcp://ADDRESS:PORT to serve too; wants --tlsverify.
    #[arg(short = 'H', long = "host")]
    hosts: Vec<Host>,
    /// Serve who has a certificate that --tlscacert signed, and nobody else.
    #[arg(long, requires_all = ["tlscacert", "tlscert", "tlskey"])]
    tlsverify: bool,
    /// PEM file: the authorities of clients.
    #[arg(long)]
    tlscacert: Option<PathBuf>,
    /// PEM file: the certificate of this daemon, and what is between it and its authority.
    #[arg(long)]
    tlscert: Option<PathBuf>,
    /// PEM file: its key.
    #[arg(long)]
    tlskey: Option<PathBuf>,
}

impl Args {
    /// What makes TLS of TCP; none where no address is asked for.
    pub fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        if self.hosts.is_empty() {
            return Ok(None);
        }
        let (true, Some(ca), Some(certificate), Some(key)) =
            (self.tlsverify, &self.tlscacert, &self.tlscert, &self.tlskey)
        else {
            bail!(
                "whoever reaches this API is root: TCP wants --tlsverify, --tlscacert, --tlscert and --tlskey"
            );
        };
        Ok(Some(TlsAcceptor::from(Arc::new(config(ca, certificate, key)?))))
    }

    /// Binds every address that is asked for.
    pub async fn bind(&self, acceptor: &TlsAcceptor) -> Result<Vec<TlsListener>> {
        let mut listeners = Vec::new();
        for Host(address) in &self.hosts {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("listen on {address}"))?;
            tracing::info!("listening on {address}");
            let (acceptor, handshakes) = (acceptor.clone(), JoinSet::new());
            listeners.push(TlsListener { listener, acceptor, handshakes });
        }
        Ok(listeners)
    }
}

fn config(ca: &Path, certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).with_context(|| format!("trust {}", ca.display()))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()?;
    let own = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("read the key {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, own)
        .with_context(|| format!("use {} with {}", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("read certificates from {}", path.display()))?;
    if found.is_empty() {
        bail!("{} has no certificate: it should be PEM", path.display());
    }
    Ok(found)
}

/// Connections whose client has shown who it is.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<io::Result<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let room = self.handshakes.len() < HANDSHAKES;
            tokio::select! {
                Some(shaken) = self.handshakes.join_next() => match shaken {
                    Ok(Ok(known)) => return known,
                    Ok(Err(error)) => tracing::info!("a client was refused: {error}"),
                    Err(error) => tracing::warn!("a handshake: {error}"),
                },
                (stream, from) = axum::serve::Listener::accept(&mut self.listener), if room => {
                    let shaking = timeout(HANDSHAKE, self.acceptor.accept(stream));
                    self.handshakes.spawn(async move { Ok((shaking.await??, from)) });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The Unix socket.
pub fn unix(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    // Without the right to give it away (a user's own daemon), the owner's group keeps it.
    let _ = std::os::unix::fs::chown(path, None, Some(SOCKET_GROUP));
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_tcp_addresses() {
        for (text, expected) in [
            ("tcp://127.0.0.1:1", Some("127.0.0.1:1")),
            ("tcp://0.0.0.0", Some("0.0.0.0:2376")),
            ("tcp://[::1]:99/", Some("[::1]:99")),
            ("tcp://[::1]", Some("[::1]:2376")),
            ("unix:///run/x.sock", None),
            ("tcp://", None),
            ("127.0.0.1:1", None),
        ] {
            let found = text.parse::<Host>().ok().map(|host| host.0.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}

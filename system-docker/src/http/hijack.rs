//! Taking over a connection: after 101 (or, for clients that do not ask for an upgrade, on a plain 200) it carries a
//! process's streams.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ros_runtime::{AttachStream, Frame};
use tokio::sync::mpsc;

use super::answer::streamed;
use crate::engine::attach::{self, Wants};

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// Whether the client asks for an upgrade.
pub fn asked(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// What comes before the stream, the stream or why there is none.
pub struct Session<F> {
    /// Frames that come first (logs).
    pub before: Option<mpsc::Receiver<Frame>>,
    /// Resolves to the stream; an error text is shown to the client instead.
    pub stream: F,
    /// What the client wants.
    pub wants: Wants,
}

impl<F: Future<Output = Result<Option<AttachStream>, String>> + Send + 'static> Session<F> {
    /// 101, and the session behind it.
    pub fn upgrade(self, on: OnUpgrade) -> Response {
        let content_type = if self.wants.raw { RAW } else { MULTIPLEXED };
        tokio::spawn(async move {
            match on.await {
                Ok(upgraded) => self.run(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!("upgrade: {error}"),
            }
        });
        let headers = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "tcp"),
            (header::CONTENT_TYPE, content_type),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
    }

    /// 200 with the output as its body; there is no way back to stdin.
    pub fn plain(self) -> Response {
        let content_type = if self.wants.raw { RAW } else { MULTIPLEXED };
        let (to, from) = mpsc::channel(16);
        tokio::spawn(async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let session = self.run(theirs);
            let pump = async move {
                use tokio::io::AsyncReadExt;
                let (mut read, _write) = tokio::io::split(ours);
                let mut buffer = vec![0; 32 * 1024];
                while let Ok(length @ 1..) = read.read(&mut buffer).await {
                    if to.send(buffer[..length].to_vec()).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(session, pump);
        });
        streamed(content_type, from)
    }

    async fn run(self, mut client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        use tokio::io::AsyncWriteExt;
        if let Some(mut before) = self.before {
            while let Some(frame) = before.recv().await {
                if client.write_all(&attach::encode(&frame, self.wants.raw)).await.is_err() {
                    return;
                }
            }
        }
        match self.stream.await {
            Ok(Some(stream)) => attach::copy(client, stream, self.wants).await,
            Ok(None) => {}
            Err(text) => {
                let frame = Frame {
                    stream: ros_runtime::Stream::Stderr,
                    bytes: format!("{text}\r\n").into_bytes(),
                };
                let _ = client.write_all(&attach::encode(&frame, self.wants.raw)).await;
                let _ = client.shutdown().await;
            }
        }
    }
}

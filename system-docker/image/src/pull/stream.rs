//! Bytes from a registry onto the disk: received here, written on a thread that may block.

use std::io;
use std::path::PathBuf;

use futures_util::StreamExt;
use oci_client::client::SizedStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::registry::Endpoint;
use crate::{Error, Result};

/// Where they go.
pub(super) trait Sink: Send + 'static {
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
}

/// Writes up to `most` bytes; how many came, and the error that ended it early, if any. `tell` is told how many are here.
pub(super) async fn receive<S: Sink>(
    endpoint: &Endpoint,
    mut stream: SizedStream,
    sink: S,
    most: u64,
    mut tell: impl FnMut(u64),
) -> Result<(S, Option<Error>)> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(16);
    let writer = spawn_blocking(move || {
        let mut sink = sink;
        while let Some(chunk) = receiver.blocking_recv() {
            sink.append(&chunk)?;
        }
        Ok(sink)
    });
    let (mut done, mut failed) = (0, None);
    while done < most
        && let Some(chunk) = stream.next().await
    {
        match chunk {
            Ok(chunk) => {
                done += chunk.len() as u64;
                tell(done);
                if sender.send(chunk.to_vec()).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(endpoint.failed(error.into()));
                break;
            }
        }
    }
    drop(sender);
    Ok((joined(writer.await)?, failed))
}

/// Runs disk work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(done: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| {
        let source = io::Error::other(error);
        Err(Error::Io { verb: "finish work on", path: PathBuf::from("the store"), source })
    })
}

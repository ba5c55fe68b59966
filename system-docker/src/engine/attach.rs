//! Attaching a client to a container's or an exec's streams.
//!
//! Without a terminal, output is multiplexed as Docker does:
//!
//! ```text
//!  ┌────────┬───────┬────────────┬─────────┐
//!  │ stream │ 0 0 0 │ length, BE │ bytes … │   stream 1 stdout, 2 stderr
//!  └────────┴───────┴────────────┴─────────┘
//! ```

use ros_runtime::{AttachReader, AttachStream, AttachWriter, Frame, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::Engine;
use super::container::{Container, Waiting};
use super::error::{ApiError, Result};

/// What a client wants of the streams.
#[derive(Clone, Debug)]
pub struct Wants {
    /// To write.
    pub stdin: bool,
    /// To read.
    pub stdout: bool,
    /// To read.
    pub stderr: bool,
    /// Bytes are passed as they are.
    pub raw: bool,
    /// There is a terminal: keys typed may detach.
    pub tty: bool,
    /// The bytes that detach.
    pub detach_keys: Vec<u8>,
}

/// ctrl-p ctrl-q.
pub const DETACH: [u8; 2] = [16, 17];

/// The bytes of `ctrl-a,x`; Docker's own when empty.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(DETACH.to_vec());
    }
    text.split(',').map(|key| key_byte(key).ok_or_else(|| wrong_keys(text))).collect()
}

fn key_byte(key: &str) -> Option<u8> {
    if let [byte] = key.as_bytes() {
        return Some(*byte);
    }
    let rest = key.strip_prefix("ctrl-")?;
    match rest.as_bytes() {
        [byte @ b'a'..=b'z'] => Some(byte - b'a' + 1),
        [b'@'] => Some(0),
        [byte @ b'['..=b'_'] => Some(byte - b'[' + 27),
        _ => None,
    }
}

fn wrong_keys(text: &str) -> ApiError {
    ApiError::bad(format!(
        "Invalid detach keys ({text}): expected a letter or ctrl-<value>, separated by commas"
    ))
}

impl Engine {
    /// The container's streams; waits for its start when it does not run yet. None when it could not be started.
    pub async fn attach(&self, container: &Container, stdin: bool) -> Result<Option<AttachStream>> {
        if let Some(process) = container.process() {
            return Ok(Some(process.attach(stdin).await?));
        }
        let (to, started) = oneshot::channel();
        container.waiting().push(Waiting { stdin, to });
        Ok(started.await.ok())
    }
}

/// One frame as Docker writes it.
pub fn encode(frame: &Frame, raw: bool) -> Vec<u8> {
    if raw {
        return frame.bytes.clone();
    }
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![frame.stream.number(), 0, 0, 0];
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&frame.bytes);
    bytes
}

/// Copies both ways until output ends, the client is gone, or it detached.
pub async fn copy(client: impl AsyncRead + AsyncWrite, stream: AttachStream, wants: Wants) {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (reader, writer) = stream.split();
    tokio::select! {
        () = copy_output(reader, &mut to_client, &wants) => {}
        () = copy_input(from_client, writer, &wants) => {}
    }
    // A client that is gone already needs no end of output.
    let _ = to_client.shutdown().await;
}

async fn copy_output(mut from: AttachReader, to: &mut (impl AsyncWrite + Unpin), wants: &Wants) {
    while let Ok(Some(frame)) = from.next().await {
        let wanted = match frame.stream {
            Stream::Stdout => wants.stdout,
            Stream::Stderr => wants.stderr,
        };
        if wanted
            && (to.write_all(&encode(&frame, wants.raw)).await.is_err()
                || to.flush().await.is_err())
        {
            return;
        }
    }
}

/// Ends when the client detached, and only then: the end of its input is not the end of its interest in output.
async fn copy_input(mut from: impl AsyncRead + Unpin, mut to: AttachWriter, wants: &Wants) {
    let mut keys = Keys { wanted: &wants.detach_keys, held: 0 };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if !wants.stdin {
            continue;
        }
        let bytes = match wants.tty {
            true => keys.pass(&buffer[..length]),
            false => Some(buffer[..length].to_vec()),
        };
        let Some(bytes) = bytes else { return };
        if to.write(&bytes).await.is_err() {
            break;
        }
    }
    if wants.stdin {
        // A process that has ended needs no end of input.
        let _ = to.close_stdin().await;
    }
    // Holding the writer: dropping it would end the attachment.
    std::future::pending::<()>().await;
}

/// Looks for the detach keys among what is typed.
struct Keys<'a> {
    wanted: &'a [u8],
    held: usize,
}

impl Keys<'_> {
    /// What goes to the process now; none when the keys are complete.
    fn pass(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.wanted.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.wanted.len() {
                    return None;
                }
                continue;
            }
            out.extend_from_slice(&self.wanted[..self.held]);
            self.held = usize::from(self.wanted.first() == Some(&byte));
            if self.held == 0 {
                out.push(byte);
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_dockers_notation() {
        assert_eq!(detach_keys("").unwrap(), DETACH);
        assert_eq!(detach_keys("ctrl-a,x,ctrl-]").unwrap(), [1, b'x', 29]);
        assert!(detach_keys("alt-x").is_err());
    }

    #[test]
    fn what_only_begins_like_the_keys_is_passed_on() {
        let mut keys = Keys { wanted: &DETACH, held: 0 };
        assert_eq!(keys.pass(b"a\x10").unwrap(), b"a");
        assert_eq!(keys.pass(b"b").unwrap(), b"\x10b");
        assert_eq!(keys.pass(b"\x10\x10").unwrap(), b"\x10");
        assert_eq!(keys.pass(b"\x11"), None);
    }

    #[test]
    fn frames_are_dockers() {
        let frame = Frame { stream: Stream::Stderr, bytes: b"hi".to_vec() };
        assert_eq!(encode(&frame, false), b"\x02\0\0\0\0\0\0\x02hi");
        assert_eq!(encode(&frame, true), b"hi");
    }
}

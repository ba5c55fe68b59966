//! The terminal of this process joined to a container's streams.

use std::io::IsTerminal;
use std::pin::Pin;

use anyhow::{Result, bail};
use bollard::container::LogOutput;
use bollard::errors::Error;
use futures_util::{Stream, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::containers::write;

/// What comes out of a container.
pub type Output = Pin<Box<dyn Stream<Item = std::result::Result<LogOutput, Error>> + Send>>;
/// What goes in.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// This process's terminal, raw; given back when dropped.
pub struct RawTerminal(Termios);

impl RawTerminal {
    /// Makes it raw. Standard input must be a terminal.
    pub fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            bail!("the input device is not a terminal: leave -t away");
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // At the end of the process there is nobody left to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns of this process's terminal.
pub fn size() -> Option<(i32, i32)> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    Some((size.ws_row.into(), size.ws_col.into()))
}

/// Copies both ways until output ends; input only when it is wanted.
pub async fn join(mut output: Output, input: Input, wants_input: bool) -> Result<()> {
    let feeding = tokio::spawn(async move {
        if wants_input {
            feed(input).await;
        } else {
            std::future::pending::<()>().await;
        }
    });
    while let Some(piece) = output.next().await {
        if !write(&piece?)? {
            break;
        }
    }
    feeding.abort();
    Ok(())
}

/// On a thread of its own that blocks in read(2): it must not keep the program from ending.
async fn feed(mut input: Input) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if input.write_all(&buffer[..length]).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    let _ = input.shutdown().await;
    std::future::pending::<()>().await;
}

//! What daemon and shim say to each other on `shim.sock`.
//!
//! A [`Command`] is one line of JSON, its [`Answer`] another; any number follow each other on one connection.
//! After `attach` is answered, the connection carries frames, both ways, until it is closed:
//!
//! ```text
//!  ┌──────┬────────────┬───────────────┐  shim → client: 1 stdout, 2 stderr
//!  │ kind │ length, BE │ bytes …       │  client → shim: 0 stdin, 3 no more stdin (length 0)
//!  │ u8   │ u32        │ ≤ 64 KiB      │
//!  └──────┴────────────┴───────────────┘
//! ```

use std::io;

use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// Bytes of a frame's head.
pub const HEAD: usize = 5;
/// Most bytes in one frame.
pub const MAX_FRAME: usize = 64 * 1024;
/// Frame kind: bytes for stdin.
pub const STDIN: u8 = 0;
/// Frame kind: stdin ends.
pub const CLOSE_STDIN: u8 = 3;
/// Longest command line.
pub const MAX_COMMAND: usize = 4096;

/// What may be asked of a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Runs the command; answered with `Status`.
    Start,
    /// Answered with `Status`.
    State,
    /// Sends a signal to the process, or to every process of the container.
    Kill {
        /// Signal number.
        signal: i32,
        /// To every process of the cgroup.
        all: bool,
    },
    /// Sets the terminal's size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Freezes every process.
    Pause,
    /// Thaws them.
    Resume,
    /// Turns the connection into frames; output from now on.
    Attach {
        /// Whether this client may write to stdin.
        stdin: bool,
    },
    /// Answered with `Exit` when the process has ended and everything is cleaned up.
    Wait,
    /// Kills what runs; answered with `Exit` after the clean-up.
    Delete,
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "with", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// State of the process.
    Status(Status),
    /// The process has ended.
    Exit(Exit),
    /// It could not be done.
    Failed(RuntimeError),
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Prepared, not started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Exited,
    /// Runs, but its shim is dead: no output, and the exit code will be unknown (137).
    Orphaned,
}

/// State of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Phase.
    pub phase: Phase,
    /// Process id on the host; 0 before an exec is started.
    pub pid: i32,
}

/// How a process ended; `exit.json`. Times are nanoseconds since the epoch; 0: never started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code as a shell gives it: 128 + signal when killed.
    pub code: i32,
    /// Signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in the container for want of memory.
    pub oom_killed: bool,
    /// When it was started.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
}

impl Exit {
    /// Of a process whose shim died: nobody saw its exit code.
    #[must_use]
    pub fn unknown(finished_at: i64) -> Self {
        Self { code: 137, signal: Some(9), finished_at, ..Self::default() }
    }
}

/// Which stream a frame belongs to; a terminal has stdout alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Number in a frame's head and in Docker's own multiplexed stream.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// Name in a log line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which stream.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A frame's head.
#[must_use]
pub fn head(kind: u8, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c, d]
}

/// Kind and length in a frame's head; none when it is not one.
#[must_use]
pub fn parse_head(head: [u8; HEAD]) -> Option<(u8, usize)> {
    let [kind, a, b, c, d] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (kind <= CLOSE_STDIN && length <= MAX_FRAME).then_some((kind, length))
}

/// Takes a whole frame of output off the front of `buffer`; none when there is none yet.
///
/// # Errors
/// When what is there is not a frame.
pub fn take_frame(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a frame");
    let (kind, length) = parse_head(*head).ok_or_else(invalid)?;
    let stream = match kind {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(invalid()),
    };
    if rest.len() < length {
        return Ok(None);
    }
    let bytes = rest[..length].to_vec();
    buffer.drain(..HEAD + length);
    Ok(Some(Frame { stream, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_round_trip_and_nonsense_is_refused() {
        assert_eq!(parse_head(head(STDIN, 7)), Some((STDIN, 7)));
        assert_eq!(parse_head(head(1, MAX_FRAME)), Some((1, MAX_FRAME)));
        assert_eq!(parse_head(head(1, MAX_FRAME + 1)), None);
        assert_eq!(parse_head(*b"GET /"), None);
    }

    #[test]
    fn commands_are_one_line() {
        for command in [
            Command::Start,
            Command::Kill { signal: 15, all: false },
            Command::Attach { stdin: true },
        ] {
            let line = serde_json::to_string(&command).unwrap();
            assert!(!line.contains('\n') && line.len() < MAX_COMMAND);
            assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), command);
        }
    }
}

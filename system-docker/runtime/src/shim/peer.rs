//! One client of the shim: a connection that never blocks, with what came in and is not yet a command, and what is to
//! go out and was not yet taken.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::RuntimeError;
use crate::wire::{
    self, Answer, CLOSE_STDIN, Command, HEAD, MAX_COMMAND, MAX_FRAME, STDIN, Stream,
};

/// Output is not read from the container while a client has more than this to take.
const FULL: usize = 256 * 1024;
/// How long a full client may take nothing at all before it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Sends commands.
    Commands,
    /// Wants to know the exit.
    Waits,
    /// Takes frames, and may give some.
    Attached {
        /// May write to stdin.
        stdin: bool,
    },
}

/// What a client said.
pub(super) enum Said {
    Command(Command),
    Stdin(Vec<u8>),
    CloseStdin,
    Nonsense,
}

pub(super) struct Peer {
    pub(super) stream: UnixStream,
    pub(super) mode: Mode,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    full_since: Option<Instant>,
    /// The client sends no more.
    pub(super) finished: bool,
    /// To be forgotten.
    pub(super) gone: bool,
}

impl Peer {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            mode: Mode::Commands,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            full_since: None,
            finished: false,
            gone: false,
        })
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.mode, Mode::Attached { .. })
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Reads once; what is whole is taken by [`Peer::next`].
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.finished = true,
            Ok(length) => self.incoming.extend_from_slice(&buffer[..length]),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    pub(super) fn next(&mut self) -> Option<Said> {
        match self.mode {
            Mode::Attached { stdin } => self.next_frame(stdin),
            Mode::Commands => self.next_command(),
            Mode::Waits => None,
        }
    }

    fn next_command(&mut self) -> Option<Said> {
        let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') else {
            return (self.incoming.len() > MAX_COMMAND).then_some(Said::Nonsense);
        };
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        Some(serde_json::from_slice(&line).map_or(Said::Nonsense, Said::Command))
    }

    fn next_frame(&mut self, stdin: bool) -> Option<Said> {
        let (head, rest) = self.incoming.split_first_chunk::<HEAD>()?;
        let Some((kind, length)) = wire::parse_head(*head) else { return Some(Said::Nonsense) };
        if rest.len() < length {
            return None;
        }
        let bytes = rest[..length].to_vec();
        self.incoming.drain(..HEAD + length);
        match kind {
            STDIN if stdin => Some(Said::Stdin(bytes)),
            CLOSE_STDIN if stdin => Some(Said::CloseStdin),
            _ => Some(Said::Nonsense),
        }
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        let line = serde_json::to_vec(answer)
            .or_else(|e| serde_json::to_vec(&Answer::Failed(RuntimeError::Shim(e.to_string()))));
        self.outgoing.extend(line.unwrap_or_default());
        self.outgoing.push(b'\n');
        self.send();
    }

    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.chunks(MAX_FRAME) {
            self.outgoing.extend_from_slice(&wire::head(stream.number(), part.len()));
            self.outgoing.extend_from_slice(part);
        }
        self.send();
    }

    /// Sends as much as the client takes now.
    pub(super) fn send(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(length) => {
                    self.outgoing.drain(..length);
                    self.full_since = None;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        if self.outgoing.is_empty() {
            self.outgoing.shrink_to(MAX_FRAME);
        } else if self.is_full() && self.full_since.is_none() {
            self.full_since = Some(Instant::now());
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() > FULL
    }

    /// When this client will be dropped if it goes on taking nothing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.full_since.filter(|_| self.is_full()).map(|since| since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Peer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Peer::new(ours).unwrap(), theirs)
    }

    #[test]
    fn commands_come_in_pieces() {
        let (mut peer, mut client) = pair();
        let mut buffer = [0; 64];
        client.write_all(b"{\"do\":\"st").unwrap();
        peer.receive(&mut buffer);
        assert!(peer.next().is_none());
        client.write_all(b"art\"}\n{\"do\":\"wait\"}\n").unwrap();
        peer.receive(&mut buffer);
        assert!(matches!(peer.next(), Some(Said::Command(Command::Start))));
        assert!(matches!(peer.next(), Some(Said::Command(Command::Wait))));
    }

    #[test]
    fn a_client_that_may_not_write_stdin_is_refused() {
        let (mut peer, mut client) = pair();
        peer.mode = Mode::Attached { stdin: false };
        client.write_all(&wire::head(STDIN, 0)).unwrap();
        peer.receive(&mut [0; 64]);
        assert!(matches!(peer.next(), Some(Said::Nonsense)));
    }

    #[test]
    fn a_client_that_reads_nothing_becomes_full_and_gets_a_deadline() {
        let (mut peer, _client) = pair();
        peer.mode = Mode::Attached { stdin: false };
        while !peer.is_full() {
            peer.output(Stream::Stdout, &[0; 4096]);
        }
        assert!(peer.deadline().is_some() && !peer.gone);
    }
}

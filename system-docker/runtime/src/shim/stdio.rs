//! The process's standard streams, seen from the shim: three pipes, or the master of a terminal. Never blocks.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::RuntimeError;
use crate::wire::Stream;

/// Most bytes kept for a process that does not read its stdin.
const MOST_PENDING: usize = 64 * 1024;

/// The shim's ends.
#[derive(Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    is_tty: bool,
    pending: Vec<u8>,
    closing: bool,
}

/// The process's ends of the pipes.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What a read came to.
pub(super) enum Read {
    Some(usize),
    Later,
    End,
}

/// Pipes that belong to the process, so that it may open them again (`/dev/stdout`).
pub(super) fn pipes(open_stdin: bool, owner: (u32, u32)) -> io::Result<(Stdio, Ends)> {
    let owned = |end: &OwnedFd| {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        fchown(end, Some(uid), Some(gid))
    };
    let (stdin_read, stdin_write) = match open_stdin {
        true => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            owned(&read)?;
            (read, Some(non_blocking(write)?))
        }
        false => (File::open("/dev/null")?.into(), None),
    };
    let (stdout_read, stdout_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_read, stderr_write) = pipe_with(PipeFlags::CLOEXEC)?;
    owned(&stdout_write)?;
    owned(&stderr_write)?;
    let ours = Stdio {
        stdin: stdin_write,
        stdout: Some(non_blocking(stdout_read)?),
        stderr: Some(non_blocking(stderr_read)?),
        ..Stdio::default()
    };
    Ok((ours, Ends { stdin: stdin_read, stdout: stdout_write, stderr: stderr_write }))
}

/// The socket that libcontainer sends a terminal's master to.
pub(super) struct Console {
    listener: UnixListener,
    pub(super) path: PathBuf,
}

impl Console {
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        Ok(Self { listener: bind_in(dir, "console.sock")?, path: dir.join("console.sock") })
    }

    /// The terminal, once the process has sent it.
    pub(super) fn receive(self) -> io::Result<Stdio> {
        let (socket, _) = self.listener.accept()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        fs::remove_file(&self.path)?;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let master = fds.flatten().next().ok_or_else(|| io::Error::other("no terminal came"))?;
        let master = non_blocking(master)?;
        Ok(Stdio {
            stdin: Some(master.try_clone()?),
            stdout: Some(master),
            is_tty: true,
            ..Stdio::default()
        })
    }
}

/// A socket in `dir`, by a relative name: an address has at most 107 bytes.
pub(super) fn bind_in(dir: &Path, name: &str) -> io::Result<UnixListener> {
    std::env::set_current_dir(dir)?;
    let listener = UnixListener::bind(name);
    std::env::set_current_dir("/")?;
    listener
}

fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(fd)
}

impl Stdio {
    /// Reads what there is of a stream; at its end the stream is closed.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Read {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(fd) = slot else { return Read::End };
        match rustix::io::read(&*fd, buffer) {
            Ok(length) if length > 0 => Read::Some(length),
            Err(Errno::AGAIN | Errno::INTR) => Read::Later,
            // A terminal whose last user is gone gives EIO.
            _ => {
                *slot = None;
                Read::End
            }
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Whether more stdin can be taken from clients.
    pub(super) fn takes_stdin(&self) -> bool {
        self.pending.len() < MOST_PENDING
    }

    pub(super) fn has_pending_stdin(&self) -> bool {
        self.stdin.is_some() && !self.pending.is_empty()
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() && !self.closing {
            self.pending.extend_from_slice(bytes);
            self.pump();
        }
    }

    /// No more stdin after what is pending. A terminal stays open: its end-of-file is a key.
    pub(super) fn close_stdin(&mut self) {
        if !self.is_tty {
            self.closing = true;
            self.pump();
        }
    }

    /// Writes as much stdin as the process takes now.
    pub(super) fn pump(&mut self) {
        while let Some(stdin) = &self.stdin {
            if self.pending.is_empty() {
                break;
            }
            match rustix::io::write(stdin, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.stdin = None;
                    self.pending = Vec::new();
                }
            }
        }
        if self.closing && self.pending.is_empty() {
            self.stdin = None;
        }
    }

    pub(super) fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        // As Docker: without a terminal there is nothing to do.
        let Some(terminal) = self.stdout.as_ref().filter(|_| self.is_tty) else { return Ok(()) };
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal.as_fd(), size)
            .map_err(|e| RuntimeError::Refused(format!("resize: {e}")))
    }
}

//! Disks out of a log: the disk as it was before the recording, brought forward request by request, and for each cut
//! a copy of it that has some of the writes since the last flush. Holes stay holes, so a copy costs what is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;

use super::cut::{Cut, unflushed};
use super::log::{Entry, Kind, Log};

/// A disk that is brought forward along a log.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a Log,
    path: PathBuf,
    disk: File,
    done: usize,
}

impl<'a> Replay<'a> {
    /// Starts from the raw disk `base`, in a copy of it at `path`.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn start(log: &'a Log, base: &Path, path: &Path) -> Result<Self> {
        copy_sparse(base, path)?;
        Ok(Self { log, path: path.to_owned(), disk: open(path)?, done: 0 })
    }

    /// Writes to `to` the disk that `cut` leaves. Cuts come in order of their place.
    ///
    /// # Errors
    /// When an earlier cut was asked for after a later one, or a file cannot be written.
    pub fn cut(&mut self, cut: &Cut, to: &Path) -> Result<()> {
        let first = unflushed(&self.log.entries, cut.at);
        self.forward(first)?;
        copy_sparse(&self.path, to)?;
        let disk = open(to)?;
        let pending = &self.log.entries[first..cut.at];
        for (entry, length) in pending.iter().zip(cut.kept.of(pending, self.log.sector)) {
            apply(self.log, &disk, entry, length)?;
        }
        Ok(())
    }

    /// Brings the disk to the log's end; answers where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<PathBuf> {
        self.forward(self.log.entries.len())?;
        Ok(self.path)
    }

    fn forward(&mut self, to: usize) -> Result<()> {
        ensure!(self.done <= to, "cut {to} comes after the disk is at {}", self.done);
        for entry in &self.log.entries[self.done..to] {
            apply(self.log, &self.disk, entry, entry.length)?;
        }
        self.done = to;
        Ok(())
    }
}

fn apply(log: &Log, disk: &File, entry: &Entry, length: u64) -> Result<()> {
    match entry.kind {
        _ if length == 0 => {}
        Kind::Nothing => {}
        Kind::Write(at) => {
            disk.write_all_at(&log.data(at, length)?, entry.offset).context("write the disk")?;
        }
        Kind::Discard => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(disk, flags, entry.offset, length).context("discard")?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.with_context(|| format!("open {}", path.display()))
}

/// Copies a file; what is a hole stays one.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).with_context(|| format!("open {}", from.display()))?;
    // A new file: the old one's pages need not be written back any more.
    let _ = fs::remove_file(to);
    let target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    copy_range(&source, &target, 0, length, 0).with_context(|| format!("copy to {}", to.display()))
}

/// Copies the data of `length` bytes from `start` on to `to` in `target`.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_range(source: &File, target: &File, start: u64, length: u64, to: u64) -> Result<()> {
    let end = start + length;
    let mut at = start;
    while at < end {
        at = match seek(source, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?.min(end),
        };
        let hole = seek(source, SeekFrom::Hole(at))?.min(end);
        let (mut from, mut into) = (at, to + at - start);
        while from < hole {
            let left = usize::try_from(hole - from)?;
            let copied = copy_file_range(source, Some(&mut from), target, Some(&mut into), left)?;
            ensure!(copied > 0, io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        at = hole;
    }
    Ok(())
}

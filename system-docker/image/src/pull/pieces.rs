//! Parts of a blob on their way in, from anywhere in it: `ingest/<hex>.pieces.partial`, locked by whoever writes it.
//!
//! ```text
//! piece…    piece  =  u64 LE offset in the blob  u64 LE length  u8 told  bytes
//! ```
//!
//! Pieces are appended as they come; the last one may be shorter than it says, which is where the next pull goes on. A
//! piece is *told* once a pull has counted it among what it fetched: a skeleton that planning fetched counts with the pull.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ros_api::Digest;
use rustix::fs::FlockOperation;

use super::partial::locked;
use super::stream::Sink;
use crate::layer::rebuild::{Part, Parts, len};
use crate::{Error, Result, Store};

/// Offset, length, told.
const HEADER: u64 = 17;

/// The pieces of one blob that are here.
pub(super) struct Pieces {
    pub file: File,
    path: PathBuf,
    pub parts: Parts,
    /// Bytes that no pull has counted yet.
    pub untold: u64,
    /// The file's length.
    end: u64,
    /// The piece that is being written: where its header is, and what it is to be and is.
    last: Option<Last>,
    told: bool,
}

struct Last {
    header: u64,
    range: Range<u64>,
    got: u64,
}

impl Pieces {
    /// Waits until nobody writes them. What is written now is `told` or not.
    pub fn open(store: &Store, blob: &Digest, told: bool) -> Result<Self> {
        let path = path(store, blob);
        let file = locked(&path, FlockOperation::LockExclusive)?;
        Self::read(file, path, told)
    }

    /// The same, or none where somebody writes them.
    pub fn try_open(store: &Store, blob: &Digest, told: bool) -> Result<Option<Self>> {
        let path = path(store, blob);
        match locked(&path, FlockOperation::NonBlockingLockExclusive) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            file => Self::read(file?, path, told).map(Some),
        }
    }

    /// Those that somebody writes, as far as they are here now; they are only looked at.
    pub fn look(store: &Store, blob: &Digest) -> Result<Self> {
        let path = path(store, blob);
        let file = File::open(&path).map_err(Error::on("open", &path))?;
        Self::read(file, path, true)
    }

    fn read(file: File, path: PathBuf, told: bool) -> Result<Self> {
        let end = file.metadata().map_err(Error::on("stat", &path))?.len();
        let parts = Parts::default();
        let mut pieces = Self { file, path, parts, untold: 0, end, last: None, told };
        let mut at = 0;
        while at < pieces.end {
            at = pieces.take_up(at)?;
        }
        Ok(pieces)
    }

    /// Takes up the piece whose header is at `at`; where the next one is.
    fn take_up(&mut self, at: u64) -> Result<u64> {
        let mut header = [0; HEADER as usize];
        let content = at + HEADER;
        if content > self.end {
            // Broken off within a header: the next piece begins here.
            self.end = at;
            return Ok(at);
        }
        self.file.read_exact_at(&mut header, at).map_err(Error::on("read", &self.path))?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| header[at + n]));
        let (offset, length) = (number(0), number(8));
        let got = length.min(self.end - content);
        self.parts.insert(offset, got, content);
        if header[16] == 0 {
            self.untold += got;
        }
        if got < length {
            let range = offset..offset.saturating_add(length);
            self.last = Some(Last { header: at, range, got });
        }
        Ok(content + got)
    }

    /// What is written next is `range` of the blob.
    pub fn begin(&mut self, range: Range<u64>) -> Result<()> {
        self.finish()?;
        let mut header = Vec::new();
        header.extend_from_slice(&range.start.to_le_bytes());
        header.extend_from_slice(&len(&range).to_le_bytes());
        header.push(self.told.into());
        self.file.seek(SeekFrom::Start(self.end)).map_err(Error::on("seek", &self.path))?;
        self.file.write_all(&header).map_err(Error::on("write", &self.path))?;
        self.last = Some(Last { header: self.end, range, got: 0 });
        self.end += HEADER;
        Ok(())
    }

    /// Nothing more is written of the last piece: its header says what there is of it.
    pub fn finish(&mut self) -> Result<()> {
        let Some(Last { header, range, got }) = self.last.take() else { return Ok(()) };
        if got < len(&range) {
            let write = self.file.write_all_at(&got.to_le_bytes(), header + 8);
            write.map_err(Error::on("write", &self.path))?;
        }
        self.parts.insert(range.start, got, header + HEADER);
        Ok(())
    }

    /// What is here of `range`, which is all of it or nothing.
    pub fn content(&self, range: &Range<u64>) -> Result<Option<Vec<u8>>> {
        if !self.parts.missing_of(range).is_empty() {
            return Ok(None);
        }
        let mut content = Vec::new();
        let mut part = Part::new(&self.file, &self.parts, range.clone());
        part.read_to_end(&mut content).map_err(Error::on("read", &self.path))?;
        Ok(Some(content))
    }

    /// All that is here has been counted; how much of it had not been.
    pub fn tell(&mut self) -> Result<u64> {
        let mut at = 0;
        while self.untold > 0 && at < self.end.saturating_sub(HEADER) {
            let mut length = [0; 8];
            let read = self.file.read_exact_at(&mut length, at + 8);
            read.and_then(|()| self.file.write_all_at(&[1], at + 16))
                .map_err(Error::on("write", &self.path))?;
            at = at.saturating_add(HEADER).saturating_add(u64::from_le_bytes(length));
        }
        Ok(std::mem::take(&mut self.untold))
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path, e))
            }
            _ => Ok(()),
        }
    }
}

impl Sink for Pieces {
    /// What is more than was asked for is dropped.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(last) = &mut self.last else { return Ok(()) };
        let left = len(&last.range) - last.got;
        let bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file.write_all(bytes).map_err(Error::on("write", &self.path))?;
        last.got += bytes.len() as u64;
        self.end += bytes.len() as u64;
        if !self.told {
            self.untold += bytes.len() as u64;
        }
        Ok(())
    }
}

fn path(store: &Store, blob: &Digest) -> PathBuf {
    store.path("ingest").join(format!("{}.pieces.partial", blob.hex()))
}

/// Forgets the pieces of a blob.
pub(super) fn forget(store: &Store, blob: &Digest) {
    let _ = fs::remove_file(path(store, blob));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_was_cut_is_gone_on_with_and_counted_once() {
        let (_dir, store) = store();
        let blob = Digest::of(b"blob");
        let mut pieces = Pieces::open(&store, &blob, false).unwrap();
        pieces.begin(100..110).unwrap();
        pieces.append(b"0123456789 and more").unwrap();
        pieces.begin(20..30).unwrap();
        pieces.append(b"abc").unwrap();
        // It ends here, without a word.
        drop(pieces);
        for _ in 0..2 {
            let pieces = Pieces::look(&store, &blob).unwrap();
            assert_eq!(pieces.parts.missing(&[20..30, 95..115]), [23..30, 95..100, 110..115]);
            assert_eq!(pieces.untold, 13);
        }
        let mut pieces = Pieces::open(&store, &blob, true).unwrap();
        assert_eq!(pieces.tell().unwrap(), 13);
        pieces.begin(23..30).unwrap();
        pieces.append(b"defghij").unwrap();
        pieces.finish().unwrap();
        drop(pieces);
        let pieces = Pieces::look(&store, &blob).unwrap();
        assert_eq!(pieces.untold, 0);
        assert_eq!(pieces.content(&(20..30)).unwrap().unwrap(), b"abcdefghij");
        assert_eq!(pieces.content(&(100..110)).unwrap().unwrap(), b"0123456789");
        assert_eq!(pieces.content(&(29..31)).unwrap(), None);
    }

    #[test]
    fn only_one_writes() {
        let (_dir, store) = store();
        let blob = Digest::of(b"blob");
        let pieces = Pieces::open(&store, &blob, true).unwrap();
        assert!(Pieces::try_open(&store, &blob, true).unwrap().is_none());
        drop(pieces);
        assert!(Pieces::try_open(&store, &blob, true).unwrap().is_some());
    }

    /// A file that a power cut left in whatever state.
    #[test]
    fn whatever_is_there_it_is_read_and_written_on() {
        let (_dir, store) = store();
        let blob = Digest::of(b"blob");
        let range = 1 << 40..(1 << 40) + 4;
        proptest::proptest!(|(bytes: Vec<u8>)| {
            fs::write(path(&store, &blob), bytes).unwrap();
            let mut pieces = Pieces::open(&store, &blob, true).unwrap();
            pieces.tell().unwrap();
            for range in pieces.parts.missing_of(&range) {
                pieces.begin(range.clone()).unwrap();
                pieces.append(&vec![7; usize::try_from(len(&range)).unwrap()]).unwrap();
            }
            pieces.finish().unwrap();
            drop(pieces);
            let pieces = Pieces::look(&store, &blob).unwrap();
            proptest::prop_assert!(pieces.content(&range).unwrap().is_some());
        });
    }
}

//! The log that QEMU's `blklogwrites` writes, in the layout of the kernel's dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c; QEMU block/blklogwrites.c).
//!
//! ```text
//!  sector 0   super   magic u64  version u64  entries u64  sector size u32          all little-endian
//!  then       entry   sector u64  sectors u64  flags u64  data length u64           one sector
//!             data    sectors × sector size; none for a flush or a discard
//! ```
//!
//! Entries are in the order in which requests were completed. The super block is brought up to date with each flush.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// Larger sectors are no log of ours.
const LARGEST_SECTOR: u32 = 1 << 16;

/// What one request did to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrote what is in the log from this byte on.
    Write(u64),
    /// Discarded: reads as zeros afterwards.
    Discard,
    /// Wrote nothing: a flush.
    Nothing,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What was done.
    pub kind: Kind,
    /// All that came before it is on the disk for sure.
    pub flush: bool,
    /// It is on the disk itself for sure.
    pub sure: bool,
}

/// A log.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// The disk's sector.
    pub sector: u64,
    /// All requests, in order.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads the index of the log at `path`; its data stays in the file.
    ///
    /// # Errors
    /// When it is not a log, or ends within an entry.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let (count, sector) = head(&file).with_context(|| format!("read {}", path.display()))?;
        let end = file.metadata()?.len();
        let mut entries = Vec::new();
        let mut at = sector;
        for number in 0..count {
            let entry = entry(&file, at, sector).with_context(|| format!("entry {number}"))?;
            at += sector;
            if matches!(entry.kind, Kind::Write(_)) {
                at += entry.length;
            }
            ensure!(at <= end, "{} ends within entry {number}", path.display());
            entries.push(entry);
        }
        Ok(Self { file, sector, entries })
    }

    /// The data of a write.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn data(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(length)?];
        self.file.read_exact_at(&mut data, at).context("read the data of a write")?;
        Ok(data)
    }
}

/// How many requests a log that is being written has for sure: as many as there were at the last flush.
#[derive(Clone, Debug)]
pub struct Growing(pub PathBuf);

impl Growing {
    /// Reads the number.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn count(&self) -> Result<u64> {
        let file = File::open(&self.0).with_context(|| format!("open {}", self.0.display()))?;
        Ok(head(&file)?.0)
    }
}

fn head(file: &File) -> Result<(u64, u64)> {
    let mut bytes = [0; 28];
    file.read_exact_at(&mut bytes, 0).context("read the super block")?;
    ensure!(number(&bytes, 0) == MAGIC, "this is not a log of writes");
    ensure!(number(&bytes, 1) == VERSION, "version {} of the log", number(&bytes, 1));
    let sector = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
    let sound = sector.is_power_of_two() && (512..=LARGEST_SECTOR).contains(&sector);
    ensure!(sound, "sectors of {sector} bytes");
    Ok((number(&bytes, 2), sector.into()))
}

fn entry(file: &File, at: u64, sector: u64) -> Result<Entry> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)?;
    let [start, sectors, flags] = [0, 1, 2].map(|index| number(&bytes, index));
    let scaled = |sectors: u64| sectors.checked_mul(sector).context("beyond any disk");
    let kind = match (sectors, flags & DISCARD) {
        (0, _) => Kind::Nothing,
        (_, 0) => Kind::Write(at + sector),
        _ => Kind::Discard,
    };
    Ok(Entry {
        offset: scaled(start)?,
        length: scaled(sectors)?,
        kind,
        flush: flags & FLUSH != 0,
        sure: flags & FUA != 0,
    })
}

fn number(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let words = |words: [u64; 4]| words.map(u64::to_le_bytes).concat();
        for (content, why) in [
            (vec![], "super block"),
            (words([1, 1, 0, 512]), "not a log"),
            (words([MAGIC, 2, 0, 512]), "version 2"),
            (words([MAGIC, 1, 0, 500]), "sectors of 500"),
            (words([MAGIC, 1, 7, 512]), "entry 0"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = format!("{:#}", Log::read(&path).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}

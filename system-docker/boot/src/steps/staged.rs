//! A partition table is two copies, and a power cut between any two writes must leave one that is whole. So all of it is
//! first written in memory; then the copy at the disk's end goes to the disk, and only when it is there the one at its
//! beginning. Where there was none, the entries go first, then what points to them, and the first sector last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// What is written at once, and a divisor of every sector.
const UNIT: u64 = 512;

/// A device with writes that are not on it yet.
#[derive(Debug)]
pub struct Staged {
    device: File,
    size: u64,
    at: u64,
    written: BTreeMap<u64, [u8; UNIT as usize]>,
}

impl Staged {
    /// Nothing written yet.
    ///
    /// # Errors
    /// When the device's size cannot be found out.
    pub fn new(mut device: File) -> io::Result<Self> {
        let size = device.seek(SeekFrom::End(0))?;
        Ok(Self { device, size, at: 0, written: BTreeMap::new() })
    }

    /// Writes what is in the device's second half, and when that is on the disk, what is in its first.
    ///
    /// # Errors
    /// When the device cannot be written; one of the copies is whole then.
    pub fn commit(mut self) -> io::Result<()> {
        let first = self.written.clone();
        let second = self.written.split_off(&(self.size / UNIT / 2));
        for half in [second, first] {
            for (unit, bytes) in half {
                self.device.write_all_at(&bytes, unit * UNIT)?;
            }
            self.device.sync_all()?;
        }
        Ok(())
    }

    /// The same for the first table of an empty disk with sectors of so many bytes.
    ///
    /// # Errors
    /// When the device cannot be written; it has no table then.
    pub fn commit_first(self, sector: u64) -> io::Result<()> {
        for phase in self.phases(sector) {
            for (offset, bytes) in phase {
                self.device.write_all_at(&bytes, offset)?;
            }
            self.device.sync_all()?;
        }
        Ok(())
    }

    /// Entries; headers; the protective MBR: without that there is no table. Offsets in bytes.
    pub fn phases(&self, sector: u64) -> [Vec<(u64, [u8; UNIT as usize])>; 3] {
        let mut phases = [Vec::new(), Vec::new(), Vec::new()];
        for (unit, bytes) in &self.written {
            let offset = unit * UNIT;
            let phase = match offset {
                _ if offset < sector => 2,
                _ if offset < 2 * sector || offset >= self.size - sector => 1,
                _ => 0,
            };
            phases[phase].push((offset, *bytes));
        }
        phases
    }

    /// Bytes of the device.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self, unit: u64) -> io::Result<[u8; UNIT as usize]> {
        if let Some(bytes) = self.written.get(&unit) {
            return Ok(*bytes);
        }
        let mut bytes = [0; UNIT as usize];
        self.device.read_exact_at(&mut bytes, unit * UNIT)?;
        Ok(bytes)
    }

    /// The unit that `at` is in, its place there, and how much of `length` it holds.
    fn place(&self, length: usize) -> (u64, usize, usize) {
        let within = (self.at % UNIT) as usize;
        (self.at / UNIT, within, length.min(UNIT as usize - within))
    }
}

impl Read for Staged {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let (unit, within, length) = self.place(to.len());
        if self.at >= self.size || length == 0 {
            return Ok(0);
        }
        to[..length].copy_from_slice(&self.unit(unit)?[within..within + length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Staged {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let (unit, within, length) = self.place(from.len());
        if self.at >= self.size || length == 0 {
            return Ok(0);
        }
        let mut bytes = self.unit(unit)?;
        bytes[within..within + length].copy_from_slice(&from[..length]);
        self.written.insert(unit, bytes);
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Staged {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.size, by),
        };
        self.at = base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_on_the_device_before_it_is_committed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * UNIT).unwrap();
        let mut staged = Staged::new(file.reopen().unwrap()).unwrap();
        staged.seek(SeekFrom::Start(UNIT - 2)).unwrap();
        staged.write_all(b"four").unwrap();
        staged.seek(SeekFrom::End(-1)).unwrap();
        staged.write_all(b"z").unwrap();
        assert!(staged.write_all(b"beyond").is_err());
        staged.seek(SeekFrom::Start(UNIT - 4)).unwrap();
        let mut read = [0; 8];
        staged.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"\0\0four\0\0");
        assert!(std::fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0));
        staged.commit().unwrap();
        let all = std::fs::read(file.path()).unwrap();
        assert_eq!(&all[510..514], b"four");
        assert_eq!(all[8 * UNIT as usize - 1], b'z');
    }
}

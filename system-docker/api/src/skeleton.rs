//! A layer's tar stream without its files' contents. The store keeps it beside each layer (`tarsplit`), so that a layer
//! comes out as it came in. A layer's blob may end with it: who has most of the files fetches only the rest (decision 20).
//!
//! ```text
//! record  =  0x00  u32 LE length  bytes                       headers, padding, the end; tiny files
//!         |  0x01  object key (32 bytes)  u64 LE length       a file's content, from the pool
//!         |  0x02  u64 LE length                              only in a blob: from here to the next of these, the stream
//!                                                             is also the content of the blob's next frame, so many bytes
//!
//! blob    =  frame…  skippable frame( zstd( record… ) )       frames and skippable frames: RFC 8878
//! ```
//!
//! Frames have no offsets: each begins where the one before it ends, so none can lie on another. To whoever knows nothing of
//! it the blob is a `tar+zstd` layer. The layer's descriptor says where the skeleton is and its digest, and so the
//! manifest vouches for it: annotation [`ANNOTATION`] = [`Place`].

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use crate::Digest;

/// The annotation of a layer's descriptor.
pub const ANNOTATION: &str = "io.ros.layer.skeleton";
/// Magic number of the skippable frame.
pub const SKIPPABLE: u32 = 0x184d_2a5d;
/// Bytes of the header of a skippable frame: the magic number and a length, 32 bits each, little-endian.
pub const SKIPPABLE_HEADER: u64 = 8;

const RAW: u8 = 0;
const OBJECT: u8 = 1;
const FRAME: u8 = 2;

/// Where in its blob a skeleton is, compressed: `offset:length:sha256:hex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes of the blob before it.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Their digest.
    pub digest: Digest,
}

/// Not a [`Place`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of a skeleton: expected offset:length:sha256:hex")]
pub struct NoPlace(String);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.offset, self.length, self.digest)
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let parsed = || {
            let mut parts = text.splitn(3, ':');
            let offset = parts.next()?.parse().ok()?;
            let length = parts.next()?.parse().ok()?;
            Some(Self { offset, length, digest: parts.next()?.parse().ok()? })
        };
        parsed().ok_or_else(|| NoPlace(text.to_owned()))
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// So many bytes as they are; [`Reader::raw`] gives them.
    Raw(u32),
    /// The content of an object.
    Object {
        /// Its name in the pool, see [`crate::object`].
        key: Digest,
        /// Its bytes.
        length: u64,
    },
    /// A frame of so many bytes begins.
    Frame(u64),
}

/// Writes records.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Onto `to`.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Bytes as they are; none is no record.
    ///
    /// # Errors
    /// When they cannot be written, or are 4 GiB or more.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.to.write_all(&[RAW])?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(bytes)
    }

    /// A file's content.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn object(&mut self, key: &Digest, length: u64) -> io::Result<()> {
        self.to.write_all(&[OBJECT])?;
        self.to.write_all(key.bytes())?;
        self.to.write_all(&length.to_le_bytes())
    }

    /// The blob's next frame begins, of `length` compressed bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn frame(&mut self, length: u64) -> io::Result<()> {
        self.to.write_all(&[FRAME])?;
        self.to.write_all(&length.to_le_bytes())
    }

    /// What it was written onto.
    pub fn into_inner(self) -> W {
        self.to
    }
}

/// Reads records one by one; nothing is kept.
pub struct Reader<R> {
    input: R,
    /// Raw bytes that were not read yet.
    left: u64,
}

impl<R: BufRead> Reader<R> {
    /// From `input`.
    pub fn new(input: R) -> Self {
        Self { input, left: 0 }
    }

    /// The next record; none at the end. Raw bytes that were not asked for are passed over.
    ///
    /// # Errors
    /// When it cannot be read, ends within a record, or is no skeleton.
    pub fn record(&mut self) -> io::Result<Option<Record>> {
        io::copy(&mut self.raw(), &mut io::sink())?;
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let [tag] = self.bytes()?;
        Ok(Some(match tag {
            RAW => {
                let length = u32::from_le_bytes(self.bytes()?);
                self.left = length.into();
                Record::Raw(length)
            }
            OBJECT => Record::Object {
                key: Digest::from_bytes(self.bytes()?),
                length: u64::from_le_bytes(self.bytes()?),
            },
            FRAME => Record::Frame(u64::from_le_bytes(self.bytes()?)),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown record")),
        }))
    }

    /// The bytes of the raw record that came last.
    pub fn raw(&mut self) -> impl Read + '_ {
        Raw { input: &mut self.input, left: &mut self.left }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

struct Raw<'a, R> {
    input: &'a mut R,
    left: &'a mut u64,
}

impl<R: BufRead> Read for Raw<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let want = to.len().min(usize::try_from(*self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut to[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_torn_is_refused() {
        let key = Digest::of(b"a");
        let mut writer = Writer::new(Vec::new());
        writer.frame(70).unwrap();
        writer.raw(b"").unwrap();
        writer.raw(b"head").unwrap();
        writer.object(&key, 5).unwrap();
        writer.raw(b"tail").unwrap();
        let bytes = writer.into_inner();
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            let mut all = Vec::new();
            while let Some(record) = reader.record()? {
                all.push(record);
                if record == Record::Raw(4) && all.len() == 2 {
                    let mut raw = Vec::new();
                    reader.raw().read_to_end(&mut raw)?;
                    assert_eq!(raw, b"head");
                }
            }
            Ok::<_, io::Error>(all)
        };
        let object = Record::Object { key, length: 5 };
        let whole = [Record::Frame(70), Record::Raw(4), object, Record::Raw(4)];
        assert_eq!(read(&bytes).unwrap(), whole);
        let ends = [9, 18, 59];
        for length in (1..bytes.len()).filter(|length| !ends.contains(length)) {
            assert!(read(&bytes[..length]).is_err(), "{length}");
        }
        assert!(read(&[3]).is_err());
    }

    #[test]
    fn a_place_is_what_it_says_and_nothing_else() {
        let place = Place { offset: 10, length: 20, digest: Digest::of(b"a") };
        assert_eq!(place.to_string().parse(), Ok(place));
        let digest = place.digest;
        for text in ["", "1:2", "1:2:3", &format!("-1:2:{digest}"), &format!("1:2:{digest}0")] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}

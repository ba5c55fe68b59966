//! A layer's tar stream without its files' contents: what makes `save` give the very bytes that came in.
//!
//! ```text
//! zstd( record… )
//!   record  =  0x00  u32 LE length  bytes                       headers, padding, the end
//!           |  0x01  object key (32 bytes)  u64 LE length       a file's content, from the pool
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use ros_api::Digest;
use sha2::{Digest as _, Sha256};

use crate::layer::archive::Skeleton;
use crate::object;
use crate::{Error, Result, Store};

const RAW: u8 = 0;
const OBJECT: u8 = 1;
/// Raw bytes are gathered up to this length before a record is written.
const GATHER: usize = 64 << 10;

/// Writes a tarsplit.
pub(crate) struct Writer {
    to: zstd::Encoder<'static, BufWriter<File>>,
    raw: Vec<u8>,
}

impl Writer {
    pub fn create(path: &Path) -> io::Result<Self> {
        let to = zstd::Encoder::new(BufWriter::new(File::create(path)?), 3)?;
        Ok(Self { to, raw: Vec::new() })
    }

    /// A file's content.
    pub fn object(&mut self, key: &Digest, size: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.to.write_all(&[OBJECT])?;
        self.to.write_all(key.bytes())?;
        self.to.write_all(&size.to_le_bytes())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.to.finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.to.write_all(&[RAW])?;
        self.to.write_all(&(self.raw.len() as u32).to_le_bytes())?;
        self.to.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }
}

impl Skeleton for Writer {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= GATHER {
            self.flush_raw()?;
        }
        Ok(())
    }
}

impl Store {
    /// Writes the layer's tar stream, byte for byte as it came in. Its length is in `layer.json`.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] when the store was damaged; what was written is wrong then.
    pub fn export_layer(&self, diff_id: &Digest, to: &mut impl Write) -> Result<()> {
        let path = self.layer_path(diff_id).join("tarsplit");
        let reading = || Error::on::<io::Error>("read", &path);
        let file = File::open(&path).map_err(reading())?;
        let mut split = BufReader::new(zstd::Decoder::new(file).map_err(reading())?);
        let mut out = Hashing { to, hash: Sha256::new() };
        let damaged = |why: &str| Error::Damaged { path: path.clone(), why: why.to_owned() };
        let mut tag = [0];
        while split.read(&mut tag).map_err(reading())? == 1 {
            match tag[0] {
                RAW => {
                    let mut length = [0; 4];
                    split.read_exact(&mut length).map_err(reading())?;
                    let mut raw = (&mut split).take(u64::from(u32::from_le_bytes(length)));
                    io::copy(&mut raw, &mut out).map_err(Error::on("export", &path))?;
                }
                OBJECT => {
                    let (mut key, mut length) = ([0; 32], [0; 8]);
                    split.read_exact(&mut key).map_err(reading())?;
                    split.read_exact(&mut length).map_err(reading())?;
                    let object = object::path(self, &Digest::from_bytes(key));
                    let mut content = File::open(&object).map_err(Error::on("open", &object))?;
                    let copied =
                        io::copy(&mut content, &mut out).map_err(Error::on("export", &object))?;
                    if copied != u64::from_le_bytes(length) {
                        return Err(damaged("an object's length is another"));
                    }
                }
                _ => return Err(damaged("an unknown record")),
            }
        }
        let found = Digest::from_bytes(out.hash.finalize().into());
        if found != *diff_id {
            let what = format!("layer {}", diff_id.short());
            return Err(Error::DigestMismatch { what, expected: *diff_id, found });
        }
        Ok(())
    }
}

struct Hashing<'a, W> {
    to: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

//! A layer's skeleton (`ros_api::skeleton`) as the store keeps it, packed: what makes `save` give the very bytes that
//! came in.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use ros_api::Digest;
use ros_api::skeleton::{self, Record};
use sha2::{Digest as _, Sha256};

use crate::layer::archive::Skeleton;
use crate::object;
use crate::{Error, Result, Store};

/// Raw bytes are gathered up to this length before a record is written.
const GATHER: usize = 64 << 10;

/// Writes a tarsplit.
pub(crate) struct Writer {
    to: skeleton::Writer<zstd::Encoder<'static, BufWriter<File>>>,
    raw: Vec<u8>,
}

impl Writer {
    pub fn create(path: &Path) -> io::Result<Self> {
        let to = zstd::Encoder::new(BufWriter::new(File::create(path)?), 3)?;
        Ok(Self { to: skeleton::Writer::new(to), raw: Vec::new() })
    }

    /// A file's content.
    pub fn object(&mut self, key: &Digest, size: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.to.object(key, size)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.to.into_inner().finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        self.to.raw(&self.raw)?;
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
        let packed = zstd::Decoder::new(file).map_err(reading())?;
        let mut split = skeleton::Reader::new(BufReader::new(packed));
        let mut out = Hashing { to, hash: Sha256::new() };
        let damaged = |why: &str| Error::Damaged { path: path.clone(), why: why.to_owned() };
        while let Some(record) = split.record().map_err(reading())? {
            match record {
                Record::Raw(_) => {
                    io::copy(&mut split.raw(), &mut out).map_err(Error::on("export", &path))?;
                }
                Record::Object { key, length } => {
                    let object = object::path(self, &key);
                    let mut content = File::open(&object).map_err(Error::on("open", &object))?;
                    let copied =
                        io::copy(&mut content, &mut out).map_err(Error::on("export", &object))?;
                    if copied != length {
                        return Err(damaged("an object's length is another"));
                    }
                }
                Record::Frame(_) => return Err(damaged("it has frames")),
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

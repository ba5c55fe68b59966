//! Reads a tar stream entry by entry, and hands on every byte that is not a file's content, so that the
//! same stream can be put together again (`tarsplit`). Formats: POSIX ustar and pax, GNU long names; what
//! Go's archive/tar reads, but sparse files. The stream is hostile: nothing here trusts a length.

use std::collections::BTreeMap;
use std::io::{self, Read};

use ros_api::object::Meta;
use tar::{EntryType, Header};

use super::blank;

/// Long names, link targets and pax headers are bounded: no real one is a hundredth of it.
const MAX_EXTENSION: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// Where the bytes between files' contents go.
pub(crate) trait Skeleton {
    /// Takes bytes that are not content.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
    /// Volume labels and the like: not extracted.
    Other,
}

/// One entry. Paths are as written: hostile.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub meta: Meta,
    pub device: (u32, u32),
    /// Content that follows, in bytes; only files have any.
    pub size: u64,
}

/// The reader. Content of an entry is read by [`Archive::content`] before the next one.
pub(crate) struct Archive<R> {
    input: R,
    /// Content of the present entry not read yet, and the zeros after it.
    left: u64,
    padding: u64,
}

/// What precedes an entry and changes it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl<R: Read> Archive<R> {
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next entry; none at the end, when the rest of the stream has been handed on.
    pub fn next(&mut self, to: &mut impl Skeleton) -> io::Result<Option<Entry>> {
        self.finish_entry(to)?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header(to)? else {
                return self.rest(to).map(|()| None);
            };
            let size = header.entry_size().map_err(|e| invalid(format!("size: {e}")))?;
            match header.entry_type().as_byte() {
                b'L' => extensions.path = Some(until_nul(self.extension(size, to)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(size, to)?)),
                b'x' | b'X' => extensions.pax = pax(&self.extension(size, to)?)?,
                b'g' => drop(self.extension(size, to)?),
                b'S' => return Err(invalid("sparse files are not supported")),
                _ => return self.entry(&header, extensions, to).map(Some),
            }
        }
    }

    /// The content of the entry that [`Archive::next`] gave.
    pub fn content(&mut self) -> impl Read + '_ {
        Content { input: &mut self.input, left: &mut self.left }
    }

    fn entry(
        &mut self,
        header: &Header,
        with: Extensions,
        to: &mut impl Skeleton,
    ) -> io::Result<Entry> {
        if with.pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
            return Err(invalid("sparse files are not supported"));
        }
        let number = |key: &str, of: io::Result<u64>| match with.pax.get(key.as_bytes()) {
            Some(text) => decimal(text),
            None => of.map_err(|e| invalid(format!("{key}: {e}"))),
        };
        let path = match (with.pax.get(&b"path"[..]), with.path) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => path,
            (None, None) => header.path_bytes().into_owned(),
        };
        let link = match (with.pax.get(&b"linkpath"[..]), with.link) {
            (Some(link), _) => link.clone(),
            (None, Some(link)) => link,
            (None, None) => header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default(),
        };
        let kind = kind(header.entry_type(), &path);
        let narrow = |value: u64| u32::try_from(value).map_err(|_| invalid("number out of range"));
        let meta = Meta {
            mode: header.mode().map_err(|e| invalid(format!("mode: {e}")))? & 0o7777,
            uid: narrow(number("uid", header.uid())?)?,
            gid: narrow(number("gid", header.gid())?)?,
            mtime: mtime(header, &with.pax)?,
            xattrs: xattrs(&with.pax),
        };
        let device = match kind {
            Kind::Char | Kind::Block => {
                let part = |of: io::Result<Option<u32>>| Ok::<_, io::Error>(of?.unwrap_or(0));
                (part(header.device_major())?, part(header.device_minor())?)
            }
            _ => (0, 0),
        };
        let size = number("size", header.entry_size())?;
        // Links, folders and devices have no content whatever they say (as Go's reader has it).
        let size = if matches!(kind, Kind::File | Kind::Other) { size } else { 0 };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        if kind == Kind::Other {
            self.skip(to)?;
        }
        let size = if kind == Kind::Other { 0 } else { size };
        Ok(Entry { kind, path, link, meta, device, size })
    }

    /// A header, checked; none at the two blocks of zeros, or at the stream's end.
    fn header(&mut self, to: &mut impl Skeleton) -> io::Result<Option<Header>> {
        for zeros in 0..2 {
            let mut header = Header::new_old();
            let got = read_full(&mut self.input, header.as_mut_bytes())?;
            to.raw(&header.as_bytes()[..got])?;
            if got == 0 {
                return Ok(None);
            }
            if got < BLOCK as usize {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if header.as_bytes().iter().any(|&byte| byte != 0) {
                if zeros > 0 {
                    return Err(invalid("one block of zeros inside the archive"));
                }
                check_sum(&header)?;
                blank::fill(header.as_mut_bytes());
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Body of a header that precedes an entry.
    fn extension(&mut self, size: u64, to: &mut impl Skeleton) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(invalid(format!("a header of {size} bytes")));
        }
        let padded = size.next_multiple_of(BLOCK);
        let mut body = vec![0; padded as usize];
        self.input.read_exact(&mut body)?;
        to.raw(&body)?;
        body.truncate(size as usize);
        Ok(body)
    }

    /// Hands on what is left of an entry: content that nobody read, and the zeros after it.
    fn finish_entry(&mut self, to: &mut impl Skeleton) -> io::Result<()> {
        self.skip(to)?;
        let mut zeros = [0; BLOCK as usize];
        let zeros = &mut zeros[..self.padding as usize];
        self.input.read_exact(zeros)?;
        self.padding = 0;
        to.raw(zeros)
    }

    fn skip(&mut self, to: &mut impl Skeleton) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while self.left > 0 {
            let want = self.left.min(buffer.len() as u64) as usize;
            self.input.read_exact(&mut buffer[..want])?;
            to.raw(&buffer[..want])?;
            self.left -= want as u64;
        }
        Ok(())
    }

    fn rest(&mut self, to: &mut impl Skeleton) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            match read_full(&mut self.input, &mut buffer)? {
                0 => return Ok(()),
                got => to.raw(&buffer[..got])?,
            }
        }
    }
}

struct Content<'a, R> {
    input: &'a mut R,
    left: &'a mut u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (*self.left).min(buffer.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *self.left -= got as u64;
        Ok(got)
    }
}

/// Reads until `buffer` is full or the stream ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn kind(of: EntryType, path: &[u8]) -> Kind {
    match of.as_byte() {
        // Archives older than POSIX mark a folder by its name alone.
        b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        b'0' | b'\0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => Kind::Other,
    }
}

/// Some old writers added signed bytes: both sums are right.
fn check_sum(header: &Header) -> io::Result<()> {
    let sum = header.cksum().map_err(|e| invalid(format!("check sum: {e}")))?;
    let bytes = header.as_bytes().iter().enumerate();
    let counted = bytes.map(|(i, &byte)| if (148..156).contains(&i) { b' ' } else { byte });
    let unsigned: u32 = counted.clone().map(u32::from).sum();
    let signed: i32 = counted.map(|byte| i32::from(byte as i8)).sum();
    if sum == unsigned || i64::from(sum) == i64::from(signed) {
        return Ok(());
    }
    Err(invalid("not a tar archive (a header's check sum is wrong)"))
}

/// `<length> <key>=<value>\n`, where the length is the whole record's. Later ones win.
fn pax(mut body: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let bad = || invalid("a pax header is damaged");
    let mut records = BTreeMap::new();
    while !body.is_empty() && body[0] != 0 {
        let space = body.iter().position(|&byte| byte == b' ').ok_or_else(bad)?;
        let length = decimal(&body[..space])?;
        let length = usize::try_from(length).map_err(|_| bad())?;
        let record = body.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        body = &body[length..];
    }
    // An empty value takes the header's again.
    records.retain(|key, value| !value.is_empty() || key.starts_with(XATTR));
    Ok(records)
}

const XATTR: &[u8] = b"SCHILY.xattr.";

fn xattrs(pax: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let named = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()))
    };
    pax.iter().filter_map(named).collect()
}

/// Seconds, with up to nine decimals and perhaps a sign, or the header's.
fn mtime(header: &Header, pax: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<(i64, u32)> {
    let Some(text) = pax.get(&b"mtime"[..]) else {
        let seconds = header.mtime().map_err(|e| invalid(format!("mtime: {e}")))?;
        // Base-256 numbers may be negative: the same 64 bits.
        return Ok((seconds as i64, 0));
    };
    let bad = || invalid("mtime is not a time");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds = i64::try_from(decimal(whole.as_bytes())?).map_err(|_| bad())?;
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = nanos.parse().map_err(|_| bad())?;
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).map_err(|_| invalid("not a number"))?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid("not a number"));
    }
    text.parse().map_err(|_| invalid("not a number"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

//! A layer's tar stream, put together from its skeleton, the files that are here, and those frames of its blob that were
//! fetched. Skeleton and frames come from outside: what they say is held against what is there, and nothing of what they
//! announce is allocated. That the stream is the right one, its diff ID says; here it is only made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ros_api::Digest;
use ros_api::skeleton::{Place, Reader, Record, SKIPPABLE_HEADER};

use crate::Store;
use crate::object::{self, IN_MEMORY};

/// A skeleton that is larger is not fetched; it is held in memory. One of 100,000 files has about 6 MB.
const MAX_PACKED: u64 = 16 << 20;
/// It unpacks to no more than this; it is read as a stream, never held.
const MAX_UNPACKED: u64 = 512 << 20;
/// More frames are too many: their ranges are held.
const MAX_FRAMES: u64 = 1 << 20;
/// Bytes between two ranges that are fetched with them: a request and its answer's head take as many.
const GAP: u64 = 512;

/// What a blob's annotation says, if it can be so and the skeleton is not too large.
pub(crate) fn place(text: &str, blob: u64) -> Option<Place> {
    let place: Place = text.parse().ok()?;
    let end = place.offset.checked_add(place.length)?;
    let fits = place.offset >= SKIPPABLE_HEADER && end <= blob && place.length <= MAX_PACKED;
    fits.then_some(place)
}

/// What is here of a layer, and what is to be fetched for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Parts of the blob that have something which is not here, in their order; no two touch.
    pub needed: Vec<Range<u64>>,
    /// Bytes of the layer's files that are not here.
    pub fresh: u64,
    /// Bytes of the largest file that is here and will be written once more to see that it is the same.
    pub largest: u64,
    /// Bytes between the files.
    pub raw: u64,
    /// Bytes of the tar stream.
    pub tar_size: u64,
}

/// One frame while it is looked at.
struct Frame {
    range: Range<u64>,
    missing: bool,
}

/// Looks which files of a layer are in the pool.
pub(crate) fn survey(store: &Store, packed: &[u8], place: &Place) -> io::Result<Survey> {
    let mut records = records(packed)?;
    let mut survey = Survey::default();
    let (mut at, mut frames) = (0_u64, 0);
    let mut frame: Option<Frame> = None;
    while let Some(record) = records.next()? {
        let length = match record {
            Record::Frame(length) => {
                survey.close(frame.take());
                let end = at.checked_add(length).filter(|end| *end <= place.offset);
                let end = end.ok_or_else(|| invalid("its frames are longer than the blob"))?;
                frame = Some(Frame { range: at..end, missing: false });
                (at, frames) = (end, frames + 1);
                if frames > MAX_FRAMES {
                    return Err(invalid("it has too many frames"));
                }
                0
            }
            Record::Raw(length) => {
                survey.raw += u64::from(length);
                u64::from(length)
            }
            Record::Object { key, length } => {
                survey.object(store, &key, length, frame.as_mut());
                length
            }
        };
        if frame.is_none() {
            return Err(invalid("there is something before its first frame"));
        }
        let total = survey.tar_size.checked_add(length);
        survey.tar_size = total.ok_or_else(|| invalid("it is longer than can be"))?;
    }
    survey.close(frame.take());
    if at + SKIPPABLE_HEADER != place.offset {
        return Err(invalid("its frames are not the whole blob"));
    }
    Ok(survey)
}

impl Survey {
    fn object(&mut self, store: &Store, key: &Digest, length: u64, frame: Option<&mut Frame>) {
        let here = fs::metadata(object::path(store, key)).is_ok_and(|meta| meta.len() == length);
        match (here, frame) {
            (true, _) if length > IN_MEMORY => self.largest = self.largest.max(length),
            (false, Some(frame)) => {
                frame.missing = true;
                self.fresh = self.fresh.saturating_add(length);
            }
            _ => {}
        }
    }

    fn close(&mut self, frame: Option<Frame>) {
        let Some(Frame { range, missing: true }) = frame else { return };
        match self.needed.last_mut() {
            Some(last) if range.start - last.end <= GAP => last.end = range.end,
            _ => self.needed.push(range),
        }
    }
}

/// Parts of a blob that are here, by their offsets in it; no two overlap.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Offset in the blob → length, and where it is in the file.
    at: BTreeMap<u64, (u64, u64)>,
}

impl Parts {
    /// Another part: `length` bytes, which are at `at` of the file. What is here already is left out.
    pub fn insert(&mut self, offset: u64, length: u64, at: u64) {
        if length > 0
            && self.missing(&[offset..offset.saturating_add(length)]).iter().map(len).sum::<u64>()
                == length
        {
            self.at.insert(offset, (length, at));
        }
    }

    /// Of `wanted`, what is not here.
    pub fn missing(&self, wanted: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        for range in wanted {
            let mut from = range.start;
            while from < range.end {
                let here = self.find(from).map_or(0, |(left, _)| left);
                if here > 0 {
                    from = from.saturating_add(here);
                    continue;
                }
                let next = self.at.range(from..range.end).next().map_or(range.end, |(at, _)| *at);
                missing.push(from..next);
                from = next;
            }
        }
        missing
    }

    /// How many bytes there are from `offset` on in one piece, and where they are in the file.
    fn find(&self, offset: u64) -> Option<(u64, u64)> {
        let (begin, (length, at)) = self.at.range(..=offset).next_back()?;
        let inside = offset - begin;
        (inside < *length).then(|| (length - inside, at + inside))
    }
}

/// Bytes of a range.
pub(crate) fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// A part of a blob, read from the file that has it.
pub(crate) struct Part<'a> {
    file: &'a File,
    parts: &'a Parts,
    range: Range<u64>,
}

impl<'a> Part<'a> {
    pub fn new(file: &'a File, parts: &'a Parts, range: Range<u64>) -> Self {
        Self { file, parts, range }
    }
}

impl Read for Part<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some((length, at)) = self.parts.find(self.range.start) else { return Ok(0) };
        let want = length.min(len(&self.range)).min(to.len() as u64) as usize;
        let got = self.file.read_at(&mut to[..want], at)?;
        self.range.start += got as u64;
        Ok(got)
    }
}

type Records<'a> = Reader<BufReader<Bounded<zstd::Decoder<'static, BufReader<&'a [u8]>>>>>;

fn records(packed: &[u8]) -> io::Result<Records<'_>> {
    let plain = zstd::Decoder::new(packed)?.single_frame();
    Ok(Reader::new(BufReader::new(Bounded { input: plain, left: MAX_UNPACKED })))
}

/// What the present record's bytes are read from.
enum From {
    /// The skeleton.
    Skeleton,
    Object(File),
    Frame,
}

/// The tar stream.
pub(crate) struct Rebuilt<'a> {
    store: &'a Store,
    records: Records<'a>,
    /// The file with the fetched parts of the blob.
    file: &'a File,
    parts: &'a Parts,
    /// Where in the blob the next frame begins.
    next: u64,
    /// The present one, if it was fetched.
    frame: Option<zstd::Decoder<'static, BufReader<Part<'a>>>>,
    from: From,
    /// Bytes of the present record that are still to be read.
    left: u64,
}

impl<'a> Rebuilt<'a> {
    /// From the skeleton `packed`, and the `parts` of the blob that `file` has.
    ///
    /// # Errors
    /// When the skeleton is no zstd frame.
    pub fn new(
        store: &'a Store,
        packed: &'a [u8],
        file: &'a File,
        parts: &'a Parts,
    ) -> io::Result<Self> {
        let (records, from) = (records(packed)?, From::Skeleton);
        Ok(Self { store, records, file, parts, next: 0, frame: None, from, left: 0 })
    }

    /// Goes on to the next record that has bytes; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            match self.records.next()? {
                None => {
                    self.end_frame()?;
                    return Ok(false);
                }
                Some(Record::Frame(length)) => self.begin_frame(length)?,
                Some(Record::Raw(length)) => {
                    self.left = length.into();
                    self.from = if self.frame.is_some() { From::Frame } else { From::Skeleton };
                }
                Some(Record::Object { key, length }) => {
                    self.left = length;
                    self.from = match self.frame {
                        Some(_) => From::Frame,
                        None => From::Object(File::open(object::path(self.store, &key))?),
                    };
                }
            }
        }
        Ok(true)
    }

    fn begin_frame(&mut self, length: u64) -> io::Result<()> {
        self.end_frame()?;
        let end = self.next.checked_add(length);
        let range = self.next..end.ok_or_else(|| invalid("its frames are longer than can be"))?;
        self.next = range.end;
        if self.parts.missing(&[range.clone()]).is_empty() {
            let part = Part::new(self.file, self.parts, range);
            self.frame = Some(zstd::Decoder::new(part)?.single_frame());
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        match self.frame.take().map(|mut frame| frame.read(&mut [0])) {
            None | Some(Ok(0)) => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => Err(invalid("a frame is longer than the skeleton says")),
        }
    }
}

impl Read for Rebuilt<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() || !self.advance()? {
            return Ok(0);
        }
        let want = self.left.min(to.len() as u64) as usize;
        let to = &mut to[..want];
        let got = match (&mut self.from, &mut self.frame) {
            (From::Object(file), _) => file.read(to)?,
            (From::Frame, Some(frame)) => frame.read(to)?,
            (From::Frame | From::Skeleton, _) => self.records.raw().read(to)?,
        };
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// Refuses to give more than so many bytes.
struct Bounded<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(to)?;
        self.left = self
            .left
            .checked_sub(got as u64)
            .ok_or_else(|| invalid("the skeleton unpacks to too much"))?;
        Ok(got)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

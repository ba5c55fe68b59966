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

/// What a blob's annotation says, if it can be so and the skeleton is not too large: it is what the blob ends with, so a
/// blob that is said to be larger than it is has none.
pub(crate) fn place(text: &str, blob: u64) -> Option<Place> {
    let place: Place = text.parse().ok()?;
    let end = place.offset.checked_add(place.length)?;
    let fits = place.offset >= SKIPPABLE_HEADER && end == blob && place.length <= MAX_PACKED;
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
    let blob = place.offset.saturating_sub(SKIPPABLE_HEADER);
    let (mut at, mut frames) = (0_u64, 0);
    let mut frame: Option<Frame> = None;
    while let Some(record) = records.record()? {
        let length = match record {
            Record::Frame(length) => {
                survey.close(frame.take());
                let end = at.checked_add(length).filter(|end| *end <= blob);
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
    if at != blob {
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
        let range = offset..offset.saturating_add(length);
        if length > 0 && self.missing_of(&range).iter().map(len).sum::<u64>() == length {
            self.at.insert(offset, (length, at));
        }
    }

    /// Of `wanted`, what is not here.
    pub fn missing(&self, wanted: &[Range<u64>]) -> Vec<Range<u64>> {
        wanted.iter().flat_map(|range| self.missing_of(range)).collect()
    }

    /// Of one range, what is not here.
    pub fn missing_of(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut from = range.start;
        while from < range.end {
            if let Some((here, _)) = self.find(from) {
                from = from.saturating_add(here);
                continue;
            }
            let next = self.at.range(from..range.end).next().map_or(range.end, |(at, _)| *at);
            missing.push(from..next);
            from = next;
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
            match self.records.record()? {
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
        if self.parts.missing_of(&range).is_empty() {
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ros_api::skeleton::Writer;

    use super::*;

    fn packed(records: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        records(&mut writer);
        zstd::bulk::compress(&writer.into_inner(), 1).unwrap()
    }

    /// The skeleton of a blob of `frames` bytes.
    fn surveyed(frames: u64, packed: &[u8]) -> io::Result<Survey> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let offset = frames + SKIPPABLE_HEADER;
        let place = Place { offset, length: packed.len() as u64, digest: Digest::of(packed) };
        survey(&store, packed, &place)
    }

    #[test]
    fn a_skeleton_that_lies_is_refused_with_the_reason() {
        type Lie = (&'static str, fn(&mut Writer<Vec<u8>>));
        let table: [Lie; 7] = [
            ("longer than the blob", |to| to.frame(101).unwrap()),
            ("longer than the blob", |to| {
                to.frame(50).unwrap();
                to.frame(u64::MAX).unwrap();
            }),
            ("not the whole blob", |to| to.frame(99).unwrap()),
            ("not the whole blob", |_| ()),
            ("before its first frame", |to| to.raw(b"head").unwrap()),
            ("longer than can be", |to| {
                to.frame(100).unwrap();
                for _ in 0..2 {
                    to.object(&Digest::of(b"a"), u64::MAX).unwrap();
                }
            }),
            ("too many frames", |to| (0..=MAX_FRAMES).for_each(|_| to.frame(0).unwrap())),
        ];
        for (why, records) in table {
            let error = surveyed(100, &packed(records)).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
        for no_skeleton in [&b""[..], b"no zstd", &zstd::bulk::compress(b"\x03", 1).unwrap()] {
            assert!(surveyed(0, no_skeleton).is_err());
        }
    }

    #[test]
    fn a_skeleton_that_unpacks_to_too_much_is_refused() {
        let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
        let records = packed(|to| to.frame(100).unwrap());
        bomb.write_all(&zstd::decode_all(&records[..]).unwrap()).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..=MAX_UNPACKED >> 20 {
            bomb.write_all(&[0]).unwrap();
            bomb.write_all(&(zeros.len() as u32).to_le_bytes()).unwrap();
            bomb.write_all(&zeros).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        assert!((bomb.len() as u64) < MAX_PACKED);
        let error = surveyed(100, &bomb).unwrap_err().to_string();
        assert!(error.contains("unpacks to too much"), "{error}");
    }

    #[test]
    fn ranges_are_whole_frames_and_those_beside_each_other_are_one() {
        let object = |to: &mut Writer<Vec<u8>>, frame: u64, name: &[u8]| {
            to.frame(frame).unwrap();
            to.object(&Digest::of(name), 5).unwrap();
        };
        let skeleton = packed(|to| {
            object(to, 1000, b"a");
            to.frame(2000).unwrap();
            to.raw(b"nothing is missing of it").unwrap();
            object(to, 3000, b"b");
            object(to, 4000, b"c");
            to.frame(GAP).unwrap();
            object(to, 5000, b"d");
        });
        let survey = surveyed(15_000 + GAP, &skeleton).unwrap();
        assert_eq!(survey.needed, [0..1000, 3000..15_000 + GAP]);
        assert_eq!((survey.fresh, survey.raw, survey.tar_size), (20, 24, 44));
    }

    /// What comes of a skeleton and of a blob that is all here.
    fn rebuilt(skeleton: &[u8], blob: &[u8]) -> io::Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let path = dir.path().join("blob");
        fs::write(&path, blob).unwrap();
        let file = File::open(&path).unwrap();
        let mut parts = Parts::default();
        parts.insert(0, blob.len() as u64, 0);
        let mut content = Vec::new();
        Rebuilt::new(&store, skeleton, &file, &parts)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn a_frame_gives_what_the_skeleton_says_or_nothing() {
        let (one, two) = (
            zstd::bulk::compress(b"first", 1).unwrap(),
            zstd::bulk::compress(&[7; 1 << 20], 1).unwrap(),
        );
        let blob = [&one[..], &two].concat();
        let says = |first: u64, second: u64| {
            packed(|to| {
                to.frame(one.len() as u64).unwrap();
                to.object(&Digest::of(b"a"), first).unwrap();
                to.frame(two.len() as u64).unwrap();
                to.object(&Digest::of(b"b"), second).unwrap();
            })
        };
        let content = rebuilt(&says(5, 1 << 20), &blob).unwrap();
        assert_eq!(content, [&b"first"[..], &[7; 1 << 20]].concat());
        for (first, second) in [(4, 1 << 20), (6, 1 << 20), (5, 1), (5, u64::MAX)] {
            assert!(rebuilt(&says(first, second), &blob).is_err(), "{first} {second}");
        }
        assert!(rebuilt(&says(5, 1 << 20), &[1; 4000]).is_err(), "no frames at all");
        let absent = packed(|to| {
            to.frame(9000).unwrap();
            to.object(&Digest::of(b"a"), 5).unwrap();
        });
        assert!(rebuilt(&absent, &blob).is_err(), "neither frame nor object is here");
    }

    #[test]
    fn only_what_can_be_in_the_blob_is_a_place() {
        let digest = Digest::of(b"a");
        let table = [
            (format!("90:10:{digest}"), true),
            (format!("89:10:{digest}"), false),
            (format!("91:10:{digest}"), false),
            (format!("7:10:{digest}"), false),
            (format!("{}:{}:{digest}", u64::MAX, 10), false),
            (format!("8:{}:{digest}", u64::MAX), false),
            ("anything".to_owned(), false),
        ];
        for (text, is_one) in table {
            assert_eq!(place(&text, 100).is_some(), is_one, "{text}");
        }
        let large = format!("8:{}:{digest}", MAX_PACKED + 1);
        assert!(place(&large, 8 + MAX_PACKED + 1).is_none());
    }

    proptest::proptest! {
        /// Against a set of bytes.
        #[test]
        fn parts_are_a_set(parts: Vec<(u8, u8)>, from: u8, length: u8) {
            let (mut here, mut all) = (Parts::default(), std::collections::BTreeSet::new());
            for (offset, length) in parts {
                let range = u64::from(offset)..u64::from(offset) + u64::from(length);
                if range.clone().all(|byte| !all.contains(&byte)) {
                    all.extend(range.clone());
                }
                here.insert(range.start, u64::from(length), 1000 + range.start);
            }
            let wanted = u64::from(from)..u64::from(from) + u64::from(length);
            let missing: Vec<u64> = here.missing_of(&wanted).into_iter().flatten().collect();
            let expected: Vec<u64> = wanted.filter(|byte| !all.contains(byte)).collect();
            proptest::prop_assert_eq!(missing, expected);
            for byte in all {
                proptest::prop_assert!(here.find(byte).is_some_and(|(_, at)| at == 1000 + byte));
            }
        }
    }
}

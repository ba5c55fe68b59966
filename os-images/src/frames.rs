//! A tree as a layer's blob: a tar archive in several zstd frames, with its skeleton at the end (`ros_api::skeleton`). Who
//! has most of its files fetches only the frames with the others; to everyone else it is a `tar+zstd` layer.
//!
//! Invariant: same tree, same bytes. A frame holds whole entries, and the files of one source package are in one frame: they change
//! together, and its programs have so much in common that each by itself would be a fifth larger (decision 20).

use std::io;
use std::ops::Range;

use anyhow::{Context, Result};
use ros_api::skeleton::{Place, SKIPPABLE, SKIPPABLE_HEADER, Writer};
use ros_api::{Digest, object};
use zstd::zstd_safe;

use crate::EPOCH;
use crate::tree::{Entry, Kind, Tree};

/// Part of the names of remembered blobs: packed in another way, they have another one.
pub const FORMAT: &str = "frames1";
/// What is smaller goes into a frame with what is beside it, up to this many bytes.
const SMALL: usize = 128 << 10;
/// Content up to this many bytes is in the skeleton itself: its name in the pool alone takes 32.
const TINY: usize = 64;

/// A tar archive: GNU headers (long names without pax records), one time for all.
pub struct Archive {
    /// All of it.
    pub bytes: Vec<u8>,
    units: Vec<Unit>,
}

/// What is not divided: the files of a source package, one file of ours, or all that is no file.
struct Unit {
    /// It begins where the one before it ends.
    end: usize,
    files: Vec<File>,
}

struct File {
    /// Where its content is in the archive.
    content: Range<usize>,
    /// Its name in the store's pool.
    key: Digest,
}

impl Archive {
    /// Of `tree`: first what is no file, then the files by source package and path.
    ///
    /// # Errors
    /// When an entry cannot be in an archive.
    pub fn of(tree: &Tree) -> Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        let (mut files, others): (Vec<_>, Vec<_>) =
            tree.iter().partition(|(_, entry)| matches!(entry.kind, Kind::File(_)));
        files.sort_by_key(|(_, entry)| entry.source.clone());
        for (path, entry) in others {
            append(&mut tar, path, entry).with_context(|| format!("pack {path}"))?;
        }
        let mut units = vec![Unit { end: tar.get_ref().len(), files: Vec::new() }];
        let mut source = None;
        for (path, entry) in files {
            let file = append(&mut tar, path, entry).with_context(|| format!("pack {path}"))?;
            let (end, known) = (tar.get_ref().len(), &entry.source);
            match units.last_mut() {
                Some(unit) if source == Some(known) && !known.is_empty() => {
                    unit.end = end;
                    unit.files.extend(file);
                }
                _ => units.push(Unit { end, files: file.into_iter().collect() }),
            }
            source = Some(known);
        }
        Ok(Self { bytes: tar.into_inner().context("pack a layer")?, units })
    }

    /// The units of each frame, and the bytes; the archive's end goes with the last.
    fn frames(&self) -> Vec<(&[Unit], Range<usize>)> {
        let mut frames: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        for (index, unit) in self.units.iter().enumerate() {
            match frames.last_mut() {
                Some((units, bytes)) if unit.end - bytes.start <= SMALL => {
                    (units.end, bytes.end) = (index + 1, unit.end);
                }
                last => {
                    let start = last.map_or(0, |(_, bytes)| bytes.end);
                    frames.push((index..index + 1, start..unit.end));
                }
            }
        }
        if let Some((_, bytes)) = frames.last_mut() {
            bytes.end = self.bytes.len();
        }
        frames.into_iter().map(|(units, bytes)| (&self.units[units], bytes)).collect()
    }

    /// Packs it. What makes a single frame has no skeleton: there is nothing to choose from.
    ///
    /// # Errors
    /// When zstd fails.
    pub fn pack(&self, level: i32) -> io::Result<Vec<u8>> {
        let frames = self.frames();
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        if frames.len() < 2 {
            return compressor.compress(&self.bytes);
        }
        let mut blob = Vec::new();
        let mut skeleton = Writer::new(Vec::new());
        for (units, range) in frames {
            let frame = compressor.compress(&self.bytes[range.clone()])?;
            blob.extend_from_slice(&frame);
            skeleton.frame(frame.len() as u64)?;
            let mut done = range.start;
            for File { content, key } in units.iter().flat_map(|unit| &unit.files) {
                if content.len() > TINY {
                    skeleton.raw(&self.bytes[done..content.start])?;
                    skeleton.object(key, content.len() as u64)?;
                    done = content.end;
                }
            }
            skeleton.raw(&self.bytes[done..range.end])?;
        }
        let skeleton = compressor.compress(&skeleton.into_inner())?;
        let length = u32::try_from(skeleton.len()).map_err(io::Error::other)?;
        blob.extend_from_slice(&SKIPPABLE.to_le_bytes());
        blob.extend_from_slice(&length.to_le_bytes());
        blob.extend_from_slice(&skeleton);
        Ok(blob)
    }
}

/// Where the skeleton of a packed blob is; none where there is none.
///
/// # Errors
/// When it is no zstd blob.
pub fn place(blob: &[u8]) -> io::Result<Option<Place>> {
    let mut rest = blob;
    while !rest.is_empty() {
        let length = zstd_safe::find_frame_compressed_size(rest)
            .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
        if rest.starts_with(&SKIPPABLE.to_le_bytes()) {
            let skeleton = &rest[SKIPPABLE_HEADER as usize..length];
            let offset = (blob.len() - rest.len()) as u64 + SKIPPABLE_HEADER;
            let digest = Digest::of(skeleton);
            return Ok(Some(Place { offset, length: skeleton.len() as u64, digest }));
        }
        rest = &rest[length..];
    }
    Ok(None)
}

/// Appends an entry; a file that is not empty is answered.
fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, entry: &Entry) -> io::Result<Option<File>> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(EPOCH);
    header.set_size(0);
    let empty: &[u8] = &[];
    match &entry.kind {
        Kind::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{path}/"), empty)?;
        }
        Kind::File(content) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, &content[..])?;
            let start = tar.get_ref().len() - content.len().next_multiple_of(512);
            let file = File { content: start..start + content.len(), key: key(entry, content) };
            return Ok(Some(file).filter(|_| !content.is_empty()));
        }
        Kind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
        Kind::Fifo => {
            header.set_entry_type(tar::EntryType::Fifo);
            tar.append_data(&mut header, path, empty)?;
        }
    }
    Ok(None)
}

/// The name of a file in the store's pool.
fn key(entry: &Entry, content: &[u8]) -> Digest {
    let (mode, uid, gid) = (entry.mode & 0o7777, entry.uid, entry.gid);
    let mtime = (i64::try_from(EPOCH).unwrap_or_default(), 0);
    let meta = object::Meta { mode, uid, gid, mtime, ..object::Meta::default() };
    object::key(&Digest::of(content), &meta)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use ros_api::skeleton::{Reader, Record};

    use super::*;

    const SIZE: usize = 100_000;

    /// What no compression makes smaller.
    fn noise(seed: u8) -> Vec<u8> {
        let block = |n: usize| *Digest::of(&[&[seed][..], &n.to_le_bytes()].concat()).bytes();
        (0..SIZE / 32).flat_map(block).collect()
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for (path, source) in [("usr/bin/a", "one"), ("usr/bin/b", "two"), ("usr/lib/a", "one")] {
            let file = Entry::file(noise(path.len() as u8 + source.len() as u8), 0o755);
            tree.put(path, Entry { source: Rc::from(source), ..file });
        }
        for name in ["etc/large", "etc/larger"] {
            tree.put(name, Entry::file(noise(name.len() as u8), 0o644));
        }
        tree.put("etc/tiny", Entry::file(*b"tiny", 0o644));
        tree.put("etc/empty", Entry::file(*b"", 0o644));
        tree.put("etc/link", Entry::link("tiny"));
        tree
    }

    /// The archive again from a blob, and for each frame its length and the objects in it.
    fn read(blob: &[u8]) -> (Vec<u8>, Vec<(u64, Vec<Digest>)>) {
        let plain = zstd::decode_all(blob).unwrap();
        let place = place(blob).unwrap().unwrap();
        let end = usize::try_from(place.offset).unwrap();
        assert_eq!(end + usize::try_from(place.length).unwrap(), blob.len());
        let records = zstd::decode_all(&blob[end..]).unwrap();
        let mut reader = Reader::new(&records[..]);
        let (mut at, mut frames) = (0_u64, Vec::new());
        while let Some(record) = reader.record().unwrap() {
            match record {
                Record::Frame(length) => frames.push((length, Vec::new())),
                Record::Raw(length) => {
                    let mut raw = Vec::new();
                    io::Read::read_to_end(&mut reader.raw(), &mut raw).unwrap();
                    let at_now = usize::try_from(at).unwrap();
                    assert_eq!(raw, plain[at_now..at_now + raw.len()]);
                    at += u64::from(length);
                }
                Record::Object { key, length } => {
                    frames.last_mut().unwrap().1.push(key);
                    at += length;
                }
            }
        }
        assert_eq!(at, plain.len() as u64, "the skeleton is of the whole stream");
        (plain, frames)
    }

    #[test]
    fn a_blob_is_the_archive_and_a_source_package_is_in_one_frame() {
        let archive = Archive::of(&tree()).unwrap();
        let blob = archive.pack(3).unwrap();
        let (plain, frames) = read(&blob);
        assert_eq!(plain, archive.bytes);
        let lengths: u64 = frames.iter().map(|(length, _)| length).sum();
        assert_eq!(lengths + SKIPPABLE_HEADER, place(&blob).unwrap().unwrap().offset);
        let objects: Vec<usize> = frames.iter().map(|(_, objects)| objects.len()).collect();
        assert_eq!(objects, [1, 1, 2, 1], "ours each by itself, with what is small beside it");
        assert_eq!(archive.pack(3).unwrap(), blob);
    }

    #[test]
    fn an_object_is_named_as_the_store_names_it() {
        let tree = tree();
        let entry = tree.get("usr/bin/b").unwrap();
        let Kind::File(content) = &entry.kind else { panic!("it is a file") };
        let mtime = (i64::try_from(EPOCH).unwrap(), 0);
        let meta = object::Meta { mode: 0o755, mtime, ..object::Meta::default() };
        let name = object::key(&Digest::of(content), &meta);
        let (_, frames) = read(&Archive::of(&tree).unwrap().pack(3).unwrap());
        assert!(frames.iter().any(|(_, objects)| objects.contains(&name)));
    }

    #[test]
    fn what_makes_one_frame_has_no_skeleton() {
        let mut tree = Tree::default();
        tree.put("etc/a", Entry::file(*b"a", 0o644));
        let archive = Archive::of(&tree).unwrap();
        let blob = archive.pack(3).unwrap();
        assert_eq!(place(&blob).unwrap(), None);
        assert_eq!(zstd::decode_all(&blob[..]).unwrap(), archive.bytes);
    }
}

//! Doors for the fuzz targets in `system-docker/fuzz`; built with `cfg(fuzzing)` and for tests only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ros_api::skeleton::{Place, SKIPPABLE_HEADER};
use ros_api::{Digest, Reference};

use crate::layer::rebuild::{Parts, Rebuilt, place, survey};
use crate::manifest::{Config, Document};
use crate::store::remove_all;
use crate::{Limits, Store};

/// What may be in a registry's answer.
pub fn manifest(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    for text in [data, first, second] {
        match Document::parse("fuzz", text) {
            Ok(Document::Manifest(manifest)) => {
                let _ = manifest.check("fuzz");
                if let Ok(config) = Config::parse("fuzz", second) {
                    let _ = config.layers("fuzz", &manifest);
                }
            }
            Ok(Document::Index(index)) => drop(index.select("fuzz")),
            Err(_) => {}
        }
        if let Ok(config) = Config::parse("fuzz", text) {
            let _ = (config.created(), config.labels(), config.diff_ids());
        }
        let name = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Reference>().ok());
        if let Some(name) = name {
            let again = name.to_string().parse::<Reference>();
            assert_eq!(again.as_ref(), Ok(&name), "a name is what it says it is");
        }
    }
}

/// A store that takes in one layer after the other.
pub struct Layers {
    dir: PathBuf,
    store: Store,
}

impl Layers {
    /// In the empty folder `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let store = Store::open(dir.join("store")).expect("a store can be made");
        let limits =
            Limits { layer_bytes: 1 << 20, free_bytes: 1 << 20, ratio: 100, entries: 1000 };
        Self { dir: dir.to_owned(), store: store.with_limits(limits) }
    }

    /// Refused, or the same stream comes out again; and nothing is made outside of the store.
    pub fn import(&mut self, data: &[u8]) {
        let imported = self.store.import_layer(data, data.len() as u64, None, &mut |_| ());
        if let Ok(diff_id) = imported {
            let exported = self.store.export_layer(&diff_id, &mut std::io::sink());
            exported.expect("a layer comes out as it came in");
            self.store.verify_layer(&diff_id).expect("a layer is what came in");
        }
        let names = std::fs::read_dir(&self.dir).expect("the folder is there").count();
        assert_eq!(names, 1, "something was made outside of the store");
        for folder in ["layers", "objects", "ingest"] {
            let folder = self.store.root().join(folder);
            remove_all(&folder).expect("it can be removed");
            std::fs::create_dir(&folder).expect("it can be made");
        }
    }
}

/// A store without a layer, and a blob of which all is here.
pub struct Skeletons {
    store: Store,
    blob: File,
}

impl Skeletons {
    /// In the empty folder `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let store = Store::open(dir.join("store")).expect("a store can be made");
        let path = dir.join("blob");
        std::fs::write(&path, b"").expect("a file can be made");
        let blob = File::options().read(true).write(true).open(&path).expect("it can be opened");
        Self { store, blob }
    }

    /// A length, so many bytes of records, and the frames that they tell of: refused, or parts that are in the blob.
    pub fn read(&self, data: &[u8]) {
        let Some((&length, rest)) = data.split_first() else { return };
        let (records, frames) = rest.split_at(usize::from(length).min(rest.len()));
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = place(text, 1 << 20);
        }
        self.blob
            .set_len(0)
            .and_then(|()| self.blob.write_all_at(frames, 0))
            .expect("a file can be written");
        let mut parts = Parts::default();
        parts.insert(0, frames.len() as u64, 0);
        let end = frames.len() as u64;
        let packed = zstd::bulk::compress(records, 1).expect("it can be packed");
        for packed in [records, &packed] {
            let (offset, length) = (end + SKIPPABLE_HEADER, packed.len() as u64);
            let place = Place { offset, length, digest: Digest::of(packed) };
            let mut last = 0;
            for range in
                survey(&self.store, packed, &place).map_or_else(|_| Vec::new(), |s| s.needed)
            {
                assert!(range.start >= last && range.start <= range.end && range.end <= end);
                last = range.end;
            }
            if let Ok(stream) = Rebuilt::new(&self.store, packed, &self.blob, &parts) {
                let _ = io::copy(&mut stream.take(1 << 20), &mut io::sink());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ros_api::skeleton::Writer;

    use super::*;

    /// Frames, raw bytes and objects in any order, and then some bytes changed.
    #[test]
    fn skeletons_of_all_kinds_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let skeletons = Skeletons::new(dir.path());
        let record = (0..3_u8, prop_oneof![0..40_u64, any::<u64>()]);
        let records = prop::collection::vec(record, 0..6);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        let config = ProptestConfig { cases: 4000, ..ProptestConfig::default() };
        proptest!(config, |(records in records, changes in changes, content in any::<Vec<u8>>())| {
            let mut writer = Writer::new(Vec::new());
            let frame = zstd::bulk::compress(&content, 1).unwrap();
            for (kind, length) in records {
                match kind {
                    0 => writer.frame(if length < 20 { frame.len() as u64 } else { length }),
                    1 => writer.raw(&content[..content.len().min(length as usize % 41)]),
                    _ => writer.object(&Digest::of(b"a"), length),
                }
                .unwrap();
            }
            let records = writer.into_inner();
            let mut data = vec![u8::try_from(records.len()).unwrap_or(u8::MAX)];
            data.extend_from_slice(&records);
            data.extend_from_slice(&frame);
            for (at, byte) in changes {
                *at.get_mut(&mut data[..]) = byte;
            }
            skeletons.read(&data);
        });
    }
}

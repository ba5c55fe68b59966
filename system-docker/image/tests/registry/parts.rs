//! A layer of which most files are here comes in parts: its skeleton, and the frames with the files that are not here. Whatever
//! is odd about it, the whole layer comes, and nobody notices.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ros_api::skeleton::{Place, SKIPPABLE, SKIPPABLE_HEADER, Writer};
use ros_api::{Digest, Reference, object};
use ros_image::{PullEvent, Registries, Store};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::http;
use crate::server::{Line, Registry, copy, write_image};

const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const FILES: usize = 40;
const SIZE: usize = 100_000;

/// A layer's blob, with its frames.
struct Packed {
    blob: Vec<u8>,
    place: Place,
    diff_id: Digest,
    frames: Vec<usize>,
}

/// What no compression makes smaller.
fn noise(seed: usize) -> Vec<u8> {
    let block = |n: usize| <[u8; 32]>::from(Sha256::digest((seed * SIZE + n).to_le_bytes()));
    (0..SIZE / 32).flat_map(block).collect()
}

/// Forty files, a frame each; of those in `changed` another content.
fn pack(changed: &[usize]) -> Packed {
    let mut tar = tar::Builder::new(Vec::new());
    let mut skeleton = Writer::new(Vec::new());
    let (mut blob, mut frames) = (Vec::new(), Vec::new());
    for n in 0..FILES {
        let content = noise(if changed.contains(&n) { n + 1000 } else { n });
        let start = tar.get_ref().len();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, format!("file-{n}"), &content[..]).unwrap();
        if n + 1 == FILES {
            tar.finish().unwrap();
        }
        let bytes = &tar.get_ref()[start..];
        let frame = zstd::bulk::compress(bytes, 3).unwrap();
        skeleton.frame(frame.len() as u64).unwrap();
        skeleton.raw(&bytes[..512]).unwrap();
        let meta = object::Meta { mode: 0o644, mtime: (7, 0), ..object::Meta::default() };
        let key = object::key(&Digest::of(&content), &meta);
        skeleton.object(&key, content.len() as u64).unwrap();
        skeleton.raw(&bytes[512 + content.len()..]).unwrap();
        frames.push(frame.len());
        blob.extend_from_slice(&frame);
    }
    let diff_id = Digest::of(tar.get_ref());
    let place = end(&mut blob, &skeleton.into_inner());
    Packed { blob, place, diff_id, frames }
}

/// Appends a skeleton.
fn end(blob: &mut Vec<u8>, records: &[u8]) -> Place {
    let skeleton = zstd::bulk::compress(records, 3).unwrap();
    let offset = blob.len() as u64 + SKIPPABLE_HEADER;
    blob.extend_from_slice(&SKIPPABLE.to_le_bytes());
    blob.extend_from_slice(&u32::try_from(skeleton.len()).unwrap().to_le_bytes());
    blob.extend_from_slice(&skeleton);
    Place { offset, length: skeleton.len() as u64, digest: Digest::of(&skeleton) }
}

/// A registry with `os:v1` and what is pushed later, and a store that has `os:v1`.
struct Site {
    dir: TempDir,
    registry: Registry,
    line: Line,
    store: Store,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path());
        let line = Line::to(registry.port);
        let store = Store::open(dir.path().join("store")).unwrap();
        let site = Self { dir, registry, line, store };
        let first = pack(&[]);
        site.push("v1", &first, &first.place);
        // Nothing is here: nothing is asked for but the layer.
        let pulled =
            site.store.pull(&site.name("v1"), &Registries::default(), |_| ()).await.unwrap();
        assert!(pulled.fetched < first.blob.len() as u64 + 1000, "{}", pulled.fetched);
        site
    }

    fn push(&self, tag: &str, packed: &Packed, place: &Place) {
        let layout = self.dir.path().join(tag);
        let annotations = format!(r#"{{"io.ros.layer.skeleton":"{place}"}}"#);
        write_image(&layout, ZSTD, &packed.blob, &packed.diff_id, &annotations);
        copy(&layout, &format!("127.0.0.1:{}/os:{tag}", self.registry.port));
    }

    fn name(&self, tag: &str) -> Reference {
        format!("127.0.0.1:{}/os:{tag}", self.line.port).parse().unwrap()
    }

    /// Pulls `tag` after it was planned; bytes predicted and fetched.
    async fn pull(&self, tag: &str) -> (u64, u64) {
        let registries = Registries::default();
        let planned = self.store.plan_pull(&self.name(tag), &registries).await.unwrap();
        assert_eq!(
            planned.fetch,
            self.store.plan_pull(&self.name(tag), &registries).await.unwrap().fetch
        );
        let pulled = self.store.pull(&self.name(tag), &registries, |_| ()).await.unwrap();
        (planned.fetch, pulled.fetched)
    }

    /// The layer is what it should be, and nothing is left beside it.
    fn is_here(&self, packed: &Packed) {
        self.store.verify_layer(&packed.diff_id).unwrap();
        self.store.export_layer(&packed.diff_id, &mut std::io::sink()).unwrap();
        let left: Vec<_> =
            fs::read_dir(self.store.root().join("ingest")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn came(&self) -> u64 {
        self.line.came()
    }
}

/// Manifest, config and the heads of answers.
const TALK: u64 = 16 << 10;

#[tokio::test]
async fn only_the_frames_with_something_new_are_fetched() {
    let site = Site::new().await;
    let next = pack(&[3, 4, 20]);
    site.push("v2", &next, &next.place);
    site.came();
    let (planned, fetched) = site.pull("v2").await;
    assert_eq!(planned, fetched);
    let frames = [3, 4, 20].map(|n| next.frames[n] as u64).iter().sum::<u64>();
    let least = frames + next.place.length;
    assert!(fetched > least && fetched < least + 1000, "{fetched} for {least}");
    let bytes = site.came();
    assert!(bytes > fetched && bytes < fetched + TALK, "{bytes} over the line, {fetched} told");
    site.is_here(&next);
}

#[tokio::test]
async fn a_layer_whose_files_are_all_here_costs_its_skeleton() {
    let site = Site::new().await;
    let next = pack(&[5]);
    site.push("v2", &next, &next.place);
    site.pull("v2").await;
    // The same files, in a layer that is packed otherwise.
    let mut other = pack(&[5]);
    other.blob.truncate(usize::try_from(other.place.offset - SKIPPABLE_HEADER).unwrap());
    let mut tar = zstd::decode_all(&other.blob[..]).unwrap();
    tar.extend_from_slice(&[0; 512]);
    let packed = again(&tar);
    site.push("v3", &packed, &packed.place);
    let (planned, fetched) = site.pull("v3").await;
    assert_eq!(planned, fetched);
    assert!(fetched < packed.place.length + 1000, "{fetched}");
    site.is_here(&packed);
}

/// A layer in one frame, made of a stream whose files have a block of header each.
fn again(tar: &[u8]) -> Packed {
    let frame = zstd::bulk::compress(tar, 3).unwrap();
    let mut skeleton = Writer::new(Vec::new());
    skeleton.frame(frame.len() as u64).unwrap();
    let padded = SIZE.next_multiple_of(512);
    let meta = object::Meta { mode: 0o644, mtime: (7, 0), ..object::Meta::default() };
    for n in 0..FILES {
        let at = n * (512 + padded);
        let content = &tar[at + 512..at + 512 + SIZE];
        skeleton.raw(&tar[at..at + 512]).unwrap();
        skeleton.object(&object::key(&Digest::of(content), &meta), SIZE as u64).unwrap();
        skeleton.raw(&tar[at + 512 + SIZE..at + 512 + padded]).unwrap();
    }
    skeleton.raw(&tar[FILES * (512 + padded)..]).unwrap();
    let (mut blob, length) = (frame.clone(), frame.len());
    let place = end(&mut blob, &skeleton.into_inner());
    Packed { blob, place, diff_id: Digest::of(tar), frames: vec![length] }
}

#[tokio::test]
async fn a_pull_that_was_cut_goes_on_where_it_was() {
    let site = Site::new().await;
    let changed: Vec<usize> = (0..FILES).step_by(2).collect();
    let next = pack(&changed);
    site.push("v2", &next, &next.place);
    let registries = Registries::default();
    let planned = site.store.plan_pull(&site.name("v2"), &registries).await.unwrap().fetch;
    let midway = std::sync::Arc::new(Notify::new());
    let tell = std::sync::Arc::clone(&midway);
    let name = site.name("v2");
    let pull = site.store.pull(&name, &registries, move |event| {
        if matches!(event, PullEvent::Downloading { done, total, .. } if done > total / 3) {
            tell.notify_one();
        }
    });
    tokio::select! {
        done = pull => panic!("it was to be given up: {done:?}"),
        () = midway.notified() => {}
    }
    let path = pieces(&site.store);
    let file = File::open(&path).unwrap();
    // Until nobody writes to it.
    file.lock().unwrap();
    let here = file.metadata().unwrap().len();
    file.unlock().unwrap();
    site.came();
    let (left, fetched) = site.pull("v2").await;
    assert_eq!(left, fetched);
    let bytes = site.came();
    assert!(bytes < fetched + TALK, "{bytes} over the line, {fetched} told");
    assert!(fetched + here < planned + 2000, "{fetched} and {here} for {planned}");
    assert!(fetched < planned * 2 / 3, "{fetched} of {planned}");
    site.is_here(&next);
}

#[tokio::test]
async fn a_line_that_breaks_again_and_again_carries_no_byte_twice() {
    let site = Site::new().await;
    let changed: Vec<usize> = (0..FILES).step_by(2).collect();
    let next = pack(&changed);
    site.push("v2", &next, &next.place);
    site.line.breaks_after(700_000);
    site.came();
    let (planned, fetched) = site.pull("v2").await;
    assert_eq!(planned, fetched);
    let bytes = site.came();
    assert!(bytes < fetched + 4 * TALK, "{bytes} over the line, {fetched} told");
    site.is_here(&next);
}

fn pieces(store: &Store) -> PathBuf {
    let ingest = fs::read_dir(store.root().join("ingest")).unwrap().flatten();
    let mut paths = ingest.map(|entry| entry.path());
    paths.find(|path| path.to_string_lossy().ends_with(".pieces.partial")).unwrap()
}

/// The whole layer has to come, although a few bytes were asked for first; whether that was predicted.
async fn comes_whole(site: &Site, tag: &str, packed: &Packed) -> bool {
    let (planned, fetched) = site.pull(tag).await;
    assert!(fetched >= packed.blob.len() as u64, "{fetched} of {}", packed.blob.len());
    site.is_here(packed);
    planned == fetched
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_is_asked_for_the_whole_layer() {
    let site = Site::new().await;
    let next = pack(&[3]);
    site.push("v2", &next, &next.place);
    let port = without_ranges(site.registry.port);
    let name: Reference = format!("127.0.0.1:{port}/os:v2").parse().unwrap();
    let registries = Registries::default();
    let planned = site.store.plan_pull(&name, &registries).await.unwrap().fetch;
    let pulled = site.store.pull(&name, &registries, |_| ()).await.unwrap();
    assert_eq!(planned, pulled.fetched);
    assert!(planned >= next.blob.len() as u64, "{planned}");
    site.is_here(&next);
    // Not planned before.
    let after = pack(&[9]);
    site.push("v3", &after, &after.place);
    let name: Reference = format!("127.0.0.1:{port}/os:v3").parse().unwrap();
    let pulled = site.store.pull(&name, &registries, |_| ()).await.unwrap();
    assert!(pulled.fetched >= after.blob.len() as u64, "{}", pulled.fetched);
    site.is_here(&after);
}

/// Requests without their `Range`.
fn without_ranges(to: u16) -> u16 {
    http::listen(move |head, mut client| {
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let lines = head.text().lines().filter(|line| {
            let line = line.to_ascii_lowercase();
            !line.is_empty() && !line.starts_with("range:") && !line.starts_with("connection:")
        });
        for line in lines {
            server.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        }
        server.write_all(b"Connection: close\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut server, &mut client);
    })
}

/// Of the file `n` of the layer, which is an object of the pool.
fn damage(store: &Store, packed: &Packed, n: usize, how: impl Fn(&Path)) {
    how(&store.layer_tree(&packed.diff_id).join(format!("file-{n}")));
}

#[tokio::test]
async fn a_damaged_file_here_means_the_whole_layer() {
    let site = Site::new().await;
    let first = pack(&[]);
    let flip = |path: &Path| {
        File::options().write(true).open(path).unwrap().write_all_at(b"changed", 5000).unwrap();
    };
    damage(&site.store, &first, 7, flip);
    let next = pack(&[3]);
    site.push("v2", &next, &next.place);
    assert!(!comes_whole(&site, "v2", &next).await, "nobody reads what is here before");
    // It is known to be of another length before anything is fetched: its frame comes.
    let after = pack(&[3, 9]);
    let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(10).unwrap();
    damage(&site.store, &next, 8, cut);
    site.push("v3", &after, &after.place);
    let (planned, fetched) = site.pull("v3").await;
    assert_eq!(planned, fetched);
    assert!(fetched < 3 * SIZE as u64, "{fetched}");
    site.is_here(&after);
}

#[tokio::test]
async fn a_wrong_skeleton_means_the_whole_layer() {
    let site = Site::new().await;
    let table: [fn(&mut Packed) -> Place; 5] = [
        // Another digest, an offset past the end, an offset before it.
        |packed| Place { digest: Digest::of(b"another"), ..packed.place },
        |packed| Place { offset: packed.blob.len() as u64, ..packed.place },
        |packed| Place { offset: packed.place.offset - 100, ..packed.place },
        // Frames that are longer than the blob.
        |packed| {
            packed.blob.truncate(usize::try_from(packed.place.offset - SKIPPABLE_HEADER).unwrap());
            let mut records = Writer::new(Vec::new());
            records.frame(u64::MAX).unwrap();
            records.raw(b"head").unwrap();
            end(&mut packed.blob, &records.into_inner())
        },
        // A stream that is not the layer's.
        |packed| {
            packed.blob.truncate(usize::try_from(packed.place.offset - SKIPPABLE_HEADER).unwrap());
            let mut records = Writer::new(Vec::new());
            records.frame(packed.blob.len() as u64).unwrap();
            records.raw(b"something else").unwrap();
            end(&mut packed.blob, &records.into_inner())
        },
    ];
    for (n, spoil) in table.into_iter().enumerate() {
        let mut packed = pack(&[n]);
        let place = spoil(&mut packed);
        let tag = format!("v{}", n + 2);
        site.push(&tag, &packed, &place);
        let predicted = comes_whole(&site, &tag, &packed).await;
        assert!(predicted || n == 4, "{n}");
    }
}

//! A layer whose line breaks is fetched on where it broke off, by this pull and by the next: no byte comes twice.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use ros_api::Reference;
use ros_image::{PullEvent, Registries, Store};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::server::{Line, Registry, copy, write_layout};

const SIZE: usize = 3 << 20;
/// Requests and answers around the layer.
const TALK: u64 = 64 << 10;

/// An OCI layout with an image of one layer that no compression makes smaller.
fn layout(dir: &Path) {
    let noise: Vec<u8> =
        (0..SIZE / 32).flat_map(|n| <[u8; 32]>::from(Sha256::digest(n.to_le_bytes()))).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(noise.len() as u64);
    tar.append_data(&mut header, "noise", &noise[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    write_layout(dir, "application/vnd.oci.image.layer.v1.tar", &layer, "{}");
}

#[tokio::test]
async fn no_byte_of_a_layer_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    layout(&dir.path().join("layout"));
    copy(&dir.path().join("layout"), &format!("127.0.0.1:{}/os:v1", registry.port));
    let line = Line::to(registry.port);
    let image: Reference = format!("127.0.0.1:{}/os:v1", line.port).parse().unwrap();
    let (registries, size) = (Registries::default(), SIZE as u64);
    let came = || line.came();

    // The line breaks every megabyte, and the pull comes to its end.
    let store = Store::open(dir.path().join("one")).unwrap();
    line.breaks_after(1 << 20);
    let pulled = store.pull(&image, &registries, |_| ()).await.unwrap();
    assert!(pulled.fetched > size && pulled.fetched < size + TALK, "{}", pulled.fetched);
    let bytes = came();
    assert!(bytes > size && bytes < size + TALK, "{bytes} for {size}");

    // The pull is given up midway; the next one needs only the rest, and knows it.
    let store = Store::open(dir.path().join("two")).unwrap();
    line.breaks_after(u64::MAX);
    assert_eq!(store.plan_pull(&image, &registries).await.unwrap().fetch, pulled.fetched);
    let midway = Arc::new(Notify::new());
    let tell = Arc::clone(&midway);
    let pull = store.pull(&image, &registries, move |event| {
        if matches!(event, PullEvent::Downloading { done, .. } if done > size / 3) {
            tell.notify_one();
        }
    });
    tokio::select! {
        done = pull => panic!("it was to be given up: {done:?}"),
        () = midway.notified() => {}
    }
    let mut partials = fs::read_dir(store.root().join("ingest")).unwrap().flatten();
    let partial = File::open(partials.next().unwrap().path()).unwrap();
    // Until nobody writes to it.
    partial.lock().unwrap();
    let here = partial.metadata().unwrap().len();
    partial.unlock().unwrap();
    assert!(here > size / 3, "{here}");
    let planned = store.plan_pull(&image, &registries).await.unwrap().fetch;
    came();
    let rest = store.pull(&image, &registries, |_| ()).await.unwrap();
    assert_eq!(rest.fetched, planned, "bytes predicted are bytes fetched");
    let bytes = came();
    assert!(bytes < size + TALK - here, "{bytes} although {here} of {size} were here");
}

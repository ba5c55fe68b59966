//! What is pushed: the manifest that an image came with, where the registry has the layers of it.

use std::sync::{Arc, Mutex};

use ros_api::{Digest, Reference};
use ros_image::{ImageId, PushEvent, Pushed, Registries, Store};

use crate::server::{Registry, copy, write_image};

/// Pushes, and says what was told.
async fn push(store: &Store, id: &ImageId, name: &str) -> (Pushed, Vec<PushEvent>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let progress = move |event| tell.lock().unwrap().push(event);
    let reference: Reference = name.parse().unwrap();
    let pushed = store.push(id, &reference, &Registries::default(), progress).await.unwrap();
    let told = told.lock().unwrap().clone();
    (pushed, told)
}

#[tokio::test]
async fn the_digest_stays_where_the_layers_are_and_has_a_name_here() {
    let dir = tempfile::tempdir().unwrap();
    let registries = ["one", "two"].map(|name| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        Registry::start(&dir)
    });
    let [one, two] = registries.each_ref().map(|registry| format!("127.0.0.1:{}", registry.port));
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut tar::Header::new_gnu(), "empty", &b""[..]).unwrap();
    let plain = tar.into_inner().unwrap();
    let layer = Digest::of(&plain);
    let layout = dir.path().join("layout");
    let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
    write_image(&layout, kind, &zstd::encode_all(&plain[..], 3).unwrap(), &layer, "{}");
    copy(&layout, &format!("{one}/os:v1"));

    let store = Store::open(dir.path().join("store")).unwrap();
    let came: Reference = format!("{one}/os:v1").parse().unwrap();
    let pulled = store.pull(&came, &Registries::default(), |_| ()).await.unwrap();

    let (again, told) = push(&store, &pulled.id, &format!("{one}/os:v2")).await;
    assert_eq!((again.digest, told), (pulled.digest, vec![PushEvent::Exists { layer }]));
    let (beside, told) = push(&store, &pulled.id, &format!("{one}/team/os:v1")).await;
    let mounted = PushEvent::Mounted { layer, from: "os".to_owned() };
    assert_eq!((beside.digest, told), (pulled.digest, vec![mounted]));

    // Another registry has nothing of it: the layer is compressed anew, and then it is there.
    let (elsewhere, told) = push(&store, &pulled.id, &format!("{two}/os:v1")).await;
    assert_ne!(elsewhere.digest, pulled.digest);
    assert_eq!(told.last(), Some(&PushEvent::Pushed { layer }));
    let (same, told) = push(&store, &pulled.id, &format!("{two}/os:v2")).await;
    assert_eq!(same.digest, elsewhere.digest);
    assert_eq!(told.last(), Some(&PushEvent::Exists { layer }));

    let other = Store::open(dir.path().join("other")).unwrap();
    for (name, digest) in [(format!("{one}/team/os"), beside), (format!("{two}/os"), elsewhere)] {
        let by_digest = format!("{name}@{}", digest.digest);
        assert_eq!(store.resolve(&by_digest).unwrap(), pulled.id);
        let reference: Reference = by_digest.parse().unwrap();
        let id = other.pull(&reference, &Registries::default(), |_| ()).await.unwrap().id;
        assert_eq!(id, pulled.id);
    }
}

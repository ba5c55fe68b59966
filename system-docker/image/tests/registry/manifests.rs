//! The same image under two manifests: whoever compresses its layers anew, a mirror or another builder, makes a second one.
//! What knew the image by the first must find it still.

use ros_api::{Digest, Reference};
use ros_image::{Registries, Store};

use crate::server::{Registry, copy, write_image};

#[tokio::test]
async fn an_image_is_known_by_every_manifest_that_it_came_with() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(4);
    tar.append_data(&mut header, "file", &b"text"[..]).unwrap();
    let plain = tar.into_inner().unwrap();
    let diff_id = Digest::of(&plain);
    let packed = zstd::encode_all(&plain[..], 3).unwrap();
    for (tag, kind, content) in [("v1", "tar", &plain), ("v2", "tar+zstd", &packed)] {
        let layout = dir.path().join(tag);
        let kind = format!("application/vnd.oci.image.layer.v1.{kind}");
        write_image(&layout, &kind, content, &diff_id, "{}");
        copy(&layout, &format!("127.0.0.1:{}/os-a:{tag}", registry.port));
    }
    let store = Store::open(dir.path().join("store")).unwrap();
    let name = |tag: &str| -> Reference {
        format!("127.0.0.1:{}/os-a:{tag}", registry.port).parse().unwrap()
    };
    let mut came = Vec::new();
    for tag in ["v1", "v2"] {
        let id = store.pull(&name(tag), &Registries::default(), |_| ()).await.unwrap().id;
        came.push((id, store.image(&id).unwrap().manifest));
    }
    let [(id, first), (same, second)] = came[..] else { unreachable!() };
    assert!(id == same && first != second, "{came:?}");
    store.untag(&name("v1")).unwrap();

    let other = Store::open(dir.path().join("other")).unwrap();
    store.copy_image(&id, &other).unwrap();
    for store in [&store, &other] {
        store.collect_garbage(&Default::default()).unwrap();
        for manifest in [first, second] {
            assert_eq!(store.resolve(&manifest.to_string()).unwrap(), id);
            assert_eq!(store.resolve(&format!("another/os-a@{manifest}")).unwrap(), id);
        }
        let report = store.check().unwrap();
        assert!(report.damages.is_empty(), "{:?}", report.damages);
    }

    // Going back to the first is no step that loses the second.
    store.pull(&name("v1"), &Registries::default(), |_| ()).await.unwrap();
    assert_eq!(store.image(&id).unwrap().manifest, first);
    assert_eq!(store.resolve(&second.to_string()).unwrap(), id);
}

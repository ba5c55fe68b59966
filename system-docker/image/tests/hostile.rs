//! Hostile layers, each as the archive that somebody could send: refused, or kept inside the layer's own tree. Either way nothing outside
//! changes, and of a refused layer nothing is left.

use std::fs;
use std::io::Write;
use std::path::Path;

use ros_api::Digest;
use ros_image::{Error, Limits, Store};
use tar::{Builder, EntryType, Header};

/// One entry of an archive: kind, name, link target, content.
type Entry<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

/// Names are written as they are: `tar` itself would refuse to.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, name, link, content) in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o777);
        nobodys(&mut header);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What every header has: without, it would be refused for that alone.
fn nobodys(header: &mut Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

struct Host {
    dir: tempfile::TempDir,
    store: Store,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), b"secret").unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn import(&self, layer: &[u8]) -> ros_image::Result<Digest> {
        self.store.import_layer(layer, layer.len() as u64, None, &mut |_| ())
    }

    fn check_outside(&self, case: &str) {
        let outside = self.dir.path().join("outside");
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{case}");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "{case}");
        let mut top: Vec<_> = fs::read_dir(self.dir.path()).unwrap().flatten().collect();
        top.retain(|entry| entry.file_name() != "outside" && entry.file_name() != "store");
        assert!(top.is_empty(), "{case}: {top:?}");
    }

    fn check_nothing_left(&self, case: &str) {
        for folder in ["layers", "ingest"] {
            let left = fs::read_dir(self.store.root().join(folder)).unwrap().count();
            assert_eq!(left, 0, "{case}: {folder}");
        }
    }
}

#[test]
fn what_leads_out_is_refused() {
    let table: [(&str, &[Entry<'_>]); 9] = [
        ("parent", &[(FILE, "../evil", "", b"x")]),
        ("parent further in", &[(DIR, "a", "", b""), (FILE, "a/../../../outside/evil", "", b"x")]),
        ("folder above", &[(DIR, "..", "", b"")]),
        ("hard link out of the tree", &[(LINK, "secret", "../../../outside/secret", b"")]),
        ("hard link to nothing here", &[(LINK, "passwd", "/etc/passwd-of-the-host", b"")]),
        ("whiteout of the parent", &[(DIR, "a", "", b""), (FILE, "a/.wh...", "", b"")]),
        ("whiteout of the folder itself", &[(FILE, ".wh..", "", b"")]),
        ("whiteout of nothing", &[(FILE, ".wh.", "", b"")]),
        ("a file as a folder", &[(FILE, "a", "", b"x"), (FILE, "a/b", "", b"x")]),
    ];
    for (case, entries) in table {
        let host = Host::new();
        let refused = host.import(&archive(entries));
        assert!(matches!(refused, Err(Error::BadLayer { .. })), "{case}: {refused:?}");
        host.check_outside(case);
        host.check_nothing_left(case);
    }
}

#[test]
fn links_lead_nowhere_but_inside() {
    let host = Host::new();
    let outside = host.dir.path().join("outside");
    let outside = outside.to_str().unwrap();
    let table: [(&str, Vec<Entry<'_>>); 5] = [
        ("absolute name", vec![(FILE, "/outside/evil", "", b"x")]),
        ("absolute link", vec![(SYMLINK, "a", outside, b""), (FILE, "a/evil", "", b"x")]),
        ("link upwards", vec![(SYMLINK, "a", "../../../outside", b""), (FILE, "a/evil", "", b"x")]),
        (
            "hard link through a link",
            vec![(SYMLINK, "a", outside, b""), (LINK, "mine", "a/secret", b"")],
        ),
        (
            "a link replaced by what it would lead to",
            vec![(SYMLINK, "a", "../../../outside/secret", b""), (FILE, "a", "", b"x")],
        ),
    ];
    for (case, entries) in table {
        // Refusing is as good as keeping inside.
        let _ = host.import(&archive(&entries));
        host.check_outside(case);
    }
}

#[test]
fn the_last_of_two_entries_stays_and_replaces_no_link_s_target() {
    let host = Host::new();
    let layer = archive(&[(FILE, "a", "", b"first"), (FILE, "a", "", b"second")]);
    let tree = host.store.layer_tree(&host.import(&layer).unwrap());
    assert_eq!(fs::read(tree.join("a")).unwrap(), b"second");
}

#[test]
fn a_whiteout_makes_no_file_and_hides_nothing_of_its_own_layer() {
    let host = Host::new();
    let layer = archive(&[
        (FILE, "a", "", b"x"),
        (FILE, ".wh.a", "", b""),
        (FILE, ".wh..wh.plnk", "", b""),
    ]);
    let tree = host.store.layer_tree(&host.import(&layer).unwrap());
    assert_eq!(fs::read(tree.join("a")).unwrap(), b"x");
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 1);
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let mut host = Host::new();
    host.store = host.store.with_limits(Limits {
        layer_bytes: 1 << 20,
        free_bytes: 64 << 10,
        ratio: 10,
        entries: 10,
    });
    let zeros = vec![0; 4 << 20];
    let bomb = archive(&[(FILE, "zeros", "", &zeros)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&bomb).unwrap();
    let many: Vec<String> = (0..20).map(|number| format!("f{number}")).collect();
    let many: Vec<Entry<'_>> =
        many.iter().map(|name| (FILE, name.as_str(), "", &b""[..])).collect();
    for (case, layer) in [
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&bomb[..], 3).unwrap()),
        ("entries", archive(&many)),
    ] {
        assert!(matches!(host.import(&layer), Err(Error::BadLayer { .. })), "{case}");
        host.check_nothing_left(case);
    }
}

#[test]
fn huge_attributes_and_declared_sizes_are_refused() {
    let mut big = Builder::new(Vec::new());
    let value = vec![b'v'; 8 << 20];
    big.append_pax_extensions([("SCHILY.xattr.user.big", &value[..])]).unwrap();
    let mut header = Header::new_gnu();
    header.set_path("a").unwrap();
    nobodys(&mut header);
    header.set_size(0);
    header.set_cksum();
    big.append(&header, &b""[..]).unwrap();
    let mut lying = Header::new_gnu();
    lying.set_path("a").unwrap();
    nobodys(&mut lying);
    lying.set_size(1 << 50);
    lying.set_cksum();
    for (case, layer) in
        [("attribute", big.into_inner().unwrap()), ("size", lying.as_bytes().to_vec())]
    {
        let host = Host::new();
        assert!(host.import(&layer).is_err(), "{case}");
        host.check_nothing_left(case);
    }
}

#[test]
fn what_is_not_what_it_should_be_is_refused() {
    let whole = archive(&[(FILE, "a", "", &[7; 5000])]);
    let host = Host::new();
    let expected = Digest::of(b"another layer");
    let wrong =
        host.store.import_layer(&whole[..], whole.len() as u64, Some(&expected), &mut |_| ());
    assert!(matches!(wrong, Err(Error::DigestMismatch { .. })), "{wrong:?}");
    host.check_nothing_left("diff ID");
    for (case, layer) in [
        ("cut off", &whole[..2000]),
        ("no tar", &[b'x'; 4096][..]),
        ("half a gzip", &[0x1f, 0x8b, 8, 0][..]),
    ] {
        assert!(host.import(layer).is_err(), "{case}");
        host.check_nothing_left(case);
    }
}

/// An OCI layout whose manifest has one layer of a type.
fn layout(folder: &Path, media_type: &str, layer: &[u8]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = Digest::of(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        (digest, content.len())
    };
    let (layer, layer_size) = put(layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
    );
    let (config, config_size) = put(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},
        "layers":[{{"mediaType":"{media_type}","digest":"{layer}","size":{layer_size}}}]}}"#
    );
    let (manifest, size) = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{manifest}","size":{size}}}]}}"#
    );
    fs::write(folder.join("index.json"), index).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn layers_of_an_unknown_type_are_refused() {
    let layer = archive(&[(FILE, "a", "", b"x")]);
    for (media_type, known) in [
        ("application/vnd.oci.image.layer.v1.tar", true),
        ("application/vnd.cncf.helm.chart.content.v1", false),
        ("application/octet-stream", false),
    ] {
        let host = Host::new();
        let folder = tempfile::tempdir().unwrap();
        layout(folder.path(), media_type, &layer);
        let loaded = host.store.load_layout(folder.path(), |_| ());
        assert_eq!(loaded.is_ok(), known, "{media_type}: {loaded:?}");
        assert_eq!(host.store.images().unwrap().len(), usize::from(known), "{media_type}");
    }
}

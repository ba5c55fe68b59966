//! The archive that the kernel unpacks as initramfs: cpio "newc" (kernel, `driver-api/early-userspace/
//! buffer-format`). A header of 110 bytes of hexadecimal ASCII, name and content each padded to 4 bytes.
//!
//! Invariant: the same tree gives the same bytes: sorted, numbered from 1, one time for all.

use crate::tree::{Entry, Kind, Tree};

/// The archive of `tree`.
#[must_use]
pub fn archive(tree: &Tree, time: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut inode = 0;
    for (path, entry) in tree.iter() {
        inode += 1;
        member(&mut out, path, entry, inode, time);
    }
    member(&mut out, "TRAILER!!!", &Entry::file(*b"", 0), 0, 0);
    pad(&mut out, 512);
    out
}

fn member(out: &mut Vec<u8>, path: &str, entry: &Entry, inode: u32, time: u64) {
    let (kind, content): (u32, &[u8]) = match &entry.kind {
        Kind::Dir => (0o040_000, &[]),
        Kind::File(content) => (0o100_000, content),
        Kind::Link(target) => (0o120_000, target.as_bytes()),
        Kind::Fifo => (0o010_000, &[]),
    };
    let mode = if path == "TRAILER!!!" { 0 } else { kind | entry.mode };
    let links = if entry.kind == Kind::Dir { 2 } else { 1 };
    out.extend_from_slice(b"070701");
    let size = content.len() as u64;
    let name_size = path.len() as u64 + 1;
    for field in [
        u64::from(inode),
        u64::from(mode),
        u64::from(entry.uid),
        u64::from(entry.gid),
        links,
        time,
        size,
        0,
        0,
        0,
        0,
        name_size,
        0,
    ] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(content);
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_cpios() {
        let mut tree = Tree::default();
        tree.put("a/file", Entry::file(*b"content", 0o640));
        tree.put("a/pipe", Entry::fifo());
        tree.put("link", Entry::link("a/file"));
        let archive = archive(&tree, 5);
        assert_eq!(archive.len() % 512, 0);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.cpio");
        std::fs::write(&file, archive).unwrap();
        let list = crate::command::command("cpio")
            .args(["-itv", "--quiet", "-F"])
            .arg(&file)
            .output()
            .expect("cpio is there");
        let list = String::from_utf8(list.stdout).unwrap();
        for line in ["-rw-r-----", "prw-------", "link -> a/file"] {
            assert!(list.contains(line), "{list}");
        }
    }
}

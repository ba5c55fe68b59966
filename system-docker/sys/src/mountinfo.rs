//! What is mounted, as proc_pid_mountinfo(5) tells it: one line a mount, the newest last.
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
//!                  point             tags       kind
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub point: PathBuf,
    /// The number of its peer group, when it shares with others; the same in every namespace.
    pub group: Option<u64>,
    /// The file system's type.
    pub kind: String,
}

/// What this thread sees; nothing when it cannot be read.
#[must_use]
pub fn own() -> Vec<Entry> {
    of("thread-self")
}

/// What the process `pid` sees; nothing when it cannot be read.
#[must_use]
pub fn of(pid: &str) -> Vec<Entry> {
    parse(&fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default())
}

/// The text of every mount namespace in which a process of this machine is, each once.
#[must_use]
pub fn everywhere() -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut seen = BTreeSet::new();
    let texts = processes.filter_map(|process| {
        let namespace = fs::read_link(process.path().join("ns/mnt")).ok()?;
        let is_new = seen.insert(namespace);
        is_new.then(|| fs::read_to_string(process.path().join("mountinfo")).ok())?
    });
    texts.collect()
}

/// Reads the text; a line that is none is left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ').skip(4);
    let point = unescaped(fields.next()?).into();
    let group = fields.find_map(|field| field.strip_prefix("shared:")?.parse().ok());
    Some(Entry { point, group, kind: back.split(' ').next()?.to_owned() })
}

/// Blank, tab, newline and backslash are three octal digits.
fn unescaped(field: &str) -> String {
    let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain.replace("\\134", "\\")
}

/// Whether something is mounted at `target`, which is no link.
#[must_use]
pub fn is_mounted(entries: &[Entry], target: &Path) -> bool {
    entries.iter().any(|entry| entry.point == target)
}

/// The mount that has `path`: the last that fits is on top.
#[must_use]
pub fn holder<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    let fits = entries.iter().filter(|entry| path.starts_with(&entry.point));
    fits.max_by_key(|entry| entry.point.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "22 1 0:2 / / rw shared:1 - rootfs rootfs rw\n\
        30 22 254:3 / /var rw,noatime master:4 shared:2 - ext4 /dev/vda3 rw\n\
        31 30 0:40 / /var/lib/a\\040b\\134c rw - nfs4 10.0.2.2:/e - rw\nbroken\n";

    #[test]
    fn this_process_is_somewhere() {
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(everywhere().contains(&own));
    }

    #[test]
    fn lines_become_entries() {
        let entries = parse(TEXT);
        let short: Vec<_> = entries
            .iter()
            .map(|entry| (entry.point.to_str().unwrap(), entry.group, entry.kind.as_str()))
            .collect();
        let expected = [
            ("/", Some(1), "rootfs"),
            ("/var", Some(2), "ext4"),
            ("/var/lib/a b\\c", None, "nfs4"),
        ];
        assert_eq!(short, expected);
    }

    #[test]
    fn the_last_that_fits_holds_a_path() {
        let entries = parse(&format!("{TEXT}40 22 0:3 / /var rw - tmpfs tmpfs rw\n"));
        let kind = |path: &str| holder(&entries, Path::new(path)).map(|entry| entry.kind.as_str());
        for (path, expected) in
            [("/var/x", "tmpfs"), ("/varx", "rootfs"), ("/var/lib/a b\\c/d", "nfs4")]
        {
            assert_eq!(kind(path), Some(expected), "{path}");
        }
        assert!(is_mounted(&entries, Path::new("/var/")) && !is_mounted(&entries, Path::new("/v")));
    }
}

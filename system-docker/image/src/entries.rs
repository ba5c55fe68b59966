//! What a layer's tree has, entry by entry, as it came in; at every use the tree is held against it ([`Store::verify_layer`]).
//!
//! ```text
//! layers/<diff ID>/entries  =  ( content SP quick SP verity SP facts SP path NUL target NUL )…    in the order of `walk`
//!   content   SHA-256 of a file that is not empty, else -
//!   quick     XXH3 of the same where there is no fs-verity digest, else -
//!   verity    its fs-verity digest where the file system has that, else -
//!   facts     kind,mode,uid,gid,length or device[,opaque]
//!   target    of a symbolic link, else nothing
//! ```
//!
//! A file with a verity digest is measured: one ioctl, no content is read, and the kernel checks what is read later. A
//! file without is read, and summed as quickly as can be: the list is no secret, so a cryptographic sum would say no
//! more of who changed it; `check` takes the SHA-256, from which the image's ID follows. What was found right is remembered by inode and change time, in this process only,
//! so that the next use costs a stat a file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ros_api::{Digest, durable};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::layer::tree::is_opaque;
use crate::{Error, Result, Store};

/// `f_type` of file systems that live in memory: there is no disk to be changed under them.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// One entry as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    content: Option<Digest>,
    quick: String,
    verity: Option<Digest>,
    facts: String,
    target: Vec<u8>,
}

/// One entry as it is there now.
struct Found {
    facts: String,
    target: Vec<u8>,
    /// A regular file that is not empty.
    has_content: bool,
    /// Inode and change time: as long as they stay, so does all of the file.
    stamp: (u64, i64, i64),
}

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// As at every use.
    Use,
    /// Every byte is read.
    Every,
}

/// Switches fs-verity on for new objects, as far as this file system has it.
pub(crate) fn enable_verity(objects: impl Iterator<Item = PathBuf>) {
    for path in objects {
        let enabled = File::open(&path).and_then(|file| enable_one(&file));
        match enabled {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                tracing::debug!(path = %path.display(), error = %e, "no fs-verity here");
                return;
            }
        }
    }
}

/// A file that came in had the time of this and not its own: it is put back, for an object is named by it.
fn enable_one(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    ros_sys::verity::enable(file)?;
    let times = fs::FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?);
    file.set_times(times)
}

/// Writes `entries` of the layer in `layer`, whose tree was made from verified content just now. `contents` has the
/// digests of files, by inode, as far as they are known.
pub(crate) fn record(layer: &Path, contents: &HashMap<u64, Digest>) -> Result<()> {
    let tree = layer.join("tree");
    let to = layer.join("entries");
    let mut list = Vec::new();
    walk(&tree, &mut |path, found| {
        let [mut content, mut quick, mut verity] = ["-"; 3].map(str::to_owned);
        if found.has_content {
            let whole = tree.join(path);
            let known = contents.get(&found.stamp.0).copied();
            content = known.map_or_else(|| hash(&whole), Ok)?.hex();
            match measure(&whole)? {
                Some(digest) => verity = digest.hex(),
                None => quick = quick_sum(&whole)?,
            }
        }
        let facts = &found.facts;
        list.extend_from_slice(format!("{content} {quick} {verity} {facts} ").as_bytes());
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
        list.extend_from_slice(&found.target);
        list.push(0);
        Ok(())
    })?;
    // A layer from before has its list written where it is used: a torn one would say that the layer is damaged.
    durable::write(&to, &list, 0o644).map_err(Error::on("write", &to))
}

impl Store {
    /// Holds a layer's tree against what came in; how many entries it has.
    ///
    /// # Errors
    /// [`Error::Damaged`] for the first entry that is another, is missing, or was not there.
    pub fn verify_layer(&self, diff_id: &Digest) -> Result<usize> {
        self.verify_entries(diff_id, Depth::Use)
    }

    pub(crate) fn verify_entries(&self, diff_id: &Digest, depth: Depth) -> Result<usize> {
        let tree = self.layer_tree(diff_id);
        let (seal, count) = seal(&tree)?;
        if depth == Depth::Use && self.seals().get(diff_id) == Some(&seal) {
            return Ok(count);
        }
        let mut recorded = self.entries(diff_id)?;
        let in_memory = depth == Depth::Use && is_in_memory(&tree);
        walk(&tree, &mut |path, found| {
            let entry = recorded.next()?.filter(|entry| entry.path == path);
            let entry = entry.ok_or_else(|| {
                damaged(&tree.join(path), "here the tree is not what it was when it came in")
            })?;
            compare(&tree.join(path), &entry, found, (!in_memory).then_some(depth))
        })?;
        if let Some(entry) = recorded.next()? {
            return Err(damaged(&tree.join(&entry.path), "it is missing"));
        }
        self.seals().insert(*diff_id, seal);
        Ok(count)
    }

    fn entries(&self, diff_id: &Digest) -> Result<Recorded> {
        let layer = self.layer_path(diff_id);
        let path = layer.join("entries");
        if !path.exists() {
            self.adopt(diff_id, &layer)?;
        }
        let file = File::open(&path).map_err(Error::on("open", &path))?;
        Ok(Recorded { path, file: BufReader::new(file) })
    }

    /// A layer from before there were such lists gets one, once its archive has been found whole.
    fn adopt(&self, diff_id: &Digest, layer: &Path) -> Result<()> {
        self.export_layer(diff_id, &mut io::sink())?;
        record(layer, &HashMap::new())
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Damaged { path: path.to_owned(), why: why.to_owned() }
}

/// Without a depth, content does not count.
fn compare(path: &Path, entry: &Entry, found: &Found, depth: Option<Depth>) -> Result<()> {
    if found.facts != entry.facts || found.target != entry.target {
        return Err(damaged(path, &format!("it is {}, and was {}", found.facts, entry.facts)));
    }
    let (Some(content), Some(depth)) = (&entry.content, depth) else { return Ok(()) };
    let measured = entry.verity.is_none() || measure(path)? == entry.verity;
    // The kernel refuses to read what verity finds changed: that is damage too.
    let read = || match depth {
        Depth::Use if entry.verity.is_some() => true,
        Depth::Use => quick_sum(path).is_ok_and(|found| found == entry.quick),
        Depth::Every => hash(path).is_ok_and(|found| found == *content),
    };
    match measured && read() {
        true => Ok(()),
        false => Err(damaged(path, "its content is not what came in")),
    }
}

fn is_in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| IN_MEMORY.contains(&stat.f_type))
}

fn measure(path: &Path) -> Result<Option<Digest>> {
    let file = File::open(path).map_err(Error::on("open", path))?;
    Ok(ros_sys::verity::measure(&file).ok().map(Digest::from_bytes))
}

fn hash(path: &Path) -> Result<Digest> {
    let mut hash = Sha256::new();
    read(path, |bytes| hash.update(bytes))?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

fn quick_sum(path: &Path) -> Result<String> {
    let mut sum = Xxh3::new();
    read(path, |bytes| sum.update(bytes))?;
    Ok(format!("{:032x}", sum.digest128()))
}

fn read(path: &Path, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut file = File::open(path).map_err(Error::on("open", path))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::on("read", path))? {
            0 => return Ok(()),
            got => each(&buffer[..got]),
        }
    }
}

/// One sum over all that would change with any change of the tree, and the number of entries. It never leaves this
/// process, and is taken at every start of a container: the quickest will do.
fn seal(tree: &Path) -> Result<(u128, usize)> {
    let mut hash = Xxh3::new();
    let mut count = 0;
    walk(tree, &mut |path, found| {
        count += 1;
        for part in [path.as_os_str().as_bytes(), found.facts.as_bytes(), &found.target[..]] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let (inode, seconds, nanos) = found.stamp;
        hash.update(&inode.to_le_bytes());
        hash.update(&seconds.to_le_bytes());
        hash.update(&nanos.to_le_bytes());
        Ok(())
    })?;
    Ok((hash.digest128(), count))
}

/// Calls `each` for the tree itself (an empty path) and all that is in it, in an order that depends on the names only.
fn walk(tree: &Path, each: &mut dyn FnMut(&Path, &Found) -> Result<()>) -> Result<()> {
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let whole = tree.join(&path);
        let meta = fs::symlink_metadata(&whole).map_err(Error::on("stat", &whole))?;
        each(&path, &found(&whole, &meta)?)?;
        if meta.is_dir() {
            let entries = fs::read_dir(&whole).map_err(Error::on("read", &whole))?;
            let names = entries.map(|entry| entry.map(|entry| path.join(entry.file_name())));
            let names: io::Result<Vec<PathBuf>> = names.collect();
            let mut names = names.map_err(Error::on("read", &whole))?;
            names.sort_unstable_by(|a, b| b.cmp(a));
            left.append(&mut names);
        }
    }
    Ok(())
}

fn found(path: &Path, meta: &Metadata) -> Result<Found> {
    let kind = meta.file_type();
    let mut target = Vec::new();
    if kind.is_symlink() {
        let link = fs::read_link(path).map_err(Error::on("read", path))?;
        target = link.into_os_string().into_encoded_bytes();
    }
    Ok(Found {
        facts: facts(path, meta),
        target,
        has_content: kind.is_file() && meta.len() > 0,
        stamp: (meta.ino(), meta.ctime(), meta.ctime_nsec()),
    })
}

/// `f,644,0,0,1234`. A folder's length is the file system's own business.
fn facts(path: &Path, meta: &Metadata) -> String {
    let kind = meta.file_type();
    let (letter, number) = match () {
        () if kind.is_dir() => ('d', 0),
        () if kind.is_symlink() => ('l', 0),
        () if kind.is_file() => ('f', meta.len()),
        () if kind.is_char_device() => ('c', meta.rdev()),
        () if kind.is_block_device() => ('b', meta.rdev()),
        () if kind.is_fifo() => ('p', 0),
        () => ('s', 0),
    };
    let opaque = if kind.is_dir() && is_opaque(path) { ",opaque" } else { "" };
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    format!("{letter},{mode:o},{uid},{gid},{number}{opaque}")
}

/// `entries`, read one by one.
struct Recorded {
    path: PathBuf,
    file: BufReader<File>,
}

impl Recorded {
    fn next(&mut self) -> Result<Option<Entry>> {
        let (Some(head), Some(target)) = (self.part()?, self.part()?) else { return Ok(None) };
        let entry = parse(&head, target);
        entry.map(Some).ok_or_else(|| damaged(&self.path, "it is not a list of entries"))
    }

    /// What comes up to the next NUL; none at the end.
    fn part(&mut self) -> Result<Option<Vec<u8>>> {
        let mut part = Vec::new();
        self.file.read_until(0, &mut part).map_err(Error::on("read", &self.path))?;
        match part.pop() {
            None => Ok(None),
            Some(0) => Ok(Some(part)),
            Some(_) => Err(damaged(&self.path, "it ends too early")),
        }
    }
}

fn parse(head: &[u8], target: Vec<u8>) -> Option<Entry> {
    let mut words = head.splitn(5, |&byte| byte == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let (content, quick) = (word()?, word()?.to_owned());
    let (verity, facts) = (word()?, word()?.to_owned());
    let path = PathBuf::from(OsStr::from_bytes(words.next()?));
    let digest = |word: &str| format!("sha256:{word}").parse::<Digest>().ok();
    let known = |word: &str| word == "-" || digest(word).is_some();
    (known(content) && known(verity)).then(|| Entry {
        path,
        content: digest(content),
        quick,
        verity: digest(verity),
        facts,
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_entry_is_refused() {
        let none = Digest::of(b"").hex();
        let table = [
            ("- - - d,755,0,0,0 ", true),
            ("- - - l,777,0,0,0 a name", true),
            (&format!("{none} 07 - f,644,0,0,1 a"), true),
            ("x 07 - f,644,0,0,1 a", false),
            ("- - - d,755,0,0,0", false),
            ("", false),
        ];
        for (head, is_one) in table {
            assert_eq!(parse(head.as_bytes(), Vec::new()).is_some(), is_one, "{head:?}");
        }
    }

    #[test]
    fn a_torn_list_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries");
        let whole = b"- - - d,755,0,0,0 \0\0- - - l,777,0,0,0 a b\0to here\0";
        let read = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            let file = BufReader::new(File::open(&path).unwrap());
            let mut recorded = Recorded { path: path.clone(), file };
            let mut all = Vec::new();
            while let Some(entry) = recorded.next()? {
                all.push(entry);
            }
            Ok::<_, Error>(all)
        };
        assert_eq!(read(whole).unwrap()[1].target, b"to here");
        for length in 1..whole.len() {
            let torn = read(&whole[..length]);
            assert!(torn.is_err() || torn.is_ok_and(|all| all.len() < 2), "{length}");
        }
    }
}

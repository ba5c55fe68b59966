//! A container's log, read back: rotated files from the oldest on, then followed as it grows.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ros_runtime::{Frame, Stream};
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::container::Container;
use super::error::{ApiError, Result};
use super::time;

/// What is to be shown.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on.
    pub follow: bool,
    /// Time in front of each line.
    pub timestamps: bool,
    /// Nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Nanoseconds since the epoch.
    pub until: Option<i64>,
    /// The last lines only.
    pub tail: Option<usize>,
}

#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
}

impl Options {
    /// The entry as it is shown; none when it is not wanted.
    fn frame(&self, entry: &Entry) -> Option<Frame> {
        let (stream, wanted) = match entry.stream.as_str() {
            "stderr" => (Stream::Stderr, self.stderr),
            _ => (Stream::Stdout, self.stdout),
        };
        let at = time::parse(&entry.time).unwrap_or(0);
        if !wanted
            || self.since.is_some_and(|since| at < since)
            || self.until.is_some_and(|until| at > until)
        {
            return None;
        }
        let text = if self.timestamps {
            format!("{} {}", entry.time, entry.log)
        } else {
            entry.log.clone()
        };
        Some(Frame { stream, bytes: text.into_bytes() })
    }
}

/// The log's frames, as they come.
pub fn logs(container: &Arc<Container>, options: Options) -> Result<mpsc::Receiver<Frame>> {
    let driver = container.record().host_config.log_config.clone().and_then(|config| config.typ);
    if driver.as_deref() == Some("none") {
        return Err(ApiError::refused("reading logs of the driver \"none\""));
    }
    // Before the first read, so that nothing written between the two is missed.
    let grows = if options.follow { Some(watch(container.dir())?) } else { None };
    let (to, frames) = mpsc::channel(64);
    tokio::spawn(send(Arc::clone(container), options, grows, to));
    Ok(frames)
}

async fn send(
    container: Arc<Container>,
    options: Options,
    grows: Option<pipe::Receiver>,
    to: mpsc::Sender<Frame>,
) {
    let mut files = Files::new(&container.log_path());
    let mut past: Vec<Frame> =
        files.read().iter().filter_map(|entry| options.frame(entry)).collect();
    let skipped = options.tail.map_or(0, |tail| past.len().saturating_sub(tail));
    for frame in past.drain(skipped..) {
        if to.send(frame).await.is_err() {
            return;
        }
    }
    let Some(grows) = grows else { return };
    let mut changes = container.changes();
    loop {
        // First the state, then what is there: whatever was written before the end is seen.
        let runs = matches!(
            container.record().state.word(),
            "running" | "paused" | "restarting" | "created"
        );
        let entries = files.read();
        for frame in entries.iter().filter_map(|entry| options.frame(entry)) {
            if to.send(frame).await.is_err() {
                return;
            }
        }
        if !runs || options.until.is_some_and(|until| time::now() > until) {
            return;
        }
        tokio::select! {
            grown = drain(&grows) => if grown.is_err() { return },
            changed = changes.changed() => if changed.is_err() { return },
            () = to.closed() => return,
        }
    }
}

/// inotify(7) on the container's folder.
fn watch(dir: &Path) -> io::Result<pipe::Receiver> {
    use inotify::{CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    // Not a pipe, but read like one.
    pipe::Receiver::from_owned_fd_unchecked(fd)
}

/// Waits for events and takes them all: what they say is looked up, not read.
async fn drain(grows: &pipe::Receiver) -> io::Result<()> {
    grows.readable().await?;
    let mut buffer = [0u8; 4096];
    loop {
        match grows.try_read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// The log's files, read on from where the last read ended.
struct Files {
    path: PathBuf,
    open: Option<(BufReader<File>, u64)>,
    line: Vec<u8>,
}

impl Files {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, line: Vec::new() }
    }

    /// Every entry since the last read. A file that was rotated away is read to its end first.
    fn read(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if self.open.is_none() {
            for old in self.rotated() {
                if let Ok(file) = File::open(old) {
                    self.take(&mut BufReader::new(file), &mut entries);
                }
            }
            self.reopen();
        }
        while let Some((mut file, inode)) = self.open.take() {
            self.take(&mut file, &mut entries);
            let same = std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == inode);
            if same {
                self.open = Some((file, inode));
                break;
            }
            self.take(&mut file, &mut entries);
            self.reopen();
        }
        entries
    }

    /// Oldest first.
    fn rotated(&self) -> Vec<PathBuf> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let mut files: Vec<PathBuf> =
            (1..).map(numbered).take_while(|path| path.exists()).collect();
        files.reverse();
        files
    }

    fn reopen(&mut self) {
        self.line.clear();
        let file = File::open(&self.path).ok();
        self.open = file.and_then(|file| {
            let inode = file.metadata().ok()?.ino();
            Some((BufReader::new(file), inode))
        });
    }

    /// Whole lines; half of one waits for its other half.
    fn take(&mut self, from: &mut impl BufRead, entries: &mut Vec<Entry>) {
        while let Ok(length) = from.read_until(b'\n', &mut self.line) {
            if length == 0 || !self.line.ends_with(b"\n") {
                return;
            }
            entries.extend(serde_json::from_slice::<Entry>(&self.line));
            self.line.clear();
        }
    }
}

/// Lines in two pieces: nothing is lost that comes later.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let (mut whole, mut pieces) = (Files::new(Path::new("")), Files::new(Path::new("")));
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    whole.take(&mut &data[..], &mut once);
    let (first, second) = data.split_at(data.len() / 2);
    pieces.take(&mut &first[..], &mut twice);
    pieces.take(&mut &second[..], &mut twice);
    assert_eq!(once.len(), twice.len(), "half a line waits for its other half");
    let options = Options { stdout: true, timestamps: true, since: Some(1), ..Options::default() };
    once.iter().for_each(|entry| drop(options.frame(entry)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, stream: &str) -> String {
        format!(
            "{{\"log\":\"{text}\\n\",\"stream\":\"{stream}\",\"time\":\"1970-01-01T00:00:01.000000000Z\"}}\n"
        )
    }

    #[test]
    fn rotated_files_come_first_and_half_a_line_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        std::fs::write(dir.path().join("x-json.log.2"), line("a", "stdout")).unwrap();
        std::fs::write(dir.path().join("x-json.log.1"), line("b", "stdout")).unwrap();
        let last = line("d", "stderr");
        std::fs::write(&path, line("c", "stderr") + &last[..10]).unwrap();
        let mut files = Files::new(&path);
        let texts = |entries: Vec<Entry>| {
            entries.iter().map(|entry| entry.log.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts(files.read()), ["a", "b", "c"]);
        std::fs::write(&path, line("c", "stderr") + &last).unwrap();
        assert_eq!(texts(files.read()), ["d"]);
        std::fs::rename(&path, dir.path().join("x-json.log.1")).unwrap();
        std::fs::write(&path, line("e", "stdout")).unwrap();
        assert_eq!(texts(files.read()), ["e"]);
    }

    #[test]
    fn options_choose() {
        let entry = Entry {
            log: "x\n".into(),
            stream: "stdout".into(),
            time: "1970-01-01T00:00:02Z".into(),
        };
        let both = Options { stdout: true, stderr: true, ..Options::default() };
        assert_eq!(both.frame(&entry).unwrap().bytes, b"x\n");
        assert!(Options { stdout: false, ..both.clone() }.frame(&entry).is_none());
        assert!(Options { since: Some(3_000_000_000), ..both.clone() }.frame(&entry).is_none());
        assert!(Options { until: Some(1_000_000_000), ..both }.frame(&entry).is_none());
    }
}

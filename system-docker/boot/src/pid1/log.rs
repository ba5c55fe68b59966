//! The daemon's log: a plain file, `/var/log/system-docker.log`. Not the kernel log, which loses lines over
//! 1 KiB and cannot hold much. Bounded: past [`LIMIT`] it is copied to `.1` and begun anew, so both together
//! take at most twice that; looked at whenever PID 1 is awake anyway.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;

use crate::kmsg;

const PATH: &str = "/var/log/system-docker.log";
const PREVIOUS: &str = "/var/log/system-docker.log.1";
const LIMIT: u64 = 2 << 20;
/// So much of a last line is of interest.
const LAST: u64 = 300;

/// The file for a new daemon's standard output and error; the console when it cannot be had.
pub fn open() -> (Stdio, Stdio) {
    bound();
    let opened =
        open_file().and_then(|file| Ok((Stdio::from(file.try_clone()?), Stdio::from(file))));
    opened.unwrap_or_else(|e| {
        kmsg::warn(&format!("open {PATH}: {e}; the daemon logs to the console"));
        (crate::console::output(), crate::console::output())
    })
}

fn open_file() -> io::Result<File> {
    fs::create_dir_all("/var/log")?;
    OpenOptions::new().create(true).append(true).open(PATH)
}

/// Keeps the file within its bound. The daemon has it open for appending, so it is emptied, not replaced.
pub fn bound() {
    let size = fs::metadata(PATH).map_or(0, |found| found.len());
    if size > LIMIT {
        if let Err(e) = rotate(Path::new(PATH), Path::new(PREVIOUS)) {
            kmsg::warn(&format!("rotate {PATH}: {e}"));
        }
    }
}

/// Bytes in the log.
pub fn length() -> u64 {
    fs::metadata(PATH).map_or(0, |found| found.len())
}

/// The last line that was written after the log was `since` long; empty when there is none.
pub fn last_line(since: u64) -> String {
    last_line_of(Path::new(PATH), since).unwrap_or_default()
}

fn last_line_of(path: &Path, since: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A shorter one was begun anew.
    let since = if length < since { 0 } else { since };
    file.seek(SeekFrom::Start(since.max(length.saturating_sub(LAST))))?;
    let mut text = Vec::new();
    file.take(LAST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).lines().last().unwrap_or_default().trim().to_owned())
}

fn rotate(path: &Path, previous: &Path) -> io::Result<()> {
    fs::copy(path, previous)?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_line_is_of_the_one_that_was_started_since() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let long = "x".repeat(1000);
        fs::write(&path, format!("of another\n{long}")).unwrap();
        assert_eq!(last_line_of(&path, 11).unwrap().len(), 300);
        assert_eq!(last_line_of(&path, 1011).unwrap(), "");
        fs::write(&path, "begun\nanew\n").unwrap();
        assert_eq!(last_line_of(&path, 1011).unwrap(), "anew");
    }

    #[test]
    fn an_appending_writer_goes_on_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (path, previous) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut daemon = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        daemon.write_all(b"old\n").unwrap();
        rotate(&path, &previous).unwrap();
        daemon.write_all(b"new\n").unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&previous).unwrap()),
            (b"new\n".into(), b"old\n".into())
        );
    }
}

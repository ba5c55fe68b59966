//! The container's log as Docker's `json-file` driver writes it: one JSON object a line, whole lines of output (or 16
//! KiB of a longer one), rotated by size.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::Log;
use crate::wire::Stream;

/// Longest piece of a line in one entry; Docker's.
const MAX_LINE: usize = 16 * 1024;

pub(super) struct JsonLog {
    settings: Log,
    file: File,
    size: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Serialize)]
struct Entry<'a> {
    log: &'a str,
    stream: &'a str,
    time: &'a str,
}

impl JsonLog {
    pub(super) fn open(settings: Log) -> io::Result<Self> {
        if let Some(dir) = settings.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = append(&settings.path)?;
        let size = file.metadata()?.len();
        Ok(Self { settings, file, size, stdout: Vec::new(), stderr: Vec::new() })
    }

    /// Takes output; what is not a whole line yet is kept for later.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut pending = std::mem::take(self.pending(stream));
        pending.extend_from_slice(bytes);
        let mut rest = pending.as_slice();
        while let Some(end) = line_end(rest) {
            let (line, after) = rest.split_at(end);
            self.entry(stream, line)?;
            rest = after;
        }
        *self.pending(stream) = rest.to_vec();
        Ok(())
    }

    /// Writes what is left of both streams: at their end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.pending(stream));
            if !rest.is_empty() {
                self.entry(stream, &rest)?;
            }
        }
        Ok(())
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn entry(&mut self, stream: Stream, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let time = timestamp(SystemTime::now());
        let mut json =
            serde_json::to_vec(&Entry { log: &text, stream: stream.name(), time: &time })?;
        json.push(b'\n');
        if self.settings.max_size > 0
            && self.size > 0
            && self.size + json.len() as u64 > self.settings.max_size
        {
            self.rotate()?;
        }
        self.file.write_all(&json)?;
        self.size += json.len() as u64;
        Ok(())
    }

    /// `a.2` → `a.3`, `a.1` → `a.2`, `a` → `a.1`; the oldest is dropped.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.path;
        let keep = self.settings.max_files.max(1);
        for number in (1..keep.saturating_sub(1)).rev() {
            rename_if_there(&numbered(path, number), &numbered(path, number + 1))?;
        }
        match keep {
            1 => fs::remove_file(path)?,
            _ => fs::rename(path, numbered(path, 1))?,
        }
        self.file = append(path)?;
        self.size = 0;
        Ok(())
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    let within = &bytes[..bytes.len().min(MAX_LINE)];
    match within.iter().position(|byte| *byte == b'\n') {
        Some(newline) => Some(newline + 1),
        None => (bytes.len() >= MAX_LINE).then_some(MAX_LINE),
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// RFC 3339 with nanoseconds, in UTC.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Days since the epoch to a date (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, max_size: u64, max_files: u32) -> JsonLog {
        JsonLog::open(Log { path: dir.join("c.log"), max_size, max_files }).unwrap()
    }

    fn texts(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| value(line)["log"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_and_streams_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 0, 1);
        log.write(Stream::Stdout, b"a\nb").unwrap();
        log.write(Stream::Stderr, b"x\n").unwrap();
        log.write(Stream::Stdout, b"c\nrest").unwrap();
        log.flush().unwrap();
        assert_eq!(texts(&dir.path().join("c.log")), ["a\n", "x\n", "bc\n", "rest"]);
    }

    #[test]
    fn long_lines_are_cut_at_16_kib() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 0, 1);
        log.write(Stream::Stdout, &[b'x'; MAX_LINE * 2 + 3]).unwrap();
        log.write(Stream::Stdout, b"\n").unwrap();
        let lengths: Vec<usize> =
            texts(&dir.path().join("c.log")).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 4]);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 100, 3);
        for number in 0..9 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
        }
        let path = dir.path().join("c.log");
        assert_eq!(texts(&path), ["8\n"]);
        assert_eq!(texts(&numbered(&path, 1)), ["7\n"]);
        assert_eq!(texts(&numbered(&path, 2)), ["6\n"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn times_are_rfc_3339() {
        let table = [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_767_323_045, "2026-01-02T03:04:05.000000007Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::new(seconds, 7)), expected);
        }
    }
}

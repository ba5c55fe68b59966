//! The kernel log: the one place where the boot stage and PID 1 speak. With `quiet loglevel=5` the console
//! shows warnings and errors; `dmesg` has everything.

use std::fs::OpenOptions;
use std::io::Write;

/// The kernel's log levels that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error = 3,
    /// Something is not as it should be, and life goes on.
    Warning = 4,
    /// What happens.
    Info = 6,
}

/// A record longer than this is refused by the kernel (`LOG_LINE_MAX` less its prefix).
const LONGEST: usize = 900;

/// Writes `text`, one record a line; to standard error while there is no `/dev/kmsg`.
pub fn log(level: Level, text: &str) {
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
    let Ok(mut kmsg) = kmsg else {
        let _ = writeln!(std::io::stderr(), "ros: {text}");
        return;
    };
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let _ = kmsg.write_all(format!("<{}>ros: {}\n", level as u8, cut(line)).as_bytes());
    }
}

/// [`Level::Info`].
pub fn info(text: &str) {
    log(Level::Info, text);
}

/// [`Level::Warning`].
pub fn warn(text: &str) {
    log(Level::Warning, text);
}

/// [`Level::Error`].
pub fn error(text: &str) {
    log(Level::Error, text);
}

fn cut(line: &str) -> &str {
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(600)).len(), LONGEST);
        assert_eq!(cut(&format!("x{}", "ä".repeat(600))).len(), LONGEST - 1);
    }
}

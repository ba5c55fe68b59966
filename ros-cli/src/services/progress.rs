//! What is said of a boot while it goes on: lines in the kernel log, which reach every console and keep
//! their times.

use std::fs;
use std::io::Write;

/// Kernel log level (`printk`): shown on the consoles with ros' default `loglevel=5`.
const NOTICE: u8 = 4;
/// Kernel log level of what is wrong.
const ERROR: u8 = 3;

/// Says `text`.
pub fn say(text: &str) {
    log(NOTICE, text);
}

/// Says that something is wrong.
pub fn complain(text: &str) {
    log(ERROR, text);
}

/// Seconds with one digit, as people read them: `0.8s`.
#[must_use]
pub fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

/// One record a line: `/dev/kmsg` takes one record with each write.
fn log(level: u8, text: &str) {
    for line in text.lines() {
        let record = format!("<{level}>ros: {line}\n");
        let told = fs::OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut log| log.write_all(record.as_bytes()));
        if told.is_err() {
            eprintln!("ros: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_one_digit() {
        assert_eq!([seconds(0), seconds(849), seconds(12_050)], ["0.0s", "0.8s", "12.0s"]);
    }
}

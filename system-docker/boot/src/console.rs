//! The console: which terminal it really is, and a file to talk on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use ros_api::durable::named;
use rustix::fs::OFlags;

/// The terminal behind `/dev/console` (`/dev/ttyS0`): a shell needs the real one for job control.
pub fn terminal() -> PathBuf {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let name = active.split_whitespace().last().unwrap_or("console");
    match name {
        "tty0" => PathBuf::from("/dev/tty1"),
        name => PathBuf::from("/dev").join(name),
    }
}

/// Opens the terminal; it never becomes PID 1's controlling terminal.
///
/// # Errors
/// When there is none.
pub fn open() -> io::Result<File> {
    let path = terminal();
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits() as i32)
        .open(&path)
        .map_err(|e| named("open", &path, &e))
}

/// Writes for whoever looks at the console; a console that is not there is nobody looking.
pub fn say(text: &str) {
    if let Ok(mut console) = open() {
        let _ = writeln!(console, "{text}");
    }
}

/// The console as a child's output; nothing when there is none.
pub fn output() -> Stdio {
    open().map_or_else(|_| Stdio::null(), Stdio::from)
}

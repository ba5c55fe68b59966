//! `ros reboot`, `ros poweroff`, `ros halt`: asks PID 1, which stops everything in order.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ros_api::init::InitRequest;
use ros_api::paths;

/// These commands take no arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// `ros reboot`.
///
/// # Errors
/// When PID 1 does not listen.
pub async fn reboot(_: Args) -> Result<ExitCode> {
    ask(InitRequest::Reboot)
}

/// `ros poweroff`.
///
/// # Errors
/// When PID 1 does not listen.
pub async fn poweroff(_: Args) -> Result<ExitCode> {
    ask(InitRequest::Poweroff)
}

/// `ros halt`.
///
/// # Errors
/// When PID 1 does not listen.
pub async fn halt(_: Args) -> Result<ExitCode> {
    ask(InitRequest::Halt)
}

fn ask(request: InitRequest) -> Result<ExitCode> {
    request_of_init(Path::new(paths::INIT_CONTROL), request)?;
    eprintln!("{request}: asked for");
    Ok(ExitCode::SUCCESS)
}

/// Writes `request` into the FIFO at `control`, without waiting for a reader that is not there.
///
/// # Errors
/// When nobody reads it.
pub fn request_of_init(control: &Path, request: InitRequest) -> Result<()> {
    let mut fifo = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(control)
        .with_context(|| {
            format!(
                "open {}: is this a machine that runs ros, and are you root?",
                control.display()
            )
        })?;
    fifo.write_all(format!("{request}\n").as_bytes())
        .with_context(|| format!("write {}", control.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_request_is_one_line_and_needs_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("init.ctl");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(request_of_init(&fifo, InitRequest::Halt).is_err(), "nobody reads");
        let mut reader =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
        request_of_init(&fifo, InitRequest::Halt).unwrap();
        let mut text = [0; 16];
        let length = reader.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"halt\n");
    }
}

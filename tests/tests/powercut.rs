//! The power-cut test itself: it reads what QEMU really writes, and a writer who does not flush is caught.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::powercut::cut::{Cut, Kept, choose};
use ros_tests::powercut::log::{Kind, Log};
use ros_tests::powercut::replay::Replay;

/// Runs `qemu-io` commands on a recorded disk; the log.
fn recorded(dir: &Path, commands: &[&str]) -> Result<Log> {
    let (disk, log) = (dir.join("disk.raw"), dir.join("log"));
    for (path, size) in [(&disk, 1 << 20), (&dir.join("base.raw"), 1 << 20), (&log, 0)] {
        std::fs::File::create(path)?.set_len(size)?;
    }
    let stack = format!(
        "driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={},\
         log.driver=raw,log.file.driver=file,log.file.filename={}",
        disk.display(),
        log.display()
    );
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["--image-opts", &stack]);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    artifacts::run(&mut qemu_io)?;
    Log::read(&log)
}

/// The disk that `cut` leaves.
fn disk_after(dir: &Path, log: &Log, cut: &Cut) -> Result<Vec<u8>> {
    let to = dir.join("cut.raw");
    Replay::start(log, &dir.join("base.raw"), &dir.join("durable.raw"))?.cut(cut, &to)?;
    std::fs::read(&to).context("read the disk")
}

#[test]
fn what_qemu_records_gives_its_disk_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let commands = [
        "write -P 1 0 8k",
        "write -P 2 4k 512",
        "flush",
        "write -z 0 4k",
        "write -P 3 64k 64k",
        "discard 64k 32k",
        "write -f -P 4 512 512",
        "flush",
    ];
    let log = recorded(dir.path(), &commands)?;
    let kinds =
        |wanted: fn(&Kind) -> bool| log.entries.iter().filter(|it| wanted(&it.kind)).count();
    ensure!(kinds(|kind| matches!(kind, Kind::Write(_))) == 5, "{:?}", log.entries);
    ensure!(kinds(|kind| matches!(kind, Kind::Discard)) == 1, "{:?}", log.entries);
    ensure!(log.entries.iter().filter(|entry| entry.flush).count() >= 2, "{:?}", log.entries);
    let end = Cut { at: log.entries.len(), kept: Kept::All };
    let disk = disk_after(dir.path(), &log, &end)?;
    ensure!(disk == std::fs::read(dir.path().join("disk.raw"))?, "another disk");
    Ok(())
}

/// Writes a block, then a pointer to it: with a flush in between, and without.
#[test]
fn a_writer_without_a_flush_is_caught() -> Result<()> {
    const WITH: &[&str] = &["write -P 7 64k 4k", "flush", "write -P 1 0 512", "flush"];
    const WITHOUT: &[&str] = &["write -P 7 64k 4k", "write -P 1 0 512", "flush"];
    for (commands, is_safe) in [(WITH, true), (WITHOUT, false)] {
        let dir = tempfile::tempdir()?;
        let log = recorded(dir.path(), commands)?;
        let cuts = choose(
            &log.entries,
            0..log.entries.len(),
            |_| false,
            40,
            &mut fastrand::Rng::with_seed(1),
        );
        let mut lost = 0;
        for cut in &cuts {
            let disk = disk_after(dir.path(), &log, cut)?;
            let (points, there) = (disk[0] == 1, disk[64 << 10..68 << 10].iter().all(|b| *b == 7));
            lost += usize::from(points && !there);
        }
        ensure!((lost == 0) == is_safe, "{commands:?}: {lost} of {} cuts", cuts.len());
    }
    Ok(())
}

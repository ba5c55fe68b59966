//! Which generation runs, and the record that this boot came so far.

use std::fs;
use std::io;
use std::path::Path;

use ros_api::Generations;
use ros_api::boot::{Attempt, Mode, Reached};
use ros_api::durable;
use ros_api::generation::Pointer;
use ros_api::paths;

use crate::child;
use crate::kmsg;
use crate::steps::Machine;

/// Beside the layout: the name that the release in it goes by (`os:v1.0`).
const RELEASE_NAME: &str = "release";

/// Installs the release of the medium, when there is none yet. In RAM the medium's copy is then dropped.
pub fn seed(machine: &mut Machine) -> io::Result<String> {
    if !Generations::at(Path::new(paths::GENERATIONS)).list()?.is_empty() {
        return Ok("a release is installed already".into());
    }
    let name = Path::new(paths::PRELOAD).join(RELEASE_NAME);
    let name = fs::read_to_string(&name).map_err(|e| durable::named("read", &name, &e))?;
    let mut seed = child::command("/proc/self/exe");
    seed.args([
        "seed",
        "--state",
        paths::STATE,
        "--layout",
        paths::PRELOAD,
        "--release",
        name.trim(),
    ]);
    let ended = child::run(&mut seed, &mut machine.watchdog, None)?;
    if !ended.status.success() {
        kmsg::error(&ended.output);
        let (code, said) = (ended.code(), ended.last_line());
        return Err(io::Error::other(format!(
            "installing {} ended with {code}: {said}",
            name.trim()
        )));
    }
    if machine.mode == Mode::Disk {
        rustix::fs::sync();
    }
    if machine.mode == Mode::Ram {
        let _ = fs::remove_dir_all(paths::PRELOAD);
    }
    Ok(name.trim().to_owned())
}

/// The boot loader's choice, else the current one, else the last good one, else the newest.
pub fn choose(machine: &mut Machine) -> io::Result<String> {
    let generations = Generations::at(Path::new(paths::GENERATIONS));
    let installed: Vec<u32> =
        generations.list()?.iter().map(|generation| generation.number).collect();
    let wishes = [
        ("asked for by the boot loader", machine.args.generation),
        ("current", generations.pointer(Pointer::Current)),
        ("the last good one", generations.pointer(Pointer::Good)),
        ("the newest", installed.last().copied()),
    ];
    for (why, number) in wishes {
        let Some(number) = number else { continue };
        match generations.release(number) {
            Ok(release) => {
                (machine.generation, machine.version) =
                    (Some(number), Some(release.version.clone()));
                return Ok(format!("{number} ({}), {why}", release.version));
            }
            Err(e) => kmsg::error(&format!("generation {number} ({why}) is not usable: {e}")),
        }
    }
    let place = if machine.mode == Mode::Ram {
        "there is no STATE, and the medium carries no release"
    } else {
        "STATE holds no release"
    };
    Err(io::Error::new(io::ErrorKind::NotFound, format!("nothing to run: {place}")))
}

/// Keeps what the last boot wrote for this one to read, then begins this boot's record.
pub fn attempt(machine: &mut Machine) -> io::Result<String> {
    let path = Path::new(paths::BOOT_ATTEMPT);
    if let Ok(previous) = fs::read(path) {
        fs::write(paths::PREVIOUS_ATTEMPT, previous)
            .map_err(|e| durable::named("write", Path::new(paths::PREVIOUS_ATTEMPT), &e))?;
    }
    let generation = machine.generation.unwrap_or(0);
    record(generation, Reached::State, "")?;
    Ok(String::new())
}

/// Writes how far this boot came, durably.
///
/// # Errors
/// When it cannot be written.
pub fn record(generation: u32, reached: Reached, detail: &str) -> io::Result<()> {
    let path = Path::new(paths::BOOT_ATTEMPT);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| durable::named("create", dir, &e))?;
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let attempt =
        Attempt { generation, boot_id: boot_id.trim().into(), reached, detail: detail.into() };
    durable::write(path, &serde_json::to_vec(&attempt)?, 0o644)
}

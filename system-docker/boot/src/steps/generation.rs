//! Which generation runs, and the record that this boot came so far.

use std::fs;
use std::io;
use std::path::Path;

use ros_api::Generations;
use ros_api::boot::{Attempt, Mode, Reached};
use ros_api::durable;
use ros_api::generation::{Pointer, Status};
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

/// The boot loader's choice, else the current one, else the last good one, else any other. A damaged disk may have taken
/// some of them; as long as one is whole, the machine comes up.
pub fn choose(machine: &mut Machine) -> io::Result<String> {
    let generations = Generations::at(Path::new(paths::GENERATIONS));
    let candidates = candidates(&generations, machine.args.generation)?;
    let mut said = Vec::new();
    // The boot set has programs that may do for a generation without.
    for look in [Generations::usable, Generations::release] {
        for (number, why) in &candidates {
            match look(&generations, *number) {
                Ok(release) => {
                    let version = release.version;
                    let chosen = format!("{number} ({version}), {why}");
                    (machine.generation, machine.version) = (Some(*number), Some(version));
                    return Ok(chosen);
                }
                Err(e) => {
                    let text = format!("generation {number} ({why}) is not usable: {e}");
                    if !said.contains(&text) {
                        kmsg::error(&text);
                        said.push(text);
                    }
                }
            }
        }
    }
    let place = match (machine.mode, candidates.is_empty()) {
        (Mode::Ram, _) => "there is no STATE, and the medium carries no release",
        (_, true) => "STATE holds no release",
        (_, false) => "STATE holds no release that can be read",
    };
    Err(io::Error::new(io::ErrorKind::NotFound, format!("nothing to run: {place}")))
}

/// What can run, best first, each once: what is wanted, then what ran well, then what never ran, then what failed; of
/// these the newest first.
fn candidates(
    generations: &Generations,
    asked: Option<u32>,
) -> io::Result<Vec<(u32, &'static str)>> {
    let mut others = generations.list()?;
    others.sort_by_key(|generation| {
        let rank = match generation.status {
            Status::Good => 0,
            Status::Staged | Status::Trial => 1,
            Status::Failed { .. } => 2,
        };
        (rank, std::cmp::Reverse(generation.number))
    });
    let wanted = [
        (asked, "asked for by the boot loader"),
        (generations.pointer(Pointer::Current), "current"),
        (generations.pointer(Pointer::Good), "the last good one"),
    ];
    let wanted = wanted.into_iter().filter_map(|(number, why)| Some((number?, why)));
    let others = others.into_iter().map(|other| (other.number, "another one"));
    let mut all: Vec<(u32, &'static str)> = Vec::new();
    for (number, why) in wanted.chain(others) {
        if all.iter().all(|(known, _)| *known != number) {
            all.push((number, why));
        }
    }
    Ok(all)
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

#[cfg(test)]
mod tests {
    use ros_api::{Digest, Generation};

    use super::*;

    #[test]
    fn any_generation_is_better_than_none_and_what_failed_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let all = Generations::at(dir.path());
        assert_eq!(candidates(&all, None).unwrap(), []);
        let failed = Status::Failed { reason: "sick".into() };
        for (number, status) in
            [(1, Status::Good), (2, Status::Good), (3, failed), (4, Status::Staged)]
        {
            all.begin(number).unwrap();
            all.commit(&Generation {
                number,
                version: "v1.0".into(),
                image: "os:v1.0".parse().unwrap(),
                digest: Digest::of(b"m"),
                boot_set: Digest::of(b"b"),
                created: 0,
                append: String::new(),
                status,
            })
            .unwrap();
        }
        all.point(Pointer::Current, 3).unwrap();
        all.point(Pointer::Good, 2).unwrap();
        let order = |asked| -> Vec<u32> {
            candidates(&all, asked).unwrap().into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(order(None), [3, 2, 1, 4]);
        assert_eq!(order(Some(4)), [4, 3, 2, 1]);
        fs::write(dir.path().join("2/generation.json"), "{").unwrap();
        fs::write(dir.path().join("3/generation.json"), "").unwrap();
        assert_eq!(order(Some(7)), [7, 3, 2, 1, 4]);
    }
}

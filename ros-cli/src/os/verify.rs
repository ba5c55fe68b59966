//! `ros os verify`: whether everything installed is there and is what the lock files say. The content of images is the
//! store's: it measures each object when a container is made of it.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::generation::Pointer;
use ros_api::{Generation, Release};
use serde::Serialize;

use super::boot_sets::BootSets;
use super::complete;
use super::copy::digest;
use super::machine::Machine;
use crate::services::engine::Engine;

/// What is wrong with one generation.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// Its number.
    pub generation: u32,
    /// Its version.
    pub version: String,
    /// What is missing or damaged; nothing when it is whole.
    pub wrong: Vec<String>,
}

/// Looks at every generation.
pub async fn all(machine: &Machine, engine: &Engine) -> Vec<Verified> {
    let mut verified = Vec::new();
    for generation in &machine.installed {
        verified.push(Verified {
            generation: generation.number,
            version: generation.version.clone(),
            wrong: one(machine, generation, engine).await,
        });
    }
    verified
}

async fn one(machine: &Machine, generation: &Generation, engine: &Engine) -> Vec<String> {
    let release = match machine.generations.release(generation.number) {
        Ok(release) => release,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = Vec::new();
    if let Err(error) = BootSets::of_machine().verify(&release.boot_set) {
        wrong.push(format!("{error:#}"));
    }
    wrong.extend(programs(&machine.generations.dir(generation.number), &release));
    wrong.extend(complete::missing_images(engine, generation, &release).await);
    wrong
}

/// What is wrong with the programs of the generation in `dir`.
pub fn programs(dir: &Path, release: &Release) -> Vec<String> {
    let check = |(name, expected): (&String, &ros_api::Digest)| -> Option<String> {
        let path = dir.join("bin").join(name);
        match file_digest(&path) {
            Ok(found) if found == *expected => None,
            Ok(_) => Some(format!("{} is damaged", path.display())),
            Err(error) => Some(format!("{error:#}")),
        }
    };
    release.programs.iter().filter_map(check).collect()
}

fn file_digest(path: &Path) -> Result<ros_api::Digest> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    digest(&mut file).with_context(|| format!("read {}", path.display()))
}

/// What is wrong with what points to generations.
#[must_use]
pub fn pointers(machine: &Machine) -> Vec<String> {
    let is_there = |number: u32| machine.installed.iter().any(|g| g.number == number);
    let named = [
        ("current", machine.generations.pointer(Pointer::Current)),
        ("good", machine.generations.pointer(Pointer::Good)),
        ("the boot loader's default", machine.default_generation()),
        ("the boot loader's trial", machine.trial().map(|(number, _)| number)),
    ];
    let lost = named.into_iter().filter_map(|(what, number)| Some((what, number?)));
    lost.filter(|(_, number)| !is_there(*number))
        .map(|(what, number)| format!("{what} is generation {number}, which is not installed"))
        .collect()
}

#[cfg(test)]
mod tests {
    use ros_api::Digest;
    use ros_api::generation::Status;

    use super::*;
    use crate::os::machine::tests::{machine, release};

    #[test]
    fn a_damaged_and_a_missing_program_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let mut release = release("v1", "b", &[]);
        release.programs.insert("system-docker".into(), Digest::of(b"daemon"));
        std::fs::write(dir.path().join("bin/ros"), "rost").unwrap();
        let wrong = programs(dir.path(), &release);
        assert!(wrong[0].contains("bin/ros is damaged"), "{wrong:?}");
        assert!(wrong[1].contains("open") && wrong[1].contains("system-docker"), "{wrong:?}");
        std::fs::write(dir.path().join("bin/ros"), "ros").unwrap();
        std::fs::write(dir.path().join("bin/system-docker"), "daemon").unwrap();
        assert_eq!(programs(dir.path(), &release), Vec::<String>::new());
    }

    #[test]
    fn a_pointer_into_nothing_is_wrong() {
        let mut machine = machine(&[("v1", Status::Good)]);
        assert!(pointers(&machine).is_empty());
        if let Some(env) = &mut machine.env {
            env.set_default(7);
        }
        let wrong = pointers(&machine);
        assert!(wrong[0].contains("default is generation 7"), "{wrong:?}");
    }
}

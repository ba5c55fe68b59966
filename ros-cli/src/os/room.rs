//! Makes room for an upgrade before anything is fetched, when there is none: older generations go, as few as will do.

use anyhow::Result;
use ros_api::Release;

use super::machine::Machine;
use super::plan::Plan;
use super::{preflight, prune};
use crate::services::engine::Engine;

/// Generations that are left, step by step: those that cannot go are more, if need be.
const KEPT: [usize; 3] = [prune::KEEP, 3, 2];

/// Checks that there is room, and makes it if not. What was read of the machine is read again when something
/// was removed.
///
/// # Errors
/// When there is none even with only those generations that are needed.
pub async fn make(
    machine: Machine,
    plan: &Plan,
    release: &Release,
    engine: &Engine,
) -> Result<Machine> {
    let mut machine = machine;
    let check = |machine: &Machine| preflight::check(plan, release, &machine.generations);
    let most = machine.installed.len();
    for keep in KEPT.into_iter().filter(|keep| *keep < most) {
        if check(&machine).is_ok() {
            return Ok(machine);
        }
        for gone in prune::prune(&machine, keep, engine).await? {
            eprintln!("removed {} (generation {}) to make room", gone.version, gone.number);
        }
        machine = Machine::read()?;
    }
    check(&machine).map(|()| machine)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use ros_api::generation::Status;
    use ros_api::release::BootSet;
    use ros_api::{Digest, Generation, Generations, Release};

    use super::*;
    use crate::os::boot_sets::BootSets;
    use crate::os::machine::tests::{machine, release};

    /// Room for six boot sets and a half.
    const BOOT: usize = 6_500_000;
    const PART: usize = 500_000;

    /// A file system with an end, where only this thread sees it.
    fn small(dir: &Path) {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test mounts: run it as root");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let size = format!("size={BOOT}");
        mount(Some("boot"), dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
    }

    /// The files of a release whose kernel nobody else has.
    fn files(dir: &Path, number: usize) -> Release {
        let mut release = release(&format!("v{number}"), &number.to_string(), &[]);
        let part = |name: &str, seed: u8| {
            let content = vec![seed ^ u8::try_from(number).unwrap(); PART];
            fs::write(dir.join(name), &content).unwrap();
            Digest::of(&content)
        };
        let (kernel, initrd) = (part("vmlinuz", 0), part("initrd", 0x80));
        let size = PART as u64;
        let digest = BootSet::identity(&kernel, &initrd, "");
        let cmdline = String::new();
        release.boot_set = BootSet {
            digest,
            kernel,
            kernel_size: size,
            initrd,
            initrd_size: size,
            cmdline,
            without_init: None,
        };
        release
    }

    fn install(generations: &Generations, release: &Release, status: Status) -> Generation {
        let number = generations.next_number().unwrap();
        let dir = generations.begin(number).unwrap();
        fs::write(dir.join("release.yml"), release.to_yaml()).unwrap();
        let template = machine(&[("v1", status.clone())]).installed.remove(0);
        let (version, boot_set) = (release.version.clone(), release.boot_set.digest);
        let generation = Generation { number, version, boot_set, status, ..template };
        generations.commit(&generation).unwrap();
        generation
    }

    /// Fifty upgrades, each with another kernel: some fail, one is pinned, the machine goes back now and then.
    #[test]
    fn a_small_boot_partition_never_stops_an_upgrade_nor_loses_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, source) = (dir.path().join("boot"), dir.path().join("source"));
        for folder in [&boot, &source] {
            fs::create_dir(folder).unwrap();
        }
        small(&boot);
        let (sets, generations) =
            (BootSets::at(&boot.join("sets")), Generations::at(&dir.path().join("generations")));
        let mut machine = machine(&[("v0", Status::Good)]);
        machine.generations = generations.clone();
        machine.pins.versions.insert("v3".into());
        machine.installed.clear();
        for number in 1..=50 {
            let new = files(&source, number);
            let most = machine.installed.len();
            for keep in KEPT.into_iter().filter(|keep| *keep < most) {
                if sets.check_room(&new.boot_set, &generations).is_ok() {
                    break;
                }
                let gone = prune::dispensable(&machine, keep);
                prune::set_aside(&generations, &gone).unwrap();
                sets.remove_unused(&generations).unwrap();
                machine.installed = generations.list().unwrap();
            }
            sets.put(&new.boot_set, &source, &generations)
                .unwrap_or_else(|error| panic!("upgrade {number}: {error:#}"));
            let fails = number % 4 == 0;
            let reason = || "sick".to_owned();
            let status = if fails { Status::Failed { reason: reason() } } else { Status::Good };
            let generation = install(&generations, &new, status);
            machine.installed = generations.list().unwrap();
            if !fails {
                machine.running.generation = generation.number;
            }
            if number % 7 == 0
                && let Some(back) = machine.back(1)
            {
                machine.running.generation = back.number;
            }
            if let Some(env) = &mut machine.env {
                env.set_default(machine.running.generation);
            }
            let needed =
                |g: &&Generation| g.version == "v3" || g.number == machine.running.generation;
            let runs_or_is_held: Vec<_> = machine.installed.iter().filter(needed).collect();
            assert_eq!(
                runs_or_is_held.len(),
                if number < 3 || machine.running.generation == 3 { 1 } else { 2 }
            );
            for generation in runs_or_is_held {
                let release = generations.release(generation.number).unwrap();
                sets.verify(&release.boot_set).unwrap();
            }
        }
        assert!(machine.installed.len() < 8, "{}", machine.installed.len());
    }
}

//! What a boot says about the generation that was booted, and about one that did not come up.
//!
//! Each function writes so that a power cut after any write leaves a machine that boots what was good: a generation is
//! `good` on disk before the boot loader is told that it is the default. What goes back goes back even when its reason
//! cannot be kept: a full disk must not hold a machine on what is sick.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ros_api::boot::{Attempt, BootEnv, Mode, Reached, TRIES};
use ros_api::generation::{Pointer, Status};
use ros_api::{Generation, Generations, paths};

use super::boot_sets::BootSets;
use super::menu;
use crate::services::roster;

/// The files that a verdict changes.
pub struct Trial {
    generations: Generations,
    sets: BootSets,
    menu_path: PathBuf,
    env_path: PathBuf,
    env: BootEnv,
}

impl Trial {
    /// This machine's; none when it has no boot loader of ours, or runs from RAM: a live medium must not judge what
    /// is on the disk beside it.
    ///
    /// # Errors
    /// When the environment block is there and cannot be read.
    pub fn open() -> Result<Option<Self>> {
        if roster::boot_report().is_none_or(|report| report.mode != Mode::Disk) {
            return Ok(None);
        }
        let env_path = Path::new(paths::GRUB_ENV).to_owned();
        let env = match BootEnv::read(&env_path) {
            Ok(env) => env,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(Some(Self {
            generations: Generations::at(Path::new(paths::GENERATIONS)),
            sets: BootSets::of_machine(),
            menu_path: paths::GRUB_GENERATIONS.into(),
            env_path,
            env,
        }))
    }

    /// Whether `generation` is on trial.
    #[must_use]
    pub fn is_of(&self, generation: u32) -> bool {
        self.env.trial().is_some_and(|(number, _)| number == generation)
    }

    /// The generation on trial that has tries left.
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        self.env.trial().filter(|(_, tries)| *tries > 0).map(|(number, _)| number)
    }

    /// A trial that used up its tries while `running` is another generation has failed. Answers what is to be said.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn settle_earlier(
        &mut self,
        running: u32,
        previous: Option<&Attempt>,
    ) -> Result<Option<String>> {
        let Some((number, 0)) = self.env.trial().filter(|(number, _)| *number != running) else {
            return Ok(None);
        };
        let reason = reason(number, previous);
        let noted = match self.generations.get(number) {
            // It became good just before the power went.
            Ok(tried) if tried.status == Status::Good && was_healthy(number, previous) => Ok(()),
            Ok(tried) => self.put(&tried, Status::Failed { reason: reason.clone() }),
            Err(error) => Err(error.into()),
        };
        self.env.clear_trial();
        self.write()?;
        noted.context("keep why it failed")?;
        let version = self.generations.get(number)?.version;
        Ok(Some(format!(
            "{version} (generation {number}) failed: {reason}; back on generation {running}"
        )))
    }

    /// The running generation is healthy: it is what boots from now on, if it was on trial.
    ///
    /// Or what was the default cannot boot any more: the disk lost a file of it, and this one came up in its place.
    ///
    /// # Errors
    /// When a file cannot be written; the next boot may be one more try.
    pub fn good(&mut self, running: u32) -> Result<()> {
        let generation = self.generations.get(running)?;
        let news = generation.status != Status::Good;
        if news {
            self.put(&generation, Status::Good)?;
        }
        let is_default =
            self.env.default_generation() == Some(running) && self.env.trial().is_none();
        if self.is_of(running) && self.env.is_once() {
            // It was to be tried, not to be kept.
            self.env.clear_trial();
            return self.write();
        }
        if !self.is_of(running) && !is_default && !self.default_is_lost() {
            // Chosen by hand in the boot menu: for this once.
            return Ok(());
        }
        self.point(running)?;
        if is_default && !news {
            return Ok(());
        }
        self.env.set_default(running);
        self.write()
    }

    /// Whether the default lacks what a boot needs, and no trial is on that would take its place.
    fn default_is_lost(&self) -> bool {
        let Some(default) = self.env.default_generation().filter(|_| self.env.trial().is_none())
        else {
            return false;
        };
        let release = self.generations.usable(default);
        !release.is_ok_and(|release| self.sets.verify(&release.boot_set).is_ok())
    }

    /// The running generation is on trial and sick: the next boot is what was good.
    ///
    /// # Errors
    /// When a file cannot be written. The boot loader is told even when the reason cannot be kept; when it cannot be
    /// told, the tries that are left decide.
    pub fn failed(&mut self, running: u32, reason: &str) -> Result<()> {
        let noted = self.generations.get(running).map_err(anyhow::Error::from);
        let noted =
            noted.and_then(|sick| self.put(&sick, Status::Failed { reason: reason.to_owned() }));
        self.env.clear_trial();
        self.write()?;
        noted.context("keep why it failed")
    }

    /// Generation `number` was switched to in the running system and is healthy: it is what boots from now on.
    ///
    /// # Errors
    /// When a file cannot be written; then it must be given up with [`Self::given_up`].
    pub fn taken(&mut self, number: u32) -> Result<()> {
        let generation = self.generations.get(number)?;
        if generation.status != Status::Good {
            self.put(&generation, Status::Good)?;
        }
        self.point(number)?;
        self.boots(number);
        self.write()
    }

    /// Has `number` boot from now on: on trial, when its boot set is not the one that the default came up with.
    fn boots(&mut self, number: u32) {
        let set = |number| self.generations.get(number).ok().map(|generation| generation.boot_set);
        let default = self.env.default_generation();
        if default.is_none_or(|default| default == number || set(default) == set(number)) {
            self.env.set_default(number);
        } else {
            self.env.set_trial(number);
        }
    }

    /// Generation `number` was switched to in the running system and is sick; `from` runs again.
    ///
    /// # Errors
    /// When a file cannot be written. The boot loader is told even when the reason cannot be kept.
    pub fn given_up(&mut self, number: u32, from: u32, reason: &str) -> Result<()> {
        let noted = self.generations.get(number).map_err(anyhow::Error::from);
        let noted =
            noted.and_then(|sick| self.put(&sick, Status::Failed { reason: reason.to_owned() }));
        if self.env.default_generation() == Some(number) || self.is_of(number) {
            self.boots(from);
            self.write()?;
        }
        self.point(from)?;
        noted.context("keep why it failed")
    }

    fn point(&self, number: u32) -> Result<()> {
        for pointer in [Pointer::Good, Pointer::Current] {
            if self.generations.pointer(pointer) != Some(number) {
                self.generations.point(pointer, number)?;
            }
        }
        Ok(())
    }

    /// An orderly reboot during a trial does not count as a try.
    ///
    /// # Errors
    /// When the block cannot be written.
    pub fn not_counted(&mut self, running: u32) -> Result<()> {
        match self.env.trial() {
            Some((number, tries)) if number == running && tries < TRIES && !self.env.is_once() => {
                self.env.set_trial(number);
                self.write()
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, generation: &Generation, status: Status) -> Result<()> {
        self.generations.put(&Generation { status, ..generation.clone() })?;
        // The menu is for people: a stale word in it must not keep a verdict from being kept.
        if let Err(error) = menu::put(&self.generations, &self.menu_path, &mut self.env) {
            eprintln!("boot menu: {error:#}");
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        self.env.write(&self.env_path).context("tell the boot loader")
    }
}

fn was_healthy(number: u32, previous: Option<&Attempt>) -> bool {
    previous
        .is_some_and(|attempt| attempt.generation == number && attempt.reached == Reached::Healthy)
}

/// Why generation `number` did not come up, as far as the attempt before this boot knows.
fn reason(number: u32, previous: Option<&Attempt>) -> String {
    let tries = format!("in {TRIES} tries");
    match previous.filter(|attempt| attempt.generation == number) {
        None => format!("its kernel or PID 1 did not come up {tries}"),
        Some(attempt) => match attempt.reached {
            Reached::State => format!("it did not come further than its disk {tries}"),
            Reached::Daemon => format!("its services did not become ready {tries}"),
            Reached::Sick => format!("{}, {tries}", attempt.detail),
            Reached::Healthy | Reached::Shutdown => format!("it did not stay up {tries}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ros_api::Digest;

    use super::*;
    use crate::os::machine::tests::release;

    fn machine(dir: &Path, trial: Option<(u32, u32)>) -> Trial {
        let generations = Generations::at(&dir.join("generations"));
        for number in [1, 2] {
            let there = generations.begin(number).unwrap();
            let release = release(&format!("v1.{number}"), "b", &[]);
            let set = dir.join("sets").join(release.boot_set.digest.hex());
            for (folder, names) in
                [(there.join("bin"), ["ros", "system-docker"]), (set, ["vmlinuz", "initrd"])]
            {
                fs::create_dir_all(&folder).unwrap();
                names.iter().for_each(|name| fs::write(folder.join(name), "b").unwrap());
            }
            fs::write(there.join("release.yml"), release.to_yaml()).unwrap();
            let generation = Generation {
                number,
                version: format!("v1.{number}"),
                image: "os:v1".parse().unwrap(),
                digest: Digest::of(b"m"),
                boot_set: Digest::of(b"b"),
                created: 0,
                append: String::new(),
                status: if number == 1 { Status::Good } else { Status::Trial },
            };
            generations.commit(&generation).unwrap();
        }
        let mut env = BootEnv::default();
        env.set_default(1);
        let mut text = String::from_utf8(env.to_block().unwrap()).unwrap();
        if let Some((number, tries)) = trial {
            text = text.replace(
                "ros_trial=\nros_tries=",
                &format!("ros_trial={number}\nros_tries={tries}"),
            );
        }
        let (menu_path, env_path) = (dir.join("generations.cfg"), dir.join("grubenv"));
        let sets = BootSets::at(&dir.join("sets"));
        Trial { generations, sets, menu_path, env_path, env: BootEnv::parse(&text) }
    }

    fn on_disk(trial: &Trial) -> (Option<u32>, Option<(u32, u32)>) {
        let env = BootEnv::read(&trial.env_path).unwrap();
        (env.default_generation(), env.trial())
    }

    #[test]
    fn a_healthy_trial_becomes_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), Some((2, 2)));
        trial.good(2).unwrap();
        assert_eq!(on_disk(&trial), (Some(2), None));
        assert_eq!(trial.generations.get(2).unwrap().status, Status::Good);
        assert_eq!(trial.generations.pointer(Pointer::Good), Some(2));
        assert_eq!(trial.generations.pointer(Pointer::Current), Some(2));
    }

    #[test]
    fn what_is_tried_once_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), None);
        trial.env.set_once(2);
        assert_eq!(trial.next(), Some(2));
        trial.not_counted(2).unwrap();
        assert!(!trial.env_path.exists(), "an orderly reboot is the end of the one boot");
        trial.good(2).unwrap();
        assert_eq!(on_disk(&trial), (Some(1), None));
        assert_eq!(trial.generations.get(2).unwrap().status, Status::Good);
        assert_eq!(trial.generations.pointer(Pointer::Current), None);
        assert!(!BootEnv::read(&trial.env_path).unwrap().is_once());
    }

    #[test]
    fn a_live_switch_is_kept_or_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), None);
        trial.taken(2).unwrap();
        assert_eq!(on_disk(&trial), (Some(2), None));
        assert_eq!(trial.generations.get(2).unwrap().status, Status::Good);
        assert_eq!(trial.generations.pointer(Pointer::Current), Some(2));
        trial.given_up(2, 1, "ntp: x").unwrap();
        assert_eq!(on_disk(&trial), (Some(1), None));
        assert_eq!(trial.generations.get(2).unwrap().status.word(), "failed");
        for pointer in [Pointer::Current, Pointer::Good] {
            assert_eq!(trial.generations.pointer(pointer), Some(1));
        }
    }

    #[test]
    fn one_chosen_by_hand_is_for_this_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), None);
        trial.good(2).unwrap();
        assert!(!trial.env_path.exists(), "the boot loader is told nothing");
        assert_eq!(trial.generations.pointer(Pointer::Current), None);
    }

    #[test]
    fn what_comes_up_for_a_default_that_is_lost_takes_its_place() {
        let set = |dir: &Path| dir.join("sets").join(Digest::of(b"b").hex());
        let losses: [&dyn Fn(&Path); 4] = [
            &|dir| fs::write(dir.join("generations/1/release.yml"), "x").unwrap(),
            &|dir| fs::write(dir.join("generations/1/bin/ros"), "").unwrap(),
            &|dir| fs::remove_file(set(dir).join("vmlinuz")).unwrap(),
            &|dir| fs::write(set(dir).join("initrd"), "c").unwrap(),
        ];
        for lose in losses {
            let dir = tempfile::tempdir().unwrap();
            let mut trial = machine(dir.path(), None);
            lose(dir.path());
            trial.good(2).unwrap();
            assert_eq!(on_disk(&trial), (Some(2), None));
            assert_eq!(trial.generations.pointer(Pointer::Current), Some(2));
            // One that is on trial will say by itself what becomes of it.
            let dir = tempfile::tempdir().unwrap();
            let mut trial = machine(dir.path(), Some((1, 2)));
            lose(dir.path());
            trial.good(2).unwrap();
            assert!(!trial.env_path.exists());
        }
    }

    #[test]
    fn a_sick_trial_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), Some((2, 2)));
        trial.failed(2, "ntp: ended with 1").unwrap();
        assert_eq!(on_disk(&trial), (Some(1), None));
        let failed = Status::Failed { reason: "ntp: ended with 1".into() };
        assert_eq!(trial.generations.get(2).unwrap().status, failed);
    }

    #[test]
    fn a_trial_without_tries_failed_and_says_how_far_it_came() {
        let attempt = |reached| Attempt {
            generation: 2,
            boot_id: String::new(),
            reached,
            detail: "ntp: x".into(),
        };
        let table = [
            (None, "did not come up"),
            (Some(Attempt { generation: 1, ..attempt(Reached::Healthy) }), "did not come up"),
            (Some(attempt(Reached::Daemon)), "services did not become ready"),
            (Some(attempt(Reached::Sick)), "ntp: x"),
        ];
        for (previous, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            let mut trial = machine(dir.path(), Some((2, 0)));
            let said = trial.settle_earlier(1, previous.as_ref()).unwrap().unwrap();
            assert!(said.contains(expected), "{said}");
            assert_eq!(on_disk(&trial), (Some(1), None));
        }
    }

    #[test]
    fn a_good_one_that_came_up_no_more_failed_unless_only_the_power_went() {
        let healthy = Attempt {
            generation: 2,
            boot_id: String::new(),
            reached: Reached::Healthy,
            detail: String::new(),
        };
        for (previous, word) in [(None, "failed"), (Some(healthy), "good")] {
            let dir = tempfile::tempdir().unwrap();
            let mut trial = machine(dir.path(), Some((2, 0)));
            let good = Generation { status: Status::Good, ..trial.generations.get(2).unwrap() };
            trial.generations.put(&good).unwrap();
            trial.settle_earlier(1, previous.as_ref()).unwrap();
            assert_eq!(trial.generations.get(2).unwrap().status.word(), word);
            assert_eq!(on_disk(&trial), (Some(1), None));
        }
    }

    #[test]
    fn it_goes_back_although_the_reason_cannot_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), Some((2, 2)));
        std::fs::remove_dir_all(trial.generations.dir(2)).unwrap();
        assert!(trial.failed(2, "ntp").is_err());
        assert_eq!(on_disk(&trial), (Some(1), None));
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), Some((3, 0)));
        assert!(trial.settle_earlier(1, None).is_err());
        assert_eq!(on_disk(&trial), (Some(1), None));
    }

    #[test]
    fn a_trial_that_goes_on_is_left_alone() {
        for (state, running) in [(Some((2, 1)), 1), (Some((2, 0)), 2), (None, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut trial = machine(dir.path(), state);
            assert_eq!(trial.settle_earlier(running, None).unwrap(), None, "{state:?} {running}");
            assert!(!trial.env_path.exists());
        }
    }

    #[test]
    fn an_orderly_reboot_gives_the_try_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = machine(dir.path(), Some((2, 1)));
        trial.not_counted(2).unwrap();
        assert_eq!(on_disk(&trial), (Some(1), Some((2, TRIES))));
    }
}

//! What the boot loader, the boot stage and `ros` tell each other: GRUB's environment block, the boot report, and how
//! far a boot came.
//!
//! The trial protocol (`ros_*` are variables in GRUB's environment block; `grub.cfg` never changes):
//!
//! ```text
//!  ros os upgrade      ros_trial=2 ros_tries=3                       (ros_default=1 stays)
//!  GRUB, each boot     ros_trial set and ros_tries>0 → ros_tries-=1, saved, boots 2
//!                      else boots ros_default
//!  kexec into 2        ros_tries-=1, saved by PID 1: GRUB has no part in it
//!  2 reports success   ros_default=2, ros_trial= ros_tries=          (ros bring-up)
//!  ros os try          ros_trial=2 ros_tries=1 ros_once=yes          (success: all three empty, ros_default=1 stays)
//!  orderly reboot      of a trial: ros_tries is put back to 3        (a user's own reboot is not counted)
//!  1 boots again       with ros_trial=2 ros_tries=0 → generation 2 is failed(reason), ros_trial= ros_tries=
//! ```
//!
//! The boot partition is FAT: it has no journal, and its rename is several writes. So nothing there that boots is ever
//! replaced by rename. The block is overwritten where it is, as GRUB itself does; all variables are in its first sector,
//! which a disk writes wholly or not at all. The menu is two files, and the block says which one counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, named};

/// How often a trial generation is booted before the boot loader goes back.
pub const TRIES: u32 = 3;

/// Kernel argument: number of the generation that GRUB chose (`ros.generation=2`).
pub const ARG_GENERATION: &str = "ros.generation";

/// GRUB environment block: 1024 bytes, `# GRUB Environment Block\n`, `name=value\n`…, padded with `#`
/// (GRUB manual, "Environment block").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootEnv {
    vars: BTreeMap<String, String>,
}

/// Size of the block in bytes.
const ENV_SIZE: usize = 1024;
/// So much of it may hold variables: what a disk writes at once.
const ENV_SECTOR: usize = 512;
const ENV_HEAD: &str = "# GRUB Environment Block\n";

impl BootEnv {
    /// Parses a block; anything that is not `name=value` is left out.
    #[must_use]
    pub fn parse(block: &str) -> Self {
        let vars = block
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { vars }
    }

    /// The block's 1024 bytes.
    ///
    /// # Errors
    /// When the variables do not fit.
    pub fn to_block(&self) -> io::Result<Vec<u8>> {
        let mut block = ENV_HEAD.to_owned();
        for (name, value) in &self.vars {
            block.push_str(&format!("{name}={value}\n"));
        }
        if block.len() > ENV_SECTOR {
            return Err(io::Error::other(
                "the boot loader's environment block is full (512 bytes)",
            ));
        }
        let mut bytes = block.into_bytes();
        bytes.resize(ENV_SIZE, b'#');
        Ok(bytes)
    }

    /// Reads the block at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        fs::read_to_string(path).map(|text| Self::parse(&text)).map_err(|e| named("read", path, &e))
    }

    /// Overwrites the block at `path`: one sector changes. The file itself stays what it is on the disk; one that is
    /// not there, or no block, is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let block = self.to_block()?;
        if !fs::metadata(path).is_ok_and(|there| there.len() == ENV_SIZE as u64) {
            return durable::write(path, &block, 0o644);
        }
        let file = File::options().write(true).open(path).map_err(|e| named("open", path, &e))?;
        file.write_all_at(&block, 0).map_err(|e| named("write", path, &e))?;
        file.sync_all().map_err(|e| named("fsync", path, &e))
    }

    /// Writes `text` as the menu, beside the menu that counts now; it counts when this block is [written](Self::write).
    /// `path` is the first of the two files, [`crate::paths::GRUB_GENERATIONS`].
    ///
    /// # Errors
    /// When it cannot be written; the menu that counts is whole then.
    pub fn put_menu(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let other = if self.menu_is_second() { "" } else { "2" };
        if fs::read_to_string(self.menu(path)).is_ok_and(|old| old == text) {
            return Ok(());
        }
        self.vars.insert("ros_menu".into(), other.into());
        durable::overwrite(&self.menu(path), text.as_bytes(), 0o644)
    }

    /// The menu's file that counts, given the first of the two.
    #[must_use]
    pub fn menu(&self, path: &Path) -> PathBuf {
        if self.menu_is_second() { path.with_extension("2.cfg") } else { path.to_owned() }
    }

    fn menu_is_second(&self) -> bool {
        self.vars.get("ros_menu").is_some_and(|menu| menu == "2")
    }

    /// Generation to boot when there is no trial.
    #[must_use]
    pub fn default_generation(&self) -> Option<u32> {
        self.number("ros_default")
    }

    /// Generation on trial and the tries it has left.
    #[must_use]
    pub fn trial(&self) -> Option<(u32, u32)> {
        Some((self.number("ros_trial")?, self.number("ros_tries").unwrap_or(0)))
    }

    /// Makes `number` what boots from now on; any trial ends.
    pub fn set_default(&mut self, number: u32) {
        self.vars.insert("ros_default".into(), number.to_string());
        self.clear_trial();
    }

    /// Puts `number` on trial with all its tries; the default stays.
    pub fn set_trial(&mut self, number: u32) {
        self.clear_trial();
        self.vars.insert("ros_trial".into(), number.to_string());
        self.vars.insert("ros_tries".into(), TRIES.to_string());
    }

    /// Puts `number` on trial for one boot, whatever comes of it; the default stays also when it is healthy.
    pub fn set_once(&mut self, number: u32) {
        self.set_trial(number);
        self.vars.insert("ros_tries".into(), "1".into());
        self.vars.insert("ros_once".into(), "yes".into());
    }

    /// Takes one of the tries that `number` has left, as the boot loader does; whether anything changed.
    pub fn take_try(&mut self, number: u32) -> bool {
        let Some((_, left)) =
            self.trial().filter(|(on_trial, left)| *on_trial == number && *left > 0)
        else {
            return false;
        };
        self.vars.insert("ros_tries".into(), (left - 1).to_string());
        true
    }

    /// Whether the trial is for one boot only.
    #[must_use]
    pub fn is_once(&self) -> bool {
        self.vars.get("ros_once").is_some_and(|once| once == "yes")
    }

    /// Ends any trial. The variables stay, empty: GRUB can only save what is in the block already.
    pub fn clear_trial(&mut self) {
        self.vars.insert("ros_trial".into(), String::new());
        self.vars.insert("ros_tries".into(), String::new());
        self.vars.remove("ros_once");
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.vars.get(name)?.parse().ok()
    }
}

/// One generation in the boot menu.
#[derive(Clone, Copy, Debug)]
pub struct MenuEntry<'a> {
    /// The generation's number.
    pub number: u32,
    /// Its version.
    pub version: &'a str,
    /// The one word of its status.
    pub status: &'a str,
    /// What it boots.
    pub boot_set: &'a crate::release::BootSet,
    /// Kernel arguments that the user added.
    pub append: &'a str,
}

/// The text of [`crate::paths::GRUB_GENERATIONS`]: one entry per generation, in the order given. `ros_bits` is set by
/// the `grub.cfg` of the machine: `linux` or `linux16` loads the kernel.
///
/// What cannot be loaded, from a disk that lost a file, is followed by every other one, good ones first, and then by
/// another try of all: the boot loader does not stand still and wait for a key (GRUB manual, "fallback").
#[must_use]
pub fn menu(entries: &[MenuEntry<'_>]) -> String {
    let is_good = |index: &usize| entries[*index].status == "good";
    let (good, others): (Vec<usize>, Vec<usize>) = (0..entries.len()).partition(is_good);
    let order = good.into_iter().chain(others).chain([entries.len()]);
    let order: Vec<String> = order.map(|index| index.to_string()).collect();
    let text: String = entries.iter().map(menu_entry).collect();
    format!("set fallback=\"{}\"\n{text}{AGAIN}", order.join(" "))
}

/// The last entry of the menu.
const AGAIN: &str = "menuentry \"again, in 10 seconds\" --id again {\n  echo None can be loaded: again in 10 seconds\n  sleep 10\n  reboot\n}\n";

fn menu_entry(entry: &MenuEntry<'_>) -> String {
    let MenuEntry { number, version, status, boot_set, append } = entry;
    let hex = boot_set.digest.hex();
    let arguments = kernel_arguments(boot_set, *number, append);
    let arguments: Vec<String> = arguments.iter().map(|word| grub_word(word)).collect();
    let title =
        format!("ros {version} (generation {number}, {status})").replace(['"', '$', '\\'], "_");
    format!(
        "menuentry \"{title}\" --id gen-{number} {{\n  linux$ros_bits /sets/{hex}/vmlinuz {}\n  initrd$ros_bits /sets/{hex}/initrd\n}}\n",
        arguments.join(" ")
    )
}

/// What the kernel is told when generation `number` boots.
#[must_use]
pub fn kernel_arguments(
    boot_set: &crate::release::BootSet,
    number: u32,
    append: &str,
) -> Vec<String> {
    let arguments = format!("{} {ARG_GENERATION}={number} {append}", boot_set.cmdline);
    arguments.split_whitespace().map(str::to_owned).collect()
}

/// A word that GRUB's shell takes as it is (GRUB manual, "Quoting").
fn grub_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=.,:/_-+@%".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Where the system's files live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// STATE is a partition.
    Disk,
    /// No STATE: everything in RAM.
    Ram,
    /// The recovery shell was asked for.
    Recovery,
}

/// `/run/ros/boot.json`: what the boot stage did. All times are milliseconds since the kernel started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Where STATE is.
    pub mode: Mode,
    /// Running generation; none in recovery.
    pub generation: Option<u32>,
    /// Running version.
    pub version: Option<String>,
    /// Device of STATE (`/dev/vda3`).
    pub state_device: Option<String>,
    /// When PID 1 was entered.
    pub pid1_ms: u64,
    /// When the daemon was started.
    pub daemon_ms: u64,
    /// Every step in order.
    pub steps: Vec<StepReport>,
}

/// One step of the boot stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's name.
    pub name: String,
    /// When it began.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: u64,
    /// What it did or why it failed; empty when there is nothing to say.
    pub note: String,
    /// Whether it failed.
    pub failed: bool,
}

/// `/var/lib/ros/log/attempt.json`: how far the latest boot came, rewritten at each stage, so that the next
/// boot can say why a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Generation that was booted.
    pub generation: u32,
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub boot_id: String,
    /// How far it came.
    pub reached: Reached,
    /// More for people, such as the service that is sick.
    #[serde(default)]
    pub detail: String,
}

/// The stages of [`Attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// PID 1 mounted STATE.
    State,
    /// The daemon was started.
    Daemon,
    /// Every essential service was ready.
    Healthy,
    /// A service was sick; `detail` says which and why.
    Sick,
    /// An orderly shutdown or reboot was asked for.
    Shutdown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_grubs() {
        let mut env = BootEnv::default();
        env.set_default(1);
        env.set_trial(2);
        let block = env.to_block().unwrap();
        assert_eq!(block.len(), 1024);
        let text = String::from_utf8(block).unwrap();
        assert!(
            text.starts_with(
                "# GRUB Environment Block\nros_default=1\nros_trial=2\nros_tries=3\n##"
            )
        );
        assert_eq!(BootEnv::parse(&text), env);
        assert_eq!(env.trial(), Some((2, 3)));
        env.set_default(2);
        assert_eq!((env.default_generation(), env.trial()), (Some(2), None));
    }

    #[test]
    fn a_full_block_is_an_error() {
        let env = BootEnv::parse(&format!("a={}\n", "x".repeat(500)));
        assert!(env.to_block().is_err());
    }

    /// A power cut may leave any sector old or new: every mixture must be one of the two blocks.
    #[test]
    fn the_block_changes_in_place_and_in_one_sector() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grubenv");
        let mut env = BootEnv::default();
        env.set_default(1);
        env.write(&path).unwrap();
        let (inode, old) = (fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap());
        env.set_trial(1_000_000);
        env.write(&path).unwrap();
        let new = fs::read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "another file took its place");
        assert_eq!(BootEnv::read(&path).unwrap(), env);
        assert!(old[..512] != new[..512] && old[512..] == new[512..]);
    }

    #[test]
    fn the_menu_that_counts_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (first, block) = (dir.path().join("generations.cfg"), dir.path().join("grubenv"));
        fs::write(&first, "one").unwrap();
        let mut env = BootEnv::default();
        env.write(&block).unwrap();
        for text in ["two", "three", "three", "four"] {
            let counts = BootEnv::read(&block).unwrap().menu(&first);
            let before = fs::read_to_string(&counts).unwrap();
            env.put_menu(&first, text).unwrap();
            assert_eq!(fs::read_to_string(&counts).unwrap(), before, "before the block is written");
            env.write(&block).unwrap();
            let counts = BootEnv::read(&block).unwrap().menu(&first);
            assert_eq!(fs::read_to_string(counts).unwrap(), text);
        }
    }

    #[test]
    fn the_menu_is_grubs() {
        let digest = crate::Digest::of(b"x");
        let boot_set = crate::release::BootSet {
            digest,
            kernel: digest,
            kernel_size: 1,
            initrd: digest,
            initrd_size: 1,
            cmdline: "console=tty0 quiet".into(),
            without_init: None,
        };
        let entry = |number, status| MenuEntry {
            number,
            version: "v1.2",
            status,
            boot_set: &boot_set,
            append: "a=b;c",
        };
        let hex = digest.hex();
        let text = |number: u32, status: &str| {
            format!(
                "menuentry \"ros v1.2 (generation {number}, {status})\" --id gen-{number} {{\n  linux$ros_bits /sets/{hex}/vmlinuz \
                 console=tty0 quiet ros.generation={number} 'a=b;c'\n  initrd$ros_bits /sets/{hex}/initrd\n}}\n"
            )
        };
        let one = text(2, "good");
        assert_eq!(menu(&[entry(2, "good")]), format!("set fallback=\"0 1\"\n{one}{AGAIN}"));
        let all = [entry(4, "failed"), entry(3, "good"), entry(2, "trial"), entry(1, "good")];
        let begin = menu(&all).lines().next().map(str::to_owned);
        assert_eq!(begin.as_deref(), Some("set fallback=\"1 3 0 2 4\""));
    }
}

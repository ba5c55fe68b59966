//! Releases by themselves, `ros.upgrade.policy`: what a look at the registry ends in, and when the next one is due.
//! There is no process for it: the console looks at the clock, and starts `ros os look` when it is time.
//!
//! ```text
//!  due? ─► newest of the channel that is newer than what runs and did not fail here
//!            ├ check ─► said (`ros os status`)
//!            ├ stage ─► installed, in the window, when the way out is not metered
//!            └ auto  ─► the same, and switched to
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cloud_config::settings::{Upgrade, UpgradePolicy};
use ros_api::{Reference, durable, paths};
use serde::{Deserialize, Serialize};

use super::allowed;
use super::asked::now;
use super::list;
use super::machine::Machine;
use super::schedule::{Window, jittered, parse_span};
use super::upgrade::{self, How};
use super::version;
use crate::services::network::interfaces::glob;

const EVERY: &str = "6h";
const JITTER: &str = "30m";

/// `/var/lib/ros/log/look.json`: the last look at the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// How many there were.
    pub round: u64,
    /// When the next is due, in seconds since the epoch.
    pub next: u64,
    /// What was found and not installed yet.
    pub found: Option<String>,
    /// What became of it.
    pub said: String,
}

/// What is to be done about a release that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Only say it.
    Say(&'static str),
    /// Install it, and go on with what runs.
    Stage,
    /// Go to it.
    Switch,
    /// Wait that many seconds for the window.
    Wait(u64),
}

fn path() -> PathBuf {
    Path::new(paths::ROS).join("log/look.json")
}

impl Look {
    /// The last one.
    #[must_use]
    pub fn read() -> Self {
        let read = || serde_json::from_slice(&std::fs::read(path()).ok()?).ok();
        read().unwrap_or_default()
    }

    fn write(&self) -> Result<()> {
        let path = path();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(durable::write(&path, &serde_json::to_vec_pretty(self)?, 0o644)?)
    }
}

/// Seconds until the next look; none when the machine never looks by itself.
#[must_use]
pub fn due_in(upgrade: &Upgrade, look: &Look, now: u64) -> Option<u64> {
    let wants = upgrade.policy != UpgradePolicy::None;
    // A clock that was set back must not put it off for ever.
    let latest =
        now + span(upgrade.every.as_deref(), EVERY) + span(upgrade.jitter.as_deref(), JITTER);
    wants.then(|| look.next.min(latest).saturating_sub(now))
}

fn span(configured: Option<&str>, default: &str) -> u64 {
    let parsed = configured.and_then(|text| parse_span(text).ok());
    parsed.or_else(|| parse_span(default).ok()).unwrap_or(3600)
}

/// Looks at the registry once, and does what the policy says.
///
/// # Errors
/// When the registry cannot be reached or the upgrade fails; the next look is due all the same.
pub async fn look() -> Result<()> {
    let machine = Machine::read()?;
    let upgrade = &machine.settings.ros.upgrade;
    let before = Look::read();
    let round = before.round + 1;
    let (every, jitter) =
        (span(upgrade.every.as_deref(), EVERY), span(upgrade.jitter.as_deref(), JITTER));
    let next = now() + every + jittered(jitter, &machine_id(), round);
    // Written down first: what ends this early must not make it begin again at once.
    let mut look = Look { round, next, ..before };
    look.write()?;
    let done = look_at(&machine, &mut look).await;
    if let Err(error) = &done {
        look.said = format!("{error:#}");
    }
    look.write()?;
    done
}

async fn look_at(machine: &Machine, look: &mut Look) -> Result<()> {
    let upgrade = &machine.settings.ros.upgrade;
    let there = list::offered(machine).await?;
    let channel = upgrade.channel.as_deref();
    let Some(image) = candidate(machine, &there, channel) else {
        (look.found, look.said) = (None, "nothing newer".into());
        return Ok(());
    };
    let version = image.tag.clone().unwrap_or_default();
    look.found = Some(version.clone());
    let windows =
        upgrade.window.iter().map(|text| Window::parse(text)).collect::<Result<Vec<_>>>()?;
    let metered = the_way_is_metered(upgrade);
    let step = match staged_already(machine, &version, upgrade.policy) {
        true => Step::Say("is installed: `ros os rollback` boots it"),
        false => step(machine, upgrade.policy, metered, &windows, now()),
    };
    let how = How { yes: true, automatic: true, ..How::default() };
    match step {
        Step::Say(what) => look.said = format!("{version} {what}"),
        Step::Wait(seconds) => {
            look.next = look.next.min(now() + seconds);
            look.said = format!("{version} is there: the window opens in {} min", seconds / 60);
        }
        Step::Stage => {
            upgrade::upgrade(&image.to_string(), &How { stage: true, ..how }).await?;
            look.said = format!("{version} was installed: `ros os rollback {version}` boots it");
        }
        Step::Switch => {
            look.said = format!("going to {version}");
            look.write()?;
            upgrade::upgrade(&image.to_string(), &how).await?;
            (look.found, look.said) = (None, format!("went to {version}"));
        }
    }
    Ok(())
}

fn staged_already(machine: &Machine, version: &str, policy: UpgradePolicy) -> bool {
    let there = machine.of_version(version);
    policy == UpgradePolicy::Stage
        && there.is_some_and(|there| !machine.damaged.contains_key(&there.number))
}

/// What the policy says about a release that is there.
#[must_use]
pub fn step(
    machine: &Machine,
    policy: UpgradePolicy,
    metered: bool,
    windows: &[Window],
    now: u64,
) -> Step {
    let wait = windows.iter().map(|window| window.wait(now)).min().unwrap_or(0);
    match policy {
        UpgradePolicy::None | UpgradePolicy::Check => Step::Say("is there"),
        _ if machine.pins.versions.contains(machine.version()) => {
            Step::Say("is there, and this machine is pinned")
        }
        _ if machine.trial().is_some() => Step::Say("is there, and another is on trial"),
        _ if metered => Step::Say("is there, and the way to it is metered"),
        _ if wait > 0 => Step::Wait(wait),
        UpgradePolicy::Stage => Step::Stage,
        UpgradePolicy::Auto => Step::Switch,
    }
}

/// The newest release of the channel that is newer than what runs and did not fail here.
#[must_use]
pub fn candidate<'a>(
    machine: &Machine,
    there: &'a [Reference],
    channel: Option<&str>,
) -> Option<&'a Reference> {
    let fits = |tag: &str| match channel {
        Some(pattern) => glob(pattern, tag),
        None => version::is_release(tag),
    };
    let tagged = there.iter().filter_map(|image| Some((image.tag.as_deref()?, image)));
    tagged
        .filter(|(tag, _)| fits(tag) && version::compare(tag, machine.version()).is_gt())
        .filter(|(tag, _)| allowed::failed_here(machine, tag).is_none())
        .max_by(|(a, _), (b, _)| version::compare(a, b))
        .map(|(_, image)| image)
}

/// Whether what comes now comes over a line whose bytes cost.
#[must_use]
pub fn the_way_is_metered(upgrade: &Upgrade) -> bool {
    is_metered(&upgrade.metered, &default_interfaces())
}

fn is_metered(patterns: &[String], interfaces: &[String]) -> bool {
    interfaces.iter().any(|name| patterns.iter().any(|pattern| glob(pattern, name)))
}

/// The interfaces of the default routes (proc(5), `/proc/net/route` and `/proc/net/ipv6_route`).
fn default_interfaces() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    let of_v4 = v4.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000").then(|| name.to_owned())
    });
    let of_v6 = v6.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_default = words.first()?.bytes().all(|byte| byte == b'0') && words.get(1)? == &"00";
        let name = words.last()?;
        (is_default && *name != "lo").then(|| (*name).to_owned())
    });
    of_v4.chain(of_v6).collect()
}

fn machine_id() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}{}{}", id.trim(), name.trim(), first_mac())
}

/// Clones share their files, and hardly their network cards.
fn first_mac() -> String {
    let cards = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut macs: Vec<String> = cards
        .filter(|card| card.path().join("device").exists())
        .filter_map(|card| std::fs::read_to_string(card.path().join("address")).ok())
        .collect();
    macs.sort();
    macs.into_iter().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ros_api::generation::Status;

    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn the_newest_of_the_channel_that_did_not_fail_is_taken() {
        let failed = Status::Failed { reason: "ntp".into() };
        let machine = machine(&[("v1.1", Status::Good), ("v1.9", failed)]);
        let there: Vec<Reference> = ["v1.0", "v1.1", "v1.2", "v1.9", "v2.0", "v3.0-rc1", "latest"]
            .map(|tag| format!("h:1/os:{tag}").parse().unwrap())
            .to_vec();
        let table = [
            (None, Some("v2.0")),
            (Some("v1.*"), Some("v1.2")),
            (Some("v3.*"), Some("v3.0-rc1")),
            (Some("v0.*"), None),
        ];
        for (channel, expected) in table {
            let found = candidate(&machine, &there, channel).and_then(|image| image.tag.as_deref());
            assert_eq!(found, expected, "{channel:?}");
        }
        assert_eq!(candidate(&machine, &there[..2], None), None, "never down by itself");
    }

    #[test]
    fn the_policy_says_how_far_it_goes() {
        use UpgradePolicy::{Auto, Check, Stage};
        let mut machine = machine(&[("v1.1", Status::Good)]);
        let night = [Window::parse("02:00-04:00").unwrap()];
        let (noon, three) = (1_767_571_200 + 12 * 3600, 1_767_571_200 + 3 * 3600);
        for (policy, metered, now, expected) in [
            (Check, false, three, Step::Say("is there")),
            (Stage, false, three, Step::Stage),
            (Auto, false, three, Step::Switch),
            (Auto, true, three, Step::Say("is there, and the way to it is metered")),
            (Auto, false, noon, Step::Wait(14 * 3600)),
        ] {
            assert_eq!(step(&machine, policy, metered, &night, now), expected);
        }
        assert_eq!(step(&machine, Auto, false, &[], noon), Step::Switch);
        machine.pins.versions.insert("v1.1".into());
        assert!(matches!(step(&machine, Auto, false, &[], noon), Step::Say(_)));
    }

    #[test]
    fn a_look_is_due_in_time_and_a_clock_set_back_does_not_put_it_off() {
        let mut upgrade = Upgrade::default();
        let look = Look { next: 1_000_100, ..Look::default() };
        assert_eq!(due_in(&upgrade, &look, 1_000_000), None);
        upgrade.policy = UpgradePolicy::Check;
        assert_eq!(due_in(&upgrade, &look, 1_000_000), Some(100));
        assert_eq!(due_in(&upgrade, &look, 2_000_000), Some(0));
        assert_eq!(due_in(&upgrade, &Look::default(), 5), Some(0));
        (upgrade.every, upgrade.jitter) = (Some("1h".into()), Some("0s".into()));
        assert_eq!(due_in(&upgrade, &look, 10), Some(3600));
    }

    #[test]
    fn metered_interfaces_are_found_by_pattern() {
        let is = |patterns: &[&str], names: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
            is_metered(&owned(patterns), &owned(names))
        };
        assert!(is(&["wwan*"], &["eth0", "wwan0"]));
        assert!(!is(&["wwan*"], &["eth0"]) && !is(&[], &["eth0"]) && !is(&["*"], &[]));
    }
}

//! What an upgrade would do: a pure comparison of two releases, and what is to be fetched.

use std::collections::BTreeSet;
use std::fmt::Write;

use ros_api::{Digest, Reference, Release, paths};
use serde::Serialize;

use super::daemon::Remote;
use super::history::{self, Expected, Receipt};
use super::live::daemon;
use super::live::steps::{Act, Step};
use super::signature::Signed;

/// The least that must restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing changes.
    None,
    /// Services.
    Service,
    /// The daemon too.
    Runtime,
    /// The kernel, or what is in the initrd; the kernel that runs starts the next.
    Kexec,
    /// The same, by firmware and boot loader.
    Reboot,
}

impl Class {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Service => "service",
            Self::Runtime => "runtime",
            Self::Kexec => "kexec",
            Self::Reboot => "reboot",
        }
    }
}

/// How a service changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It has another image.
    Changed,
    /// It goes.
    Removed,
}

/// The plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Version that runs.
    pub from: String,
    /// Version that is asked for.
    pub to: String,
    /// The release image.
    pub image: Reference,
    /// Its digest.
    pub digest: Digest,
    /// The file that it comes from; none when that is a registry.
    pub file: Option<String>,
    /// Who signed it, when somebody wanted to know.
    pub signed: Option<Signed>,
    /// The least that must restart.
    pub class: Class,
    /// Services that change.
    pub services: Vec<(String, Change)>,
    /// Keys that are set here and no longer read, each with what to do.
    pub config: Vec<String>,
    /// Keys of the configuration that are new or gone: `+ ros.time`, `- ros.time`.
    pub config_keys: Vec<String>,
    /// Services that are held, each with its version.
    pub held: Vec<String>,
    /// What is done to services, in order, when nothing is booted for it.
    pub steps: Vec<Step>,
    /// What services gain and give up.
    pub rights: Vec<String>,
    /// Packages that change; none when an image does not say what it has.
    pub packages: Option<Vec<String>>,
    /// How long what will be gone, by what it took here before.
    pub down: Vec<Expected>,
    /// Why the machine has to be booted; none when it has not.
    pub boot: Option<String>,
    /// Without firmware and boot loader.
    pub kexec: bool,
    /// Why not, although it is wanted.
    pub no_kexec: Option<String>,
    /// Whether the daemon itself is replaced.
    pub daemon: bool,
    /// Whether kernel or initrd change.
    pub boot_set: bool,
    /// Nothing in it does but PID 1, which is replaced by the next boot, whenever that is.
    pub init_only: bool,
    /// Kernel versions, when they differ.
    pub kernel: Option<(String, String)>,
    /// Bytes to fetch.
    pub fetch: u64,
    /// Bytes of the layers that are not here: more than is fetched, where most of their files are.
    pub layers: u64,
    /// Bytes that STATE needs while it is done.
    pub state_bytes: u64,
    /// Bytes of kernel and initrd that the BOOT partition needs; 0 when they are there.
    pub boot_bytes: u64,
}

/// What must be left on STATE.
const RESERVE: u64 = 16 << 20;

impl Plan {
    /// Compares `old`, which runs, with `new`; `images` are the release image and those of its services that are not
    /// here. A layer that several miss is fetched once.
    #[must_use]
    pub fn of(
        old: &Release,
        new: &Release,
        image: &Reference,
        digest: Digest,
        images: &[&Remote],
    ) -> Self {
        let services = services(old, new);
        let Bytes { fetch, layers, room } = bytes(images);
        let boot_set = old.boot_set.digest != new.boot_set.digest;
        let init_only = old.boot_set.differs_in_init_only(&new.boot_set);
        let class = match () {
            () if boot_set && !init_only => Class::Reboot,
            () if !boot_set && old.version == new.version && services.is_empty() => Class::None,
            () if boot_set || !same_programs(old, new) => Class::Runtime,
            () => Class::Service,
        };
        Self {
            from: old.version.clone(),
            to: new.version.clone(),
            image: image.clone(),
            digest,
            file: None,
            signed: None,
            class,
            services,
            config: Vec::new(),
            config_keys: config_keys(old, new),
            held: Vec::new(),
            steps: Vec::new(),
            rights: Vec::new(),
            packages: None,
            down: Vec::new(),
            boot: None,
            kexec: false,
            no_kexec: None,
            daemon: old.changes_program(new, daemon::NAME),
            boot_set,
            init_only,
            kernel: (old.kernel != new.kernel).then(|| (old.kernel.clone(), new.kernel.clone())),
            fetch,
            layers,
            state_bytes: room + RESERVE,
            boot_bytes: if boot_set {
                new.boot_set.kernel_size + new.boot_set.initrd_size
            } else {
                0
            },
        }
    }

    /// Says how long what will be gone: once it is known what is done.
    pub fn expect(&mut self, receipts: &[Receipt]) {
        let replaces = |act: &Act| !matches!(act, Act::Start | Act::Stop);
        let steps = self.steps.iter().filter(|step| replaces(&step.act));
        let mut replaced: Vec<_> = steps.map(|step| (step.name.clone(), step.act)).collect();
        replaced.extend(self.daemon.then(|| (daemon::NAME.to_owned(), Act::TakeOver)));
        self.down = history::expected(receipts, &replaced, self.boot.is_some(), self.kexec);
    }

    /// Bytes to come over the network.
    #[must_use]
    pub fn over_network(&self) -> u64 {
        if self.file.is_some() { 0 } else { self.fetch }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let name = Reference { digest: None, ..self.image.clone() };
        let mut text = format!("{} -> {}  ({name}@{})\n", self.from, self.to, self.digest.short());
        let mut line = |what: &str, value: String| {
            let _ = writeln!(text, "  {what:<9} {value}");
        };
        if let Some(signed) = &self.signed {
            line("signed", signed.to_string());
        }
        let way = match (&self.boot, &self.no_kexec) {
            (Some(why), _) if self.kexec => format!("by kexec: {why}"),
            (Some(why), Some(not)) => format!("by a reboot: {why} (no kexec: {not})"),
            (Some(why), None) => format!("by a reboot: {why}"),
            (None, _) => "without a reboot".into(),
        };
        line("class", format!("{}, {way}", self.class.word()));
        if self.services.is_empty() {
            line("services", "unchanged".into());
        }
        for (name, change) in &self.services {
            let word = match change {
                Change::Added => "added",
                Change::Changed => "changed",
                Change::Removed => "removed",
            };
            let step = self.steps.iter().find(|step| step.name == *name);
            let how = step.filter(|_| self.boot.is_none() && *change == Change::Changed);
            let how = how.map(|step| format!(", {}", step.act.word())).unwrap_or_default();
            line("service", format!("{name} {word}{how}"));
        }
        for key in &self.config {
            line("config", key.clone());
        }
        for change in &self.config_keys {
            line("key", change.clone());
        }
        for held in &self.held {
            line("held", held.clone());
        }
        if self.daemon {
            let how = if self.boot.is_none() { ", containers keep running" } else { "" };
            line("daemon", format!("changed{how}"));
        }
        for right in &self.rights {
            line("rights", right.clone());
        }
        match self.packages.as_deref() {
            None => line("packages", "not known: an image does not say".into()),
            Some([]) => line("packages", "unchanged".into()),
            Some(changes) => changes.iter().for_each(|change| line("package", change.clone())),
        }
        for expected in &self.down {
            line("down", expected.to_string());
        }
        let kernel =
            self.kernel.as_ref().map(|(old, new)| format!(": {old} -> {new}")).unwrap_or_default();
        let boot_set = match (self.boot_set, self.init_only && self.boot.is_none()) {
            (false, _) => "unchanged".into(),
            (true, true) => "PID 1 alone changed: tried at the next boot".into(),
            (true, false) => format!("changed{kernel}"),
        };
        line("boot set", boot_set);
        match &self.file {
            Some(file) => line("read", format!("{} of {file}", size(self.fetch))),
            None => line("fetch", size(self.fetch)),
        }
        line("space", format!("up to {} on {}", size(self.state_bytes), paths::STATE));
        if self.boot_bytes > 0 {
            line("", format!("{} on {}", size(self.boot_bytes), paths::BOOT));
        }
        text
    }
}

/// Whether both have the same `ros` and `system-docker`; a lock file that does not say has others.
fn same_programs(old: &Release, new: &Release) -> bool {
    !old.programs.is_empty() && old.programs == new.programs
}

/// Keys that only one of the two reads; nothing when one does not say.
fn config_keys(old: &Release, new: &Release) -> Vec<String> {
    let (old, new) = (&old.config_keys, &new.config_keys);
    if old.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let sign = |key: &String| if new.contains(key) { "+" } else { "-" };
    old.symmetric_difference(new).map(|key| format!("{} {key}", sign(key))).collect()
}

fn services(old: &Release, new: &Release) -> Vec<(String, Change)> {
    let names: BTreeSet<&String> = old.services.keys().chain(new.services.keys()).collect();
    let change = |name: &String| match (old.services.get(name), new.services.get(name)) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(old), Some(new)) if old.digest != new.digest => Some(Change::Changed),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some((name.clone(), change(name)?))).collect()
}

/// What is missing.
#[derive(Default)]
struct Bytes {
    fetch: u64,
    layers: u64,
    room: u64,
}

/// Missing layers once each, and the configs.
fn bytes(images: &[&Remote]) -> Bytes {
    let mut seen = BTreeSet::new();
    let mut bytes = Bytes::default();
    for image in images {
        let layers: u64 = image.missing.iter().map(|layer| layer.size).sum();
        let config = image.fetch.saturating_sub(layers);
        bytes.fetch += config;
        bytes.room += config;
        for layer in image.missing.iter().filter(|layer| seen.insert(layer.digest)) {
            bytes.fetch += layer.size;
            bytes.layers += layer.blob();
            bytes.room = bytes.room.saturating_add(layer.room());
        }
    }
    bytes
}

/// `12.3 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    fn plan(old: &Release, new: &Release) -> Plan {
        Plan::of(old, new, &"h:1/os:v2".parse().unwrap(), Digest::of(b"d"), &[])
    }

    #[test]
    fn the_class_is_the_least_that_must_restart() {
        let old = release("v1", "b", &[("ntp", "1"), ("udev", "1")]);
        let mut other_programs = release("v2", "b", &[("ntp", "2"), ("udev", "1")]);
        other_programs.programs.insert("ros".into(), Digest::of(b"other"));
        let mut no_programs = release("v2", "b", &[("ntp", "1"), ("udev", "1")]);
        no_programs.programs.clear();
        let mut other_init = release("v1", "c", &[("ntp", "1"), ("udev", "1")]);
        other_init.boot_set.kernel = old.boot_set.kernel;
        let mut unknown = other_init.clone();
        unknown.boot_set.without_init = None;
        let mut other_modules = other_init.clone();
        other_modules.boot_set.without_init = Some(Digest::of(b"others"));
        let table = [
            (other_init, Class::Runtime, 0),
            (unknown, Class::Reboot, 0),
            (other_modules, Class::Reboot, 0),
            (release("v1", "b", &[("ntp", "1"), ("udev", "1")]), Class::None, 0),
            (release("v2", "b", &[("ntp", "1"), ("udev", "1")]), Class::Service, 0),
            (other_programs, Class::Runtime, 1),
            (no_programs, Class::Runtime, 0),
            (release("v2", "b", &[("ntp", "2"), ("udev", "1")]), Class::Service, 1),
            (release("v2", "c", &[("ntp", "2"), ("syslog", "1")]), Class::Reboot, 3),
        ];
        for (new, class, services) in table {
            let plan = plan(&old, &new);
            assert_eq!((plan.class, plan.services.len()), (class, services), "{plan:?}");
        }
    }

    #[test]
    fn it_says_what_changes_and_what_it_takes() {
        let (old, new) = (release("v1", "b", &[("ntp", "1")]), release("v2", "c", &[("ntp", "2")]));
        let mut planned = plan(&old, &new);
        planned.boot = Some("kernel or initrd change".into());
        let text = planned.text();
        for part in [
            "v1 -> v2",
            "class     reboot, by a reboot: kernel or initrd change",
            "service   ntp changed",
            "boot set  changed",
            "fetch     0 B",
            "on /var",
            "10 B on /boot",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let mut planned = plan(&old, &release("v2", "b", &[("ntp", "2")]));
        planned.steps = vec![Step { name: "ntp".into(), act: Act::Overlap }];
        planned.fetch = 5;
        assert_eq!(planned.over_network(), 5);
        planned.file = Some("/usb/os.oci.tar".into());
        assert_eq!(planned.over_network(), 0);
        let same = planned.text();
        assert!(same.contains("read      5 B of /usb/os.oci.tar"), "{same}");
        assert!(same.contains("class     service, without a reboot"), "{same}");
        assert!(same.contains("service   ntp changed, overlap"), "{same}");
        assert!(same.contains("boot set  unchanged") && !same.contains("/boot"), "{same}");
    }

    #[test]
    fn new_and_gone_keys_are_named_when_both_say_what_they_read() {
        let (mut old, mut new) = (release("v1", "b", &[]), release("v2", "b", &[]));
        let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        new.config_keys = keys(&["hostname", "ros.time"]);
        assert!(plan(&old, &new).config_keys.is_empty());
        old.config_keys = keys(&["hostname", "ros.clock"]);
        let plan = plan(&old, &new);
        assert_eq!(plan.config_keys, ["- ros.clock", "+ ros.time"]);
        assert!(plan.text().contains("key       + ros.time"), "{}", plan.text());
    }

    #[test]
    fn a_layer_that_two_miss_counts_once_and_room_is_what_the_daemon_says() {
        let digest = |text: &[u8]| Digest::of(text).to_string();
        let layer = |text: &str| serde_json::from_str(text).unwrap();
        let parts = format!(r#"{{"Digest":"{}","Size":10,"Blob":1000,"Room":70}}"#, digest(b"a"));
        let old = format!(r#"{{"Digest":"{}","Size":100}}"#, digest(b"b"));
        let one = Remote::new(Digest::of(b"1"), [].into(), vec![layer(&parts), layer(&old)]);
        let other = Remote::new(Digest::of(b"2"), [].into(), vec![layer(&parts)]);
        let release = release("v1", "b", &[]);
        let name = "h:1/os:v2".parse().unwrap();
        let plan = Plan::of(&release, &release, &name, Digest::of(b"d"), &[&one, &other]);
        assert_eq!((plan.fetch, plan.layers, plan.state_bytes), (110, 1100, 70 + 400 + RESERVE));
    }

    #[test]
    fn sizes_are_decimal() {
        for (bytes, text) in [(999, "999 B"), (12_345, "12.3 kB"), (37_169_000, "37.1 MB")] {
            assert_eq!(size(bytes), text);
        }
    }
}

//! What a boot consists of, as data. Two pure functions: [`early`] needs only the kernel's command line,
//! [`system`] also what the search for STATE found. Nothing here touches the machine.
//!
//! ```text
//!  early    kernel   api-filesystems → root → early-files → limits → loopback
//!           devices  modules → watchdog → find-state            (recovery: → coldplug → recovery-shell)
//!  system   state    check → grow-partition → mount → grow-filesystem → boot-partition
//!                    | format → mount → boot-partition | ram | no-state
//!           release  seed → generation → attempt → runtime-folder → secrets
//!           config   config → hostname → sysctl → config-modules → bootcmd
//! ```

use crate::args::Args;

/// One thing that the boot stage does. Each has a file in [`crate::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `/proc`, `/sys`, `/dev`, `/run`, cgroup v2 and their like.
    ApiFilesystems,
    /// Makes `/` a mount that can be pivoted away from and shared.
    Root,
    /// `/etc/hosts`, `/etc/passwd` and their like.
    EarlyFiles,
    /// Limits that all processes inherit.
    Limits,
    /// The loopback interface.
    Loopback,
    /// The modules that the boot set names.
    Modules,
    /// Arms the watchdog.
    Watchdog,
    /// Loads the modules of every device.
    Coldplug,
    /// Looks and waits for the disk.
    FindState,
    /// Says that a STATE was required and is not there.
    NoState,
    /// `e2fsck`.
    CheckState,
    /// The partition to the disk's end.
    GrowPartition,
    /// Partition table and file system on an empty disk.
    FormatState,
    /// STATE at `/var`.
    MountState,
    /// The file system to the partition's end.
    GrowFilesystem,
    /// BOOT at `/boot`.
    MountBoot,
    /// A tmpfs at `/var`.
    RamState,
    /// Installs the release that the medium carries, when none is installed.
    Seed,
    /// Which generation runs.
    Generation,
    /// Records that this boot came as far as STATE.
    Attempt,
    /// `/run/ros`.
    RuntimeFolder,
    /// Hides what stands after ` -- ` on the kernel command line.
    Secrets,
    /// Reads the configuration.
    Config,
    /// Host name.
    Hostname,
    /// Kernel settings.
    Sysctl,
    /// The modules that the configuration names.
    ConfigModules,
    /// Commands that run before anything else.
    Bootcmd,
    /// A shell instead of the system.
    RecoveryShell,
}

/// What a failed step means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// There is no system without it: `ros.on_failure`.
    Stop,
    /// A complaint, and the next step.
    GoOn,
}

impl Step {
    /// The name in the kernel log and in the boot report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiFilesystems => "api-filesystems",
            Self::Root => "root",
            Self::EarlyFiles => "early-files",
            Self::Limits => "limits",
            Self::Loopback => "loopback",
            Self::Modules => "modules",
            Self::Watchdog => "watchdog",
            Self::Coldplug => "coldplug",
            Self::FindState => "find-state",
            Self::NoState => "no-state",
            Self::CheckState => "check-state",
            Self::GrowPartition => "grow-partition",
            Self::FormatState => "format-state",
            Self::MountState => "mount-state",
            Self::GrowFilesystem => "grow-filesystem",
            Self::MountBoot => "mount-boot",
            Self::RamState => "ram-state",
            Self::Seed => "seed",
            Self::Generation => "generation",
            Self::Attempt => "attempt",
            Self::RuntimeFolder => "runtime-folder",
            Self::Secrets => "secrets",
            Self::Config => "config",
            Self::Hostname => "hostname",
            Self::Sysctl => "sysctl",
            Self::ConfigModules => "config-modules",
            Self::Bootcmd => "bootcmd",
            Self::RecoveryShell => "recovery-shell",
        }
    }

    /// What its failure means.
    #[must_use]
    pub fn on_error(self) -> OnError {
        match self {
            Self::ApiFilesystems
            | Self::Root
            | Self::FindState
            | Self::NoState
            | Self::CheckState
            | Self::FormatState
            | Self::MountState
            | Self::RamState
            | Self::Seed
            | Self::Generation
            | Self::RuntimeFolder => OnError::Stop,
            _ => OnError::GoOn,
        }
    }
}

/// Steps that belong together, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name in the kernel log.
    pub name: &'static str,
    /// What it does.
    pub steps: Vec<Step>,
}

/// What the search for STATE found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A STATE file system.
    State,
    /// An empty disk that may be formatted.
    Blank,
    /// Neither.
    None,
}

/// All that [`system`] depends on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The boot's own kernel arguments.
    pub args: Args,
    /// Whether the medium carries a release (`/preload`).
    pub preload: bool,
    /// What the search found.
    pub disk: Disk,
}

/// Up to the disk; in recovery this is all.
#[must_use]
pub fn early(args: &Args) -> Vec<Phase> {
    let devices = if args.recovery {
        vec![Step::Modules, Step::Watchdog, Step::Coldplug, Step::RecoveryShell]
    } else {
        vec![Step::Modules, Step::Watchdog, Step::FindState]
    };
    vec![
        phase(
            "kernel",
            &[Step::ApiFilesystems, Step::Root, Step::EarlyFiles, Step::Limits, Step::Loopback],
        ),
        Phase { name: "devices", steps: devices },
    ]
}

/// From the disk to the running configuration.
#[must_use]
pub fn system(facts: &Facts) -> Vec<Phase> {
    let state: &[Step] = match facts.disk {
        Disk::State => &[
            Step::CheckState,
            Step::GrowPartition,
            Step::MountState,
            Step::GrowFilesystem,
            Step::MountBoot,
        ],
        Disk::Blank => &[Step::FormatState, Step::MountState, Step::MountBoot],
        Disk::None if facts.args.state.required => &[Step::NoState],
        Disk::None => &[Step::RamState],
    };
    let mut release = vec![Step::Generation, Step::Attempt, Step::RuntimeFolder, Step::Secrets];
    if facts.preload {
        release.insert(0, Step::Seed);
    }
    vec![
        phase("state", state),
        Phase { name: "release", steps: release },
        phase(
            "config",
            &[Step::Config, Step::Hostname, Step::Sysctl, Step::ConfigModules, Step::Bootcmd],
        ),
    ]
}

fn phase(name: &'static str, steps: &[Step]) -> Phase {
    Phase { name, steps: steps.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `phase: step step`, one phase a line.
    fn drawn(phases: &[Phase]) -> String {
        let line = |phase: &Phase| {
            let steps: Vec<_> = phase.steps.iter().map(|step| step.name()).collect();
            format!("{}: {}\n", phase.name, steps.join(" "))
        };
        phases.iter().map(line).collect()
    }

    fn whole(cmdline: &str, preload: bool, disk: Disk) -> String {
        let (args, _) = Args::parse(cmdline);
        let first = drawn(&early(&args));
        if args.recovery { first } else { first + &drawn(&system(&Facts { args, preload, disk })) }
    }

    const CONFIG: &str = "config: config hostname sysctl config-modules bootcmd\n";
    const EARLY: &str = "kernel: api-filesystems root early-files limits loopback\ndevices: modules watchdog find-state\n";

    #[test]
    fn from_disk() {
        let golden = format!(
            "{EARLY}state: check-state grow-partition mount-state grow-filesystem mount-boot\n\
             release: generation attempt runtime-folder secrets\n{CONFIG}"
        );
        assert_eq!(whole("quiet ros.generation=2", false, Disk::State), golden);
    }

    #[test]
    fn no_disk() {
        let golden = format!(
            "{EARLY}state: ram-state\nrelease: generation attempt runtime-folder secrets\n{CONFIG}"
        );
        assert_eq!(whole("", false, Disk::None), golden);
        let required = whole("ros.state.required", false, Disk::None);
        assert!(required.contains("state: no-state\n"), "{required}");
    }

    #[test]
    fn live_medium() {
        let golden = format!(
            "{EARLY}state: ram-state\nrelease: seed generation attempt runtime-folder secrets\n{CONFIG}"
        );
        assert_eq!(whole("ros.state.dev=none", true, Disk::None), golden);
    }

    #[test]
    fn empty_disk() {
        let golden = format!(
            "{EARLY}state: format-state mount-state mount-boot\n\
             release: seed generation attempt runtime-folder secrets\n{CONFIG}"
        );
        assert_eq!(whole("ros.state.autoformat", true, Disk::Blank), golden);
    }

    #[test]
    fn recovery_never_touches_the_disk() {
        let golden = "kernel: api-filesystems root early-files limits loopback\n\
                      devices: modules watchdog coldplug recovery-shell\n";
        assert_eq!(whole("ros.recovery", true, Disk::State), golden);
    }

    #[test]
    fn a_broken_command_line_or_configuration_changes_nothing() {
        let sound = whole("", false, Disk::State);
        let broken =
            whole("ros.watchdog=soon ros.state.wait=-1 ros.ssh.keys=[\"", false, Disk::State);
        assert_eq!(sound, broken);
        for step in [Step::Config, Step::Hostname, Step::Sysctl, Step::ConfigModules, Step::Bootcmd]
        {
            assert_eq!(step.on_error(), OnError::GoOn, "{}", step.name());
        }
    }
}

//! The steps of [`crate::plan`], one file a step or a few that belong together. A step says in a few words
//! what it did, or why it could not.

mod config;
mod devices;
mod format;
mod generation;
pub(crate) mod grow;
mod kernel;
mod root;
mod runtime;
mod secrets;
pub(crate) mod staged;
mod state;

use std::io;

use ros_api::boot::Mode;

use crate::args::Args;
use crate::config::Early;
use crate::modules::Loader;
use crate::plan::{Disk, Step};
use crate::probe::Block;
use crate::uevent::Uevents;
use crate::watchdog::Watchdog;

pub use generation::record;
pub use runtime::control;

/// What the steps hand to each other.
pub struct Machine {
    /// Kernel arguments.
    pub args: Args,
    /// Fed between the steps.
    pub watchdog: Watchdog,
    /// The module loader, once there are modules.
    pub loader: Option<Loader>,
    /// Device events, from before the first module is loaded.
    pub uevents: Option<Uevents>,
    /// What the search for STATE found.
    pub disk: Disk,
    /// STATE, or the disk to be formatted.
    pub state: Option<Block>,
    /// Where the system's files live.
    pub mode: Mode,
    /// The generation that runs.
    pub generation: Option<u32>,
    /// Its version.
    pub version: Option<String>,
    /// The configuration's early part.
    pub config: Early,
}

impl Machine {
    /// Before the first step.
    pub fn new() -> Self {
        Self {
            args: Args::default(),
            watchdog: Watchdog::off(),
            loader: None,
            uevents: None,
            disk: Disk::None,
            state: None,
            mode: Mode::Ram,
            generation: None,
            version: None,
            config: Early::default(),
        }
    }

    /// The state device, for a step that needs one.
    fn state(&self) -> io::Result<&Block> {
        self.state.as_ref().ok_or_else(|| io::Error::other("there is no STATE device"))
    }
}

/// Runs one step.
///
/// # Errors
/// What did not work, with the verb and the path.
pub fn run(step: Step, machine: &mut Machine) -> io::Result<String> {
    match step {
        Step::ApiFilesystems => kernel::api_filesystems(),
        Step::Root => root::make_movable(),
        Step::EarlyFiles => kernel::early_files(),
        Step::Limits => kernel::limits(),
        Step::Loopback => kernel::loopback(),
        Step::Modules => devices::modules(machine),
        Step::Watchdog => devices::watchdog(machine),
        Step::Coldplug => devices::coldplug(machine),
        Step::FindState => state::find(machine),
        Step::NoState => state::missing(machine),
        Step::CheckState => state::check(machine),
        Step::GrowPartition => grow::partition(machine),
        Step::FormatState => format::format(machine),
        Step::MountState => state::mount(machine),
        Step::GrowFilesystem => grow::filesystem(machine),
        Step::MountBoot => state::mount_boot(machine),
        Step::RamState => state::ram(machine),
        Step::Seed => generation::seed(machine),
        Step::Generation => generation::choose(machine),
        Step::Attempt => generation::attempt(machine),
        Step::RuntimeFolder => runtime::folder(machine),
        Step::Secrets => secrets::hide(),
        Step::Config => config::read(machine),
        Step::Hostname => config::hostname(machine),
        Step::Sysctl => config::sysctl(machine),
        Step::ConfigModules => config::modules(machine),
        Step::Bootcmd => config::bootcmd(machine),
        // The shell is run by PID 1's loop; see `stage`.
        Step::RecoveryShell => Ok("on the console".into()),
    }
}

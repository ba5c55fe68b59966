//! `ros os`: the release that this machine runs, and the others that it may run.

use std::process::ExitCode;

use anyhow::{Result, bail};
use cloud_config::settings::UpgradePolicy;
use ros_api::paths;

use crate::os::asked::Asked;
use crate::os::automatic::{self, Look};
use crate::os::bisect;
use crate::os::daemon;
use crate::os::diff;
use crate::os::history::{History, Receipt, Served};
use crate::os::install::{self, Order};
use crate::os::list::{self, Entry};
use crate::os::live::{self, start};
use crate::os::machine::Machine;
use crate::os::pins::{Held, Pins};
use crate::os::prune;
use crate::os::status::OsStatus;
use crate::os::trust::Trust;
use crate::os::upgrade::{self, How};
use crate::os::verify::{self, Verified};
use crate::services::engine::Engine;
use crate::services::listing::{Format, print, show};

/// `ros os …`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// The version that runs
    Version,
    /// Every version there is, here and in the registry, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only what is installed: no registry is asked
        #[arg(long)]
        local: bool,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Replaces the OS by another version, newer or older
    Upgrade {
        /// The release: os:v1.2, v1.2, a whole name, or a file (OCI archive or layout); without it, the releases file's current one or the newest
        /// that is no pre-release
        #[arg(short, long)]
        image: Option<String>,
        /// Install it, and go on with what runs
        #[arg(long)]
        stage: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Although a newer signed release was good here: an old one with all its holes is signed as well
        #[arg(long)]
        allow_downgrade: bool,
        /// Kernel arguments to add; those that are added now stay when none are given, and go with --append ''
        #[arg(long, allow_hyphen_values = true)]
        append: Option<String>,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Goes back to an installed version; to the newest good one that does not run when none is named
    Rollback {
        /// A version that is installed; -2 is the good one before the one before
        #[arg(allow_negative_numbers = true)]
        version: Option<String>,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Finds the release that broke something: goes to one after the other and runs a check, over boots too; without
    /// versions it tells where a search stands
    Bisect {
        /// A version where the check holds
        #[arg(requires = "bad", requires = "check")]
        good: Option<String>,
        /// A version where it does not
        bad: Option<String>,
        /// Go on with a search that was cut short
        #[arg(long, conflicts_with = "good")]
        go_on: bool,
        /// Forget the search that is under way
        #[arg(long, conflicts_with_all = ["good", "go_on"])]
        stop: bool,
        /// The check: exit code 0 is good, 125 cannot be told, all else is bad
        #[arg(last = true, requires = "good")]
        check: Vec<String>,
    },
    /// What differs between two releases, installed or in the registry: services, rights, what must restart
    Diff {
        /// One release
        a: String,
        /// The other
        b: String,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Boots an installed version once; the default stays
    Try {
        /// A version that is installed
        version: String,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Holds a version (a machine that runs it does not move, and it is never removed), or one service at a version
    Pin {
        /// v1.1, or console=v1.1
        what: String,
    },
    /// Lets a version or a service go; all of them when none is named
    Unpin {
        /// v1.1, or console
        what: Option<String>,
    },
    /// What runs, what was asked for, and why they differ if they do; exit code 1 then
    Status {
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// What was changed here: asked, done, and what became of it; the oldest first
    History {
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Removes old generations, and what only they needed; never what runs, boots, is good or pinned
    Prune {
        /// How many are kept
        #[arg(long, value_name = "N", default_value_t = prune::KEEP)]
        keep: usize,
    },
    /// Whether everything installed is there and undamaged; exit code 1 if not
    Verify {
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Looks for a newer release once, and does what ros.upgrade.policy says; the machine does it by itself
    Look,
    #[command(hide = true)]
    InstallGeneration(Order),
    #[command(hide = true)]
    SwitchServices {
        /// The generation
        #[arg(long)]
        to: u32,
        /// The boot in which it was asked for
        #[arg(long)]
        boot_id: String,
    },
}

#[derive(clap::Args, Debug)]
struct HowArgs {
    /// Have it boot next, and leave the reboot to you
    #[arg(long)]
    no_reboot: bool,
    /// Reboot, although only services change
    #[arg(long, conflicts_with = "no_reboot")]
    reboot: bool,
    /// If a boot is needed, without firmware and boot loader when the kernel can; as ros.upgrade.kexec says if not given
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", conflicts_with = "no_reboot")]
    kexec: Option<bool>,
    /// Although the machine is pinned, or the version failed here; and ask no question
    #[arg(short, long)]
    force: bool,
    /// Ask no question
    #[arg(short, long)]
    yes: bool,
}

impl HowArgs {
    fn how(&self) -> How {
        How {
            no_reboot: self.no_reboot,
            reboot: self.reboot,
            kexec: self.kexec,
            force: self.force,
            yes: self.yes || self.force,
            ..How::default()
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When it is refused or fails.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Version => print(&format!("{}\n", Machine::read()?.version()))?,
        Verb::List { local, format } => list(local, format).await?,
        Verb::Upgrade { image, stage, dry_run, allow_downgrade, append, how } => {
            let image = match image {
                Some(image) => image,
                None => list::suggested(&Machine::read()?).await?.to_string(),
            };
            let how = How { stage, dry_run, allow_downgrade, append, ..how.how() };
            upgrade::upgrade(&image, &how).await?;
        }
        Verb::Bisect { go_on: true, .. } => bisect::go_on().await?,
        Verb::Bisect { stop: true, .. } => bisect::stop()?,
        Verb::Bisect { good, bad, check, .. } => match good.zip(bad) {
            Some((good, bad)) => bisect::begin(&good, &bad, &check).await?,
            None => print(&bisect::text()?)?,
        },
        Verb::Rollback { version, how } => {
            upgrade::rollback(version.as_deref(), &how.how()).await?
        }
        Verb::Diff { a, b, format } => {
            let plan = diff::diff(&Machine::read()?, &a, &b).await?;
            match format {
                Format::Table => print(&plan.text())?,
                format => show(format, &plan, &[], &[])?,
            }
        }
        Verb::Try { version, how } => upgrade::try_once(&version, &how.how()).await?,
        Verb::Pin { what } => pin(&what).await?,
        Verb::Unpin { what } => unpin(what.as_deref())?,
        Verb::Status { format } => return status(format),
        Verb::History { format } => history(format)?,
        Verb::Prune { keep } => prune(keep).await?,
        Verb::Verify { format } => return verify(format).await,
        Verb::SwitchServices { to, boot_id } => live::run::run(to, &boot_id).await?,
        Verb::Look => automatic::look().await?,
        Verb::InstallGeneration(order) => {
            let installed = install::install(&order)?;
            print(&format!("{}\n", serde_json::to_string(&installed)?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(local: bool, format: Format) -> Result<()> {
    let machine = Machine::read()?;
    let remote = match local {
        true => Vec::new(),
        false => list::remote(&machine).await.unwrap_or_else(|error| {
            eprintln!("ros: {error:#}: only what is installed is shown");
            Vec::new()
        }),
    };
    let entries = list::entries(&machine, &remote);
    let row = |entry: &Entry| {
        vec![
            entry.version.clone(),
            entry.place.clone(),
            entry.state.clone(),
            entry.notes(),
            entry.image.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    show(format, &entries, &["VERSION", "WHERE", "STATE", "NOTE", "IMAGE"], &rows)
}

async fn pin(what: &str) -> Result<()> {
    let mut machine = Machine::read()?;
    if let Some((service, version)) = what.split_once('=') {
        return pin_service(machine, service, version).await;
    }
    let version = what;
    if machine.of_version(version).is_none() {
        bail!("{version} is not installed: `ros os list` shows what is");
    }
    machine.pins.versions.insert(version.to_owned());
    machine.pins.write(paths::PINS.as_ref())
}

async fn pin_service(mut machine: Machine, name: &str, version: &str) -> Result<()> {
    let _lock = upgrade::lock()?;
    let held = match machine.of_version(version) {
        // Its own: what was held when it was installed is not what that version is.
        Some(there) if machine.pins.services.is_empty() => {
            Held::of(name, &machine.generations.release(there.number)?, &there.image)?
        }
        _ => {
            let image = machine.reference(version)?;
            Held::of(name, &daemon::remote(&image).await?.release(&image)?, &image)?
        }
    };
    let runs = machine.running.release.services.get(name).map(|there| there.digest);
    let is_so = runs == Some(held.service.digest);
    if let Some(whole) = machine.pins.versions.get(machine.version()).filter(|_| !is_so) {
        bail!(
            "this machine is pinned to {whole}, whose {name} is another than that of {version}: `ros os unpin {whole}` first"
        );
    }
    if let Some(before) = machine.pins.services.insert(name.to_owned(), held) {
        eprintln!("{name} was pinned to {}", before.version);
    }
    machine.pins.write(paths::PINS.as_ref())?;
    if !is_so {
        let runs = machine.version();
        eprintln!(
            "{name} is another now: `ros os upgrade -i os:{runs}` replaces it by that of {version}"
        );
    }
    Ok(())
}

fn unpin(what: Option<&str>) -> Result<()> {
    let mut machine = Machine::read()?;
    let pins = &mut machine.pins;
    match what {
        None => *pins = Pins::default(),
        Some(what) => {
            if !pins.versions.remove(what) && pins.services.remove(what).is_none() {
                bail!("{what} is not pinned: `ros os status` shows what is");
            }
        }
    }
    machine.pins.write(paths::PINS.as_ref())
}

fn status(format: Format) -> Result<ExitCode> {
    let machine = Machine::read()?;
    let status = OsStatus::of(&machine, Asked::read()).switching(start::under_way()?);
    let by_itself = machine.settings.ros.upgrade.policy != UpgradePolicy::None;
    let status = status.signed(&Trust::of_machine()?).looked(by_itself.then(Look::read));
    match format {
        Format::Table => print(&status.text())?,
        format => show(format, &status, &[], &[])?,
    }
    Ok(if status.is_as_asked() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn history(format: Format) -> Result<()> {
    let receipts = History::of_machine().list()?;
    let rows: Vec<Vec<String>> = receipts.iter().map(row).collect();
    show(format, &receipts, &["NUMBER", "BY", "FROM", "TO", "WAY", "VERDICT", "NOTE"], &rows)
}

fn row(receipt: &Receipt) -> Vec<String> {
    let served = |s: &Served| format!("{} {} {} ms", s.name, s.how.word(), s.gap_ms);
    let down = receipt.down_ms.map(|ms| format!("down {ms} ms"));
    let note = match receipt.verdict.reason() {
        "" => receipt.services.iter().map(served).chain(down).collect::<Vec<_>>().join(", "),
        reason => reason.to_owned(),
    };
    let way = match (receipt.reboot, receipt.kexec) {
        (true, true) => "kexec",
        (true, false) => "reboot",
        (false, _) => "live",
    };
    vec![
        receipt.number.to_string(),
        receipt.by.clone(),
        receipt.from.clone(),
        receipt.to.clone(),
        way.to_owned(),
        receipt.verdict.word().to_owned(),
        note,
    ]
}

async fn prune(keep: usize) -> Result<()> {
    let _lock = upgrade::lock()?;
    if start::under_way()?.is_some() {
        bail!("services are being switched: wait for its end");
    }
    let machine = Machine::read()?;
    for gone in prune::prune(&machine, keep, &Engine::connect()?).await? {
        eprintln!("removed {} (generation {})", gone.version, gone.number);
    }
    Ok(())
}

async fn verify(format: Format) -> Result<ExitCode> {
    let machine = Machine::read()?;
    let all = verify::all(&machine, &Engine::connect()?).await;
    let pointers = verify::pointers(&machine);
    let rows: Vec<Vec<String>> = all.iter().map(verified).collect();
    show(format, &all, &["GENERATION", "VERSION", "STATE"], &rows)?;
    pointers.iter().for_each(|wrong| eprintln!("{wrong}"));
    let whole = pointers.is_empty() && all.iter().all(|one| one.wrong.is_empty());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verified(one: &Verified) -> Vec<String> {
    let state = if one.wrong.is_empty() { "whole".into() } else { one.wrong.join("; ") };
    vec![one.generation.to_string(), one.version.clone(), state]
}

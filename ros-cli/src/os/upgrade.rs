//! `ros os upgrade` and `ros os rollback`, step by step. See [`crate::os`] for the drawing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cloud_config::{Sources, load};
use ros_api::boot::TRIES;
use ros_api::generation::Status;
use ros_api::init::{DaemonReport, InitRequest};
use ros_api::{Generation, Reference, Release, paths};
use rustix::fs::{FlockOperation, flock};

use super::asked::{Asked, now};
use super::daemon::Remote;
use super::history::{History, Receipt, Verdict};
use super::kexec::Platform;
use super::live::{start, steps};
use super::machine::Machine;
use super::packages::{self, Packages};
use super::pins::generation_with;
use super::plan::{Class, Plan};
use super::source::Source;
use super::trust;
use super::{
    allowed, complete, config_check, definitions, installer, menu, preflight, rights, room, switch,
    user_checks,
};
use crate::commands::power::request_of_init;
use crate::services::configuration::Configuration;
use crate::services::engine::Engine;

/// One upgrade at a time.
const LOCK: &str = "/run/ros/upgrade.lock";

/// How it is done.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Install, and do not boot it.
    pub stage: bool,
    /// Leave the reboot to the user.
    pub no_reboot: bool,
    /// Boot, although services could be replaced in the running system.
    pub reboot: bool,
    /// Boot without firmware and boot loader, if a boot is needed; none: as it is configured.
    pub kexec: Option<bool>,
    /// Although it is pinned, or failed before.
    pub force: bool,
    /// Ask no question.
    pub yes: bool,
    /// Although a newer signed release was good here.
    pub allow_downgrade: bool,
    /// Nobody asked: the machine does it by itself.
    pub automatic: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Kernel arguments to add; none: those that the running generation has.
    pub append: Option<String>,
}

impl How {
    /// With the kernel arguments that count on this machine.
    fn on(&self, machine: &Machine) -> Self {
        let kept = || machine.current().map(|running| running.append.clone()).unwrap_or_default();
        Self { append: Some(self.append.clone().unwrap_or_else(kept)), ..self.clone() }
    }

    /// Kernel arguments to add.
    #[must_use]
    pub fn append(&self) -> &str {
        self.append.as_deref().unwrap_or_default()
    }

    fn kexec(&self, machine: &Machine) -> bool {
        self.kexec.unwrap_or(machine.settings.ros.upgrade.kexec) && !self.no_reboot
    }
}

/// Upgrades (or downgrades) to the release that `asked` means.
///
/// # Errors
/// When it is refused or fails; what boots has not changed then.
pub async fn upgrade(asked: &str, how: &How) -> Result<()> {
    let _lock = if how.dry_run { None } else { Some(lock()?) };
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    let how = &how.on(&machine);
    let engine = Engine::connect()?;
    let (source, image) = Source::of(&machine, &engine, asked).await?;
    let remote = source.remote(&image).await?;
    let release = machine.as_installed(&remote.release(&image)?)?;
    if !how.dry_run
        && let Some(generation) = go_on_with(&machine, |g| g.digest == remote.digest)?
    {
        return start::switch(&engine, &generation).await;
    }
    allowed::check(&machine, &release.version, how)?;
    let signed =
        trust::signer(&machine, &source, &image, remote.digest, &release.version, how).await?;
    let services = missing_services(&engine, &source, &release, &image).await?;
    let images: Vec<&Remote> =
        std::iter::once(&remote).chain(services.iter().map(|(_, remote)| remote)).collect();
    let mut plan = Plan::of(&machine.running.release, &release, &image, remote.digest, &images);
    let (old, new) = definitions::of_both(&engine, &machine, &release, &image, &services).await?;
    plan.signed = signed;
    plan.config = config_check::removed(&release, &load(&Sources::machine()));
    plan.held =
        machine.pins.services.iter().map(|(n, held)| format!("{n} at {}", held.version)).collect();
    plan.file = source.file();
    plan.steps = steps::steps(&old, &new);
    plan.rights = rights::changes(&old, &new);
    plan.boot = why_boot(&machine, &plan, how.append(), how, &steps::needs_boot(&old, &new));
    plan.boot_by_kexec(how.kexec(&machine), &Platform::of_machine());
    let asked =
        packages::of_release(&engine, &release, (&image, remote.digest), Some(&remote), &services);
    plan.packages = packages_changed(&machine, &engine, asked.await).await;
    plan.expect(&History::of_machine().list().unwrap_or_default());
    if let Some(current) = machine.current().filter(|_| plan.class == Class::None)
        && (current.digest, current.append.as_str()) == (remote.digest, how.append())
    {
        return if how.dry_run {
            runs_already(current)
        } else {
            stay(&machine, current, "upgrade")
        };
    }
    talk(&plan.text());
    if how.dry_run {
        return preflight::check(&plan, &release, &machine.generations);
    }
    confirm(&format!("Replace {} by {}?", machine.version(), release.version), how.yes)?;
    let machine = room::make(machine, &plan, &release, &engine).await?;
    let fetched = source.fetch(&engine, &plan, &services).await?;
    let number = installer::run(&engine, &plan, how).await?;
    let (all, before) = (&machine.generations, &machine.installed);
    let held = generation_with(all, number, &release, before)?;
    if held != number {
        menu::update(all)?;
    }
    let generation = all.get(held)?;
    complete::check(&machine, &generation, &engine).await?;
    if let Some(signed) = &plan.signed {
        trust::remember(&machine, plan.digest, signed)?;
    }
    let by = if how.automatic { "automatic" } else { "upgrade" };
    let change = Change { by, plan: &plan, fetched };
    finish(&machine, &generation, &change, how, &engine).await
}

/// What changes from the packages that run to those of what is asked for.
async fn packages_changed(
    machine: &Machine,
    engine: &Engine,
    asked: Option<Packages>,
) -> Option<Vec<String>> {
    let Generation { image, digest, .. } = machine.current()?;
    let release = &machine.running.release;
    let runs = packages::of_release(engine, release, (image, *digest), None, &[]).await?;
    Some(packages::changes(&runs, &asked?))
}

/// What is done, and what it took.
struct Change<'a> {
    by: &'a str,
    plan: &'a Plan,
    fetched: Option<u64>,
}

impl Change<'_> {
    fn receipt(&self, machine: &Machine, generation: &Generation) -> Receipt {
        Receipt {
            number: 0,
            by: self.by.to_owned(),
            from: machine.version().to_owned(),
            to: generation.version.clone(),
            generation: generation.number,
            digest: generation.digest,
            class: self.plan.class.word().to_owned(),
            reboot: self.plan.boot.is_some(),
            kexec: self.plan.kexec,
            down_from_ms: None,
            down_ms: None,
            asked: now(),
            predicted: self.plan.over_network(),
            fetched: self.fetched,
            signed: self.plan.signed.clone(),
            services: Vec::new(),
            ended: None,
            verdict: Verdict::Pending,
        }
    }
}

/// The generation of the switch that is under way, when it is the one asked for.
fn go_on_with(
    machine: &Machine,
    is_asked: impl Fn(&Generation) -> bool,
) -> Result<Option<Generation>> {
    let Some(number) = start::under_way()? else { return Ok(None) };
    let generation = machine.generations.get(number)?;
    if !is_asked(&generation) {
        bail!("the machine is being switched to {}: wait for its end", generation.version);
    }
    talk(&format!("going on with the switch to {}\n", generation.version));
    Ok(Some(generation))
}

/// Why a change needs a boot; none when services can be replaced in the running system.
fn why_boot(
    machine: &Machine,
    plan: &Plan,
    append: &str,
    how: &How,
    at_boot: &BTreeSet<String>,
) -> Option<String> {
    // What was switched to with another PID 1 waits for its next boot to become the default.
    let awaits_boot = |number| machine.trial() == Some((number, TRIES));
    let is_settled = |runs: &Generation| {
        let boots = machine.default_generation() == Some(runs.number) || awaits_boot(runs.number);
        runs.status == Status::Good && boots
    };
    let runs = machine.current();
    match plan.class {
        _ if how.reboot || how.no_reboot => Some("asked for".into()),
        Class::Kexec | Class::Reboot => Some("kernel or initrd change".into()),
        _ if plan.daemon && DaemonReport::read().is_none() => {
            Some("the daemon changes, and the PID 1 that runs cannot replace it".into())
        }
        _ if runs.is_none_or(|runs| runs.append != append) => {
            Some("the kernel's arguments change".into())
        }
        _ if !runs.is_some_and(is_settled) => {
            Some("what runs is not the good generation that boots by default".into())
        }
        _ if !at_boot.is_empty() => {
            let names: Vec<&str> = at_boot.iter().map(String::as_str).collect();
            Some(format!("{} runs only at a boot", names.join(", ")))
        }
        _ => None,
    }
}

/// Goes to an installed generation: of `version`, or the newest good one that does not run.
///
/// # Errors
/// When there is none, it is refused, or a file cannot be written.
pub async fn rollback(version: Option<&str>, how: &How) -> Result<()> {
    let _lock = lock()?;
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    let engine = Engine::connect()?;
    let is_asked = |g: &Generation| version == Some(g.version.as_str());
    if let Some(generation) = go_on_with(&machine, is_asked)? {
        return start::switch(&engine, &generation).await;
    }
    let generation = target(&machine, version)?;
    if generation.number == machine.running.generation {
        return stay(&machine, generation, "rollback");
    }
    allowed::check(&machine, &generation.version, how)?;
    complete::check(&machine, generation, &engine).await?;
    let release = machine.generations.release(generation.number)?;
    allowed::check_services(&machine, &release, how)?;
    let Generation { image, digest, append, .. } = generation;
    let mut plan = Plan::of(&machine.running.release, &release, image, *digest, &[]);
    let (old, new) = definitions::of_both(&engine, &machine, &release, image, &[]).await?;
    plan.steps = steps::steps(&old, &new);
    plan.boot = why_boot(&machine, &plan, append, how, &steps::needs_boot(&old, &new));
    plan.boot_by_kexec(how.kexec(&machine), &Platform::of_machine());
    let asked = packages::of_release(&engine, &release, (image, *digest), None, &[]).await;
    plan.packages = packages_changed(&machine, &engine, asked).await;
    plan.expect(&History::of_machine().list().unwrap_or_default());
    talk(&plan.text());
    confirm(&format!("Go back from {} to {}?", machine.version(), generation.version), how.yes)?;
    let change = Change { by: "rollback", plan: &plan, fetched: Some(0) };
    finish(&machine, generation, &change, how, &engine).await
}

/// Boots an installed version once; whatever comes of it, the next boot is the default again.
///
/// # Errors
/// When it is not installed, is refused, or a file cannot be written.
pub async fn try_once(version: &str, how: &How) -> Result<()> {
    let _lock = lock()?;
    let machine = Machine::read()?;
    machine.check_replaceable()?;
    if start::under_way()?.is_some() {
        bail!("services are being switched: wait for its end");
    }
    let generation = target(&machine, Some(version))?;
    allowed::check_failed(&machine, version, how)?;
    complete::check(&machine, generation, &Engine::connect()?).await?;
    confirm(&format!("Boot {version} once?"), how.yes)?;
    switch::to_try_once(&machine.generations, generation)?;
    if how.no_reboot {
        talk(&format!("{version} boots next, once; `ros reboot` does it now\n"));
        return Ok(());
    }
    talk(&format!("rebooting into {version}, once: the boot after it is the default again\n"));
    request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot)
}

fn target<'a>(machine: &'a Machine, version: Option<&str>) -> Result<&'a Generation> {
    match version {
        Some(back) if back.starts_with('-') => {
            let steps: usize = back[1..].parse().with_context(|| format!("{back}: expected -N"))?;
            machine.back(steps).with_context(|| {
                format!("there are not {steps} good generations to go back to: see `ros os list`")
            })
        }
        Some(version) => machine.of_version(version).with_context(|| {
            format!("{version} is not installed: `ros os list` shows what is; `ros os upgrade -i os:{version}` fetches it")
        }),
        None => machine
            .back(1)
            .context("there is no other good generation to go back to: see `ros os list`"),
    }
}

/// Held while the OS is changed.
///
/// # Errors
/// When another holds it.
pub fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("open {LOCK}: are you root?"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow!("another upgrade is at work: wait for its end"))?;
    Ok(file)
}

/// Services of the release whose images are not here.
///
/// # Errors
/// When the registry cannot be reached or has none.
pub async fn missing_services(
    engine: &Engine,
    source: &Source,
    release: &Release,
    image: &Reference,
) -> Result<Vec<(Reference, Remote)>> {
    let mut missing = Vec::new();
    for service in release.services.values() {
        let name = release.service_reference(image, service);
        let names = [name.to_string(), service.digest.to_string()];
        if engine.image(&names).await.is_err() {
            let remote = source.remote(&name).await?;
            missing.push((name, remote));
        }
    }
    Ok(missing)
}

fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: say --yes to go on without a question");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

/// What is asked for runs already: whatever else was to be booted next is not.
fn stay(machine: &Machine, current: &Generation, by: &str) -> Result<()> {
    if let Some((tried, _)) = machine.trial().filter(|(tried, _)| *tried != current.number) {
        asked(current, by).write()?;
        switch::call_off(&machine.generations, tried)?;
        talk(&format!("the trial of generation {tried} is called off\n"));
    }
    runs_already(current)
}

fn runs_already(current: &Generation) -> Result<()> {
    talk(&format!("{} runs already\n", current.version));
    Ok(())
}

/// Switches to the generation, by a reboot if it needs one, as far as that is wanted.
async fn finish(
    machine: &Machine,
    generation: &Generation,
    change: &Change<'_>,
    how: &How,
    engine: &Engine,
) -> Result<()> {
    let Generation { number, version, .. } = generation;
    if how.stage {
        talk(&format!(
            "{version} is installed as generation {number}; `ros os rollback {version}` boots it\n"
        ));
        return Ok(());
    }
    asked(generation, change.by).write()?;
    if let Err(error) = History::of_machine().begin(change.receipt(machine, generation)) {
        talk(&format!("no receipt is kept: {error:#}\n"));
    }
    if change.plan.boot.is_none() {
        // A trial that was to be booted is none any more.
        let others = |(tried, _): &(u32, u32)| *tried != machine.running.generation;
        if let Some((tried, _)) = machine.trial().filter(others) {
            switch::call_off(&machine.generations, tried)?;
        }
        talk(
            "replaced now, in the running system; from here on it goes on without this command, to its end or back\n",
        );
        start::switch(engine, generation).await?;
        talk(&format!("{version} runs (generation {number})\n"));
        return Ok(());
    }
    let checks = user_checks::wanted(&Configuration::load().settings);
    user_checks::keep(*number, user_checks::that_hold(engine, &checks).await)?;
    switch::to_trial(&machine.generations, generation, machine.current())?;
    if how.no_reboot {
        talk(&format!(
            "{version} boots next (generation {number}, on trial); `ros reboot` does it now\n"
        ));
        return Ok(());
    }
    let (way, request) = match change.plan.kexec {
        true => (" by kexec", InitRequest::Kexec { generation: *number }),
        false => ("", InitRequest::Reboot),
    };
    talk(&format!(
        "rebooting{way} into {version} (generation {number}, on trial); if it is not healthy, it goes back by itself\n"
    ));
    request_of_init(Path::new(paths::INIT_CONTROL), request)
}

fn asked(generation: &Generation, by: &str) -> Asked {
    Asked {
        by: by.into(),
        version: generation.version.clone(),
        digest: generation.digest,
        generation: generation.number,
        time: now(),
    }
}

/// Says it on stderr. A terminal that went away must not stop what was begun.
fn talk(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::machine;

    fn failed() -> Status {
        Status::Failed { reason: "ntp: ended with 1".into() }
    }

    #[test]
    fn kernel_arguments_stay_when_none_are_given() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        machine.installed[0].append = "console=ttyS1".into();
        let given = |append: Option<&str>| {
            How { append: append.map(str::to_owned), ..How::default() }.on(&machine)
        };
        assert_eq!(given(None).append(), "console=ttyS1");
        assert_eq!(given(Some("a=b")).append(), "a=b");
        assert_eq!(given(Some("")).append(), "");
    }

    #[test]
    fn what_needs_a_boot_says_why() {
        let mut machine = machine(&[("v1.0", Status::Good)]);
        let release = machine.running.release.clone();
        let mut plan = Plan::of(
            &release,
            &release,
            &"h:1/os:v1.1".parse().unwrap(),
            machine.installed[0].digest,
            &[],
        );
        let none = BTreeSet::new();
        let oneshot = BTreeSet::from(["cloud-init".to_owned()]);
        let how = How::default();
        let forced = How { reboot: true, ..How::default() };
        plan.class = Class::Service;
        assert_eq!(why_boot(&machine, &plan, "", &how, &none), None);
        for (append, how, at_boot, word) in [
            ("a=b", &how, &none, "arguments"),
            ("", &forced, &none, "asked for"),
            ("", &how, &oneshot, "cloud-init runs only at a boot"),
        ] {
            let why = why_boot(&machine, &plan, append, how, at_boot).unwrap();
            assert!(why.contains(word), "{why}");
        }
        plan.class = Class::Reboot;
        assert!(why_boot(&machine, &plan, "", &how, &none).unwrap().contains("kernel"));
        plan.class = Class::Runtime;
        assert_eq!(why_boot(&machine, &plan, "", &how, &none), None);
        // No PID 1 here says which daemon runs.
        plan.daemon = true;
        assert!(why_boot(&machine, &plan, "", &how, &none).unwrap().contains("PID 1"));
        (plan.class, plan.daemon) = (Class::Service, false);
        if let Some(env) = &mut machine.env {
            env.set_default(7);
            env.set_trial(1);
        }
        assert_eq!(why_boot(&machine, &plan, "", &how, &none), None);
        if let Some(env) = &mut machine.env {
            env.set_default(7);
        }
        assert!(why_boot(&machine, &plan, "", &how, &none).unwrap().contains("by default"));
    }

    #[test]
    fn back_is_the_newest_good_one_that_does_not_run() {
        let number = |machine: &Machine, version: Option<&str>| {
            target(machine, version).map(|generation| generation.number)
        };
        let all = [
            ("v1.0", Status::Good),
            ("v1.1", Status::Good),
            ("v1.2", Status::Good),
            ("v1.5", failed()),
            ("v1.6", Status::Staged),
            ("v1.1", Status::Good),
        ];
        let mut machine = machine(&all);
        assert_eq!(number(&machine, None).unwrap(), 6);
        machine.running.generation = 6;
        assert_eq!(number(&machine, None).unwrap(), 3);
        assert_eq!(number(&machine, Some("-1")).unwrap(), 3);
        assert_eq!(number(&machine, Some("-3")).unwrap(), 1);
        for wrong in ["-4", "-0", "-x", "-"] {
            assert!(number(&machine, Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(number(&machine, Some("v1.1")).unwrap(), 6);
        assert_eq!(number(&machine, Some("v1.5")).unwrap(), 4);
        let error = number(&machine, Some("v9")).unwrap_err().to_string();
        assert!(error.contains("v9 is not installed"), "{error}");
        machine.installed.truncate(1);
        machine.running.generation = 1;
        assert!(number(&machine, None).is_err());
    }
}

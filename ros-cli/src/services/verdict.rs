//! The verdict over a boot: whether this generation is good, and what follows when it is not.
//!
//! It is pronounced even on a full disk: that it cannot be written down is said, and changes nothing of it.

use std::path::Path;

use anyhow::{Context, Result};
use ros_api::boot::{Attempt, Reached};
use ros_api::init::InitRequest;
use ros_api::{Generations, durable, paths};

use super::applied;
use super::progress::{complain, say};
use super::report::ServicesReport;
use crate::commands::power::request_of_init;
use crate::os::history::History;
use crate::os::live;
use crate::os::trial::Trial;

/// Says whether the generation that `report` is about is good; a trial that is sick is ended by a reboot into what
/// was good before.
///
/// # Errors
/// When the boot loader's environment cannot be read, a good generation cannot be made the default, or PID 1 does not
/// take the request to reboot.
pub async fn pronounce(report: &ServicesReport) -> Result<()> {
    let running = report.generation;
    let sick = report.sick_essentials();
    let detail = sick.join("; ");
    let reached = if sick.is_empty() { Reached::Healthy } else { Reached::Sick };
    said(record(running, reached, &detail));
    let Some(mut trial) = Trial::open()? else {
        if !sick.is_empty() {
            complain(&format!("not healthy: {detail}"));
        }
        return Ok(());
    };
    settle_earlier(&mut trial, running);
    said(live::journal::forget_earlier(&Generations::at(Path::new(paths::GENERATIONS))));
    judge(&mut trial, running, &sick)?;
    said(settle_receipts(running));
    Ok(())
}

fn judge(trial: &mut Trial, running: u32, sick: &[String]) -> Result<()> {
    let detail = sick.join("; ");
    match (sick.is_empty(), trial.is_of(running)) {
        (true, on_trial) => {
            trial.good(running)?;
            said(applied::keep_with_generation(running));
            if on_trial {
                say(&format!("generation {running} is good"));
            }
        }
        (false, false) => complain(&format!("not healthy: {detail}")),
        (false, true) => {
            complain(&format!("generation {running} is sick, going back: {detail}"));
            said(trial.failed(running, &detail));
            request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot)?;
        }
    }
    Ok(())
}

/// Writes down what became of the changes that this boot decided.
fn settle_receipts(running: u32) -> Result<()> {
    let awaited = Trial::open()?.and_then(|trial| trial.next()).into_iter();
    let awaited: Vec<u32> = awaited.chain(live::start::under_way()?).collect();
    let installed = Generations::at(Path::new(paths::GENERATIONS)).list()?;
    History::of_machine().settle(&installed, running, &awaited)
}

fn settle_earlier(trial: &mut Trial, running: u32) {
    let previous = std::fs::read(paths::PREVIOUS_ATTEMPT).ok();
    let previous: Option<Attempt> = previous.and_then(|text| serde_json::from_slice(&text).ok());
    match trial.settle_earlier(running, previous.as_ref()) {
        Ok(Some(failed)) => complain(&failed),
        Ok(None) => {}
        Err(error) => complain(&format!("{error:#}")),
    }
}

/// Notes that this boot ends in order. A trial's try does not count then, unless it is sick: however its end came
/// about, it must not be tried for ever.
///
/// # Errors
/// When it cannot be kept.
pub fn orderly_shutdown() -> Result<()> {
    said(History::of_machine().goes_down());
    let Some(running) = super::roster::running_generation() else { return Ok(()) };
    let is_sick = ServicesReport::read().is_ok_and(|report| !report.sick_essentials().is_empty());
    if is_sick {
        return Ok(());
    }
    if let Some(mut trial) = Trial::open()? {
        trial.not_counted(running)?;
    }
    record(running, Reached::Shutdown, "")
}

fn said(kept: Result<()>) {
    if let Err(error) = kept {
        complain(&format!("{error:#}"));
    }
}

fn record(generation: u32, reached: Reached, detail: &str) -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot_id = boot_id.trim().to_owned();
    let attempt = Attempt { generation, boot_id, reached, detail: detail.to_owned() };
    durable::write(Path::new(paths::BOOT_ATTEMPT), &serde_json::to_vec(&attempt)?, 0o644)
        .context("note how far this boot came")
}

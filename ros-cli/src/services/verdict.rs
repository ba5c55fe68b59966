//! The verdict over a boot: whether this generation is good, and what follows when it is not.

use std::path::Path;

use anyhow::Result;
use ros_api::boot::{Attempt, InitRequest, Reached};
use ros_api::{durable, paths};

use super::progress::{complain, say};
use super::report::ServicesReport;
use crate::commands::power::request_of_init;
use crate::os::trial::Trial;

/// Says whether the generation that `report` is about is good; a trial that is sick is ended by a reboot into what
/// was good before.
///
/// # Errors
/// When the verdict cannot be kept.
pub async fn pronounce(report: &ServicesReport) -> Result<()> {
    let running = report.generation;
    let sick = report.sick_essentials();
    let detail = sick.join("; ");
    record(running, if sick.is_empty() { Reached::Healthy } else { Reached::Sick }, &detail)?;
    let Some(mut trial) = Trial::open()? else { return Ok(()) };
    let previous = std::fs::read(paths::PREVIOUS_ATTEMPT).ok();
    let previous: Option<Attempt> = previous.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(said) = trial.settle_earlier(running, previous.as_ref())? {
        complain(&said);
    }
    if sick.is_empty() {
        let was_on_trial = trial.is_of(running);
        trial.good(running)?;
        if was_on_trial {
            say(&format!("generation {running} is good"));
        }
        return Ok(());
    }
    if trial.is_of(running) {
        complain(&format!("generation {running} is sick, going back: {detail}"));
        trial.failed(running, &detail)?;
        return request_of_init(Path::new(paths::INIT_CONTROL), InitRequest::Reboot);
    }
    complain(&format!("not healthy: {detail}"));
    Ok(())
}

/// Notes that this boot ends in order. A trial's try does not count then.
///
/// # Errors
/// When it cannot be kept.
pub fn orderly_shutdown() -> Result<()> {
    let Some(running) = super::roster::boot_report().and_then(|report| report.generation) else {
        return Ok(());
    };
    if let Some(mut trial) = Trial::open()? {
        trial.not_counted(running)?;
    }
    record(running, Reached::Shutdown, "")
}

fn record(generation: u32, reached: Reached, detail: &str) -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot_id = boot_id.trim().to_owned();
    let attempt = Attempt { generation, boot_id, reached, detail: detail.to_owned() };
    Ok(durable::write(Path::new(paths::BOOT_ATTEMPT), &serde_json::to_vec(&attempt)?, 0o644)?)
}

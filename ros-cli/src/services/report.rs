//! `/run/ros/services.json`: what `ros bring-up` did, with times; written when every service has settled.

use std::path::Path;

use anyhow::{Context, Result};
use ros_api::{durable, paths};
use serde::{Deserialize, Serialize};

/// What a boot's services did. All times are milliseconds since the kernel started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesReport {
    /// The generation they belong to; 0 when there is none (recovery).
    pub generation: u32,
    /// When bring-up began.
    pub start_ms: u64,
    /// When the last service settled.
    pub end_ms: u64,
    /// What held before the boot into this generation and no longer does, each with why.
    #[serde(default)]
    pub lost: Vec<String>,
    /// Whether every essential service is ready, and nothing is lost.
    pub healthy: bool,
    /// What was wrong with configuration and definitions, for people.
    pub warnings: Vec<String>,
    /// Each service, in the order in which they started.
    pub services: Vec<ServiceReport>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Without it the machine is not healthy.
    pub essential: bool,
    /// What it waited for.
    pub after: Vec<String>,
    /// When it began to start.
    pub start_ms: u64,
    /// When it settled.
    pub end_ms: Option<u64>,
    /// Why it is sick; empty when there is nothing to say.
    pub note: String,
}

/// What became of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was started and is not ready yet.
    Starting,
    /// It was ready.
    Ready,
    /// It was not ready in its time.
    Sick,
}

impl ServicesReport {
    /// The report of this boot.
    ///
    /// # Errors
    /// When there is none yet, or it cannot be read.
    pub fn read() -> Result<Self> {
        let path = Path::new(paths::SERVICES_REPORT);
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Replaces the report.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        Ok(durable::write(Path::new(paths::SERVICES_REPORT), &text, 0o644)?)
    }

    /// The entry of `name`.
    pub fn of(&mut self, name: &str) -> Option<&mut ServiceReport> {
        self.services.iter_mut().find(|service| service.name == name)
    }

    /// The essential services that are sick and what is lost, each with why: `ntp: ended with 1`.
    #[must_use]
    pub fn sick_essentials(&self) -> Vec<String> {
        self.services
            .iter()
            .filter(|service| service.essential && service.outcome == Outcome::Sick)
            .map(|service| format!("{}: {}", service.name, service.note))
            .chain(self.lost.iter().cloned())
            .collect()
    }
}

//! `check`: the store's objects held against their digests, and repair. Works on the store itself, beside a daemon or
//! without one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ros_api::paths;
use ros_image::{Damage, ImageId, Report, Store};
use serde_json::json;

use crate::engine::container::{Record, read_all};
use crate::engine::images::configured;

#[derive(clap::Args)]
pub struct Args {
    /// Images, containers and volumes.
    #[arg(long, default_value = paths::STORE)]
    root: PathBuf,
    /// Fetch again what is damaged, or remove it when nothing refers to it.
    #[arg(long)]
    repair: bool,
    /// Registry that names without one are fetched from (HOST[:PORT]).
    #[arg(long)]
    registry: Option<String>,
    /// How it is shown.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// A damage and what became of it.
struct Outcome {
    damage: Damage,
    /// How it was repaired; why not; none when nobody asked.
    repair: Option<std::result::Result<String, String>>,
}

impl Outcome {
    fn is_repaired(&self) -> bool {
        matches!(self.repair, Some(Ok(_)))
    }
}

/// 0 when all is whole in the end, else 1.
pub async fn run(args: &Args) -> Result<ExitCode> {
    anyhow::ensure!(args.root.join("store.json").exists(), "{} is no store", args.root.display());
    let store = Store::open(&args.root)?;
    let mut report = store.check()?;
    let mut outcomes = Vec::new();
    for damage in std::mem::take(&mut report.damages) {
        let repair = match args.repair {
            true => Some(repair(args, &store, &damage).await?),
            false => None,
        };
        outcomes.push(Outcome { damage, repair });
    }
    match args.format {
        Format::Table => print_table(&report, &outcomes),
        Format::Json => println!("{}", as_json(&report, &outcomes)),
    }
    let whole = outcomes.iter().all(Outcome::is_repaired);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn repair(
    args: &Args,
    store: &Store,
    damage: &Damage,
) -> Result<std::result::Result<String, String>> {
    let mut registries = configured().map_err(|error| anyhow::anyhow!(error.message))?;
    if let Some(host) = &args.registry {
        registries.default_registry = Some(host.clone());
    }
    let running = running(args)?;
    let in_use = |id: &ImageId| {
        let user = running.iter().find(|record| record.image == *id)?;
        Some(format!("container {}, which runs: stop it first", user.name))
    };
    let repaired = store.repair(damage, &registries, in_use).await;
    Ok(repaired.map_err(|error| format!("{:#}", anyhow::Error::from(error))))
}

/// Containers that run since this boot.
fn running(args: &Args) -> Result<Vec<Record>> {
    let dir = args.root.join("containers");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot ID")?;
    let all = read_all(&dir)?.into_values().map(|container| (*container.record()).clone());
    let here = |record: &Record| record.state.is_running() && record.boot_id == boot_id.trim();
    Ok(all.filter(here).collect())
}

fn print_table(report: &Report, outcomes: &[Outcome]) {
    for outcome in outcomes {
        println!("{}: {}", outcome.damage.what, outcome.damage.why);
        let needed: Vec<String> = outcome.damage.images.iter().map(ImageId::short).collect();
        if !needed.is_empty() {
            println!("  needed by {}", needed.join(", "));
        }
        match &outcome.repair {
            Some(Ok(how)) => println!("  repaired: {how}"),
            Some(Err(why)) => println!("  not repaired: {why}"),
            None => {}
        }
    }
    let Report { names, images, blobs, layers, objects, .. } = report;
    let repaired = outcomes.iter().filter(|outcome| outcome.is_repaired()).count();
    println!(
        "{names} names, {images} images, {blobs} blobs, {layers} layers, {objects} objects: {} damaged, {repaired} repaired",
        outcomes.len()
    );
}

fn as_json(report: &Report, outcomes: &[Outcome]) -> serde_json::Value {
    let Report { names, images, blobs, layers, objects, .. } = report;
    let damaged = outcomes.iter().map(|outcome| {
        let (repaired, not_repaired) = match &outcome.repair {
            Some(Ok(how)) => (Some(how), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        json!({
            "what": outcome.damage.what.to_string(), "why": outcome.damage.why, "images": outcome.damage.images,
            "repaired": repaired, "not_repaired": not_repaired,
        })
    });
    let damaged: Vec<_> = damaged.collect();
    json!({
        "names": names, "images": images, "blobs": blobs, "layers": layers, "objects": objects, "damaged": damaged,
    })
}

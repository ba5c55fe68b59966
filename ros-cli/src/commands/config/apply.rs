//! `ros config diff`, `apply`, `confirm`: what is different from what was applied, and making it count.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cloud_config::changes::{Change, between};
use cloud_config::redact::{HIDDEN, redact};
use cloud_config::schema::{self, Effect, table::effect_name};
use cloud_config::{Layer, Loaded, Node, Severity, layers};
use ros_api::paths;
use serde_json::{Value, json};

use super::{Report, load};
use crate::services::applied::{self, Trials};
use crate::services::clock::uptime_ms;
use crate::services::console::reload;
use crate::services::listing::{self, print};
use crate::services::roster::running_generation;
use crate::services::{apply, detached, progress};

fn changes(loaded: &Loaded) -> Result<Vec<Change>> {
    let before = applied::last()
        .context("no configuration was applied in this boot: is this a machine that runs ros?")?;
    Ok(between(&before, &loaded.tree))
}

/// How long the way back waits for what is being applied.
const PATIENCE: Duration = Duration::from_secs(60);

/// `ros config diff`. Exit code 1 when there is something.
pub fn diff(format: Report) -> Result<ExitCode> {
    let changes = changes(&load()?)?;
    let text = match format {
        Report::Json => {
            let all: Vec<Value> = changes.iter().map(as_json).collect();
            serde_json::to_string_pretty(&all)? + "\n"
        }
        Report::Text => changes.iter().map(as_lines).collect(),
    };
    print(&text)?;
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A value as it may be shown.
fn shown(path: &str, node: Option<&Node>) -> Option<Value> {
    let kind = schema::kind_at(path).unwrap_or(schema::Kind::Any);
    let value = redact(node?.clone(), kind).to_json();
    let named = path.rsplit('.').next().unwrap_or(path).to_lowercase();
    let secret = ["passw", "secret", "token"].iter().any(|word| named.contains(word));
    Some(if secret && !value.is_object() { json!(HIDDEN) } else { value })
}

fn as_json(change: &Change) -> Value {
    json!({
        "key": change.path, "before": shown(&change.path, change.before.as_ref()),
        "after": shown(&change.path, change.after.as_ref()), "counts": effect_name(change.effect),
    })
}

fn as_lines(change: &Change) -> String {
    let line = |sign: char, node: Option<&Node>| {
        shown(&change.path, node)
            .map_or_else(String::new, |value| format!("{sign} {}: {value}\n", change.path))
    };
    let (before, after) = (line('-', change.before.as_ref()), line('+', change.after.as_ref()));
    format!("{before}{after}  counts: {}\n", effect_name(change.effect))
}

/// `ros config apply`.
pub fn run(confirm: Option<u64>) -> Result<ExitCode> {
    let _lock = applied::lock()?;
    let loaded = load()?;
    let own = |diagnostic: &&cloud_config::Diagnostic| {
        diagnostic.severity == Severity::Error && diagnostic.origin.layer == Layer::User
    };
    if let Some(wrong) = loaded.diagnostics.iter().find(own) {
        bail!("{}: nothing was applied: see `ros config validate`", wrong.line());
    }
    let trials = Trials::machine();
    if trials.current().is_some() {
        bail!("a change is on trial: `ros config confirm` keeps it");
    }
    let changes = changes(&loaded)?;
    if changes.is_empty() {
        eprintln!("already so: nothing is different from what was applied");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seconds) = confirm {
        ensure!((5..=86_400).contains(&seconds), "--confirm: expected 5 to 86400 seconds");
        trials.begin(seconds)?;
        start_guard()?;
        eprintln!("on trial for {seconds} s: `ros config confirm` keeps it");
    }
    let wrong = act(&loaded, &changes, confirm.is_none())?;
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Does what can be done now, shows what became of each key, and answers whether something failed.
fn act(loaded: &Loaded, changes: &[Change], keep: bool) -> Result<bool> {
    let mut failed: Vec<(String, String)> = Vec::new();
    if changes.iter().any(|change| change.effect == Effect::Now) {
        failed.extend(apply::now(&loaded.settings).into_iter().map(|why| (String::new(), why)));
    }
    let services: BTreeSet<&str> =
        changes.iter().filter_map(|change| service(change.effect)).collect();
    for service in services {
        if let Err(error) = take_over(service, loaded) {
            failed.push((service.to_owned(), format!("{error:#}")));
        }
    }
    applied::remember(&loaded.tree)?;
    if keep {
        keep_good()?;
    }
    let rows: Vec<Vec<String>> = changes
        .iter()
        .map(|change| vec![change.path.clone(), outcome(change.effect, &failed)])
        .collect();
    listing::show(listing::Format::Table, &json!(null), &["KEY", "OUTCOME"], &rows)?;
    failed.iter().for_each(|(_, why)| eprintln!("{why}"));
    Ok(!failed.is_empty())
}

/// The own file is good: it is what there is to go back to, also from another generation.
fn keep_good() -> Result<()> {
    layers::remember_good(Path::new(paths::CLOUD_CONFIG))?;
    running_generation().map_or(Ok(()), applied::keep_with_generation)
}

fn service(effect: Effect) -> Option<&'static str> {
    match effect {
        Effect::Restart(service) => Some(service),
        _ => None,
    }
}

fn outcome(effect: Effect, failed: &[(String, String)]) -> String {
    match effect {
        Effect::Restart(service) if failed.iter().any(|(name, _)| name == service) => {
            format!("failed: {service}")
        }
        Effect::Now => "changed".into(),
        Effect::Restart(service) => format!("changed: {service} took it over"),
        Effect::Boot | Effect::Group => "at next boot".into(),
        Effect::Instance => "skipped: once for each instance".into(),
        Effect::Cmdline => "skipped: counts on the kernel command line only".into(),
        Effect::Nothing(why) | Effect::Refused(why) => format!("skipped: {why}"),
    }
}

/// Has a service take the configuration over. The console does it in place: who is logged in stays so.
fn take_over(service: &str, loaded: &Loaded) -> Result<()> {
    match service {
        "console" => reload::ask(),
        service => {
            apply::files_of_services(&loaded.settings)?;
            let ros = std::env::current_exe().context("find this program")?;
            let ended = Command::new(ros)
                .args(["service", "restart", service])
                .output()
                .context("run ros service restart")?;
            ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr).trim());
            Ok(())
        }
    }
}

/// `ros config confirm`.
pub fn confirm() -> Result<ExitCode> {
    if !Trials::machine().end()? {
        bail!("no change is on trial: it was kept, or is gone already");
    }
    keep_good()?;
    eprintln!("kept");
    Ok(ExitCode::SUCCESS)
}

/// Starts what ends the trial; it outlives whoever asked for it.
pub fn start_guard() -> Result<()> {
    detached::start(&["config", "guard"])
}

/// `ros config guard`: sleeps until the trial's end, and goes back when nobody confirmed.
pub fn guard() -> Result<ExitCode> {
    detached::leave();
    let trials = Trials::machine();
    let Some(trial) = trials.current() else { return Ok(ExitCode::SUCCESS) };
    std::thread::sleep(Duration::from_millis(trial.deadline_ms.saturating_sub(uptime_ms())));
    let _lock = applied::lock_within(PATIENCE);
    if !trials.end()? {
        return Ok(ExitCode::SUCCESS);
    }
    progress::complain("configuration: nobody confirmed the change in time: going back");
    trials.go_back()?;
    let loaded = load()?;
    let changes = changes(&loaded)?;
    act(&loaded, &changes, true)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_when_it_counts_and_shows_no_secret() {
        let node = |text: &str| cloud_config::document::parse(text, Layer::User, "f").unwrap();
        let before = node("hostname: a\n");
        let after = node("hostname: b\npassword: SECRET\nros: {environment: {A_TOKEN: SECRET}}\n");
        let text: String = between(&before, &after).iter().map(as_lines).collect();
        assert!(
            text.contains("- hostname: \"a\"\n+ hostname: \"b\"\n  counts: at once\n"),
            "{text}"
        );
        assert!(text.contains("counts: with console") && !text.contains("SECRET"), "{text}");
    }

    #[test]
    fn every_effect_has_an_outcome() {
        let failed = [("network".to_owned(), "why".to_owned())];
        let table = [
            (Effect::Now, "changed"),
            (Effect::Restart("network"), "failed: network"),
            (Effect::Restart("console"), "changed: console took it over"),
            (Effect::Boot, "at next boot"),
            (Effect::Instance, "skipped: once for each instance"),
        ];
        for (effect, expected) in table {
            assert_eq!(outcome(effect, &failed), expected);
        }
    }
}

//! `ros config validate`: everything that is wrong, at once.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use cloud_config::{Diagnostic, Severity, userdata};
use serde_json::Value;

use super::{Report, input, load};
use crate::services::listing::print;

/// A file, in any form that user data may have, or this machine's layers.
pub fn run(file: Option<&Path>, format: Report) -> Result<ExitCode> {
    match file {
        Some(file) => {
            let (text, name) = input(Some(file))?;
            let bytes = if name == "-" { text.clone().into_bytes() } else { std::fs::read(file)? };
            let found = userdata::diagnose(&bytes, &name);
            report(&found, format, |_| Some(text.clone()))
        }
        None => report(&load()?.diagnostics, format, |file| std::fs::read_to_string(file).ok()),
    }
}

fn report(
    found: &[Diagnostic],
    format: Report,
    source: impl Fn(&str) -> Option<String>,
) -> Result<ExitCode> {
    match format {
        Report::Json => {
            let all: Vec<Value> = found.iter().map(Diagnostic::to_json).collect();
            print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
        }
        Report::Text => {
            for diagnostic in found {
                let text = source(&diagnostic.origin.file).unwrap_or_default();
                print(&format!("{}\n", diagnostic.with_source(&text)))?;
            }
        }
    }
    let errors = count_errors(found);
    eprintln!("{errors} errors, {} warnings", found.len() - errors);
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count_errors(found: &[Diagnostic]) -> usize {
    found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
}

/// A document that is to be taken over whole.
///
/// # Errors
/// All that is wrong with it.
pub fn accept(text: &str, name: &str) -> Result<cloud_config::Node> {
    let found = match cloud_config::edit::acceptable(text, name) {
        Ok((node, warnings)) => {
            warnings.iter().for_each(|warning| eprintln!("{}", warning.with_source(text)));
            return Ok(node);
        }
        Err(found) => found,
    };
    found.iter().for_each(|wrong| eprintln!("{}", wrong.with_source(text)));
    bail!("{name}: {} errors: nothing was changed", count_errors(&found))
}

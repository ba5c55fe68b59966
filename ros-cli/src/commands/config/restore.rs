//! `ros config restore`: the way back to a configuration that was good.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cloud_config::{edit, layers};
use ros_api::{Generations, paths};
use serde_json::json;

use super::write::named;
use crate::services::applied::of_generation;
use crate::services::listing;

/// Puts it back.
pub fn run(generation: Option<u32>) -> Result<ExitCode> {
    let file = Path::new(paths::CLOUD_CONFIG);
    let good = generation.map_or_else(|| layers::good(file), of_generation);
    if !good.exists() {
        match generation {
            None => bail!("no good configuration was kept yet: one is when it is applied"),
            Some(number) => bail!(
                "none was kept with generation {number}: `ros config restore --list` shows all"
            ),
        }
    }
    let text = edit::read(&good).with_context(|| format!("read {}", good.display()))?;
    let before = edit::read(file).with_context(|| format!("read {}", file.display()))?;
    edit::replace(file, &before, &text).map_err(named)?;
    eprintln!("the good configuration is back: `ros config apply` makes it count");
    Ok(ExitCode::SUCCESS)
}

/// Shows what there is.
pub fn list() -> Result<ExitCode> {
    let own = edit::read(Path::new(paths::CLOUD_CONFIG)).unwrap_or_default();
    let good = layers::good(Path::new(paths::CLOUD_CONFIG));
    let mut all: Vec<(String, PathBuf)> = vec![("ros config restore".into(), good)];
    for generation in Generations::at(Path::new(paths::GENERATIONS)).list()? {
        let command = format!("ros config restore --generation {}", generation.number);
        all.push((command, of_generation(generation.number)));
    }
    let rows: Vec<Vec<String>> =
        all.into_iter().filter_map(|(command, file)| row(command, &file, &own)).collect();
    listing::show(listing::Format::Table, &json!(null), &["COMMAND", "FROM", "IS"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(command: String, file: &Path, own: &str) -> Option<Vec<String>> {
    let text = edit::read(file).ok().filter(|_| file.exists())?;
    let same = if text == own { "as the present one" } else { "different" };
    Some(vec![command, file.display().to_string(), same.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_offered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud-config.yml");
        assert_eq!(row("c".into(), &file, ""), None);
        std::fs::write(&file, "hostname: a\n").unwrap();
        let shown = |own: &str| row("c".into(), &file, own).unwrap().pop().unwrap();
        assert_eq!((shown("hostname: a\n"), shown("").len()), ("as the present one".into(), 9));
    }
}

//! `ros config kernel-args`: arguments that the boot menu adds for the running generation.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use cloud_config::cmdline::words;
use ros_api::{Generations, paths};

use crate::os::menu;
use crate::services::listing::print;
use crate::services::roster::Running;

/// What to change; without anything, the arguments are shown.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Add, or replace those of the same name: `console=ttyS1 ros.recovery`
    #[arg(value_name = "NAME[=VALUE]")]
    add: Vec<String>,
    /// Take all of this name away
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Take all away first
    #[arg(long)]
    clear: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let running = Running::read().context("this is no machine that runs ros")?;
    let generations = Generations::at(Path::new(paths::GENERATIONS));
    let mut generation = generations.get(running.generation).context("read the generation")?;
    if !args.add.is_empty() || !args.remove.is_empty() || args.clear {
        generation.append = changed(&generation.append, args)?;
        generations.put(&generation)?;
        if !Path::new(paths::GRUB_GENERATIONS).exists() {
            bail!("there is no boot menu: whoever boots this machine names its kernel arguments");
        }
        menu::update(&generations)?;
    }
    print(&format!("{}\n", generation.append))?;
    Ok(ExitCode::SUCCESS)
}

fn changed(old: &str, args: &Args) -> Result<String> {
    let mut all: Vec<String> = if args.clear { Vec::new() } else { words(old) };
    let name = |word: &str| word.split('=').next().unwrap_or(word).to_owned();
    for word in args.add.iter().chain(&args.remove) {
        ensure!(!word.is_empty() && !word.contains(['\n', '"']), "{word:?} is no kernel argument");
        ensure!(name(word) != "ros.generation", "ros.generation is the boot menu's own");
    }
    for word in &args.remove {
        let before = all.len();
        all.retain(|old| name(old) != name(word));
        ensure!(all.len() < before, "there is no kernel argument {word}");
    }
    all.retain(|old| !args.add.iter().any(|new| name(new) == name(old)));
    all.extend(args.add.iter().cloned());
    let quoted = |word: String| {
        if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { word }
    };
    Ok(all.into_iter().map(quoted).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_added_replaced_and_removed() {
        let args = |add: &[&str], remove: &[&str], clear| Args {
            add: add.iter().map(|&word| word.into()).collect(),
            remove: remove.iter().map(|&word| word.into()).collect(),
            clear,
        };
        let table = [
            ("", args(&["a=1"], &[], false), Some("a=1")),
            ("a=1 b", args(&["a=2"], &[], false), Some("b a=2")),
            ("a=1 a=2 b", args(&[], &["a"], false), Some("b")),
            ("a=1 b", args(&["c"], &[], true), Some("c")),
            ("b", args(&[], &["a"], false), None),
            ("b", args(&["ros.generation=3"], &[], false), None),
            ("b", args(&["a=\n"], &[], false), None),
        ];
        for (old, args, expected) in table {
            assert_eq!(changed(old, &args).ok().as_deref(), expected, "{old} {args:?}");
        }
    }
}

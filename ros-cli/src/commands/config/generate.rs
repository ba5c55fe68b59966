//! `ros config generate` and `images`: what image builders ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use cloud_config::template;
use serde_json::{Value, json};

use super::validate::accept;
use super::{input, load};
use crate::services::listing::print;

/// `ros config generate`: a jinja template on standard input.
pub fn generate() -> Result<ExitCode> {
    let (text, _) = input(None)?;
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let filled = template::render(&text, &json!({ "env": environment })).map_err(|e| anyhow!(e))?;
    print(&filled)?;
    Ok(ExitCode::SUCCESS)
}

/// `ros config images`: sorted, one a line.
pub fn images(file: Option<&Path>) -> Result<ExitCode> {
    let tree = match file {
        Some(_) => {
            let (text, name) = input(file)?;
            accept(&text, &name)?
        }
        None => load()?.tree,
    };
    let names = named(&tree.to_json());
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn named(document: &Value) -> BTreeSet<String> {
    let services = document["ros"]["services"].as_object().into_iter().flatten();
    services.filter_map(|(_, service)| Some(service["image"].as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_once() {
        let document =
            json!({"ros": {"services": {"a": {"image": "x:1"}, "b": {"image": "x:1"}, "c": {}}}});
        assert_eq!(named(&document), BTreeSet::from(["x:1".to_owned()]));
    }
}

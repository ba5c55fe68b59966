//! `ros config get` and `export`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use cloud_config::redact::redact;
use cloud_config::schema::{self, DOCUMENT};
use cloud_config::tree::Value as Tree;
use cloud_config::{Layer, Node, Sources};
use ros_api::{durable, paths};
use serde_json::Value;

use super::{Format, load};
use crate::services::listing::print;

/// `ros config get`.
pub fn get(key: &str, show_origin: bool, default: bool, format: Format) -> Result<ExitCode> {
    let Some(parts) = schema::path::split(key) else {
        bail!("there is no key {key}: `ros config schema --format markdown` shows all");
    };
    let tree = if default { below_user() } else { load()?.tree };
    let Some(node) = tree.at_parts(&parts) else {
        eprintln!("{key} is not set{}", built_in(&parts));
        return Ok(ExitCode::FAILURE);
    };
    let text = match (show_origin, format) {
        (true, Format::Json) => {
            let mut all = Vec::new();
            origins(node, &parts.join("."), &mut all);
            let json: Vec<Value> = all.iter().map(|(path, node)| origin_json(path, node)).collect();
            serde_json::to_string_pretty(&json)? + "\n"
        }
        (true, Format::Yaml) => {
            let mut all = Vec::new();
            origins(node, &parts.join("."), &mut all);
            all.iter().map(|(path, node)| origin_line(path, node)).collect()
        }
        (false, format) => shown(&node.to_json(), format)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What counts for a key that nobody set.
fn built_in(parts: &[String]) -> String {
    let mut told = String::new();
    schema::walk(&mut |path, key| {
        if path == parts.join(".") && !key.default.is_empty() {
            told = format!(": the default is {}", key.default);
        }
    });
    told
}

/// All layers but the user's and the kernel's.
fn below_user() -> Node {
    let mut sources = Sources::machine();
    sources.user = "/nonexistent/cloud-config.yml".into();
    sources.cmdline.clear();
    cloud_config::load(&sources).tree
}

/// Every value below `node` with its path.
fn origins<'a>(node: &'a Node, path: &str, all: &mut Vec<(String, &'a Node)>) {
    match &node.value {
        Tree::Map(entries) if !entries.is_empty() => {
            entries.iter().for_each(|(name, node)| origins(node, &format!("{path}.{name}"), all));
        }
        Tree::List(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(at, node)| {
                origins(node, &format!("{path}.{at}"), all);
            });
        }
        _ => all.push((path.to_owned(), node)),
    }
}

fn origin_line(path: &str, node: &Node) -> String {
    let value = node.to_json();
    let value = value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
    format!("{path}: {value}    # {} {}\n", node.origin.layer.word(), node.origin)
}

fn origin_json(path: &str, node: &Node) -> Value {
    let origin = &node.origin;
    serde_json::json!({
        "key": path, "value": node.to_json(), "layer": origin.layer.word(), "file": origin.file,
        "line": origin.line, "column": origin.column,
    })
}

fn shown(value: &Value, format: Format) -> Result<String> {
    Ok(match (format, value) {
        (Format::Json, value) => serde_json::to_string_pretty(value)? + "\n",
        (Format::Yaml, Value::String(text)) => format!("{text}\n"),
        (Format::Yaml, value) => serde_yaml::to_string(value)?,
    })
}

/// `ros config export`.
pub fn export(full: bool, private: bool, output: Option<&Path>) -> Result<ExitCode> {
    let mut tree = if full { load()?.tree } else { own_file()? };
    if !private {
        tree = redact(tree, DOCUMENT);
    }
    let text = cloud_config::edit::text_of(&tree)?;
    match output {
        Some(file) => durable::write(file, text.as_bytes(), 0o600)?,
        None => print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn own_file() -> Result<Node> {
    let path = Path::new(paths::CLOUD_CONFIG);
    let text = cloud_config::edit::read(path).with_context(|| {
        format!("read {}: the configuration is root's: use sudo", path.display())
    })?;
    let node = cloud_config::document::parse(&text, Layer::User, paths::CLOUD_CONFIG);
    node.map_err(|wrong| anyhow!("{}", wrong.with_source(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_origin() {
        let text = "ros:\n  ssh: {port: 22}\n  modules: [a]\n";
        let node = cloud_config::document::parse(text, Layer::User, "f").unwrap();
        let mut all = Vec::new();
        origins(node.at("ros").unwrap(), "ros", &mut all);
        let lines: String = all.iter().map(|(path, node)| origin_line(path, node)).collect();
        assert_eq!(
            lines,
            "ros.ssh.port: 22    # user f:2:15\nros.modules.0: \"a\"    # user f:3:13\n"
        );
    }
}

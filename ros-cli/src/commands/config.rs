//! `ros config`: reads and changes this machine's configuration, and says what is wrong with one.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use cloud_config::{Diagnostic, Layer, Loaded, Severity, Sources, edit, layers};
use ros_api::paths;
use serde_json::Value;

use crate::services::configuration::Configuration;
use crate::services::listing::print;
use crate::services::registries;

/// `ros config …`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// The value of a key, from whichever layer it comes
    Get {
        /// Dotted path, such as ros.upgrade.repository
        key: String,
        /// Also say which layer, file and line it comes from
        #[arg(long)]
        show_origin: bool,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Sets a key in this machine's own file; most keys count from the next boot on
    Set {
        /// Dotted path, such as ros.upgrade.repository
        key: String,
        /// YAML: true, [a, b], {a: b}, or plain text
        value: String,
    },
    /// Removes a key from this machine's own file
    Unset {
        /// Dotted path
        key: String,
    },
    /// This machine's own file, without secrets
    Export {
        /// All layers merged instead
        #[arg(long)]
        full: bool,
        /// With secrets
        #[arg(long)]
        private: bool,
    },
    /// Says all that is wrong with a file, or with this machine's layers; exit code 1 on errors
    Validate {
        /// A file; `-` is standard input; all layers of this machine when not given
        file: Option<PathBuf>,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Report,
    },
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Yaml,
    Json,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Report {
    #[default]
    Text,
    Json,
}

/// Runs the command.
///
/// # Errors
/// When a key or a value is wrong, or a file cannot be read or written.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Get { key, show_origin, format } => get(&key, show_origin, format),
        Verb::Set { key, value } => set(&key, &value),
        Verb::Unset { key } => unset(&key),
        Verb::Export { full, private } => export(full, private),
        Verb::Validate { file: Some(file), format } => validate_file(&file, format),
        Verb::Validate { file: None, format } => validate_machine(format),
    }
}

/// The layers as this user may read them.
fn load() -> Result<Loaded> {
    let sources = Sources::machine();
    if sources.user.exists() {
        std::fs::File::open(&sources.user).with_context(|| {
            format!("read {}: the configuration is root's: use sudo", sources.user.display())
        })?;
    }
    Ok(cloud_config::load(&sources))
}

fn get(key: &str, show_origin: bool, format: Format) -> Result<ExitCode> {
    let key = own_key(key);
    let loaded = load()?;
    let Some(node) = loaded.tree.at(&key) else {
        if cloud_config::schema::kind_at(&key).is_none() {
            bail!("there is no key {key}: `ros config export --full` shows those in use");
        }
        eprintln!("{key} is not set");
        return Ok(ExitCode::FAILURE);
    };
    if show_origin {
        print(&format!("# {} {}\n", node.origin.layer.word(), node.origin))?;
    }
    print(&shown(&node.to_json(), format)?)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(value: &Value, format: Format) -> Result<String> {
    Ok(match (format, value) {
        (Format::Json, value) => serde_json::to_string_pretty(value)? + "\n",
        (Format::Yaml, Value::String(text)) => format!("{text}\n"),
        (Format::Yaml, value) => serde_yaml::to_string(value)?,
    })
}

fn own_key(key: &str) -> String {
    match key.strip_prefix("rancher") {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("ros{rest}"),
        _ => key.to_owned(),
    }
}

fn set(key: &str, value: &str) -> Result<ExitCode> {
    edit::set(Path::new(paths::CLOUD_CONFIG), key, value)
        .map_err(|error| anyhow!("{error}{}", needs_root(&error)))?;
    apply_now(&own_key(key))?;
    Ok(ExitCode::SUCCESS)
}

/// What counts at once: the daemon reads how registries are reached before each pull.
fn apply_now(key: &str) -> Result<()> {
    let of_registries = key == "ros" || key.starts_with("ros.registr");
    if of_registries && Path::new(paths::RUN_ROS).is_dir() {
        registries::publish(&Configuration::load().settings)?;
    }
    Ok(())
}

fn unset(key: &str) -> Result<ExitCode> {
    let was_there = edit::unset(Path::new(paths::CLOUD_CONFIG), key)
        .map_err(|error| anyhow!("{error}{}", needs_root(&error)))?;
    if !was_there {
        eprintln!("{key} was not set");
    }
    apply_now(&own_key(key))?;
    Ok(ExitCode::SUCCESS)
}

fn needs_root(error: &edit::EditError) -> &'static str {
    match error {
        edit::EditError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            ": the configuration is root's: use sudo"
        }
        _ => "",
    }
}

fn export(full: bool, private: bool) -> Result<ExitCode> {
    let mut value = if full { load()?.tree.to_json() } else { own_file()? };
    if !private {
        redact(&mut value);
    }
    print(&format!("#cloud-config\n{}", serde_yaml::to_string(&value)?))?;
    Ok(ExitCode::SUCCESS)
}

fn own_file() -> Result<Value> {
    let path = Path::new(paths::CLOUD_CONFIG);
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| {
            format!("read {}: the configuration is root's: use sudo", path.display())
        })?,
    };
    let node = cloud_config::document::parse(&text, Layer::User, paths::CLOUD_CONFIG);
    Ok(node.map_err(|wrong| anyhow!("{}", wrong.with_source(&text)))?.to_json())
}

/// Hides what is nobody else's business.
fn redact(value: &mut Value) {
    const SECRET: [&str; 5] = ["auth", "passwd", "password", "secret", "token"];
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if SECRET.contains(&key.as_str()) => {
                        "(hidden)".clone_into(text)
                    }
                    value => redact(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        _ => {}
    }
}

fn validate_file(file: &Path, format: Report) -> Result<ExitCode> {
    let (name, text) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        ("-".to_owned(), text)
    } else {
        let name = file.display().to_string();
        let text = std::fs::read(file).with_context(|| format!("read {name}"))?;
        (name, String::from_utf8_lossy(&text).into_owned())
    };
    let mut found = Vec::new();
    // What is right of it is of no interest here.
    let _ = layers::checked(&text, Layer::User, &name, &mut found);
    report(&found, format, |_| Some(text.clone()))
}

fn validate_machine(format: Report) -> Result<ExitCode> {
    report(&load()?.diagnostics, format, |file| std::fs::read_to_string(file).ok())
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
    let errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    eprintln!("{errors} errors, {} warnings", found.len() - errors);
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let mut value = json!({"ros": {"registries": {"h": {"password": "x", "username": "u"}}, "l": [{"auth": "y"}]}});
        redact(&mut value);
        let expected = json!({"ros": {"registries": {"h": {"password": "(hidden)", "username": "u"}}, "l": [{"auth": "(hidden)"}]}});
        assert_eq!(value, expected);
    }

    #[test]
    fn the_ancestors_keys_are_ours() {
        assert_eq!(own_key("rancher.debug"), "ros.debug");
        assert_eq!(own_key("rancherous"), "rancherous");
    }
}

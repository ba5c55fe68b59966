//! `ros config`: reads and changes this machine's configuration, says what is wrong with one, and applies it.

mod apply;
mod generate;
mod kernel_args;
mod read;
mod restore;
mod validate;
mod write;

pub use self::apply::start_guard;

use std::path::PathBuf;
use std::process::ExitCode;

pub use validate::accept;

use anyhow::{Context, Result};
use cloud_config::{Loaded, Sources};

use crate::services::listing::print;

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
        /// Also say which layer, file and line each value comes from
        #[arg(long)]
        show_origin: bool,
        /// What it is without this machine's own file
        #[arg(long)]
        default: bool,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Sets a key in this machine's own file; `ros config apply` makes it count
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
    /// Merges a document into this machine's own file; a wrong one changes nothing
    Merge {
        /// A file; standard input when not given
        #[arg(short, long)]
        input: Option<PathBuf>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// This machine's own file, without secrets
    Export {
        /// All layers merged instead
        #[arg(short, long)]
        full: bool,
        /// With secrets
        #[arg(short, long)]
        private: bool,
        /// Into a file that only its owner reads, instead of standard output
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Says all that is wrong with a file, or with this machine's layers; exit code 1 on errors
    Validate {
        /// A file; `-` is standard input; all layers of this machine when not given
        file: Option<PathBuf>,
        /// The same, RancherOS's way
        #[arg(short, long, conflicts_with = "file")]
        input: Option<PathBuf>,
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Report,
    },
    /// What is different from what was applied last, and when each difference counts
    Diff {
        /// What to show it as
        #[arg(long, value_enum, default_value_t)]
        format: Report,
    },
    /// Opens this machine's own file in $EDITOR; it is kept when nothing is wrong with it
    Edit,
    /// Every key that there is
    Schema {
        /// For editors, or for people
        #[arg(long, value_enum, default_value_t)]
        format: SchemaFormat,
    },
    /// Kernel arguments of the running generation, from its next boot on
    KernelArgs(kernel_args::Args),
    /// Fills a template on standard input in with the environment: {{ env.NAME }}
    Generate,
    /// Names of the images of configured services
    Images {
        /// A file instead of this machine's layers
        #[arg(short, long)]
        input: Option<PathBuf>,
    },
    /// Makes changes count: at once what can, the rest at the next boot
    Apply {
        /// Go back to what was applied before, unless `ros config confirm` is run within this many seconds
        #[arg(long, value_name = "SECONDS")]
        confirm: Option<u64>,
    },
    /// Keeps what `ros config apply --confirm` tries
    Confirm,
    /// Puts a good configuration of this machine's own file back: the one that was applied last
    Restore {
        /// The one that this generation was healthy with instead
        #[arg(long, value_name = "NUMBER")]
        generation: Option<u32>,
        /// Only show what there is to go back to
        #[arg(long)]
        list: bool,
    },
    #[command(hide = true)]
    Guard,
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

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum SchemaFormat {
    #[default]
    Json,
    Markdown,
}

/// Runs the command.
///
/// # Errors
/// When a key or a value is wrong, or a file cannot be read or written.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Get { key, show_origin, default, format } => {
            read::get(&key, show_origin, default, format)
        }
        Verb::Set { key, value } => write::set(&key, &value),
        Verb::Unset { key } => write::unset(&key),
        Verb::Merge { input, dry_run } => write::merge(input.as_deref(), dry_run),
        Verb::Export { full, private, output } => read::export(full, private, output.as_deref()),
        Verb::Validate { file, input, format } => validate::run(file.or(input).as_deref(), format),
        Verb::Diff { format } => apply::diff(format),
        Verb::Edit => write::edit(),
        Verb::Schema { format } => schema(format),
        Verb::KernelArgs(args) => kernel_args::run(&args),
        Verb::Generate => generate::generate(),
        Verb::Images { input } => generate::images(input.as_deref()),
        Verb::Apply { confirm } => apply::run(confirm),
        Verb::Confirm => apply::confirm(),
        Verb::Restore { list: true, .. } => restore::list(),
        Verb::Restore { generation, .. } => restore::run(generation),
        Verb::Guard => apply::guard(),
    }
}

fn schema(format: SchemaFormat) -> Result<ExitCode> {
    let text = match format {
        SchemaFormat::Json => {
            serde_json::to_string_pretty(&cloud_config::schema::json::document())? + "\n"
        }
        SchemaFormat::Markdown => cloud_config::schema::table::markdown(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
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

/// A document's text and what to call it: a file, or standard input for none and `-`.
fn input(file: Option<&std::path::Path>) -> Result<(String, String)> {
    let bytes = match file.filter(|file| file.as_os_str() != "-") {
        Some(file) => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
        None => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)
                .context("read standard input")?;
            bytes
        }
    };
    let name = file.map_or_else(|| "-".to_owned(), |file| file.display().to_string());
    Ok((String::from_utf8_lossy(&bytes).into_owned(), name))
}

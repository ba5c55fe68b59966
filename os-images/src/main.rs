//! `os-images`: makes the images, releases and disks of ros from the definitions beside this program's
//! sources. Says what it does on stderr; the same inputs give the same bytes.

mod archive;
mod build;
mod command;
mod compose;
mod cpio;
mod debian;
mod definition;
mod disk;
mod elf;
mod frames;
mod glob;
mod grub;
mod image;
mod initrd;
mod kernel;
mod oci;
mod prune;
mod push;
mod sbom;
mod sign;
mod sizes;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use build::{Build, Site};
use definition::Variation;

/// The one time that every file in every image has: 2026-01-01.
const EPOCH: u64 = 1_767_225_600;
/// The same for JSON.
const EPOCH_TEXT: &str = "2026-01-01T00:00:00Z";

/// Makes the images, releases and disks of ros.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Folder with `system-docker` and `ros`.
    #[arg(long, global = true, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Folder for the results.
    #[arg(long, global = true, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// Folder for what is kept between builds [default: `cache` in the results].
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Compression of layers, as zstd counts.
    #[arg(long, global = true, value_name = "N", default_value_t = oci::LAYERS)]
    level: i32,
    /// Folder with the definitions.
    #[arg(long, global = true, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"))]
    definitions: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build service images and print their digests.
    Image {
        /// Such as `os-ntp`; all when none is named.
        names: Vec<String>,
    },
    /// Build releases: an OCI layout, kernel, initrd and `release.yml` each.
    Release {
        /// Such as `v1.0`.
        #[arg(required = true)]
        versions: Vec<String>,
    },
    /// Make a bootable disk with a release on it (and kernel and initrd for booting without one).
    Disk {
        /// Such as `v1.0`.
        version: String,
        /// Size of the disk; the STATE partition grows to a larger disk at boot.
        #[arg(long, default_value = "1G")]
        size: String,
        /// The disk; qcow2, or raw when it ends in `.raw` [default: `disk-<version>.qcow2` in the results].
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Configuration that the machine starts with.
        #[arg(long, value_name = "FILE")]
        cloud_config: Option<PathBuf>,
        /// Kernel arguments that are added to the release's own, and stay over upgrades.
        #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
        append: String,
    },
    /// Sign built releases; the signatures go with them wherever they are pushed or archived.
    Sign {
        /// Such as `v1.0`.
        #[arg(required = true)]
        versions: Vec<String>,
        #[command(flatten)]
        order: sign::Order,
    },
    /// Write a built release as one file for machines without a network: `ros os upgrade -i FILE`.
    Archive {
        /// Such as `v1.0`.
        version: String,
        #[command(flatten)]
        order: archive::Order,
    },
    /// Copy built releases into a registry (plain HTTP); what is there is not sent again.
    Push {
        /// Such as `v1.0`.
        #[arg(required = true)]
        versions: Vec<String>,
        /// Address of the registry.
        #[arg(long, default_value = "127.0.0.1:5000")]
        registry: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("os-images: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let site = Site {
        cache: arguments.cache.unwrap_or_else(|| arguments.out.join("cache")),
        out: arguments.out,
        bin_dir: arguments.bin_dir,
        definitions: arguments.definitions,
        level: arguments.level,
    };
    match arguments.verb {
        Verb::Image { names } => image(&Build::open(site)?, names),
        Verb::Release { versions } => release(&Build::open(site)?, &versions),
        Verb::Disk { version, size, file, cloud_config, append } => {
            let build = Build::open(site)?;
            let release = build.release(&version)?;
            let order = disk::Order { size: disk::parse_size(&size)?, file, cloud_config, append };
            disk::make(build.site(), &release, &order)
        }
        Verb::Sign { versions, order } => {
            versions.iter().try_for_each(|version| sign::sign(&site, version, &order))
        }
        Verb::Archive { version, order } => {
            println!("{}", archive::write(&site, &version, &order)?.display());
            Ok(())
        }
        Verb::Push { versions, registry } => push::push(&site, &versions, &registry),
    }
}

fn image(build: &Build, names: Vec<String>) -> Result<()> {
    let names = if names.is_empty() { build.definitions().images()? } else { names };
    for name in names {
        let image = build.images().build(&name, &Variation::default())?;
        println!("{name} {} {}", image.manifest.digest, image.size());
    }
    Ok(())
}

fn release(build: &Build, versions: &[String]) -> Result<()> {
    let releases =
        versions.iter().map(|version| build.release(version)).collect::<Result<Vec<_>>>()?;
    if let Some(first) = releases.first() {
        eprint!("{}", sizes::table(first));
    }
    Ok(())
}

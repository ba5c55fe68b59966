//! `ros install`: puts ros on a disk.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::install::{self, Order};

/// `ros install …`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The disk, such as /dev/sda, /dev/vda, /dev/nvme0n1; everything on it is lost
    #[arg(short, long, value_name = "DISK")]
    device: String,
    /// Another release than the one that runs: os:v1.2, v1.2, a whole name, or a file (OCI archive or layout)
    #[arg(short, long)]
    image: Option<String>,
    /// A #cloud-config for the new machine: a file, or an http(s) URL
    #[arg(short, long, value_name = "FILE|URL")]
    cloud_config: Option<String>,
    /// Kernel arguments to add
    #[arg(short, long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Ask nothing, although there is something on the disk
    #[arg(short, long)]
    force: bool,
    /// Leave the reboot to you
    #[arg(long)]
    no_reboot: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Although a newer signed release was good here: an old one with all its holes is signed as well
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    old: Old,
}

/// What RancherOS had and this has not: refused with a word, not taken for a typing error.
#[derive(clap::Args, Debug)]
struct Old {
    #[arg(short = 't', long, hide = true)]
    install_type: Option<String>,
    #[arg(short, long, hide = true)]
    partition: Option<String>,
    #[arg(long, hide = true)]
    statedir: Option<String>,
    #[arg(short, long, hide = true)]
    kexec: bool,
    #[arg(short, long, hide = true)]
    save: bool,
}

impl Old {
    /// Why not.
    fn refusal(&self) -> Option<String> {
        let kind = self.install_type.as_deref().filter(|kind| *kind != "generic");
        if let Some(kind) = kind {
            return Some(format!(
                "-t {kind}: every disk becomes the same (GPT, BIOS and UEFI): leave it out"
            ));
        }
        let table = [
            (
                self.partition.is_some(),
                "-p: a partition is no place to boot from: -d names a whole disk",
            ),
            (self.statedir.is_some(), "--statedir: state has a partition of its own"),
            (self.kexec, "-k: boot from the disk, so that it is seen to boot"),
            (
                self.save,
                "-s: images of services that a release does not bring are not taken along: load them there",
            ),
        ];
        table.into_iter().find_map(|(given, why)| given.then(|| why.to_owned()))
    }
}

/// Runs the command.
///
/// # Errors
/// When it is refused or fails.
pub async fn run(args: Args) -> Result<ExitCode> {
    if let Some(why) = args.old.refusal() {
        bail!("{why}");
    }
    let Args { device, image, cloud_config, append, force, no_reboot, dry_run, .. } = args;
    let allow_downgrade = args.allow_downgrade;
    install::run(&Order {
        device,
        image,
        cloud_config,
        append,
        force,
        no_reboot,
        dry_run,
        allow_downgrade,
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn old_words_are_refused_with_a_reason_and_generic_is_what_it_is() {
        for (words, refused) in [
            ("-d /dev/sda -t generic -f", None),
            ("-d /dev/sda -t gptsyslinux", Some("-t gptsyslinux")),
            ("-d /dev/sda -p /dev/sda1", Some("whole disk")),
            ("-d /dev/sda --statedir x", Some("--statedir")),
            ("-d /dev/sda -k", Some("-k")),
            ("-d /dev/sda -s", Some("-s")),
        ] {
            let line = Line::parse_from(std::iter::once("x").chain(words.split(' ')));
            let why = line.args.old.refusal();
            match refused {
                Some(word) => assert!(why.unwrap().contains(word), "{words}"),
                None => assert_eq!(why, None),
            }
        }
    }
}

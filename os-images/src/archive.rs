//! A release as one file for machines without a network: its OCI layout (the release, every image of its services,
//! and its signatures) as a tar. `ros os upgrade -i FILE` takes it; so do `skopeo` and `system-docker load`.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use ros_api::Release;

use crate::EPOCH;
use crate::build::Site;
use crate::oci::{self, Index, Manifest};

/// What belongs into an archive.
#[derive(clap::Args, Debug, Default)]
pub struct Order {
    /// The file [default: `os-<version>.oci.tar` in the results].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Without the release's optional parts.
    #[arg(long)]
    pub bare: bool,
}

/// Writes the archive of `version`; answers where it is.
///
/// # Errors
/// When the release is not built or the file cannot be written.
pub fn write(site: &Site, version: &str, order: &Order) -> Result<PathBuf> {
    let whole = site.release(version).join("oci");
    let beside = || site.out.join(format!("os-{version}.oci.tar"));
    let target = order.file.clone().unwrap_or_else(beside);
    let half = target.with_extension("part");
    let bare = tempfile::tempdir_in(&site.out).context("create a temporary folder")?;
    let layout = if order.bare {
        without_parts(site, version, &whole, bare.path())?;
        bare.path()
    } else {
        &whole
    };
    pack(layout, &half).with_context(|| format!("write {}", half.display()))?;
    fs::rename(&half, &target).with_context(|| format!("rename to {}", target.display()))?;
    Ok(target)
}

/// The layout `whole` without the images of optional parts, as `bare`; signatures stay.
fn without_parts(site: &Site, version: &str, whole: &Path, bare: &Path) -> Result<()> {
    let path = site.release(version).join("release.yml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: is it built?", path.display()))?;
    let release = Release::parse(&text)?;
    let is_part = |digest| release.optional.values().any(|part| part.digest == digest);
    let mut images = Index::read(whole)?;
    images.retain(|(_, manifest)| !is_part(manifest.digest));
    let blobs = bare.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    for (_, manifest) in &images {
        let text = oci::blob(whole, &manifest.digest)?;
        let of_image: Manifest = serde_json::from_slice(&text).context("read a manifest")?;
        for part in of_image.layers.iter().chain([&of_image.config, manifest]) {
            let name = part.digest.hex();
            oci::link(&whole.join("blobs/sha256").join(&name), &blobs.join(&name))?;
        }
    }
    oci::link(&whole.join("oci-layout"), &bare.join("oci-layout"))?;
    Index::write(bare, images)
}

/// Small files first: a reader knows what it has before it comes to the layers.
fn pack(layout: &Path, to: &Path) -> Result<()> {
    let dir = layout.join("blobs/sha256");
    let entries = fs::read_dir(&dir).with_context(|| format!("{}: is it built?", dir.display()))?;
    let mut blobs = Vec::new();
    for entry in entries {
        let entry = entry?;
        blobs.push((entry.metadata()?.len(), entry.file_name()));
    }
    blobs.sort();
    let mut tar = tar::Builder::new(BufWriter::new(File::create(to)?));
    for name in ["oci-layout", "index.json"] {
        append(&mut tar, name, &layout.join(name))?;
    }
    for (_, name) in blobs {
        let name = format!("blobs/sha256/{}", name.to_string_lossy());
        append(&mut tar, &name, &layout.join(&name))?;
    }
    let file = tar.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    Ok(file.sync_all()?)
}

fn append(tar: &mut tar::Builder<BufWriter<File>>, name: &str, path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH);
    header.set_size(file.metadata()?.len());
    tar.append_data(&mut header, name, file).with_context(|| format!("pack {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_layout_gives_the_same_archive_and_one_that_is_missing_none() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        let site = Site::at(out);
        assert!(
            format!("{:#}", write(&site, "v1", &Order::default()).unwrap_err())
                .contains("is it built?")
        );
        let layout = out.join("releases/v1/oci");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for (name, text) in [("oci-layout", "{}"), ("index.json", "{}"), ("blobs/sha256/b", "22")] {
            fs::write(layout.join(name), text).unwrap();
        }
        fs::write(layout.join("blobs/sha256/a"), "333").unwrap();
        let first = fs::read(write(&site, "v1", &Order::default()).unwrap()).unwrap();
        let other = Order { file: Some(out.join("other.tar")), ..Order::default() };
        assert_eq!(fs::read(write(&site, "v1", &other).unwrap()).unwrap(), first);
        let mut names = Vec::new();
        for entry in tar::Archive::new(&first[..]).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names, ["oci-layout", "index.json", "blobs/sha256/b", "blobs/sha256/a"]);
        assert!(!out.join("os-v1.oci.part").exists());
    }
}

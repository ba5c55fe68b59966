//! The table of sizes that a build ends with.

use std::collections::BTreeSet;

use ros_api::Digest;

use crate::build::Built;
use crate::oci::Image;

/// Compressed sizes of a release's parts; a layer that images share counts once.
#[must_use]
pub fn table(built: &Built) -> String {
    let set = &built.release.boot_set;
    let mut text = format!(
        "sizes of {}, compressed, in kB (a shared layer counts once)\n",
        built.release.version
    );
    let mut total = set.kernel_size + set.initrd_size;
    let mut line =
        |name: &str, size: u64| text.push_str(&format!("  {name:<24}{:>8}\n", size / 1000));
    line("kernel", set.kernel_size);
    line("initrd", set.initrd_size);
    let mut seen = BTreeSet::new();
    let optional: BTreeSet<Digest> =
        built.release.optional.values().map(|image| image.digest).collect();
    let services = built.images.iter().filter(|(name, _)| !name.starts_with("os:"));
    let (asked_for, always): (Vec<_>, Vec<_>) =
        services.partition(|(_, image)| optional.contains(&image.manifest.digest));
    let mut new = |image: &Image| -> u64 {
        image.blobs().filter(|blob| seen.insert(blob.digest)).map(|blob| blob.size).sum()
    };
    for (name, image) in always {
        let size = new(image);
        line(name, size);
        total += size;
    }
    line("kernel, initrd, services", total);
    for (name, image) in asked_for {
        line(&format!("{name} (optional)"), new(image));
    }
    if let Some((name, image)) = built.images.iter().find(|(name, _)| name.starts_with("os:")) {
        line(&format!("{name} (boot set in it)"), image.size());
    }
    text
}

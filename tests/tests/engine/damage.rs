//! A store that was changed on disk: `system-docker check` names it and repairs it, and nothing of it runs.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::daemon::{Site, publish};

/// A site whose store has `word:1`.
fn site(name: &str) -> Result<Site> {
    let mut site = Site::new(name)?;
    publish(&site.host(), "word:1", 100_000, "gzip -n", "+gzip")?;
    site.start(&json!({ "default_registry": site.host() }))?;
    site.docker(&["pull", "-q", "word:1"])?;
    Ok(site)
}

/// A file of some layer's tree.
fn file(site: &Site, name: &str) -> Result<PathBuf> {
    let layers = fs::read_dir(site.dir.join("docker/layers"))?;
    let paths = layers.flatten().map(|layer| layer.path().join("tree").join(name));
    paths.into_iter().find(|path| path.exists()).with_context(|| format!("no layer has {name}"))
}

fn run(site: &Site) -> Result<String> {
    site.docker(&["run", "--rm", "--network", "none", "word:1", "cat", "/word"])
}

fn invert_a_byte(path: &Path) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3)?;
    Ok(file.write_all_at(&[!byte[0]], 3)?)
}

#[test]
fn a_byte_changed_on_disk_is_seen_at_use_and_fetched_again() -> Result<()> {
    let site = site("byte")?;
    let (whole, said) = site.check(&[])?;
    ensure!(whole && said.contains("2 layers"), "{said}");
    ensure!(run(&site)? == "a word of word:1");
    let stopped = site.docker(&["create", "--network", "none", "word:1"])?;

    invert_a_byte(&file(&site, "word")?)?;
    for args in [
        &["run", "--rm", "--network", "none", "word:1", "cat", "/word"][..],
        &["start", &stopped],
        &["cp", &format!("{stopped}:/word"), "-"],
        &["save", "-o", "/dev/null", "word:1"],
    ] {
        let refused = site.refused(args)?;
        let breaks_off = args[0] == "save" || refused.contains("is damaged");
        ensure!(breaks_off, "{args:?}: {refused}");
    }

    let (whole, said) = site.check(&[])?;
    ensure!(
        !whole && said.contains("tree/word is damaged") && said.contains("1 damaged"),
        "{said}"
    );
    let (whole, said) = site.check(&["--repair"])?;
    ensure!(whole && said.contains("repaired: fetched again from"), "{said}");
    ensure!(run(&site)? == "a word of word:1");
    ensure!(site.check(&[])?.0);
    site.docker(&["start", &stopped])?;
    Ok(())
}

#[test]
fn every_kind_of_damage_is_named_and_repaired() -> Result<()> {
    let site = site("kinds")?;
    let blobs = site.dir.join("docker/blobs/sha256");
    let blob = fs::read_dir(&blobs)?.flatten().next().context("no blob")?.path();
    let image =
        fs::read_dir(site.dir.join("docker/images"))?.flatten().next().context("no image")?;
    let damages: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("blob", &|| invert_a_byte(&blob)),
        ("it was not there|not what it was", &|| {
            Ok(fs::write(file(&site, "word")?.with_file_name("more"), "x")?)
        }),
        ("missing|not what it was", &|| Ok(fs::remove_file(file(&site, "blob")?)?)),
        ("04755", &|| {
            let path = file(&site, "bin/busybox")?;
            Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o4755))?)
        }),
        ("bin/sh", &|| {
            let link = file(&site, "bin/cat")?.with_file_name("sh");
            fs::remove_file(&link)?;
            Ok(std::os::unix::fs::symlink("/evil", link)?)
        }),
        ("image record", &|| Ok(fs::write(image.path(), "{}")?)),
        ("tarsplit", &|| {
            let layer = file(&site, "word")?;
            let layer = layer.parent().and_then(Path::parent).context("no layer")?;
            invert_a_byte(&layer.join("tarsplit"))
        }),
    ];
    for (number, (named, damage)) in damages.iter().enumerate() {
        damage()?;
        let (whole, said) = site.check(&[])?;
        let says = named.split('|').any(|word| said.contains(word.trim_start_matches('0')));
        ensure!(!whole && says, "{number} {named}: {said}");
        let (whole, said) = site.check(&["--repair"])?;
        ensure!(whole, "{number} {named}: {said}");
        ensure!(site.check(&[])?.0, "{number} {named}");
    }
    ensure!(run(&site)? == "a word of word:1");
    Ok(())
}

#[test]
fn what_cannot_be_repaired_is_said_and_left() -> Result<()> {
    let mut site = site("left")?;
    let running =
        site.docker(&["run", "-d", "--network", "none", "word:1", "cat", "/dev/zero", "-"])?;
    invert_a_byte(&file(&site, "blob")?)?;
    let (whole, said) = site.check(&["--repair"])?;
    ensure!(!whole && said.contains("which runs: stop it first"), "{said}");
    site.docker(&["rm", "-f", &running])?;
    site.registry.kill();
    let (whole, said) = site.check(&["--repair"])?;
    ensure!(!whole && said.contains("not repaired"), "{said}");
    ensure!(file(&site, "blob").is_ok(), "it is gone");
    let refused = site.refused(&["run", "--rm", "--network", "none", "word:1"])?;
    ensure!(refused.contains("is damaged"), "{refused}");
    // What no image has needs no registry.
    site.docker(&["rmi", "word:1"])?;
    let layer = site.dir.join("docker/layers").join("0".repeat(64));
    fs::create_dir(&layer)?;
    let (whole, said) = site.check(&["--repair"])?;
    ensure!(whole && said.contains("removed: no image has it") && !layer.exists(), "{said}");
    Ok(())
}

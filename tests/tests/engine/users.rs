//! Containers with user namespaces of their own, as the docker CLI sees them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::daemon::{Site, publish};

fn first_id(site: &Site, name: &str) -> Result<u32> {
    let map = site.docker(&["exec", name, "cat", "/proc/self/uid_map"])?;
    let fields: Vec<&str> = map.split_whitespace().collect();
    ensure!(fields.len() == 3 && fields[0] == "0" && fields[2] == "65536", "{map}");
    Ok(fields[1].parse()?)
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.uid(), data.gid()))
}

#[test]
fn a_container_s_root_is_nobody_outside() -> Result<()> {
    let mut site = Site::new("users")?;
    site.options = vec!["--userns-remap".into(), "auto".into()];
    publish(&site.host(), "box:v1", 1000, "gzip -n", "+gzip")?;
    site.start(&json!({}))?;
    let image = format!("{}/box:v1", site.host());
    let image = image.as_str();
    site.docker(&["pull", "-q", image])?;
    let run = |name: &str, more: &[&str]| {
        let begin = ["run", "-d", "--network", "none", "--name", name, "-v", "data:/data"];
        site.docker(&[&begin, more, &[image, "busybox", "sleep", "1000"]].concat())
    };

    let (one, _) = (run("one", &[])?, run("two", &[])?);
    let (first, second) = (first_id(&site, "one")?, first_id(&site, "two")?);
    ensure!(first >= 1 << 20 && second.abs_diff(first) >= 1 << 16, "{first} {second}");
    let upper = site.dir.join("docker/containers").join(&one).join("upper");
    let touch = "busybox touch /made /data/made /word /etc/hosts && busybox chown 5:6 /made";
    site.docker(&["exec", "one", "sh", "-c", touch])?;
    ensure!(owner(&upper.join("made"))? == (5, 6) && owner(&upper.join("word"))? == (0, 0));
    ensure!(owner(&site.dir.join("docker/volumes/data/_data/made"))? == (0, 0));
    // A volume has the same owners for each of them, whatever its ids are outside.
    let seen = site.docker(&["exec", "two", "busybox", "stat", "-c", "%u:%g", "/data/made"])?;
    ensure!(seen == "0:0", "{seen}");

    // Files go in and out as from any other, and so do images.
    let file = site.dir.join("file");
    fs::write(&file, "a word\n")?;
    site.docker(&["cp", &file.display().to_string(), "one:/copied"])?;
    ensure!(site.docker(&["exec", "one", "cat", "/copied"])? == "a word");
    let back = site.dir.join("back");
    site.docker(&["cp", "one:/made", &back.display().to_string()])?;
    site.docker(&["commit", "one", "made:v1"])?;
    let seen =
        ["run", "--rm", "--network", "none", "made:v1", "busybox", "stat", "-c", "%u:%g", "/made"];
    ensure!(site.docker(&seen)? == "5:6");
    site.docker(&["stop", "-t", "0", "one"])?;
    site.docker(&["start", "one"])?;
    ensure!(first_id(&site, "one")? == first, "a container keeps its ids");

    // What cannot be in one is said; who asks for the host's has it.
    for options in
        [&["--network", "host"][..], &["--privileged"], &["--network", "none", "--pid", "host"]]
    {
        let said = site.refused(&[&["create"], options, &[image]].concat())?;
        ensure!(said.contains("in a user namespace") && said.contains("--userns=host"), "{said}");
    }
    let map = [
        "run",
        "--rm",
        "--userns",
        "host",
        "--network",
        "host",
        image,
        "cat",
        "/proc/self/uid_map",
    ];
    ensure!(site.docker(&map)?.split_whitespace().nth(1) == Some("0"));

    // What a removed one had, the next has; what others have, it has not.
    site.docker(&["rm", "-f", "one"])?;
    run("three", &["--read-only", "--tmpfs", "/t"])?;
    ensure!(first_id(&site, "three")? == first);
    site.docker(&["exec", "three", "busybox", "touch", "/t/made"])?;
    site.docker(&["rm", "-f", "two", "three"])?;
    Ok(())
}

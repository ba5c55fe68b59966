//! What holds for the project as a whole: dependencies point one way, what ships needs no dynamic linker, and the same
//! inputs make the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use serde_json::Value;

/// Which of our packages each may depend on (ARCHITECTURE.md).
const ALLOWED: &[(&str, &[&str])] = &[
    ("ros-api", &[]),
    ("ros-sys", &[]),
    ("cloud-config", &["ros-api"]),
    ("ros-image", &["ros-api", "ros-sys"]),
    ("ros-runtime", &["ros-api", "ros-sys"]),
    ("ros-boot", &["ros-api", "ros-sys", "cloud-config"]),
    (
        "system-docker",
        &["ros-api", "ros-sys", "cloud-config", "ros-image", "ros-runtime", "ros-boot"],
    ),
    ("ros", &["ros-api", "ros-sys", "cloud-config"]),
    ("os-images", &["ros-api", "cloud-config"]),
    ("ros-tests", &["ros-api", "cloud-config"]),
];

#[test]
fn dependencies_point_one_way() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(artifacts::checkout())
        .output()
        .context("start cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, on)| (*name, on.iter().copied().collect())).collect();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().context("no name")?;
        let may = allowed.get(name).with_context(|| format!("{name} is not in the list"))?;
        let on = package["dependencies"].as_array().into_iter().flatten();
        for dependency in on.filter_map(|dependency| dependency["name"].as_str()) {
            let ours = allowed.contains_key(dependency);
            ensure!(!ours || may.contains(dependency), "{name} depends on {dependency}");
        }
    }
    Ok(())
}

/// A program that ships: from the folder `ROS_PROGRAMS`, else of the same build as this test.
fn program(name: &str) -> Result<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_BIN_EXE_ros-vm")).with_file_name("");
    let path = std::env::var_os("ROS_PROGRAMS").map_or_else(beside, PathBuf::from).join(name);
    ensure!(path.exists(), "{} is not there: run `make build`", path.display());
    Ok(path)
}

#[test]
fn what_ships_needs_no_dynamic_linker() -> Result<()> {
    for name in ["system-docker", "ros"] {
        let path = program(name)?;
        let output = Command::new("readelf")
            .arg("--wide")
            .args(["-l", "-d"])
            .arg(&path)
            .output()
            .context("start readelf")?;
        ensure!(output.status.success(), "readelf {}", path.display());
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            !said.contains("(NEEDED)") && !said.contains("INTERP"),
            "{name} is linked dynamically:\n{said}"
        );
    }
    Ok(())
}

/// Built twice from nothing but the packages that the mirror gives.
#[test]
fn the_same_inputs_make_the_same_image() -> Result<()> {
    let build = || -> Result<String> {
        let dir = tempfile::tempdir()?;
        let output = Command::new(program("os-images")?)
            .arg("--out")
            .arg(dir.path())
            .args(["image", "os-ntp"])
            .current_dir(artifacts::checkout())
            .output()
            .context("start os-images")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let (one, other) = (build()?, build()?);
    ensure!(one.contains("sha256:"), "no digest in {one:?}");
    ensure!(one == other, "{one}{other}");
    Ok(())
}

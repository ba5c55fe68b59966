//! Images from registries as they are: lines that break, certificates of one's own, proxies, tokens, zstd.

use std::fs;

use anyhow::{Context, Result, ensure};
use ros_tests::meddler::{Harm, Meddler};
use ros_tests::registry::free_port;
use serde_json::json;

use crate::daemon::{Site, publish};

#[test]
fn a_pull_goes_on_where_the_line_broke() -> Result<()> {
    let mut site = Site::new("resume")?;
    let size = 6_000_000;
    publish(&site.host(), "big:1", size, "cat", "")?;
    // Cut for good after two thirds: the pull fails, and what came stays.
    let port = free_port()?;
    let meddler = Meddler::start(port, site.registry.port, Harm::Cut(4_000_000))?;
    site.start(&json!({ "default_registry": format!("127.0.0.1:{port}") }))?;
    site.refused(&["pull", "-q", "big:1"])?;
    let partial: u64 = fs::read_dir(site.dir.join("docker/ingest"))?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "partial"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum();
    ensure!(partial > 1_000_000, "only {partial} bytes were kept");
    drop(meddler);
    // A line that carries only what is missing: a pull from the beginning would be cut again.
    // The small layer may be here already: nothing of it is partial then.
    let small = match fs::read_dir(site.dir.join("docker/layers"))?.count() {
        0 => fs::metadata("/bin/busybox")?.len(),
        _ => 0,
    };
    let left = Harm::Cut(size + small - partial + 500_000);
    let _meddler = Meddler::start(port, site.registry.port, left)?;
    site.docker(&["pull", "-q", "big:1"])?;
    let (whole, said) = site.check(&[])?;
    ensure!(whole, "{said}");
    Ok(())
}

#[test]
fn layers_come_as_gzip_zstd_or_plain() -> Result<()> {
    let mut site = Site::new("packers")?;
    site.start(&json!({ "default_registry": site.host() }))?;
    for (name, packer, kind) in
        [("gzip:1", "gzip -n", "+gzip"), ("zstd:1", "zstd -q", "+zstd"), ("plain:1", "cat", "")]
    {
        publish(&site.host(), name, 1000, packer, kind)?;
        site.docker(&["pull", "-q", name])?;
        let said = site.docker(&["run", "--rm", "--network", "none", name, "cat", "/word"])?;
        ensure!(said == format!("a word of {name}"), "{said}");
    }
    // The layer with busybox is in all of them.
    let format = "{{range .Images}}{{.SharedSize}} {{.UniqueSize}},{{end}}";
    let said = site.docker(&["system", "df", "-v", "--format", format])?;
    ensure!(said.matches("MB ").count() == 3 && said.matches("kB,").count() == 3, "{said}");
    let (_, said) = site.check(&[])?;
    said.contains("3 images").then_some(()).context(said)
}

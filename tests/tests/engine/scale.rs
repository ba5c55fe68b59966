//! Many containers, and what is left of them: nothing. Minutes, so `make scale` asks for it; what it prints is in
//! SPECIFICATION.md.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::daemon::{Site, children, publish, until};

/// Commands of the CLI at once; more only wait for the processor.
const AT_ONCE: usize = 8;
/// What the allocator may keep of a thousand containers, in kB.
const GROWTH: u64 = 3 << 10;

/// What the daemon holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    mounts: usize,
    cgroups: usize,
    folders: usize,
    processes: usize,
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

/// In the daemon's own namespaces; whoever still ends is waited for.
fn held(site: &Site) -> Result<(Held, u64)> {
    let daemon = site.daemon_pid()?;
    let inside = Path::new("/proc").join(daemon.to_string());
    let cgroups = inside.join("root/sys/fs/cgroup/system-docker");
    let folders = |path: &Path| {
        fs::read_dir(path).map_or(0, |all| all.flatten().filter(|one| one.path().is_dir()).count())
    };
    let status = fs::read_to_string(inside.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let memory = line.trim().trim_end_matches(" kB").parse()?;
    // Shims are children of the shell once the daemon let go of them.
    let parent = fs::read_to_string(inside.join("stat"))?;
    let shell: u32 =
        parent.rsplit(')').next().unwrap_or_default().split(' ').nth(2).unwrap_or("0").parse()?;
    let held = Held {
        descriptors: entries(&inside.join("fd")),
        mounts: fs::read_to_string(inside.join("mountinfo"))?.lines().count(),
        cgroups: folders(&cgroups),
        folders: entries(&site.dir.join("docker/containers"))
            + folders(&inside.join("root/run/system-docker")),
        processes: children(daemon)?.len() + children(shell)?.len(),
    };
    Ok((held, memory))
}

/// Does `count` commands, some at once; all have to succeed.
fn many(
    count: usize,
    at_once: usize,
    command: impl Fn(usize) -> Result<String> + Sync,
) -> Result<()> {
    let failed = thread::scope(|scope| {
        let worker = |first: usize| {
            let command = &command;
            scope.spawn(move || {
                (first..count).step_by(at_once).try_for_each(|n| command(n).map(drop))
            })
        };
        let workers: Vec<_> = (0..at_once).map(worker).collect();
        workers.into_iter().find_map(|worker| worker.join().ok().and_then(Result::err))
    });
    failed.map_or(Ok(()), Err)
}

/// The daemon holds what it held, and hardly more memory.
fn nothing_is_left(site: &Site, what: &str, began: Instant, before: (Held, u64)) -> Result<()> {
    let settled = until("all is put away", || held(site).is_ok_and(|(now, _)| now == before.0));
    let (now, memory) = held(site)?;
    println!(
        "{what}: {:.0} s, daemon {} kB before, {memory} kB after",
        began.elapsed().as_secs_f32(),
        before.1
    );
    settled.map_err(|error| error.context(format!("{what}: {now:?}, before {:?}", before.0)))?;
    ensure!(memory <= before.1 + GROWTH, "{what}: {memory} kB, before {} kB", before.1);
    Ok(())
}

#[test]
#[ignore = "minutes: make scale"]
fn a_thousand_containers_leave_nothing() -> Result<()> {
    let mut site = Site::new("scale")?;
    publish(&site.host(), "box:v1", 1000, "gzip -n", "+gzip")?;
    site.start(&json!({}))?;
    let image = format!("{}/box:v1", site.host());
    site.docker(&["pull", "-q", &image])?;
    let run = |_| site.docker(&["run", "--rm", "--network", "none", &image, "busybox", "true"]);
    let kept = |n: usize| {
        let name = format!("c{n}");
        site.docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            &name,
            &image,
            "busybox",
            "sleep",
            "1000",
        ])
    };
    let away = |n: usize| site.docker(&["rm", "-f", &format!("c{n}")]);
    let execs = || {
        kept(0)?;
        many(200, 200, |_| site.docker(&["exec", "c0", "busybox", "true"]))?;
        away(0)
    };
    let at_once = || {
        many(100, 100, kept)?;
        ensure!(site.docker(&["ps", "-q"])?.lines().count() == 100);
        many(100, AT_ONCE, away)
    };
    // What is allocated once for so many, and kept for the next.
    many(100, AT_ONCE, run)?;
    execs()?;
    at_once()?;

    let (before, began) = (held(&site)?, Instant::now());
    many(1000, AT_ONCE, run)?;
    nothing_is_left(&site, "1,000 containers run and removed", began, before)?;
    let (before, began) = (held(&site)?, Instant::now());
    execs()?;
    nothing_is_left(&site, "200 execs at once", began, before)?;
    let (before, began) = (held(&site)?, Instant::now());
    at_once()?;
    nothing_is_left(&site, "100 containers at once", began, before)
}

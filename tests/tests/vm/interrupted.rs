//! Whatever ends an upgrade in its middle: what is installed and what boots is as before, nothing that ran has noticed, and
//! the same command brings it to its end. And `ros os try`: one boot, and the default is what it was.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ros_tests::meddler::{Harm, Meddler};
use ros_tests::registry::{Registry, free_port};

use crate::networks::kill_the_daemon;
use crate::replace::generations;
use crate::site::{BOOT, Site};

/// Bytes after which the line is silent: within the first layers.
const SILENCE: u64 = 600_000;
/// How long a stage may take to be reached.
const STAGE: Duration = Duration::from_secs(120);
const COMMAND: &str = "ros os upgrade -f --stage -i os:v1.2";

pub fn whatever_ends_an_upgrade_the_same_command_goes_on() -> Result<()> {
    let mut site = Site::new("interrupted")?;
    let (port, inner) = (site.registry_port, free_port()?);
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let before = generations(&site)?;
    site.registry.kill();
    let _behind = Registry::start(&site.dir.join("registry"), inner)?;

    // While it fetches, at a terminal: Ctrl-C; and the terminal is closed, or the line to it is lost.
    for ctrl_c in [true, false] {
        let line = Meddler::start(port, inner, Harm::Silence(SILENCE))?;
        let mut terminal = at_a_terminal(&site)?;
        line.wait_silent(STAGE)?;
        match terminal.stdin.as_mut() {
            Some(keys) if ctrl_c => keys.write_all(&[3])?,
            _ => terminal.kill()?,
        }
        terminal.wait()?;
        ended(&site, if ctrl_c { "Ctrl-C" } else { "a lost line" }, &before)?;
    }
    for signal in ["TERM", "KILL"] {
        let line = Meddler::start(port, inner, Harm::Silence(SILENCE))?;
        begin(&site)?;
        line.wait_silent(STAGE)?;
        site.guest.ok(&format!("kill -{signal} $(cat /tmp/pid)"))?;
        ended(&site, signal, &before)?;
    }
    // The network is cut, the other end is silent; or nobody is there any more.
    let line = Meddler::start(port, inner, Harm::Silence(SILENCE))?;
    begin(&site)?;
    line.wait_silent(STAGE)?;
    let said = ended(&site, "silence", &before)?;
    ensure!(said.contains("10.0.2.2"), "who is silent? {said}");
    drop(line);
    // The daemon dies: PID 1 starts the next.
    let line = Meddler::start(port, inner, Harm::Silence(SILENCE))?;
    begin(&site)?;
    line.wait_silent(STAGE)?;
    kill_the_daemon(&site)?;
    let said = ended(&site, "daemon", &before)?;
    ensure!(said.contains("the daemon ended while it answered"), "{said}");
    drop(line);

    // While it installs: the installer is killed, then the command, which the installer does without.
    let _line = Meddler::start(port, inner, Harm::None)?;
    for killed in ["system-docker kill ros-installer", "kill -9 $(cat /tmp/pid)"] {
        begin(&site)?;
        site.guest.ok(&format!(
            "for i in $(seq 1200); do system-docker ps | grep -q ros-installer && {{ {killed}; exit; }}; done; exit 1"
        ))?;
        code(&site, killed)?;
        let after = pointers(&generations(&site)?);
        ensure!(after == pointers(&before), "{killed} changed something:\n{before}\n{after}");
    }
    site.guest.ok(COMMAND)?;
    site.guest.ok("ros os verify && system-docker check")?;
    ensure!(site.guest.ok("ls -A /var/lib/ros/generations")? == "1\n2\ncurrent\ngood");
    it_is_tried_once(&site, &boot)
}

/// Starts the command at a terminal of its own; as [`begin`] does else.
fn at_a_terminal(site: &Site) -> Result<Child> {
    site.guest.ok("rm -f /tmp/code")?;
    let mut ssh = site.guest.ssh();
    // The shell outlives Ctrl-C and the terminal, to say what became of the command.
    ssh.args([
        "-tt",
        &format!("sudo -n sh -c 'trap : INT HUP; {COMMAND} > /tmp/said 2>&1; echo $? > /tmp/code'"),
    ]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    ssh.spawn().context("start ssh")
}

/// Starts the command, and leaves its number and, at its end, its exit code.
fn begin(site: &Site) -> Result<()> {
    site.guest.ok("rm -f /tmp/code")?;
    let inner = format!("echo $$ > /tmp/pid; exec {COMMAND} > /tmp/said 2>&1");
    site.guest
        .ok(&format!(
            "setsid sh -c 'sh -c \"{}\"; echo $? > /tmp/code' > /dev/null 2>&1 < /dev/null &",
            inner.replace('$', "\\$")
        ))
        .map(drop)
}

/// The command's exit code.
fn code(site: &Site, what: &str) -> Result<String> {
    let wait =
        "for i in $(seq 2400); do [ -s /tmp/code ] && exec cat /tmp/code; sleep 0.1; done; exit 1";
    let ran = site.guest.run(wait)?;
    ensure!(ran.status == 0, "{what}: it does not end: {}", site.guest.ok("cat /tmp/said")?);
    Ok(ran.stdout.trim().to_owned())
}

/// It ended badly, nothing has changed, and everything runs; answers what it said.
fn ended(site: &Site, what: &str, before: &str) -> Result<String> {
    let (code, said) = (code(site, what)?, site.guest.ok("cat /tmp/said")?);
    ensure!(code != "0", "{what}: it succeeded: {said}");
    let after = generations(site)?;
    ensure!(after == before, "{what} changed something:\n{before}\n{after}");
    site.guest.ok("for i in $(seq 100); do system-docker ps > /dev/null 2>&1 && exit; sleep 0.2; done; exit 1")?;
    site.nobody_is_sick().with_context(|| what.to_owned())?;
    eprintln!("{what}: exit code {code}, {:?}", said.lines().last());
    Ok(said)
}

/// What boots and what runs; which boot sets are there does not matter.
fn pointers(generations: &str) -> String {
    let wanted = |line: &&str| line.starts_with("ros_") || line.len() < 3;
    generations.lines().filter(wanted).filter(|line| *line != "2").collect::<Vec<_>>().join("\n")
}

fn it_is_tried_once(site: &Site, boot: &str) -> Result<()> {
    let ran = site.guest.run("ros os try -f v1.2")?;
    ensure!(ran.status == 0 || ran.status == 255, "{ran:?}");
    let tried = site.guest.wait_boot(boot, BOOT)?;
    site.settled()?;
    ensure!(site.version()? == "v1.2", "{}", site.status()?);
    let status = site.status()?;
    ensure!(status["default"] == 1 && status["trial"].is_null(), "{status}");
    site.guest.run("ros reboot")?;
    site.guest.wait_boot(&tried, BOOT)?;
    site.settled()?;
    ensure!(site.version()? == "v1.0", "{}", site.status()?);
    Ok(())
}

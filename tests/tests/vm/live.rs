//! Replacing services in the running system: nothing is booted, what did not change goes on, and what is sick is put
//! back.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ros_tests::artifacts;
use ros_tests::bench::Bench;
use ros_tests::registry::Registry;
use serde_json::{Value, json};

use crate::site::{BOOT, Site};

/// How long a switch with its health window may take.
const SWITCH: Duration = Duration::from_secs(240);

/// What must not change when other services do.
const UNTOUCHED: [&str; 4] = ["udev", "network", "syslog", "console"];

pub fn services_go_up_and_back_without_a_reboot() -> Result<()> {
    let site = Site::new("live")?;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let before = pids(&site, &UNTOUCHED)?;

    let plan = site.guest.run("ros os upgrade --dry-run -i os:v1.1")?;
    ensure!(plan.stderr.contains("class     service, without a reboot"), "{plan:?}");
    ensure!(plan.stderr.contains("service   ntp changed, restart"), "{plan:?}");
    ensure!(plan.stderr.contains("packages  unchanged"), "{plan:?}");
    ensure!(plan.stderr.contains("down      ntp: not known"), "{plan:?}");

    site.guest.ok("ros os upgrade -f -i os:v1.1")?;
    runs(&site, &boot, "v1.1", 2)?;
    ensure!(pids(&site, &UNTOUCHED)? == before, "a service that did not change was restarted");
    let receipt = receipt(&site)?;
    ensure!(receipt["verdict"] == "good" && receipt["reboot"] == false, "{receipt}");
    ensure!(receipt["predicted"] == receipt["fetched"], "{receipt}");
    let (fetched, release) = (receipt["fetched"].as_u64(), artifacts::release_size("v1.1")?);
    eprintln!("fetched {fetched:?} of {release} bytes");
    ensure!((1..release / 50).contains(&fetched.unwrap_or(0)), "{receipt} of {release} bytes");
    ensure!(
        receipt["services"][0]["name"] == "ntp" && receipt["services"][1].is_null(),
        "{receipt}"
    );
    ensure!(receipt["services"][0]["gap_ms"].as_u64() > Some(0), "{receipt}");
    eprintln!("upgrade: {receipt}");

    let took = site
        .guest
        .run("cut -d' ' -f1 /proc/uptime; ros os rollback -f; cut -d' ' -f1 /proc/uptime")?;
    ensure!(took.stderr.contains("ms, as once before"), "{took:?}");
    runs(&site, &boot, "v1.0", 1)?;
    ensure!(pids(&site, &UNTOUCHED)? == before, "a service that did not change was restarted");
    eprintln!(
        "rollback, seconds after the kernel started: {:?}: {}",
        took.stdout,
        self::receipt(&site)?
    );

    // What was switched to is what boots.
    site.guest.ok("ros os rollback -f v1.1")?;
    site.guest.run("ros reboot")?;
    let after = site.guest.wait_boot(&boot, BOOT)?;
    site.settled()?;
    runs(&site, &after, "v1.1", 2)?;
    site.guest.ok("ros os upgrade -f --reboot -i os:v1.0").ok();
    let last = site.guest.wait_boot(&after, BOOT)?;
    site.settled()?;
    runs(&site, &last, "v1.0", 1)?;
    a_pinned_service_stays(&site, &last)
}

fn a_pinned_service_stays(site: &Site, boot: &str) -> Result<()> {
    let before = pids(site, &["ntp"])?;
    site.guest.ok("ros os pin ntp=v1.0")?;
    let ran = site.guest.run("ros os upgrade -f -i os:v1.1")?;
    ensure!(ran.status == 0 && ran.stderr.contains("held      ntp at v1.0"), "{ran:?}");
    ensure!(ran.stderr.contains("services  unchanged"), "{ran:?}");
    runs(site, boot, "v1.1", 3)?;
    ensure!(pids(site, &["ntp"])? == before, "the pinned service was restarted");
    ensure!(site.status()?["pins"][0] == "ntp=v1.0", "{}", site.status()?);
    let back = site.guest.run("ros os rollback -y v1.1")?;
    ensure!(back.status == 0 && back.stderr.contains("runs already"), "{back:?}");
    site.guest.ok("ros os unpin ntp")?;
    site.guest.ok("ros os upgrade -f -i os:v1.1")?;
    runs(site, boot, "v1.1", 2)?;
    ensure!(pids(site, &["ntp"])? != before, "the service moves on again");
    Ok(())
}

pub fn a_session_lives_through_a_new_console_and_the_address_stays() -> Result<()> {
    let mut site = Site::new("live-console")?;
    // A shared connection would be a session of the old console.
    site.guest.line = None;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let bench = signed_file(&site)?;
    let before = pids(&site, &["udev", "syslog", "ntp"])?;
    let mut session = Session::open(&site)?;
    ensure!(session.says("cat /proc/sys/kernel/random/boot_id")? == boot);
    let shell = session.says("echo $$")?;

    // From here on there is only the file.
    site.registry.kill();
    site.guest.ok(&format!("ros os upgrade -f -i {FILE}"))?;
    // ntp changes too: this release is from v1.1.
    runs(&site, &boot, "v1.7-console", 2)?;
    ensure!(pids(&site, &["udev", "syslog"])? == before[..2], "an untouched service restarted");
    ensure!(session.says("echo $$")? == shell, "the shell of before the switch");
    ensure!(session.says("echo ${ROS_TEST:-old}")? == "old");
    let two = consoles(&site)?;
    ensure!(two.len() == 2, "the old console lives as long as its session: {two:?}");
    let receipt = receipt(&site)?;
    let how: Vec<String> = receipt["services"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| format!("{} {}", service["name"], service["how"]).replace('"', ""))
        .collect();
    for wanted in ["console hand-over", "acpid overlap", "network restart", "ntp restart"] {
        ensure!(how.iter().any(|step| step == wanted), "{wanted}: {how:?}");
    }
    eprintln!("{receipt}");
    ensure!(receipt["predicted"] == 0 && receipt["fetched"] == 0, "{receipt}");
    let signed = &site.status()?["signed"];
    ensure!(signed["name"] == "releases.example/os:v1.7-console", "{signed}");
    ensure!(receipt["signed"] == *signed, "{receipt}");
    site.registry = Registry::start(&site.dir.join("registry"), site.registry_port)?;
    an_older_one_is_for_who_says_so(&site, &bench)?;
    session.close()?;
    let end = Instant::now() + Duration::from_secs(60);
    while consoles(&site)?.len() > 1 {
        ensure!(Instant::now() < end, "the old console does not end: {:?}", consoles(&site)?);
    }
    Ok(())
}

/// Where the release lies on the machine.
const FILE: &str = "/home/ros/os.oci.tar";

/// A signed release comes to the machine as a file. Signatures are required: neither one without, nor one by another
/// key is taken; at the end the right key counts, beside another.
fn signed_file(site: &Site) -> Result<Bench> {
    let bench = site.bench()?;
    let (ours, other) = (bench.key("ours")?, bench.key("other")?);
    let trusts = |keys: &[&String]| {
        let entry = json!({"keys": keys, "signed_as": "releases.example/os"});
        let host = format!("10.0.2.2:{}", site.registry_port);
        site.configure(&json!({"ros": {"upgrade": {"signatures": {host: entry}}}}).to_string())
    };
    trusts(&[&other])?;
    refused(site, "--dry-run -i os:v1.1", "is not signed")?;
    bench.take("v1.7-console")?;
    bench.sign("v1.7-console", "ours", "releases.example/os")?;
    site.guest.send(&bench.archive("v1.7-console")?, FILE)?;
    refused(site, &format!("-f -i {FILE}"), "none by a key that counts")?;
    trusts(&[&other, &ours])?;
    Ok(bench)
}

fn an_older_one_is_for_who_says_so(site: &Site, bench: &Bench) -> Result<()> {
    bench.take("v1.1")?;
    bench.sign("v1.1", "ours", "releases.example/os")?;
    bench.push("v1.1", site.registry_port)?;
    refused(site, "-f -i os:v1.1", "older than v1.7-console")?;
    let plan = site.guest.run("ros os upgrade --dry-run --allow-downgrade -i os:v1.1")?;
    ensure!(plan.status == 0 && plan.stderr.contains("signed    by key"), "{plan:?}");
    let list = site.guest.ok("ros os list")?;
    ensure!(!list.contains("sha256-"), "a signature is no version: {list}");
    Ok(())
}

fn refused(site: &Site, arguments: &str, word: &str) -> Result<()> {
    let ran = site.guest.run(&format!("ros os upgrade {arguments}"))?;
    ensure!(ran.status == 1 && ran.stderr.contains(word), "{word}: {ran:?}");
    Ok(())
}

pub fn a_service_that_is_sick_is_put_back() -> Result<()> {
    let site = Site::new("live-sick")?;
    let (_machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let kept = ["udev", "network", "console"];
    let before = pids(&site, &kept)?;
    refused(&site, "-y -i os:v1.9-schema", "ros.registries is no longer read")?;
    let gone = site.guest.ok("ros os diff v1.0 v1.9-schema")?;
    ensure!(gone.contains("- ros.registries") && !gone.contains("+ ros"), "{gone}");
    let new = site.guest.ok("ros os diff v1.9-schema v1.0")?;
    ensure!(new.contains("+ ros.registries") && !new.contains("- ros"), "{new}");
    runs(&site, &boot, "v1.0", 1)?;
    for (version, word) in
        [("v1.6-sickens", "syslog: ended with 3"), ("v1.8-never", "ntp: health check")]
    {
        let ran = site.guest.run(&format!("ros os upgrade -f -i os:{version}"))?;
        ensure!(ran.status == 1 && ran.stderr.contains(word), "{ran:?}");
        runs(&site, &boot, "v1.0", 1)?;
        ensure!(pids(&site, &kept)? == before, "a service that did not change was restarted");
        ensure!(receipt(&site)?["verdict"] == "put-back", "{}", receipt(&site)?);
        site.nobody_is_sick()?;
        let status = site.status()?;
        let reason = status["last_failure"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(word), "{status}");
        let again = site.guest.run(&format!("ros os upgrade -y -i os:{version}"))?;
        ensure!(again.status == 1 && again.stderr.contains("failed on this machine"), "{again:?}");
    }
    it_upgrades_by_itself(&site, &boot)?;
    what_the_user_checks_must_hold(&site, &boot)
}

/// A command, and an address that answers before and after.
fn what_the_user_checks_must_hold(site: &Site, boot: &str) -> Result<()> {
    let url = format!("http://10.0.2.2:{}/v2/", site.registry_port);
    let not_back = "test $(ros os version) != v1.0";
    let checks = json!({"ros": {"upgrade": {"policy": "none", "health": [url, not_back]}}});
    site.configure(&checks.to_string())?;
    let ran = site.guest.run("ros os rollback -f v1.0")?;
    ensure!(ran.status == 1 && ran.stderr.contains(&format!("going back: {not_back}")), "{ran:?}");
    ensure!(!ran.stderr.contains("not counted"), "{ran:?}");
    runs(site, boot, "v1.1", 4)
}

/// Never to what failed here, never over a metered line, and else without anybody.
fn it_upgrades_by_itself(site: &Site, boot: &str) -> Result<()> {
    let policy = |keys: &str| -> Result<()> {
        site.configure(&format!(
            "ros: {{upgrade: {{policy: auto, every: 5s, jitter: 0s, {keys}}}}}"
        ))?;
        site.guest.ok("ros config apply").map(drop)
    };
    policy("channel: 'v1.6*'")?;
    says_by_itself(site, "nothing newer")?;
    policy("channel: v1.1, metered: en*")?;
    says_by_itself(site, "metered")?;
    runs(site, boot, "v1.0", 1)?;
    policy("channel: v1.1, metered: wwan*")?;
    says_by_itself(site, "nothing newer")?;
    let receipt = receipt(site)?;
    ensure!(receipt["by"] == "automatic" && receipt["verdict"] == "good", "{receipt}");
    ensure!(site.version()? == "v1.1" && receipt["reboot"] == false, "{receipt}");
    let id = site.guest.ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(id == boot, "the machine was booted");
    Ok(())
}

fn says_by_itself(site: &Site, word: &str) -> Result<()> {
    let end = Instant::now() + SWITCH;
    loop {
        let said = site.status()?["look"]["said"].as_str().unwrap_or_default().to_owned();
        if said.contains(word) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{word:?} is not in {said:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

pub fn it_goes_on_without_the_command_and_a_power_cut_leaves_the_old() -> Result<()> {
    let site = Site::new("live-killed")?;
    let (machine, boot) = site.boot(site.spec("v1.0", "")?)?;
    site.settled()?;
    let mut command = upgrade(&site)?;
    site.guest.ok("for i in $(seq 600); do [ -e /var/lib/ros/switch.json ] && exit 0; sleep 0.2; done; exit 1")?;
    site.guest.ok("kill -9 $(cat /tmp/upgrade.pid)")?;
    command.wait()?;
    // The container that switches is killed too: it is started again, and comes to its end.
    site.guest.ok("kill -9 $(pidof ros | tr ' ' '\\n' | while read p; do tr '\\0' ' ' < /proc/$p/cmdline | grep -q switch-services && echo $p; done)")?;
    site.guest.ok("for i in $(seq 600); do [ -e /var/lib/ros/switch.json ] || exit 0; sleep 0.2; done; exit 1")?;
    runs(&site, &boot, "v1.1", 2)?;

    site.guest.ok("ros os rollback -f")?;
    let mut command = upgrade_to(&site, "v1.6-sickens")?;
    site.guest.ok("for i in $(seq 600); do [ -e /var/lib/ros/switch.json ] && exit 0; sleep 0.2; done; exit 1")?;
    machine.reset()?;
    let after = site.guest.wait_boot(&boot, BOOT)?;
    command.kill()?;
    command.wait()?;
    site.settled()?;
    runs(&site, &after, "v1.0", 1)?;
    let receipt = receipt(&site)?;
    ensure!(receipt["verdict"] == "cut-short", "{receipt}");
    site.guest.ok("[ ! -e /var/lib/ros/switch.json ]")?;
    site.guest.ok("ros os upgrade -f -i os:v1.1")?;
    runs(&site, &after, "v1.1", 2)
}

fn upgrade(site: &Site) -> Result<Child> {
    upgrade_to(site, "v1.1")
}

/// Starts an upgrade and does not wait for it.
pub fn upgrade_to(site: &Site, version: &str) -> Result<Child> {
    let mut ssh = site.guest.ssh();
    let command = format!("echo $$ > /tmp/upgrade.pid; exec ros os upgrade -f -i os:{version}");
    ssh.arg(format!("sudo -n sh -c '{command}'"));
    let ssh = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ssh.spawn().context("start ssh")
}

/// The machine runs `version` as generation `number`, which is good and boots by default, and was not booted since.
pub fn runs(site: &Site, boot: &str, version: &str, number: u32) -> Result<()> {
    let id = site.guest.ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(id == boot, "the machine was booted: {boot} {id}");
    let running = site.version()?;
    ensure!(
        running == version,
        "{running} runs: {}",
        site.guest.ok("ros os history --format json")?
    );
    let status = site.status()?;
    ensure!(status["running"]["state"] == "good", "{status}");
    ensure!(status["running"]["generation"] == number, "{status}");
    ensure!(status["default"] == number && status["trial"].is_null(), "{status}");
    let pointers = site.guest.ok("cd /var/lib/ros/generations; readlink current; readlink good")?;
    ensure!(pointers == format!("{number}\n{number}"), "{pointers}");
    Ok(())
}

fn pids(site: &Site, names: &[&str]) -> Result<Vec<String>> {
    let all = site.json("ros service ps --format json")?;
    let pid = |name: &&str| {
        let process = all.as_array()?.iter().find(|process| process["name"] == **name)?;
        Some(process["pid"].as_i64()?.to_string())
    };
    names.iter().map(|name| pid(name).with_context(|| format!("no {name} in {all}"))).collect()
}

/// Names of the console's containers that run.
fn consoles(site: &Site) -> Result<Vec<String>> {
    let all = site.guest.ok("system-docker ps")?;
    let names = all.lines().filter_map(|line| line.split_whitespace().last());
    Ok(names.filter(|name| name.starts_with("console")).map(str::to_owned).collect())
}

/// The latest.
pub fn receipt(site: &Site) -> Result<Value> {
    let history = site.json("ros os history --format json")?;
    let last = history.as_array().and_then(|all| all.last()).cloned();
    last.with_context(|| format!("no receipt in {history}"))
}

/// A shell over ssh that stays open.
struct Session {
    ssh: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Session {
    fn open(site: &Site) -> Result<Self> {
        let mut ssh = site.guest.ssh();
        ssh.arg("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ssh = ssh.spawn().context("start ssh")?;
        let output = ssh.stdout.take().context("no output")?;
        let (to, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                let _ = to.send(line);
            }
        });
        Ok(Self { ssh, lines })
    }

    /// The line that a command prints.
    fn says(&mut self, command: &str) -> Result<String> {
        use std::io::Write;
        let input = self.ssh.stdin.as_mut().context("closed")?;
        writeln!(input, "{command}").context("the session has ended")?;
        self.lines.recv_timeout(SWITCH.min(Duration::from_secs(60))).context("the session is dead")
    }

    fn close(mut self) -> Result<()> {
        drop(self.ssh.stdin.take());
        let end = Instant::now() + Duration::from_secs(30);
        while self.ssh.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "the session does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

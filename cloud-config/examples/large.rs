//! How long a configuration of 10,000 lines takes, from the file to the settings: read, parsed, checked, merged with other
//! layers and typed, by the function that a boot calls. The processor's time is what counts on a machine that does other
//! things too. Ends with 1 when the median is above the budget.
//! `cargo run --release -p cloud-config --example large`

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cloud_config::Sources;

/// What it may take.
const BUDGET: Duration = Duration::from_millis(50);

/// What this process took of the processor so far.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn document() -> String {
    let mut text = String::from("#cloud-config\nhostname: large\nwrite_files:\n");
    for number in 0..2_000 {
        let _ = write!(
            text,
            "- path: /srv/file-{number}\n  permissions: '0644'\n  content: |\n    line {number}\n"
        );
    }
    text.push_str("ros:\n  environment:\n");
    for number in text.lines().count()..10_000 {
        let _ = writeln!(text, "    VARIABLE_{number}: value");
    }
    text
}

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("make a folder");
    let at = |name: &str| dir.path().join(name);
    let text = document();
    fs::write(at("user.yml"), &text).expect("write the file");
    fs::write(at("oem.yml"), "ros: {environment: {VARIABLE_9999: below, OEM: one}}\n")
        .expect("write the file");
    let sources = Sources {
        release: Some(("release".into(), "ros: {ssh: {port: 22}}\n".into())),
        oem: at("oem.yml"),
        fragments: at("none"),
        instance: at("none"),
        user: at("user.yml"),
        cmdline: "quiet ros.ssh.port=2222".into(),
    };
    let (mut times, mut processor_times) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (began, processor_began) = (Instant::now(), processor());
        let loaded = cloud_config::load(&sources);
        times.push(began.elapsed());
        processor_times.push(processor().saturating_sub(processor_began));
        assert_eq!(loaded.diagnostics, []);
        let ros = &loaded.settings.ros;
        assert_eq!((loaded.settings.write_files.len(), ros.ssh.port), (2_000, 2222));
        assert_eq!(
            (&*ros.environment["VARIABLE_9999"], &*ros.environment["OEM"]),
            ("value", "one")
        );
    }
    times.sort();
    processor_times.sort();
    println!(
        "{} lines: median {:?} of the processor's time (budget {BUDGET:?}), {:?} by the clock, worst {:?}",
        text.lines().count(),
        processor_times[10],
        times[10],
        times[19]
    );
    if processor_times[10] <= BUDGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

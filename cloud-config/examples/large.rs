//! How long a configuration of 10,000 lines takes: parsed, checked, merged and typed. The processor's time is what counts
//! on a machine that does other things too.
//! `cargo run --release -p cloud-config --example large`

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cloud_config::schema::DOCUMENT;
use cloud_config::{Layer, layers, tree};

/// What this process took of the processor so far.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn main() {
    let mut text = String::from("#cloud-config\nhostname: large\nwrite_files:\n");
    for number in 0..2_000 {
        let _ = write!(
            text,
            "- path: /srv/file-{number}\n  permissions: '0644'\n  content: |\n    line {number}\n"
        );
    }
    text.push_str("ros:\n  environment:\n");
    let lines = text.lines().count();
    for number in lines..10_000 {
        let _ = writeln!(text, "    VARIABLE_{number}: value");
    }
    let (mut times, mut processor_times) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (began, processor_began) = (Instant::now(), processor());
        let mut found = Vec::new();
        let node = layers::checked(&text, Layer::User, "large.yml", &mut found);
        let merged = node.map(|node| tree::merge(tree::Node::map(&node.origin.clone()), node));
        let json = merged.map(|node| cloud_config::check::to_json(&node, DOCUMENT));
        let settings =
            json.and_then(|json| serde_json::from_value::<cloud_config::Settings>(json).ok());
        times.push(began.elapsed());
        processor_times.push(processor().saturating_sub(processor_began));
        assert!(
            found.is_empty()
                && settings.is_some_and(|settings| settings.write_files.len() == 2_000)
        );
    }
    times.sort();
    processor_times.sort();
    println!(
        "{} lines: median {:?} of the processor's time, {:?} by the clock, worst {:?}",
        text.lines().count(),
        processor_times[10],
        times[10],
        times[19]
    );
}

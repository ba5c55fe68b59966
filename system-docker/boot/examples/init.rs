//! PID 1 alone, for booting the boot stage in a virtual machine without the rest of the system. Called as
//! `modprobe` it is that applet; as `daemon` it waits for its end, as `seed` it makes an empty generation.

use std::fs;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let words: Vec<String> = args.collect();
    if name.ends_with("modprobe") {
        return ros_boot::modules::modprobe_main(words);
    }
    if rustix::process::getpid().is_init() {
        ros_boot::pid1::main();
    }
    match words.first().map(String::as_str) {
        Some("daemon") => loop {
            std::thread::park();
        },
        Some("seed") => seed(&words),
        _ => ExitCode::FAILURE,
    }
}

/// `seed --state DIR …`: copies the generation that the test put into `/preload/generation`.
fn seed(words: &[String]) -> ExitCode {
    let state = words.iter().skip_while(|word| *word != "--state").nth(1);
    let Some(state) = state else { return ExitCode::FAILURE };
    let dir = format!("{state}/lib/ros/generations/1");
    let _ = fs::remove_dir_all(format!("{state}/lib/ros/generations"));
    let copied = fs::create_dir_all(format!("{dir}/bin")).and_then(|()| {
        for file in ["generation.json", "release.yml", "bin/ros"] {
            fs::copy(format!("/preload/generation/{file}"), format!("{dir}/{file}"))?;
        }
        std::os::unix::fs::symlink("1", format!("{state}/lib/ros/generations/current"))
    });
    copied.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

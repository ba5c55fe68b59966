//! The user's own health checks, `ros.upgrade.health`: what held before a change of the OS must hold after it. Each is
//! a command line for the console's shell, or an address (`http://…`) that must answer.

use cloud_config::Settings;

use super::live::probe::exec;
use crate::services::engine::Engine;

/// Where they run: the console sees what the user sees.
const CONSOLE: &str = "console";

/// Those that are configured.
#[must_use]
pub fn wanted(settings: &Settings) -> Vec<String> {
    settings.ros.upgrade.health.clone()
}

fn command(check: &str) -> Vec<String> {
    let words: &[&str] = match check {
        url if url.starts_with("http://") || url.starts_with("https://") => {
            &["/bin/busybox", "wget", "-q", "-T", "5", "-O", "/dev/null", url]
        }
        line => &["/bin/sh", "-c", line],
    };
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Runs one.
///
/// # Errors
/// With what it said when it does not hold.
pub async fn run(engine: &Engine, check: &str) -> Result<(), String> {
    let ran = exec(engine, CONSOLE, command(check)).await;
    ran.map_err(|error| format!("{check}: {error:#}"))
}

/// Those of `checks` that hold now. One that does not hold before a change says nothing about it.
pub async fn that_hold(engine: &Engine, checks: &[String]) -> Vec<String> {
    let mut hold = Vec::new();
    for check in checks {
        match run(engine, check).await {
            Ok(()) => hold.push(check.clone()),
            Err(error) => eprintln!("not counted, it does not hold now: {error}"),
        }
    }
    hold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_fetched_and_a_line_is_the_shells() {
        assert_eq!(command("test -e /a").join(" "), "/bin/sh -c test -e /a");
        let fetch = command("http://127.0.0.1:80/health").join(" ");
        assert_eq!(fetch, "/bin/busybox wget -q -T 5 -O /dev/null http://127.0.0.1:80/health");
    }
}

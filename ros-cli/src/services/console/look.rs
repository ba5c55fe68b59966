//! The clock of `ros.upgrade.policy`: starts `ros os look` when it is time. The console runs all the while anyhow, so
//! that nobody else has to. Optional parts that are asked for and not here are fetched from here, and a search by
//! `ros os bisect` that a boot has cut short goes on.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::os::asked::now;
use crate::os::automatic::{Look, due_in};
use crate::os::machine::Machine;
use crate::os::{bisect, parts};
use crate::services::configuration::Configuration;

/// Written when every service was started and the boot was judged: nothing is done to the OS before.
const SETTLED: &str = "/run/ros/services.json";
/// How often that is looked for.
const TICK: Duration = Duration::from_secs(2);
/// The configuration is read again at least that often.
const LONGEST: Duration = Duration::from_secs(600);

/// Looks when it is time, for ever. `changed` wakes it when the configuration did.
pub async fn keep(changed: Arc<Notify>) {
    while !Path::new(SETTLED).exists() {
        sleep(TICK).await;
    }
    if bisect::is_under_way() {
        ros(&["os", "bisect", "--go-on"]).await;
    }
    let mut parts_pause = TICK;
    loop {
        // What the configuration asks for and this machine does not have yet: again and again, less and less often.
        let parts = Machine::read().is_ok_and(|machine| parts::are_due(&machine));
        if parts {
            ros(&["service", "bring-in"]).await;
            parts_pause = (parts_pause * 2).min(LONGEST);
        } else {
            parts_pause = TICK;
        }
        let due = {
            let upgrade = Configuration::load().settings.ros.upgrade;
            due_in(&upgrade, &Look::read(), now()).map(Duration::from_secs)
        };
        if due == Some(Duration::ZERO) {
            ros(&["os", "look"]).await;
        }
        // One that could not even write down when the next is due must not be started over and over.
        let pause = due.map_or(LONGEST, |due| due.clamp(TICK, LONGEST));
        let pause = if parts { pause.min(parts_pause) } else { pause };
        let _ = timeout(pause, changed.notified()).await;
    }
}

async fn ros(arguments: &[&str]) {
    let mut command = Command::new("/usr/bin/ros");
    command.args(arguments).stdin(Stdio::null());
    if let Err(error) = command.status().await {
        eprintln!("start ros {}: {error}", arguments.join(" "));
    }
}

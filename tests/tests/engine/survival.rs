//! The daemon dies under fifty containers, and nobody of them notices; a client dies while a container is started for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::daemon::{Site, publish, told, until};

/// How many there are of each kind.
const TALKERS: usize = 40;
const OTHERS: usize = 5;
/// Says a number again and again.
const TALK: &str = "n=0; while :; do echo $n; n=$((n+1)); busybox sleep 0.5; done";
/// Ends as soon as there is the file.
const END: &str = "while ! [ -e /go/now ]; do busybox sleep 0.1; done; exit";

/// What is known of each container, by its name.
fn states(site: &Site, names: &[String]) -> Result<BTreeMap<String, Value>> {
    let mut args = vec!["inspect"];
    args.extend(names.iter().map(String::as_str));
    let all: Vec<Value> = serde_json::from_str(&site.docker(&args)?)?;
    let name = |value: &Value| value["Name"].as_str().unwrap_or_default()[1..].to_owned();
    Ok(all.into_iter().map(|value| (name(&value), value)).collect())
}

fn last_number(site: &Site, name: &str) -> Result<u64> {
    let said = site.docker(&["logs", "--tail", "1", name])?;
    said.parse().with_context(|| format!("{name} said {said:?}"))
}

fn signal(signal: &str, pid: u32) -> Result<()> {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal, &pid.to_string()]);
    told(kill).map(|_| ())
}

/// Fifty containers: some talk, some will end with a code of their own, some have to be started again then.
fn start_all(site: &Site, image: &str) -> Result<[Vec<String>; 3]> {
    let go = site.dir.join("go");
    fs::create_dir_all(&go)?;
    let bind = format!("{}:/go", go.display());
    let run = |name: &str, more: &[&str], script: &str| {
        let begin = ["run", "-d", "--network", "none", "--name", name, "-v", &bind];
        site.docker(&[&begin, more, &[image, "sh", "-c", script]].concat())
    };
    let names = |kind: &str, count: usize| (0..count).map(|n| format!("{kind}{n}")).collect();
    let all: [Vec<String>; 3] =
        [names("talks", TALKERS), names("ends", OTHERS), names("again", OTHERS)];
    all[0].iter().try_for_each(|name| run(name, &[], TALK).map(drop))?;
    for (code, name) in all[1].iter().enumerate() {
        run(name, &[], &format!("{END} {}", code + 10))?;
    }
    // Once: the second time it stays.
    let once = format!("[ -e /was ] && exec busybox sleep 1000; echo > /was; {END} 7");
    all[2].iter().try_for_each(|name| run(name, &["--restart", "always"], &once).map(drop))?;
    Ok(all)
}

#[test]
fn fifty_containers_outlive_their_daemon() -> Result<()> {
    let mut site = Site::new("survival")?;
    publish(&site.host(), "box:v1", 1000, "gzip -n", "+gzip")?;
    site.start(&json!({}))?;
    let image = format!("{}/box:v1", site.host());
    site.docker(&["pull", "-q", &image])?;
    let [talks, ends, again] = start_all(&site, &image)?;
    let before = states(&site, &talks)?;
    let said = talks.iter().map(|name| last_number(&site, name)).collect::<Result<Vec<_>>>()?;
    let ending = states(&site, &[ends.clone(), again.clone()].concat())?;

    // It hears nothing any more; ten end meanwhile; then it is killed.
    let daemon = site.daemon_pid()?;
    signal("STOP", daemon)?;
    fs::write(site.dir.join("go/now"), "")?;
    for state in ending.values() {
        let id = state["Id"].as_str().context("an id")?;
        let exit = site.dir.join("docker/containers").join(id).join("exit.json");
        until("a container's end is written down", || exit.exists())?;
    }
    signal("KILL", daemon)?;
    until("another daemon", || site.daemon_pid().is_ok_and(|pid| pid != daemon))?;
    site.answers()?;

    let after = states(&site, &talks)?;
    for (name, state) in &after {
        let was = &before[name]["State"];
        for key in ["Pid", "StartedAt", "Status"] {
            ensure!(state["State"][key] == was[key], "{name}: {} was {was}", state["State"]);
        }
    }
    for (name, said) in talks.iter().zip(said) {
        until("its log goes on", || last_number(&site, name).is_ok_and(|now| now > said + 1))?;
    }
    for (code, name) in ends.iter().enumerate() {
        let state = &states(&site, std::slice::from_ref(name))?[name]["State"];
        ensure!(state["ExitCode"] == json!(code + 10) && state["Status"] == "exited", "{state}");
    }
    until("the policy starts them again", || {
        states(&site, &again).is_ok_and(|all| {
            let is =
                |state: &Value| state["State"]["Status"] == "running" && state["RestartCount"] == 1;
            all.values().all(is)
        })
    })?;
    Ok(())
}

#[test]
fn what_a_client_asked_comes_to_its_end_without_it() -> Result<()> {
    let mut site = Site::new("hangs-up")?;
    publish(&site.host(), "box:v1", 1000, "gzip -n", "+gzip")?;
    site.start(&json!({}))?;
    let image = format!("{}/box:v1", site.host());
    site.docker(&["pull", "-q", &image])?;
    let sleeps = ["--network", "none", &image, "busybox", "sleep", "1000"];
    for pause in (0..40).step_by(2) {
        site.docker(&[&["create", "--name", "half"], &sleeps[..]].concat())?;
        let mut client = UnixStream::connect(site.dir.join("docker.sock"))?;
        client.write_all(
            b"POST /containers/half/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n",
        )?;
        sleep(Duration::from_millis(pause));
        drop(client);
        site.docker(&["start", "half"]).with_context(|| format!("gone after {pause} ms"))?;
        let running = site.docker(&["inspect", "half", "--format", "{{.State.Running}}"])?;
        ensure!(running == "true", "gone after {pause} ms: {running}");
        site.docker(&["rm", "-f", "half"])?;
    }
    Ok(())
}

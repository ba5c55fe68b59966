//! The user's engine: what the docker service runs around dockerd.
//!
//! ```text
//!  our defaults < ros.registries, proxies < ros.docker < /etc/docker/daemon.json ─► dockerd --config-file
//!
//!  cgroup of the service: ros docker-init ─ dockerd ─ containerd        ends with the service
//!  cgroup /docker-shims:  containerd-shim … one a container             goes on
//!  cgroup /docker/<id>:   the containers
//! ```
//!
//! So the engine can be replaced under its containers, which dockerd calls live restore. When the machine goes down there
//! is nothing to come back to: dockerd is told so, and stops them in its own way, each with its grace.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloud_config::Settings;
use cloud_config::settings::{Docker, TLS};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use ros_api::{durable, paths};
use serde_json::{Map, Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::console::supervise;

/// The runtime that new containers get: runc, its shims in [`SHIMS`].
const RUNTIME: &str = "ros";
/// Control group of the shims, below the root of the hierarchy.
const SHIMS: &str = "/docker-shims";
/// Its own socket, always.
const SOCKET: &str = "unix:///run/docker.sock";
/// How long dockerd may take to notice that containers are to end with it.
const NOTICE: Duration = Duration::from_secs(10);

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The user's own `daemon.json`.
    pub users_file: PathBuf,
    /// Certificates of the configuration.
    pub tls: PathBuf,
    /// The one that dockerd reads.
    pub file: PathBuf,
    /// Root of the control groups.
    pub cgroups: PathBuf,
    /// The command line in this image.
    pub client: PathBuf,
    /// Where everybody finds it.
    pub shared_client: PathBuf,
    /// There when the machine goes down.
    pub going_down: PathBuf,
}

impl Places {
    /// Those of the service.
    #[must_use]
    pub fn service() -> Self {
        Self {
            users_file: "/etc/docker/daemon.json".into(),
            tls: TLS.into(),
            file: "/run/ros/docker.json".into(),
            cgroups: "/sys/fs/cgroup".into(),
            client: "/usr/bin/docker".into(),
            shared_client: paths::DOCKER_CLIENT.into(),
            going_down: paths::GOING_DOWN.into(),
        }
    }
}

/// Runs dockerd until it ends or the service is stopped.
///
/// # Errors
/// When the user's file cannot be read, or dockerd cannot be set up or started.
pub async fn run(settings: &Settings, places: &Places) -> Result<ExitCode> {
    let options = options(settings, users_options(&places.users_file)?);
    write(&places.file, &options)?;
    let shims = places.cgroups.join(SHIMS.trim_start_matches('/'));
    fs::create_dir_all(&shims).with_context(|| format!("create {}", shims.display()))?;
    let docker = &settings.ros.docker;
    write_certificates(docker, &places.tls)?;
    let environment = docker.environment.iter().filter_map(|entry| entry.split_once('='));
    let mut dockerd = Command::new("dockerd")
        .arg("--config-file")
        .arg(&places.file)
        .args(docker.arguments())
        .envs(environment)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start dockerd")?;
    share_client(places).unwrap_or_else(|error| eprintln!("docker: {error:#}"));
    let ended = supervised(&mut dockerd, &options, places).await;
    unshare_client(&places.shared_client);
    ended
}

async fn supervised(
    dockerd: &mut Child,
    options: &Map<String, Value>,
    places: &Places,
) -> Result<ExitCode> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    loop {
        tokio::select! {
            ended = dockerd.wait() => {
                let code = ended.context("wait for dockerd")?.code();
                return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            _ = term.recv() => {
                if places.going_down.exists() {
                    end_with_containers(dockerd, options, places).await;
                }
                supervise::signal(dockerd, Signal::SIGTERM);
            }
            _ = interrupt.recv() => supervise::signal(dockerd, Signal::SIGTERM),
            _ = hangup.recv() => supervise::signal(dockerd, Signal::SIGHUP),
        }
    }
}

/// Has dockerd stop its containers when it ends: their restart policies count at the next boot, as they would not had
/// each been stopped by hand.
async fn end_with_containers(dockerd: &Child, options: &Map<String, Value>, places: &Places) {
    let mut options = options.clone();
    options.insert("live-restore".into(), json!(false));
    if let Err(error) = write(&places.file, &options) {
        eprintln!("docker: containers do not end with the engine: {error:#}");
        return;
    }
    supervise::signal(dockerd, Signal::SIGHUP);
    // One that hangs answers nothing, and is to be ended all the same.
    let noticed = async {
        while outlive_engine(&places.client).await {
            sleep(Duration::from_millis(100)).await;
        }
    };
    if timeout(NOTICE, noticed).await.is_err() {
        eprintln!("docker: the engine does not say that containers end with it");
    }
}

/// Whether dockerd says that containers outlive it.
async fn outlive_engine(client: &Path) -> bool {
    let mut command = Command::new(client);
    command.args(["info", "--format", "{{.LiveRestoreEnabled}}"]).kill_on_drop(true);
    command.output().await.is_ok_and(|output| output.stdout.trim_ascii() == b"true")
}

/// The user's own `daemon.json`; none is an empty one.
fn users_options(path: &Path) -> Result<Map<String, Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let read = serde_json::from_str(&text);
    match read.with_context(|| format!("{} is not JSON", path.display()))? {
        Value::Object(options) => Ok(options),
        _ => bail!("{}: expected an object, such as {{\"debug\": true}}", path.display()),
    }
}

/// What dockerd is told: what the machine's configuration says of it, and the user's own file above all.
fn options(settings: &Settings, users: Map<String, Value>) -> Map<String, Value> {
    let mut options = defaults(settings);
    options.extend(settings.ros.docker.daemon_json());
    options.extend(users);
    if let Some(Value::Array(hosts)) = options.get_mut("hosts")
        && !hosts.iter().any(|host| host.as_str().is_some_and(|host| host.starts_with("unix://")))
    {
        hosts.insert(0, json!(SOCKET));
    }
    if let Some(driver) = options.get("log-driver")
        && driver != "json-file"
        && options.get("log-opts") == Some(&log_options())
    {
        options.remove("log-opts");
    }
    let shims =
        json!({ "runtimeType": "io.containerd.runc.v2", "options": { "ShimCgroup": SHIMS } });
    let runtimes = options.entry("runtimes").or_insert_with(|| json!({}));
    if let Value::Object(runtimes) = runtimes {
        runtimes.entry(RUNTIME).or_insert(shims);
    }
    options.entry("default-runtime").or_insert_with(|| json!(RUNTIME));
    // dockerd does not start when an argument and the file name the same option.
    let named = named_by(&settings.ros.docker.arguments());
    options.retain(|name, _| !named.contains(name));
    if !options.contains_key("runtimes") && options.get("default-runtime") == Some(&json!(RUNTIME))
    {
        options.remove("default-runtime");
    }
    options
}

fn defaults(settings: &Settings) -> Map<String, Value> {
    let registries = settings.registries();
    let plain: Vec<&String> = registries
        .iter()
        .filter(|(_, registry)| registry.plain_http)
        .map(|(host, _)| host)
        .collect();
    let network = &settings.ros.network;
    let proxies = [
        ("http-proxy", &network.http_proxy),
        ("https-proxy", &network.https_proxy),
        ("no-proxy", &network.no_proxy),
    ];
    let proxies: Map<String, Value> = proxies
        .into_iter()
        .filter_map(|(key, proxy)| Some((key.to_owned(), json!(proxy.as_ref()?))))
        .collect();
    let all = [
        ("exec-root", json!("/run/docker")),
        ("pidfile", json!("/run/docker.pid")),
        ("live-restore", json!(true)),
        ("log-driver", json!("json-file")),
        ("log-opts", log_options()),
        ("insecure-registries", json!(plain)),
        ("proxies", Value::Object(proxies)),
    ];
    let all = all.into_iter().filter(|(_, value)| *value != json!([]) && *value != json!({}));
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A container that talks without end does not fill the disk.
fn log_options() -> Value {
    json!({ "max-size": "25m", "max-file": "2" })
}

/// The options of `daemon.json` that dockerd's `arguments` name.
fn named_by(arguments: &[String]) -> BTreeSet<String> {
    let names = arguments.iter().filter_map(|argument| {
        let name = argument.split('=').next()?;
        Some(match name {
            "-D" => "debug",
            "-G" => "group",
            "-b" => "bridge",
            "-g" => "data-root",
            "-l" => "log-level",
            "-s" => "storage-driver",
            "-H" | "--host" => "hosts",
            "--dns" => "dns",
            "--insecure-registry" => "insecure-registries",
            "--label" => "labels",
            "--log-opt" => "log-opts",
            "--registry-mirror" => "registry-mirrors",
            "--storage-opt" => "storage-opts",
            "--add-runtime" => "runtimes",
            "--http-proxy" | "--https-proxy" | "--no-proxy" => "proxies",
            name => name.strip_prefix("--")?,
        })
    });
    names.map(str::to_owned).collect()
}

fn write(path: &Path, options: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(options).context("encode dockerd's options")?;
    // It may hold credentials of a proxy.
    Ok(durable::write(path, &text, 0o600)?)
}

fn write_certificates(docker: &Docker, dir: &Path) -> Result<()> {
    for (name, text, secret) in docker.tls_files() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mode = if secret { 0o600 } else { 0o644 };
        durable::write(&dir.join(name), text.as_bytes(), mode)?;
    }
    Ok(())
}

/// Puts the command line where the console, and whoever else shares `/run`, finds it: the file itself, not a copy.
fn share_client(places: &Places) -> Result<()> {
    let at = &places.shared_client;
    unshare_client(at);
    fs::write(at, b"").with_context(|| format!("create {}", at.display()))?;
    mount(Some(&places.client), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {}", places.client.display(), at.display()))
}

/// Takes it away, also what an engine left that was killed.
fn unshare_client(at: &Path) {
    while umount2(at, MntFlags::MNT_DETACH).is_ok() {}
    let _ = fs::remove_file(at);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(yaml: &str) -> Settings {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn users(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_users_file_counts_over_the_configuration_and_that_over_defaults() {
        let plain = options(&Settings::default(), Map::new());
        assert_eq!(plain["live-restore"], json!(true));
        assert_eq!(plain["log-opts"], json!({"max-size": "25m", "max-file": "2"}));
        assert_eq!(plain["default-runtime"], json!("ros"));
        assert_eq!(plain["runtimes"]["ros"]["options"]["ShimCgroup"], json!("/docker-shims"));
        assert!(!plain.contains_key("hosts") && !plain.contains_key("insecure-registries"));

        let configured = settings(
            "ros: {docker: {debug: true, group: a, log_driver: journald, host: ['tcp://127.0.0.1:2375']}, \
             registries: {'h:5000': {plain_http: true}, b: {}}, network: {http_proxy: 'http://p:1'}}",
        );
        let given = users(
            r#"{"group": "b", "default-runtime": "mine", "runtimes": {"mine": {"path": "/r"}}}"#,
        );
        let options = options(&configured, given);
        assert_eq!((&options["debug"], &options["group"]), (&json!(true), &json!("b")));
        assert_eq!(options["hosts"], json!(["unix:///run/docker.sock", "tcp://127.0.0.1:2375"]));
        assert_eq!(options["insecure-registries"], json!(["h:5000"]));
        assert_eq!(options["proxies"], json!({"http-proxy": "http://p:1"}));
        assert_eq!(options["default-runtime"], json!("mine"));
        assert!(options["runtimes"]["ros"].is_object() && options["runtimes"]["mine"].is_object());
        assert!(!options.contains_key("log-opts"), "they are json-file's");
    }

    #[test]
    fn what_an_argument_says_is_not_in_the_file() {
        let configured = settings(
            "ros: {docker: {debug: true, extra_args: ['--log-opt', 'max-size=1m', '-D', '--live-restore=false', x]}}",
        );
        let options = options(&configured, Map::new());
        for name in ["log-opts", "debug", "live-restore"] {
            assert!(!options.contains_key(name), "{name}");
        }
        let own = settings("ros: {docker: {extra_args: ['--add-runtime', 'mine=/r']}}");
        let own = super::options(&own, Map::new());
        assert!(!own.contains_key("runtimes") && !own.contains_key("default-runtime"), "{own:?}");
        let tls = options_of_tls();
        assert!(!tls.contains_key("hosts"), "they are arguments: {tls:?}");
        assert!(options.contains_key("log-driver"));
    }

    fn options_of_tls() -> Map<String, Value> {
        options(&settings("ros: {docker: {tls: true, host: ['tcp://127.0.0.1:1']}}"), Map::new())
    }

    #[test]
    fn certificates_are_written_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        let docker = settings("ros: {docker: {server_key: k, ca_cert: c}}").ros.docker;
        write_certificates(&docker, &tls).unwrap();
        let mode = |name: &str| fs::metadata(tls.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("server-key.pem"), mode("ca.pem")), (0o600, 0o644));
        assert!(!tls.join("server-cert.pem").exists());
    }

    #[test]
    fn a_wrong_file_is_named_with_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        assert!(users_options(&path).unwrap().is_empty());
        for (text, said) in
            [("{\n \"debug\": x\n}", "line 2 column"), ("[1]", "expected an object")]
        {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", users_options(&path).unwrap_err());
            assert!(error.contains("daemon.json") && error.contains(said), "{error}");
        }
        fs::write(&path, " \n").unwrap();
        assert!(users_options(&path).unwrap().is_empty());
    }
}

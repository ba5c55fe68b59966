//! `ros service`: the system's services, as they are declared and as they are.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bollard::container::LogOutput;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use ros_api::ServiceSpec;
use serde::Serialize;

use crate::os::parts;
use crate::services::configuration::{self, Configuration};
use crate::services::container::Service;
use crate::services::engine::Engine;
use crate::services::listing::{Format, show};
use crate::services::readiness::{Readiness, judge};
use crate::services::roster::{Roster, Running};

/// `ros service …`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// All services, switched off ones too
    #[command(visible_alias = "ls")]
    List(Shown),
    /// The containers of services
    Ps(Shown),
    /// What a service printed
    Logs {
        /// The service
        name: String,
        /// Go on with what it will print
        #[arg(short, long)]
        follow: bool,
        /// Only the last N lines
        #[arg(short = 'n', long, value_name = "N")]
        tail: Option<u32>,
    },
    /// Start services and wait until they are ready
    Start(Named),
    /// Stop services
    Stop(Named),
    /// Stop services, make their containers anew if they changed, and wait until they are ready
    Restart(Named),
    /// What a service may do, and what it does
    Inspect {
        /// The service
        name: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Have services start at boot, and start them; an optional part of the release is fetched
    Enable(Named),
    /// Have services not start at boot, and stop them
    Disable(Named),
    /// Fetches the parts that the configuration asks for
    #[command(hide = true)]
    BringIn,
}

#[derive(clap::Args, Debug)]
struct Shown {
    /// What to show it as
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(clap::Args, Debug)]
struct Named {
    /// The services
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// One service in `ros service list`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    enabled: bool,
    ready: bool,
    state: String,
    essential: bool,
    oneshot: bool,
    image: Option<String>,
    note: String,
}

/// One container in `ros service ps`.
#[derive(Debug, Serialize)]
struct Process {
    name: String,
    id: Option<String>,
    state: String,
    pid: Option<i64>,
    image: Option<String>,
}

/// `ros service inspect`.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    name: &'a str,
    enabled: bool,
    image: Option<&'a str>,
    content: Option<&'a str>,
    spec: Option<&'a ServiceSpec>,
    live: Live,
}

/// What a service does at this moment.
#[derive(Debug, Default, Serialize)]
struct Live {
    ready: bool,
    state: String,
    note: String,
    container: Option<String>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    restarts: Option<i64>,
    started_at: Option<String>,
    mounts: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the daemon does not answer, or a service cannot be made to do what was asked.
pub async fn run(args: Args) -> Result<ExitCode> {
    let machine = Machine::read().await?;
    match args.verb {
        Verb::List(shown) => machine.list(shown.format).await,
        Verb::Ps(shown) => machine.ps(shown.format).await,
        Verb::Logs { name, follow, tail } => machine.logs(&name, follow, tail).await,
        Verb::Start(named) => machine.each(&named.names, Act::Start).await,
        Verb::Stop(named) => machine.each(&named.names, Act::Stop).await,
        Verb::Restart(named) => machine.each(&named.names, Act::Restart).await,
        Verb::Inspect { name, shown } => machine.inspect(&name, shown.format).await,
        Verb::Enable(named) => machine.enable(&named.names).await,
        Verb::Disable(named) => machine.disable(&named.names).await,
        Verb::BringIn => {
            parts::bring_in(true).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Start,
    Stop,
    Restart,
}

/// The machine as this command finds it.
struct Machine {
    engine: Engine,
    generation: u32,
    roster: Roster,
}

impl Machine {
    async fn read() -> Result<Self> {
        let engine = Engine::connect()?;
        let running = Running::read()?;
        let configuration = Configuration::load();
        let roster = Roster::read(&engine, &running, &configuration.services()).await;
        Ok(Self { engine, generation: running.generation, roster })
    }

    fn names(&self) -> Vec<&String> {
        let mut names: Vec<&String> = self.roster.names().collect();
        names.sort();
        names
    }

    fn service(&self, name: &str) -> Result<&Service> {
        if let Some(service) = self.roster.services.get(name) {
            return Ok(service);
        }
        if let Some(why) = self.roster.missing.get(name) {
            bail!("{name}: {why}");
        }
        if self.roster.disabled.iter().any(|disabled| disabled == name) {
            bail!("{name} is switched off: `ros service enable {name}` switches it on");
        }
        if self.roster.is_optional(name) {
            bail!("{name} is not on this machine: `ros service enable {name}` fetches it");
        }
        bail!("there is no service {name}: `ros service list` shows those there are");
    }

    fn is_enabled(&self, name: &str) -> bool {
        !self.roster.disabled.iter().any(|disabled| disabled == name)
            && !self.roster.is_optional(name)
    }

    async fn live(&self, name: &str) -> Result<Live> {
        let Some(container) = self.engine.inspect(name).await? else {
            let optional =
                || self.roster.is_optional(name).then(|| "not on this machine".to_owned());
            let note = self.roster.missing.get(name).cloned().or_else(optional).unwrap_or_default();
            return Ok(Live { state: "absent".into(), note, ..Default::default() });
        };
        let oneshot =
            self.roster.services.get(name).is_some_and(|service| service.spec.ros.oneshot);
        Ok(live(container, oneshot))
    }

    async fn list(&self, format: Format) -> Result<ExitCode> {
        let mut all = Vec::new();
        for name in self.names() {
            let live = self.live(name).await?;
            let service = self.roster.services.get(name);
            all.push(Listed {
                name: name.clone(),
                enabled: self.is_enabled(name),
                ready: live.ready,
                state: live.state,
                essential: service.is_some_and(|service| service.spec.ros.essential),
                oneshot: service.is_some_and(|service| service.spec.ros.oneshot),
                image: service.map(|service| service.image.clone()),
                note: live.note,
            });
        }
        let rows: Vec<Vec<String>> = all.iter().map(Listed::row).collect();
        show(format, &all, &["NAME", "READY", "STATE", "ESSENTIAL", "NOTE"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn ps(&self, format: Format) -> Result<ExitCode> {
        let mut all = Vec::new();
        for name in self.names() {
            let live = self.live(name).await?;
            let image = self.roster.services.get(name).map(|service| service.image.clone());
            if let Some(id) = live.container {
                all.push(Process {
                    name: name.clone(),
                    id: Some(id),
                    state: live.state,
                    pid: live.pid,
                    image,
                });
            }
        }
        let row = |process: &Process| {
            let id = process.id.as_deref().map_or("", |id| id.get(..12).unwrap_or(id)).to_owned();
            let pid = process.pid.map_or_else(String::new, |pid| pid.to_string());
            vec![
                process.name.clone(),
                id,
                process.state.clone(),
                pid,
                process.image.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        show(format, &all, &["NAME", "CONTAINER", "STATE", "PID", "IMAGE"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn inspect(&self, name: &str, format: Format) -> Result<ExitCode> {
        if !self.roster.names().any(|known| known == name) {
            self.service(name)?;
        }
        let service = self.roster.services.get(name);
        let inspected = Inspected {
            name,
            enabled: self.is_enabled(name),
            image: service.map(|service| service.image.as_str()),
            content: service.map(|service| service.content.as_str()),
            spec: service.map(|service| &service.spec),
            live: self.live(name).await?,
        };
        show(format, &inspected, &["KEY", "VALUE"], &inspected.rows())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn logs(&self, name: &str, follow: bool, tail: Option<u32>) -> Result<ExitCode> {
        let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail)
            .build();
        let mut lines = Box::pin(self.engine.docker().logs(name, Some(options)));
        while let Some(line) = lines.next().await {
            let wrote = match line.with_context(|| format!("logs of {name}"))? {
                LogOutput::StdErr { message } => std::io::stderr().write_all(&message),
                other => std::io::stdout().write_all(&other.into_bytes()),
            };
            if wrote.is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Every one is tried, also when one before it failed.
    async fn each(&self, names: &[String], act: Act) -> Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for name in names {
            match self.act(name, act).await {
                Ok(()) => {
                    eprintln!("{name}: {}", if act == Act::Stop { "stopped" } else { "ready" })
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn act(&self, name: &str, act: Act) -> Result<()> {
        if act == Act::Stop && self.roster.disabled.iter().any(|disabled| disabled == name) {
            return self.engine.stop(name, 10_000).await;
        }
        let service = self.service(name)?;
        if act != Act::Start {
            self.engine.stop(name, service.grace_ms()).await?;
        }
        if act != Act::Stop {
            self.engine.ensure(service, self.generation).await?;
            self.engine.start_until_ready(service).await?;
        }
        Ok(())
    }

    async fn enable(&self, names: &[String]) -> Result<ExitCode> {
        self.all_known(names)?;
        let asked_before = configuration::asked_for(&Configuration::load().services());
        names.iter().try_for_each(|name| set_enabled(name, true))?;
        if names.iter().any(|name| self.roster.is_optional(name)) {
            if let Err(error) = parts::bring_in(false).await {
                let new = names.iter().filter(|name| self.roster.is_optional(name));
                let new = new.filter(|name| !asked_before.contains(*name));
                new.into_iter().try_for_each(|name| set_enabled(name, false))?;
                return Err(error);
            }
        }
        Self::read().await?.each(names, Act::Start).await
    }

    async fn disable(&self, names: &[String]) -> Result<ExitCode> {
        self.all_known(names)?;
        names.iter().try_for_each(|name| set_enabled(name, false))?;
        let here = names.iter().filter(|name| !self.roster.is_optional(name)).cloned();
        self.each(&here.collect::<Vec<_>>(), Act::Stop).await
    }

    /// All or none: a name that nobody knows must not leave the others half done.
    fn all_known(&self, names: &[String]) -> Result<()> {
        let unknown = names.iter().find(|name| !self.roster.names().any(|known| known == *name));
        unknown.map_or(Ok(()), |name| self.service(name).map(|_| ()))
    }
}

fn set_enabled(name: &str, on: bool) -> Result<()> {
    configuration::set(&format!("ros.services.{name}.enabled"), on)
}

fn live(container: ContainerInspectResponse, oneshot: bool) -> Live {
    let state = container.state.unwrap_or_default();
    let (ready, note) = match judge(&state, oneshot) {
        Readiness::Ready => (true, String::new()),
        Readiness::NotYet(note) | Readiness::Sick(note) => (false, note),
    };
    let mount = |mount: bollard::models::MountPoint| {
        let source = mount.source.or(mount.name).unwrap_or_default();
        let mode = if mount.rw == Some(false) { ":ro" } else { "" };
        format!("{source}:{}{mode}", mount.destination.unwrap_or_default())
    };
    Live {
        ready,
        note,
        state: state.status.map_or_else(String::new, |status| status.to_string()),
        container: container.id,
        pid: state.pid.filter(|pid| *pid > 0),
        exit_code: state.exit_code,
        restarts: container.restart_count,
        started_at: state.started_at,
        mounts: container.mounts.into_iter().flatten().map(mount).collect(),
    }
}

impl Listed {
    fn row(&self) -> Vec<String> {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let state = if self.enabled { self.state.clone() } else { "off".into() };
        vec![self.name.clone(), yes(self.ready), state, yes(self.essential), self.note.clone()]
    }
}

impl Inspected<'_> {
    fn rows(&self) -> Vec<Vec<String>> {
        let spec = self.spec.cloned().unwrap_or_default();
        let live = &self.live;
        let number =
            |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
        let namespaces: BTreeMap<&str, Option<String>> = BTreeMap::from([
            ("network", Some(spec.network_mode.clone().unwrap_or_else(|| "none".into()))),
            ("pid", spec.pid.clone()),
            ("ipc", spec.ipc.clone()),
            ("uts", spec.uts.clone()),
            ("cgroup", spec.cgroup.clone()),
        ]);
        let namespaces: Vec<String> = namespaces
            .into_iter()
            .filter_map(|(name, of)| Some(format!("{name}={}", of?)))
            .collect();
        let rows = [
            ("name", self.name.to_owned()),
            ("image", self.image.unwrap_or_default().to_owned()),
            ("enabled", self.enabled.to_string()),
            ("essential", spec.ros.essential.to_string()),
            ("after", spec.ros.after.join(" ")),
            ("privileged", spec.privileged.to_string()),
            ("capabilities", if spec.privileged { "all".into() } else { spec.cap_add.join(" ") }),
            ("devices", spec.devices.join(" ")),
            ("device rules", spec.device_cgroup_rules.join(", ")),
            ("mounts", spec.volumes.join(" ")),
            ("tmpfs", spec.tmpfs.join(" ")),
            ("read-only root", spec.read_only.to_string()),
            ("namespaces", namespaces.join(" ")),
            ("state", live.state.clone()),
            ("ready", live.ready.to_string()),
            ("note", live.note.clone()),
            ("container", live.container.clone().unwrap_or_default()),
            ("pid", number(live.pid)),
            ("restarts", number(live.restarts)),
        ];
        rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect()
    }
}

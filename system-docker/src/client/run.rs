//! `create`, `run`, `exec`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, ExecConfig, HostConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, ResizeContainerTTYOptionsBuilder,
    ResizeExecOptionsBuilder, StartContainerOptions, WaitContainerOptionsBuilder,
};

use super::attach::{RawTerminal, join, size};
use super::containers::exit_status;
use super::images::fetch;
use super::table::print;

/// Marks a failure to run anything at all: exit codes 125 to 127.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotRun(String);

#[derive(clap::Args)]
pub struct Options {
    /// Name of the container.
    #[arg(long)]
    name: Option<String>,
    /// NAME=value, or NAME to pass on.
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// source:target[:options]
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// `host` or `none`.
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// User namespace: auto (its own) or host.
    #[arg(long)]
    userns: Option<String>,
    /// `host`, or its own.
    #[arg(long)]
    pid: Option<String>,
    /// `host`, or its own.
    #[arg(long)]
    ipc: Option<String>,
    /// `host`, or its own.
    #[arg(long)]
    uts: Option<String>,
    /// Every capability and device.
    #[arg(long)]
    privileged: bool,
    /// Adds a capability.
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drops a capability.
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// host[:container[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Root file system read-only.
    #[arg(long)]
    read_only: bool,
    /// no, always, on-failure[:N], unless-stopped.
    #[arg(long, default_value = "no")]
    restart: String,
    /// user[:group]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory.
    #[arg(short, long)]
    workdir: Option<String>,
    /// Instead of the image's.
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name.
    #[arg(long)]
    hostname: Option<String>,
    /// NAME=value
    #[arg(short, long, value_name = "LABEL")]
    label: Vec<String>,
    /// Keep stdin open.
    #[arg(short, long)]
    interactive: bool,
    /// A terminal.
    #[arg(short, long)]
    tty: bool,
    /// Removes the container when it ends.
    #[arg(long)]
    rm: bool,
    /// The image.
    image: String,
    /// Instead of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    /// Do not wait for its end; print its id.
    #[arg(short, long)]
    detach: bool,
}

#[derive(clap::Args)]
pub struct Exec {
    /// Keep stdin open.
    #[arg(short, long)]
    interactive: bool,
    /// A terminal.
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for its end.
    #[arg(short, long)]
    detach: bool,
    /// NAME=value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// user[:group]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory.
    #[arg(short, long)]
    workdir: Option<String>,
    /// All capabilities.
    #[arg(long)]
    privileged: bool,
    /// The container.
    name: String,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn filled(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// `NAME` alone passes on what this process has.
fn environment(list: &[String]) -> Option<Vec<String>> {
    let entry = |text: &String| match text.contains('=') {
        true => Some(text.clone()),
        false => std::env::var(text).ok().map(|value| format!("{text}={value}")),
    };
    filled(&list.iter().filter_map(entry).collect::<Vec<_>>())
}

fn device(text: &str) -> DeviceMapping {
    let mut parts = text.splitn(3, ':').map(str::to_owned);
    DeviceMapping {
        path_on_host: parts.next(),
        path_in_container: parts.next(),
        cgroup_permissions: parts.next(),
    }
}

fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let wrong =
        || format!("--restart {text}: expected no, always, on-failure[:N] or unless-stopped");
    let name: RestartPolicyNameEnum = name.parse().map_err(|_| anyhow::anyhow!(wrong()))?;
    Ok(RestartPolicy {
        name: Some(name),
        maximum_retry_count: Some(count.parse().with_context(wrong)?),
    })
}

impl Options {
    fn body(&self, attached: bool) -> Result<ContainerCreateBody> {
        let labels = self.label.iter().map(|label| label.split_once('=').unwrap_or((label, "")));
        let host_config = HostConfig {
            binds: filled(&self.volume),
            network_mode: self.network.clone(),
            userns_mode: self.userns.clone(),
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            uts_mode: self.uts.clone(),
            privileged: Some(self.privileged),
            cap_add: filled(&self.cap_add),
            cap_drop: filled(&self.cap_drop),
            devices: Some(self.device.iter().map(|text| device(text)).collect()),
            readonly_rootfs: Some(self.read_only),
            restart_policy: Some(restart_policy(&self.restart)?),
            auto_remove: Some(self.rm),
            ..Default::default()
        };
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: filled(&self.command),
            entrypoint: self.entrypoint.clone().map(|word| vec![word]),
            env: environment(&self.env),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
            tty: Some(self.tty),
            open_stdin: Some(self.interactive),
            stdin_once: Some(self.interactive && attached),
            attach_stdin: Some(self.interactive && attached),
            attach_stdout: Some(attached),
            attach_stderr: Some(attached),
            host_config: Some(host_config),
            ..Default::default()
        })
    }
}

/// Makes the container; fetches the image when it is not here.
async fn create(docker: &Docker, options: &Options, attached: bool) -> Result<String> {
    let mut query = CreateContainerOptionsBuilder::default();
    if let Some(name) = &options.name {
        query = query.name(name);
    }
    let query = query.build();
    let body = options.body(attached)?;
    match docker.create_container(Some(query.clone()), body.clone()).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
            fetch(docker, &options.image).await?
        }
        other => return Ok(other?.id),
    }
    Ok(docker.create_container(Some(query), body).await?.id)
}

pub async fn create_only(docker: &Docker, options: Options) -> Result<ExitCode> {
    let id = create(docker, &options, false).await?;
    print(&format!("{id}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn run(docker: &Docker, args: Run) -> Result<ExitCode> {
    start_and_follow(docker, args).await.map_err(|error| match error.is::<NotRun>() {
        true => error,
        false => NotRun(format!("{error:#}")).into(),
    })
}

async fn start_and_follow(docker: &Docker, args: Run) -> Result<ExitCode> {
    let options = &args.options;
    let id = create(docker, options, !args.detach).await?;
    if args.detach {
        docker.start_container(&id, None::<StartContainerOptions>).await?;
        print(&format!("{id}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let _raw = (options.tty && options.interactive).then(RawTerminal::enter).transpose()?;
    let attach = AttachContainerOptionsBuilder::default()
        .stream(true)
        .stdin(options.interactive)
        .stdout(true)
        .stderr(true)
        .build();
    let streams = docker.attach_container(&id, Some(attach)).await?;
    let condition = if options.rm { "removed" } else { "next-exit" };
    let wait = WaitContainerOptionsBuilder::default().condition(condition).build();
    let waiting = tokio::spawn({
        let (docker, id) = (docker.clone(), id.clone());
        async move { exit_status(&docker, &id, wait).await }
    });
    tokio::task::yield_now().await;
    docker.start_container(&id, None::<StartContainerOptions>).await?;
    if let Some((rows, cols)) = size().filter(|_| options.tty) {
        let size = ResizeContainerTTYOptionsBuilder::default().h(rows).w(cols).build();
        // A container that has ended already has no size.
        let _ = docker.resize_container_tty(&id, size).await;
    }
    join(streams.output, streams.input, options.interactive).await?;
    let code = waiting.await??;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

pub async fn exec(docker: &Docker, args: Exec) -> Result<ExitCode> {
    let config = ExecConfig {
        cmd: Some(args.command),
        env: environment(&args.env),
        user: args.user,
        working_dir: args.workdir,
        privileged: Some(args.privileged),
        tty: Some(args.tty),
        attach_stdin: Some(args.interactive && !args.detach),
        attach_stdout: Some(!args.detach),
        attach_stderr: Some(!args.detach),
        ..Default::default()
    };
    let id = docker.create_exec(&args.name, config).await?.id;
    let _raw = (args.tty && args.interactive).then(RawTerminal::enter).transpose()?;
    let options = StartExecOptions { detach: args.detach, tty: args.tty, output_capacity: None };
    let StartExecResults::Attached { output, input } =
        docker.start_exec(&id, Some(options)).await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some((rows, cols)) = size().filter(|_| args.tty) {
        // One that has ended already has no size.
        let _ = docker
            .resize_exec(&id, ResizeExecOptionsBuilder::default().h(rows).w(cols).build())
            .await;
    }
    join(output, input, args.interactive).await?;
    let code = docker.inspect_exec(&id).await?.exit_code.unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

//! `start`, `ps`, `inspect`, `logs`, `stop`, `kill`, `wait`, `restart`, `rm`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RestartContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};

use super::table::{print, short, table};

#[derive(clap::Args)]
pub struct Named {
    /// Names or ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(clap::Args)]
pub struct Start {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

#[derive(clap::Args)]
pub struct Stop {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Seconds until SIGKILL; the container's own when not given.
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<i32>,
}

#[derive(clap::Args)]
pub struct Kill {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Name or number.
    #[arg(short, long, default_value = "KILL")]
    signal: String,
}

#[derive(clap::Args)]
pub struct Remove {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Also running ones.
    #[arg(short, long)]
    force: bool,
    /// And their anonymous volumes.
    #[arg(short, long)]
    volumes: bool,
}

#[derive(clap::Args)]
pub struct Ps {
    /// Also those that do not run.
    #[arg(short, long)]
    all: bool,
    /// Only ids.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(clap::Args)]
pub struct Logs {
    /// Name or id.
    name: String,
    /// Go on with what it will print.
    #[arg(short, long)]
    follow: bool,
    /// The last lines only.
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Time in front of each line.
    #[arg(short, long)]
    timestamps: bool,
}

/// Does something with each, also when one before failed; prints the names of those where it went well.
macro_rules! each {
    ($names:expr, $name:ident => $act:expr) => {{
        let mut code = ExitCode::SUCCESS;
        for $name in $names {
            match $act.await {
                Ok(_) => print(&format!("{}\n", $name))?,
                Err(error) => {
                    eprintln!("system-docker: {error}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }};
}

pub async fn start(docker: &Docker, args: Start) -> Result<ExitCode> {
    each!(&args.names, name => docker.start_container(name, None::<StartContainerOptions>))
}

pub async fn stop(docker: &Docker, args: Stop) -> Result<ExitCode> {
    let mut options = StopContainerOptionsBuilder::default();
    if let Some(time) = args.time {
        options = options.t(time);
    }
    let options = options.build();
    each!(&args.names, name => docker.stop_container(name, Some(options.clone())))
}

pub async fn restart(docker: &Docker, args: Stop) -> Result<ExitCode> {
    let mut options = RestartContainerOptionsBuilder::default();
    if let Some(time) = args.time {
        options = options.t(time);
    }
    let options = options.build();
    each!(&args.names, name => docker.restart_container(name, Some(options.clone())))
}

pub async fn kill(docker: &Docker, args: Kill) -> Result<ExitCode> {
    let options = KillContainerOptionsBuilder::default().signal(&args.signal).build();
    each!(&args.names, name => docker.kill_container(name, Some(options.clone())))
}

pub async fn remove(docker: &Docker, args: Remove) -> Result<ExitCode> {
    let options =
        RemoveContainerOptionsBuilder::default().force(args.force).v(args.volumes).build();
    each!(&args.names, name => docker.remove_container(name, Some(options.clone())))
}

pub async fn wait(docker: &Docker, args: Named) -> Result<ExitCode> {
    for name in &args.names {
        print(&format!("{}\n", exit_status(docker, name, WaitContainerOptions::default()).await?))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code that a wait brings; bollard makes an error of any but 0.
pub async fn exit_status(
    docker: &Docker,
    name: &str,
    options: WaitContainerOptions,
) -> Result<i64> {
    let mut answers = std::pin::pin!(docker.wait_container(name, Some(options)));
    match answers.try_next().await {
        Ok(answer) => Ok(answer.map_or(0, |answer| answer.status_code)),
        Err(Error::DockerContainerWaitError { code, .. }) => Ok(code),
        Err(error) => Err(error).context("wait"),
    }
}

pub async fn list(docker: &Docker, args: Ps) -> Result<ExitCode> {
    let options = ListContainersOptionsBuilder::default().all(args.all).build();
    let containers = docker.list_containers(Some(options)).await?;
    let mut rows = Vec::new();
    for container in containers {
        let id = short(&container.id.unwrap_or_default());
        if args.quiet {
            print(&format!("{id}\n"))?;
            continue;
        }
        let names: Vec<String> = container
            .names
            .unwrap_or_default()
            .iter()
            .map(|name| name.trim_start_matches('/').to_owned())
            .collect();
        let command = container.command.unwrap_or_default();
        let command = if command.chars().count() > 20 {
            format!("\"{}…\"", command.chars().take(19).collect::<String>())
        } else {
            format!("\"{command}\"")
        };
        let image = container.image.unwrap_or_default();
        rows.push(vec![id, image, command, container.status.unwrap_or_default(), names.join(",")]);
    }
    if !args.quiet {
        print(&table(&["CONTAINER ID", "IMAGE", "COMMAND", "STATUS", "NAMES"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn inspect(docker: &Docker, args: Named) -> Result<ExitCode> {
    let mut all = Vec::new();
    for name in &args.names {
        match docker.inspect_container(name, None).await {
            Ok(container) => all.push(serde_json::to_value(container)?),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                let image = docker.inspect_image(name).await;
                all.push(serde_json::to_value(
                    image.with_context(|| format!("{name} is no container and no image"))?,
                )?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn logs(docker: &Docker, args: Logs) -> Result<ExitCode> {
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(args.follow)
        .tail(&args.tail)
        .timestamps(args.timestamps)
        .build();
    let mut lines = std::pin::pin!(docker.logs(&args.name, Some(options)));
    while let Some(line) = lines.next().await {
        if !write(&line?)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a piece of output where it belongs; whether anybody reads.
pub fn write(output: &LogOutput) -> Result<bool> {
    let wrote = match output {
        LogOutput::StdErr { message } => std::io::stderr().write_all(message),
        LogOutput::StdOut { message }
        | LogOutput::Console { message }
        | LogOutput::StdIn { message } => {
            let mut out = std::io::stdout();
            out.write_all(message).and_then(|()| out.flush())
        }
    };
    match wrote {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(Into::into),
    }
}

//! `version`, `info`, `events`.

use std::process::ExitCode;

use anyhow::Result;
use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

use super::table::print;

pub async fn version(docker: &Docker) -> Result<ExitCode> {
    let server = docker.version().await?;
    let text = |value: Option<String>| value.unwrap_or_default();
    print(&format!(
        "Client:\n Version:      {}\nServer:\n Version:      {}\n API version:  {}\n Kernel:       {}\n",
        env!("CARGO_PKG_VERSION"),
        text(server.version),
        text(server.api_version),
        text(server.kernel_version),
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn info(docker: &Docker) -> Result<ExitCode> {
    print(&(serde_json::to_string_pretty(&docker.info().await?)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(clap::Args)]
pub struct Events {
    /// From that time on: Unix seconds.
    #[arg(long)]
    since: Option<String>,
    /// Until that time: Unix seconds.
    #[arg(long)]
    until: Option<String>,
}

pub async fn events(docker: &Docker, args: Events) -> Result<ExitCode> {
    let mut options = EventsOptionsBuilder::default();
    if let Some(since) = &args.since {
        options = options.since(since);
    }
    if let Some(until) = &args.until {
        options = options.until(until);
    }
    let mut events = std::pin::pin!(docker.events(Some(options.build())));
    while let Some(event) = events.next().await {
        let event = event?;
        let actor = event.actor.unwrap_or_default();
        let name = actor
            .attributes
            .and_then(|attributes| attributes.get("name").cloned())
            .unwrap_or_default();
        let kind = event.typ.map(|kind| kind.to_string()).unwrap_or_default();
        let action = event.action.unwrap_or_default();
        print(&format!(
            "{} {kind} {action} {} ({name})\n",
            event.time.unwrap_or(0),
            actor.id.unwrap_or_default()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

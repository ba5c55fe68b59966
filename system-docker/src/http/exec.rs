//! `/containers/{id}/exec` and `/exec/…`

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bollard_stubs::models::{ExecConfig, ExecStartConfig};
use serde_json::json;

use super::answer::{Answer, body, json};
use super::containers::{Ask, size};
use super::hijack::{self, Session};
use crate::engine::Engine;
use crate::engine::attach::Wants;
use crate::engine::error::ApiError;

type App = State<Arc<Engine>>;

/// An exec's start options are a line of JSON.
const LARGEST_BODY: usize = 64 * 1024;

pub async fn create(
    State(engine): App,
    Path(id): Path<String>,
    bytes: axum::body::Bytes,
) -> Answer {
    let config: ExecConfig = body(&bytes)?;
    let id = engine.create_exec(&engine.container(&id)?, config)?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "Id": id }))).into_response())
}

pub async fn inspect(State(engine): App, Path(id): Path<String>) -> Answer {
    json(engine.exec(&id)?.inspect())
}

pub async fn resize(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let (rows, cols) = size(&query)?;
    engine.exec(&id)?.resize(rows, cols).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub async fn start(State(engine): App, Path(id): Path<String>, mut request: Request) -> Answer {
    let exec = engine.exec(&id)?;
    let on = hijack::asked(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let bytes = axum::body::to_bytes(request.into_body(), LARGEST_BODY)
        .await
        .map_err(|e| ApiError::bad(format!("read the body: {e}")))?;
    let config: ExecStartConfig = body(&bytes)?;
    if config.detach == Some(true) {
        engine.start_exec(&exec, false).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let (stdin, stdout, stderr) = exec.attached();
    // Docker frames the output as the start asks, whatever the exec's own terminal.
    let raw = config.tty.unwrap_or(false);
    let tty = exec.tty();
    let wants = Wants { stdin, stdout, stderr, raw, tty, detach_keys: exec.detach_keys()? };
    let stream = async move { engine.start_exec(&exec, true).await.map_err(|error| error.message) };
    let session = Session { before: None, stream, wants };
    match on {
        Some(on) => Ok(session.upgrade(on)),
        None => Ok(session.plain()),
    }
}

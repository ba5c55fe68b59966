//! `/containers/{id}/archive`, `/export`, `/changes`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::mpsc;

use super::answer::{Answer, flag, json, streamed_whole};
use super::containers::{Ask, text};
use crate::engine::Engine;
use crate::engine::archive::{Verb, refusal};
use crate::engine::container::Container;
use crate::engine::error::ApiError;

type App = State<Arc<Engine>>;

const STAT: &str = "x-docker-container-path-stat";

fn path_of(query: &std::collections::HashMap<String, String>) -> Result<&str, ApiError> {
    match text(query, "path") {
        "" => Err(ApiError::bad("bad parameter: path cannot be empty")),
        path => Ok(path),
    }
}

/// What the path is, as the header that `docker cp` reads first.
async fn stat(
    engine: &Arc<Engine>,
    container: &Container,
    path: &str,
) -> Result<HeaderMap, ApiError> {
    let child = engine.archive(container, Verb::Stat, path, false).await?;
    let output = child.wait_with_output().await?;
    if output.status.code() == Some(i32::from(crate::archive::MISSING)) {
        return Err(ApiError::missing(format!(
            "Could not find the file {path} in container {}",
            container.id
        )));
    }
    if !output.status.success() {
        return Err(ApiError::internal(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let coded = base64::engine::general_purpose::STANDARD.encode(output.stdout.trim_ascii());
    let value = HeaderValue::from_str(&coded).map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(HeaderMap::from_iter([(header::HeaderName::from_static(STAT), value)]))
}

pub async fn head(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let container = engine.container(&id)?;
    Ok(stat(&engine, &container, path_of(&query)?).await?.into_response())
}

pub async fn get(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let container = engine.container(&id)?;
    let path = path_of(&query)?;
    let headers = stat(&engine, &container, path).await?;
    let child = engine.archive(&container, Verb::Get, path, false).await?;
    Ok((headers, tar_of(child)).into_response())
}

pub async fn export(State(engine): App, Path(id): Path<String>) -> Answer {
    let container = engine.container(&id)?;
    let child = engine.archive(&container, Verb::Export, "/", false).await?;
    engine.events().container(&container, "export", &[]);
    Ok(tar_of(child))
}

fn tar_of(mut child: Child) -> Response {
    let (to, from) = mpsc::channel(8);
    tokio::spawn(async move {
        let Some(mut out) = child.stdout.take() else { return };
        drop(child.stdin.take());
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = out.read(&mut buffer).await {
            if to.send(Ok(Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                break;
            }
        }
        if let Some(error) = refusal(child, "").await {
            tracing::warn!("archive: {error}");
            let _ = to.send(Err(std::io::Error::other(error.message))).await;
        }
    });
    streamed_whole("application/x-tar", from)
}

pub async fn put(
    State(engine): App,
    Path(id): Path<String>,
    Query(query): Ask,
    body: Body,
) -> Answer {
    let container = engine.container(&id)?;
    let path = path_of(&query)?;
    if container.record().host_config.readonly_rootfs == Some(true) {
        return Err(ApiError {
            status: 403,
            message: "container rootfs is marked read-only".into(),
        }
        .into());
    }
    let keep = flag(query.get("noOverwriteDirNonDir"));
    let mut child = engine.archive(&container, Verb::Put, path, keep).await?;
    if let Some(mut to) = child.stdin.take() {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| ApiError::bad(format!("read the archive: {e}")))?;
            // A child that refused says why below.
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    }
    match refusal(child, path).await {
        Some(error) => Err(error.into()),
        None => Ok(StatusCode::OK.into_response()),
    }
}

pub async fn changes(State(engine): App, Path(id): Path<String>) -> Answer {
    let container = engine.container(&id)?;
    let found = engine.blocking(move |engine| engine.diff(&container)).await?;
    // Docker's word for nothing.
    json((!found.is_empty()).then_some(found))
}

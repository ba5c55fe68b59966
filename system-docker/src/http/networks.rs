//! `/networks/…`

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bollard_stubs::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use serde_json::json;

use super::answer::{Answer, body, json};
use super::containers::{Ask, text};
use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::engine::networks::show::{FILTERS, PRUNE_FILTERS};

type App = State<Arc<Engine>>;

pub async fn list(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &FILTERS)?;
    json(engine.list_networks(&filters)?)
}

pub async fn create(State(engine): App, bytes: Bytes) -> Answer {
    let asked: NetworkCreateRequest = body(&bytes)?;
    let id = engine.create_network(&asked).await?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "Id": id, "Warning": "" }))).into_response())
}

pub async fn inspect(State(engine): App, Path(name): Path<String>) -> Answer {
    json(engine.inspect_network(&name)?)
}

pub async fn remove(State(engine): App, Path(name): Path<String>) -> Answer {
    engine.remove_network(&name).await?;
    super::answer::nothing()
}

pub async fn prune(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &PRUNE_FILTERS)?;
    json(json!({ "NetworksDeleted": engine.prune_networks(&filters).await? }))
}

pub async fn connect(State(engine): App, Path(name): Path<String>, bytes: Bytes) -> Answer {
    let asked: NetworkConnectRequest = body(&bytes)?;
    let container = engine.container(&asked.container)?;
    let endpoint = asked.endpoint_config.unwrap_or_default();
    engine.connect(&name, &container, &endpoint).await?;
    Ok(StatusCode::OK.into_response())
}

pub async fn disconnect(State(engine): App, Path(name): Path<String>, bytes: Bytes) -> Answer {
    let asked: NetworkDisconnectRequest = body(&bytes)?;
    let container = engine.container(&asked.container)?;
    engine.disconnect(&name, &container).await?;
    Ok(StatusCode::OK.into_response())
}

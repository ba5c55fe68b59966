//! `/volumes/…`

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bollard_stubs::models::VolumeCreateRequest;
use serde_json::json;

use super::answer::{Answer, body, flag, json, nothing};
use super::containers::{Ask, text};
use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::engine::volumes::{FILTERS, PRUNE_FILTERS};

type App = State<Arc<Engine>>;

pub async fn list(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &FILTERS)?;
    json(json!({ "Volumes": engine.volumes(&filters)?, "Warnings": null }))
}

pub async fn create(State(engine): App, bytes: Bytes) -> Answer {
    let asked: VolumeCreateRequest = body(&bytes)?;
    let name = engine.create_volume(asked)?;
    Ok((StatusCode::CREATED, axum::Json(engine.volume(&name)?)).into_response())
}

pub async fn inspect(State(engine): App, Path(name): Path<String>) -> Answer {
    json(engine.volume(&name)?)
}

pub async fn remove(State(engine): App, Path(name): Path<String>, Query(query): Ask) -> Answer {
    engine.remove_volume(&name, flag(query.get("force")))?;
    nothing()
}

pub async fn prune(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &PRUNE_FILTERS)?;
    let (gone, bytes) = engine.prune_volumes(&filters)?;
    json(json!({ "VolumesDeleted": gone, "SpaceReclaimed": bytes }))
}

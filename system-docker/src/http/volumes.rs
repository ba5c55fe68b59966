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
use crate::engine::error::ApiError;
use crate::engine::list::Filters;

type App = State<Arc<Engine>>;

pub async fn list(State(engine): App, Query(query): Ask) -> Answer {
    let filters =
        Filters::parse(text(&query, "filters"), &["name", "dangling", "driver", "label"])?;
    let mut volumes = engine.volumes()?;
    volumes.retain(|volume| {
        let name = volume["Name"].as_str().unwrap_or_default();
        let labels = serde_json::from_value(volume["Labels"].clone()).unwrap_or_default();
        filters.any("name", |part| name.contains(part)) && filters.labels(&labels)
    });
    json(json!({ "Volumes": volumes, "Warnings": null }))
}

pub async fn create(State(engine): App, bytes: Bytes) -> Answer {
    let asked: VolumeCreateRequest = body(&bytes)?;
    if asked.driver.as_deref().is_some_and(|driver| !driver.is_empty() && driver != "local") {
        return Err(ApiError::missing(format!(
            "plugin {:?} not found",
            asked.driver.unwrap_or_default()
        ))
        .into());
    }
    if asked.driver_opts.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(ApiError::refused("options of the local volume driver").into());
    }
    let name =
        engine.create_volume(&asked.name.unwrap_or_default(), asked.labels.unwrap_or_default())?;
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
    let filters = Filters::parse(text(&query, "filters"), &["all", "label", "label!"])?;
    let all = filters.has("all") && filters.any("all", |wanted| matches!(wanted, "true" | "1"));
    let (gone, bytes) = engine.prune_volumes(all, &filters)?;
    json(json!({ "VolumesDeleted": gone, "SpaceReclaimed": bytes }))
}

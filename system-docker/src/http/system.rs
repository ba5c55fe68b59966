//! `/_ping`, `/version`, `/info`, `/events` and `/system/df`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::answer::{Answer, json, line, streamed};
use super::containers::{Ask, text};
use crate::engine::error::ApiError;
use crate::engine::events::Event;
use crate::engine::filters::Filters;
use crate::engine::{Engine, info, time};

type App = State<Arc<Engine>>;

pub async fn ping() -> Answer {
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, "OK").into_response())
}

pub async fn version() -> Answer {
    json(info::version())
}

pub async fn info(State(engine): App) -> Answer {
    json(engine.info()?)
}

pub async fn disk_usage(State(engine): App) -> Answer {
    json(engine.blocking(Engine::disk_usage).await?)
}

pub async fn auth() -> Answer {
    Err(ApiError::refused("logging in through the API (put credentials into ros.registries)")
        .into())
}

/// There are none: clients ask.
pub async fn plugins() -> Answer {
    json([(); 0])
}

/// None has this name. `docker inspect` asks here last.
pub async fn plugin(Path(name): Path<String>) -> Answer {
    Err(ApiError::missing(format!("plugin {name:?} not found")).into())
}

/// Nothing is built here, so nothing of a build is left: `docker system prune` asks.
pub async fn prune_build() -> Answer {
    json(serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}

const EVENT_FILTERS: [&str; 7] =
    ["container", "event", "image", "label", "network", "type", "volume"];

pub async fn events(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &EVENT_FILTERS)?;
    let (since, until) = (time::parse(text(&query, "since")), time::parse(text(&query, "until")));
    let (past, mut coming) = engine.events().listen();
    let (to, from) = mpsc::channel(64);
    tokio::spawn(async move {
        let asked = |event: &&Event| {
            since.is_some_and(|since| event.time >= since)
                && until.is_none_or(|until| event.time <= until)
        };
        for event in past.iter().filter(asked) {
            if passes(event, &filters) && to.send(line(&event.to_json())).await.is_err() {
                return;
            }
        }
        let left = until.map(|until| u64::try_from(until - time::now()).unwrap_or(0));
        let end = tokio::time::sleep(std::time::Duration::from_nanos(left.unwrap_or(u64::MAX / 4)));
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                event = coming.recv() => event,
                () = &mut end => return,
                () = to.closed() => return,
            };
            match event {
                Ok(event) if !passes(&event, &filters) => {}
                Ok(event) => {
                    if to.send(line(&event.to_json())).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(streamed("application/json", from))
}

fn passes(event: &Event, filters: &Filters) -> bool {
    let attributes: HashMap<String, String> = event.attributes.clone().into_iter().collect();
    let named = |kind: &str, wanted: &str| {
        event.kind == kind
            && (event.actor.starts_with(wanted)
                || attributes.get("name").is_some_and(|name| name == wanted))
    };
    filters.any("type", |wanted| wanted == event.kind)
        && filters.any("event", |wanted| {
            event.action == wanted || event.action.starts_with(&format!("{wanted}:"))
        })
        && filters.any("container", |wanted| named("container", wanted))
        && filters.any("image", |wanted| {
            named("image", wanted) || attributes.get("image").is_some_and(|i| i == wanted)
        })
        && filters.any("volume", |wanted| named("volume", wanted))
        && filters.any("network", |wanted| named("network", wanted))
        && filters.labels(&attributes)
}

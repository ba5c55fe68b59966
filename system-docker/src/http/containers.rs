//! `/containers/…`

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use bollard_stubs::models::{ContainerConfig, ContainerCreateBody};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Answer, body, flag, is_json, json, line, nothing, streamed};
use super::hijack::{self, Session};
use crate::engine::attach::{Wants, detach_keys, encode};
use crate::engine::commit::Asked;
use crate::engine::error::ApiError;
use crate::engine::filters::Filters;
use crate::engine::list::FILTERS;
use crate::engine::wait::{Condition, Wait};
use crate::engine::{Engine, logs, stats, time};

pub type Ask = Query<HashMap<String, String>>;
type App = State<Arc<Engine>>;

/// A query's text; empty when it is not there.
pub fn text<'a>(query: &'a HashMap<String, String>, name: &str) -> &'a str {
    query.get(name).map_or("", String::as_str)
}

/// A query's number.
pub fn number<T: std::str::FromStr>(
    query: &HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, ApiError> {
    let given = query.get(name).filter(|text| !text.is_empty());
    let parse = |text: &String| {
        text.parse().map_err(|_| ApiError::bad(format!("{name}: {text:?} is not a number")))
    };
    given.map(parse).transpose()
}

pub async fn list(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &FILTERS)?;
    let limit: i64 = number(&query, "limit")?.unwrap_or(0);
    let mut list =
        engine.list(flag(query.get("all")), usize::try_from(limit).unwrap_or(0), &filters)?;
    if flag(query.get("size")) {
        list = engine.blocking(move |engine| Ok(with_sizes(engine, list))).await?;
    }
    json(list)
}

pub async fn create(
    State(engine): App,
    Query(query): Ask,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    is_json(&headers)?;
    let mut body: ContainerCreateBody = body(&bytes)?;
    if body == ContainerCreateBody::default() {
        return Err(ApiError::bad("config cannot be empty in order to create a container").into());
    }
    let old: OldBody = super::answer::body(&bytes)?;
    if let Some(mac) = old.mac_address.filter(|mac| !mac.is_empty()) {
        put_mac(&mut body, mac);
    }
    let name = query.get("name").cloned();
    let (container, warnings) = engine.blocking(move |engine| engine.create(name, body)).await?;
    let answer = json!({ "Id": container.id, "Warnings": warnings });
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

/// What clients of the API before 1.44 say of the container, and newer ones of its endpoint.
#[derive(Default, serde::Deserialize)]
struct OldBody {
    #[serde(rename = "MacAddress")]
    mac_address: Option<String>,
}

fn put_mac(body: &mut ContainerCreateBody, mac: String) {
    let mode = body.host_config.as_ref().and_then(|host| host.network_mode.clone());
    let name = mode.filter(|mode| !mode.is_empty()).unwrap_or_else(|| "default".into());
    let networking = body.networking_config.get_or_insert_default();
    let endpoints = networking.endpoints_config.get_or_insert_default();
    endpoints.entry(name).or_default().mac_address.get_or_insert(mac);
}

/// `POST /commit?container=`: the body, if any, is a container's configuration.
pub async fn commit(
    State(engine): App,
    Query(query): Ask,
    RawQuery(raw): RawQuery,
    bytes: Bytes,
) -> Answer {
    let container = engine.container(text(&query, "container"))?;
    let config: Option<ContainerConfig> = body(&bytes)?;
    let pause = query.get("pause").is_none_or(|_| flag(query.get("pause")));
    let asked = asked(&query, raw.as_deref(), "comment");
    let id = engine.commit(&container, &asked, config, pause).await?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "Id": id }))).into_response())
}

/// What a commit or an import is told; the comment has another name in each.
pub fn asked(query: &HashMap<String, String>, raw: Option<&str>, comment: &str) -> Asked {
    Asked {
        repository: text(query, "repo").to_owned(),
        tag: text(query, "tag").to_owned(),
        comment: text(query, comment).to_owned(),
        author: text(query, "author").to_owned(),
        changes: super::images::repeated(raw, "changes").join("\n"),
    }
}

pub async fn inspect(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let shown = engine.inspect(&*engine.container(&id)?);
    if !flag(query.get("size")) {
        return json(shown);
    }
    json(engine.blocking(move |engine| Ok(with_sizes(engine, vec![shown]).pop())).await?)
}

fn with_sizes(engine: &Engine, mut shown: Vec<Value>) -> Vec<Value> {
    engine.put_sizes(&mut shown);
    shown
}

pub async fn start(State(engine): App, Path(id): Path<String>) -> Answer {
    engine.start(&engine.container(&id)?).await?;
    nothing()
}

pub async fn stop(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let signal = query.get("signal").filter(|text| !text.is_empty());
    engine.stop(&*engine.container(&id)?, number(&query, "t")?, signal.map(String::as_str)).await?;
    nothing()
}

pub async fn restart(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let signal = query.get("signal").filter(|text| !text.is_empty());
    engine
        .restart(&engine.container(&id)?, number(&query, "t")?, signal.map(String::as_str))
        .await?;
    nothing()
}

pub async fn kill(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    engine.kill(&*engine.container(&id)?, query.get("signal").map(String::as_str)).await?;
    nothing()
}

pub async fn pause(State(engine): App, Path(id): Path<String>) -> Answer {
    engine.pause(&*engine.container(&id)?).await?;
    nothing()
}

pub async fn unpause(State(engine): App, Path(id): Path<String>) -> Answer {
    engine.unpause(&*engine.container(&id)?).await?;
    nothing()
}

pub async fn rename(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    engine.rename(&*engine.container(&id)?, text(&query, "name")).await?;
    nothing()
}

pub async fn top(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    json(engine.top(&*engine.container(&id)?, text(&query, "ps_args"))?)
}

pub async fn update(State(engine): App, Path(id): Path<String>, bytes: Bytes) -> Answer {
    engine.update(&*engine.container(&id)?, body(&bytes)?).await?;
    json(json!({ "Warnings": [] }))
}

/// One reading, or one a second for as long as the container is there and somebody reads.
pub async fn stats(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let container = engine.container(&id)?;
    let stream = query.get("stream").is_none_or(|_| flag(query.get("stream")));
    let (to, from) = mpsc::channel(2);
    let first = engine.read_stats(&container)?;
    if !stream && flag(query.get("one-shot")) {
        return json(stats::shown(&container, first.as_ref(), None));
    }
    tokio::spawn(async move {
        let mut before = first;
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let Ok(reading) = engine.read_stats(&container) else { return };
            let shown = stats::shown(&container, reading.as_ref(), before.as_ref());
            if to.send(line(&shown)).await.is_err() || !stream || *container.removal().borrow() {
                return;
            }
            before = reading;
        }
    });
    Ok(streamed("application/json", from))
}

pub async fn remove(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    engine.remove(&engine.container(&id)?, flag(query.get("force")), flag(query.get("v"))).await?;
    nothing()
}

/// `DELETE /containers/{name}/{alias}?link=1`
pub async fn remove_link(
    State(engine): App,
    Path((id, alias)): Path<(String, String)>,
    Query(query): Ask,
) -> Answer {
    if !flag(query.get("link")) {
        return Err(ApiError::missing("page not found").into());
    }
    engine.remove_link(&*engine.container(&id)?, &alias)?;
    nothing()
}

pub async fn prune(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &["label", "label!", "until"])?;
    let (gone, bytes) = engine.prune_containers(&filters).await?;
    json(json!({ "ContainersDeleted": gone, "SpaceReclaimed": bytes }))
}

pub async fn resize(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let (rows, cols) = size(&query)?;
    engine.container(&id)?.running()?.resize(rows, cols).await?;
    Ok(StatusCode::OK.into_response())
}

/// Rows and columns of a terminal.
pub fn size(query: &HashMap<String, String>) -> Result<(u16, u16), ApiError> {
    Ok((number(query, "h")?.unwrap_or(0), number(query, "w")?.unwrap_or(0)))
}

/// The headers go out at once: clients start the container when they have them.
pub async fn wait(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let container = engine.container(&id)?;
    let wait = Wait::new(&container, Condition::parse(text(&query, "condition"))?);
    let body = stream::once(async move {
        let code = wait.run(&container).await;
        Ok::<_, std::convert::Infallible>(json!({ "StatusCode": code }).to_string())
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

fn log_options(query: &HashMap<String, String>, follow: bool) -> Result<logs::Options, ApiError> {
    let moment = |name: &str| {
        let given = query.get(name).filter(|text| !text.is_empty() && *text != "0");
        let parse = |text: &String| {
            time::parse(text)
                .ok_or_else(|| ApiError::bad(format!("{name}: {text:?} is not a time")))
        };
        given.map(parse).transpose()
    };
    let tail = match text(query, "tail") {
        "" | "all" => None,
        tail => Some(tail.parse().unwrap_or(0)),
    };
    let options = logs::Options {
        stdout: flag(query.get("stdout")),
        stderr: flag(query.get("stderr")),
        follow,
        timestamps: flag(query.get("timestamps")),
        since: moment("since")?,
        until: moment("until")?,
        tail,
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::bad("Bad parameters: you must choose at least one stream"));
    }
    Ok(options)
}

pub async fn logs(State(engine): App, Path(id): Path<String>, Query(query): Ask) -> Answer {
    let container = engine.container(&id)?;
    let raw = container.record().tty();
    let mut frames = logs::logs(&container, log_options(&query, flag(query.get("follow")))?)?;
    let (to, from) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if to.send(encode(&frame, raw)).await.is_err() {
                return;
            }
        }
    });
    let kind = if raw {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    Ok(streamed(kind, from))
}

pub async fn attach(
    State(engine): App,
    Path(id): Path<String>,
    Query(query): Ask,
    mut request: Request,
) -> Answer {
    let container = engine.container(&id)?;
    let wants = Wants {
        stdin: flag(query.get("stdin")) && container.record().config.open_stdin.unwrap_or(false),
        stdout: flag(query.get("stdout")),
        stderr: flag(query.get("stderr")),
        raw: container.record().tty(),
        tty: container.record().tty(),
        detach_keys: detach_keys(text(&query, "detachKeys"))?,
    };
    let before = match flag(query.get("logs")) {
        true => Some(logs::logs(&container, log_options(&query, false)?)?),
        false => None,
    };
    // Attached now, not when the upgrade is done: the start may come in between.
    let (engine, stdin, stream) = (Arc::clone(&engine), wants.stdin, flag(query.get("stream")));
    let attached = tokio::spawn(async move {
        match stream {
            true => engine.attach(&container, stdin).await.map_err(|error| error.message),
            false => Ok(None),
        }
    });
    tokio::task::yield_now().await;
    let stream = async move { attached.await.unwrap_or(Ok(None)) };
    let session = Session { before, stream, wants };
    match hijack::asked(request.headers()) {
        true => Ok(session.upgrade(hyper::upgrade::on(&mut request))),
        false => Ok(session.plain()),
    }
}

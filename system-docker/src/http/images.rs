//! `/images/…`

use std::io::Read;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Answer, flag, json, line, streamed, streamed_whole};
use super::containers::{Ask, text};
use crate::engine::Engine;
use crate::engine::error::ApiError;
use crate::engine::filters::Filters;
use crate::engine::images::FILTERS;

type App = State<Arc<Engine>>;

pub async fn list(State(engine): App, Query(query): Ask) -> Answer {
    let filters = Filters::parse(text(&query, "filters"), &FILTERS)?;
    let shared = flag(query.get("shared-size"));
    json(engine.blocking(move |engine| engine.images(&filters, shared)).await?)
}

/// `GET /images/{name}/json|history|get`
pub async fn get(State(engine): App, Path(rest): Path<String>) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "json")) => json(engine.inspect_image(name)?),
        Some((name, "history")) => json(engine.history(name)?),
        Some((name, "get")) => save(engine, vec![name.to_owned()]).await,
        _ if rest == "search" => Err(ApiError::refused("searching a registry").into()),
        _ => Err(ApiError::missing("page not found").into()),
    }
}

/// `POST /images/{name}/tag|push`
pub async fn post(
    State(engine): App,
    Path(rest): Path<String>,
    Query(query): Ask,
    headers: HeaderMap,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "tag")) => {
            engine.tag(name, text(&query, "repo"), text(&query, "tag"))?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((name, "push")) => {
            let auth = credentials(&headers)?;
            let (name, tag) = (name.to_owned(), text(&query, "tag").to_owned());
            progress(|tell| async move {
                engine.push(&name, &tag, auth, move |message| tell.say(message)).await
            })
            .await
        }
        _ => Err(ApiError::missing("page not found").into()),
    }
}

pub async fn remove(State(engine): App, Path(name): Path<String>, Query(query): Ask) -> Answer {
    let force = flag(query.get("force"));
    json(engine.blocking(move |engine| engine.remove_image(&name, force)).await?)
}

pub async fn prune(State(engine): App, Query(query): Ask) -> Answer {
    let filters =
        Filters::parse(text(&query, "filters"), &["dangling", "label", "label!", "until"])?;
    let all = filters.has("dangling")
        && filters.any("dangling", |wanted| matches!(wanted, "false" | "0"));
    json(engine.blocking(move |engine| engine.prune_images(all, &filters)).await?)
}

/// `POST /images/create`: a pull, or with `fromSrc=-` an import of the body.
pub async fn create(
    State(engine): App,
    Query(query): Ask,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    platform(text(&query, "platform"))?;
    match (text(&query, "fromImage"), text(&query, "fromSrc")) {
        ("", "-") => {
            let asked = super::containers::asked(&query, raw.as_deref(), "message");
            let tar = incoming(body);
            progress(|tell| async move {
                let made = engine.blocking(move |engine| engine.import(tar, &asked)).await?;
                tell.say(json!({ "status": made }));
                Ok(())
            })
            .await
        }
        ("", "") => Err(ApiError::bad("fromImage or fromSrc is missing").into()),
        ("", _) => {
            Err(ApiError::refused("importing an image from a URL (send the tar itself)").into())
        }
        _ => pull(engine, &query, &headers).await,
    }
}

/// Images of other machines' kinds cannot run here.
fn platform(asked: &str) -> Result<(), ApiError> {
    let mut parts = asked.split('/');
    let (system, machine) = (parts.next().unwrap_or_default(), parts.next());
    let known =
        matches!(system, "" | "linux") && matches!(machine, None | Some("amd64" | "x86_64"));
    match known {
        true => Ok(()),
        false => Err(ApiError::bad(format!(
            "platform {asked:?}: no matching platform, this machine is linux/amd64"
        ))),
    }
}

/// A pull; a wrong name is refused before anything is streamed.
async fn pull(
    engine: Arc<Engine>,
    query: &std::collections::HashMap<String, String>,
    headers: &HeaderMap,
) -> Answer {
    let (image, tag) = (text(query, "fromImage"), text(query, "tag"));
    let name = match tag {
        "" => image.to_owned(),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        tag => format!("{image}:{tag}"),
    };
    name.parse::<ros_api::Reference>()
        .map_err(|e| ApiError::bad(format!("invalid reference format: {e}")))?;
    let auth = credentials(headers)?;
    progress(|tell| async move { engine.pull(&name, auth, move |message| tell.say(message)).await })
        .await
}

/// The messages of `work`, and last its error if it has one. An error before any message is the answer itself.
async fn progress<W: Future<Output = Result<(), ApiError>> + Send + 'static>(
    work: impl FnOnce(Tell) -> W,
) -> Answer {
    let (to, mut from) = mpsc::channel(64);
    let work = work(Tell(to.clone()));
    tokio::spawn(async move {
        let failed = tokio::select! {
            done = work => done.err(),
            () = to.closed() => None,
        };
        if let Some(error) = failed {
            let _ = to.send(Err(error)).await;
        }
    });
    let first = from.recv().await.transpose()?;
    let rest = stream::unfold(from, |mut from| async move {
        let message = from.recv().await?.unwrap_or_else(|error| failure(&error));
        Some((message, from))
    });
    let lines = stream::iter(first)
        .chain(rest)
        .map(|message| Ok::<_, std::convert::Infallible>(Bytes::from(line(&message))));
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// Where a piece of work tells how far it is.
#[derive(Clone)]
struct Tell(mpsc::Sender<Result<Value, ApiError>>);

impl Tell {
    /// A slow client misses progress, never the end.
    fn say(&self, message: Value) {
        let _ = self.0.try_send(Ok(message));
    }
}

/// An error as the last message of a stream.
fn failure(error: &ApiError) -> Value {
    json!({ "errorDetail": { "message": error.message }, "error": error.message })
}

/// `GET /distribution/{name}/json|tags|signatures`; but for the first they are our own addition.
pub async fn distribution(
    State(engine): App,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "json")) => json(engine.distribution(name, credentials(&headers)?).await?),
        Some((name, "tags")) => json(engine.tags(name).await?),
        Some((name, "signatures")) => json(engine.signatures(name).await?),
        _ => Err(ApiError::missing("page not found").into()),
    }
}

/// User and password of `X-Registry-Auth`; a token is not one of ours.
fn credentials(headers: &HeaderMap) -> Result<Option<(String, String)>, ApiError> {
    let Some(header) = headers.get("x-registry-auth") else { return Ok(None) };
    let wrong = || ApiError::bad("X-Registry-Auth is not base64 of JSON");
    let text = header.to_str().map_err(|_| wrong())?.trim_end_matches('=');
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let standard = base64::engine::general_purpose::STANDARD_NO_PAD;
    let bytes = engine.decode(text).or_else(|_| standard.decode(text)).map_err(|_| wrong())?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let auth: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let get = |key: &str| auth[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(get("username").zip(get("password")))
}

/// `POST /images/load`
pub async fn load(State(engine): App, body: Body) -> Answer {
    let (to, from) = mpsc::channel(64);
    let archive = incoming(body);
    tokio::spawn(async move {
        let telling = to.clone();
        let work = move |engine: &Engine| {
            engine.load(archive, |message| {
                let _ = telling.blocking_send(line(&message));
            })
        };
        if let Err(error) = engine.blocking(work).await {
            let _ = to.send(line(&failure(&error))).await;
        }
    });
    Ok(streamed("application/json", from))
}

/// A request's body for a thread that blocks. One that breaks off is an error there, not an end.
struct Incoming {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

fn incoming(body: Body) -> Incoming {
    let (to, chunks) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut data = body.into_data_stream();
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(std::io::Error::other);
            if to.send(chunk).await.is_err() {
                break;
            }
        }
    });
    Incoming { chunks, rest: Bytes::new() }
}

impl Read for Incoming {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.chunks.blocking_recv().transpose()?.unwrap_or_default();
        }
        let length = to.len().min(self.rest.len());
        to[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// `GET /images/get?names=a&names=b`
pub async fn save_all(State(engine): App, RawQuery(query): RawQuery) -> Answer {
    let names = repeated(query.as_deref(), "names");
    if names.is_empty() {
        return Err(ApiError::bad("names: expected at least one image").into());
    }
    save(engine, names).await
}

/// The values of a query's parameter that may be there more than once.
pub fn repeated(query: Option<&str>, wanted: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| decoded(value)).collect()
}

/// Percent-decoding (RFC 3986, 2.1) of a form's value: a plus sign is a space.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |range: &[u8]| u8::from_str_radix(std::str::from_utf8(range).ok()?, 16).ok();
        match (byte, after.get(..2).and_then(hex)) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn save(engine: Arc<Engine>, names: Vec<String>) -> Answer {
    engine.check_images(&names)?;
    let (to, from) = mpsc::channel::<std::io::Result<Bytes>>(16);
    let failed = to.clone();
    tokio::spawn(async move {
        let saved = engine.blocking(move |engine| engine.save(&names, Outgoing { to })).await;
        if let Err(error) = saved {
            tracing::warn!("save: {error}");
            let _ = failed.send(Err(std::io::Error::other(error.message))).await;
        }
    });
    Ok(streamed_whole("application/x-tar", from))
}

/// A response's body from a thread that blocks.
struct Outgoing {
    to: mpsc::Sender<std::io::Result<Bytes>>,
}

impl std::io::Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.to.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded() {
        assert_eq!(decoded("a%2Fb%3Av1%zz+c%2B"), "a/b:v1%zz c+");
    }
}

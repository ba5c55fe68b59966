//! The Docker Engine API over HTTP: routes, and nothing else. What a request does is in [`crate::engine`].
//!
//! Paths come with a version (`/v1.47/info`) or without; the version is checked and cut off before routing.

mod answer;
mod archive;
mod containers;
#[cfg(test)]
mod coverage;
mod exec;
mod hijack;
mod images;
mod loose;
mod networks;
mod system;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, head, post};
use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;
use tower::Layer;

use crate::engine::Engine;
use crate::engine::error::ApiError;
use crate::engine::info::{API_VERSION, MIN_API_VERSION, VERSION};

use answer::Refusal;
#[cfg(fuzzing)]
pub(crate) use {answer::body, images::repeated};

/// What [`axum::serve`] serves.
pub fn service(
    engine: Arc<Engine>,
) -> impl tower::Service<Request, Response = Response, Error = std::convert::Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let versions = axum::middleware::from_fn(unversioned);
    let routes = routes()
        .layer(axum::middleware::from_fn(to_its_end))
        .layer(axum::middleware::from_fn(heard_out))
        .with_state(engine);
    versions.layer(routes)
}

fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .merge(system_routes())
        .merge(container_routes())
        .merge(image_routes())
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{name}/connect", post(networks::connect))
        .route("/networks/{name}/disconnect", post(networks::disconnect))
        .fallback(any(unknown))
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(16 << 20))
}

fn system_routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/_ping", get(system::ping).merge(head(system::ping)))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/system/df", get(system::disk_usage))
        .route("/auth", post(system::auth))
        .route("/plugins", get(system::plugins))
        .route("/plugins/{name}/json", get(system::plugin))
        .route("/build/prune", post(system::prune_build))
}

fn container_routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/json", get(containers::list))
        .route("/commit", post(containers::commit))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/{alias}", delete(containers::remove_link))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route(
            "/containers/{id}/archive",
            get(archive::get)
                .head(archive::head)
                .put(archive::put)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/containers/{id}/export", get(archive::export))
        .route("/containers/{id}/changes", get(archive::changes))
        .route("/containers/{id}/top", get(containers::top))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/stats", get(containers::stats))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/exec", post(exec::create))
}

/// An image's name may have slashes: the verb behind it is cut off by the handler.
fn image_routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create).layer(DefaultBodyLimit::disable()))
        .route("/images/load", post(images::load).layer(DefaultBodyLimit::disable()))
        .route("/images/get", get(images::save_all))
        .route("/images/prune", post(images::prune))
        .route("/distribution/{*rest}", get(images::distribution))
        .route("/images/{*rest}", get(images::get).post(images::post).delete(images::remove))
}

/// Cuts `/v1.47` off the path.
async fn unversioned(mut request: Request, next: Next) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    match cut_version(&path) {
        Ok(None) => {}
        Ok(Some(rest)) => match rest.parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Refusal(ApiError::bad(error.to_string())).into_response(),
        },
        Err(refused) => return Refusal(refused).into_response(),
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
    };
    put("api-version", API_VERSION);
    put("docker-experimental", "false");
    put("ostype", "linux");
    put("server", &format!("system-docker/{VERSION} (linux)"));
    response
}

/// Has what a request began come to its end although whoever asked has gone: a handler is dropped with its connection, and
/// half a start leaves a container that can be started no more. Who only looks, or waits, changes nothing.
async fn to_its_end(request: Request, next: Next) -> Response {
    let changes = match *request.method() {
        Method::GET | Method::HEAD => false,
        Method::POST => !request.uri().path().ends_with("/wait"),
        _ => true,
    };
    if !changes {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => Refusal(ApiError::internal(error.to_string())).into_response(),
    }
}

/// What of a refused upload is read on, in bytes, and for how long.
const HEARD: usize = 8 << 20;
const HEARING: Duration = Duration::from_secs(2);

/// Has a client that is refused while it still sends see the answer, not a connection that breaks: what it sends is read
/// on, up to a bound. Such uploads come in chunks, of a length that nobody knows.
async fn heard_out(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::TRANSFER_ENCODING) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let rest = Arc::new(Mutex::new(body.into_data_stream()));
    let chunks = stream::unfold(Arc::clone(&rest), |rest| async move {
        let chunk = rest.lock().await.next().await?;
        Some((chunk, rest))
    });
    let response = next.run(Request::from_parts(parts, Body::from_stream(chunks))).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let mut rest = rest.lock().await;
        let hear = async {
            let mut heard = 0;
            while let Some(Ok(chunk)) = rest.next().await {
                heard += chunk.len();
                if heard > HEARD {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(HEARING, hear).await;
    }
    response
}

/// The path without its version; none when it has none.
pub(crate) fn cut_version(path: &str) -> Result<Option<&str>, ApiError> {
    let Some(rest) = path.strip_prefix("/v") else { return Ok(None) };
    let Some((version, _)) = rest.split_once('/') else { return Ok(None) };
    let Some(asked) = number(version) else { return Ok(None) };
    if number(API_VERSION).is_some_and(|newest| asked > newest) {
        return Err(ApiError::bad(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if number(MIN_API_VERSION).is_some_and(|oldest| asked < oldest) {
        return Err(ApiError::bad(format!(
            "client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your client to a newer version"
        )));
    }
    Ok(Some(&rest[version.len()..]))
}

fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn unknown(request: Request) -> Response {
    const REFUSED: [&str; 4] = ["build", "plugins", "session", "grpc"];
    const SWARM: [&str; 6] = ["swarm", "services", "tasks", "nodes", "secrets", "configs"];
    let first = request
        .uri()
        .path()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let path = request.uri().path();
    if SWARM.contains(&first.as_str()) && !matches!(path, "/swarm/init" | "/swarm/join") {
        return Refusal(ApiError::no_swarm()).into_response();
    }
    if REFUSED.contains(&first.as_str()) || first == "swarm" {
        return Refusal(ApiError::refused(&first)).into_response();
    }
    let mut response = Refusal(ApiError::missing("page not found")).into_response();
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_cut_off_and_checked() {
        assert_eq!(cut_version("/info").unwrap(), None);
        assert_eq!(cut_version("/volumes/x").unwrap(), None);
        assert_eq!(cut_version("/v1.47/info?x=1").unwrap(), Some("/info?x=1"));
        assert_eq!(cut_version("/v1.24/_ping").unwrap(), Some("/_ping"));
        assert!(cut_version("/v1.12/info").unwrap_err().message.contains("too old"));
        assert!(cut_version("/v1.99/info").unwrap_err().message.contains("too new"));
    }
}

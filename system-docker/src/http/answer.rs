//! Answers in Docker's shapes: JSON, `{"message": …}` for refusals, streams of JSON lines or frames.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::engine::error::ApiError;

/// What handlers answer.
pub type Answer = std::result::Result<Response, Refusal>;

/// A refusal on its way out.
#[derive(Debug)]
pub struct Refusal(pub ApiError);

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::NOT_MODIFIED {
            return status.into_response();
        }
        (status, axum::Json(serde_json::json!({ "message": self.0.message }))).into_response()
    }
}

/// 200 with a body.
pub fn json(value: impl Serialize) -> Answer {
    Ok(axum::Json(value).into_response())
}

/// 204.
pub fn nothing() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses a body that says of itself that it is no JSON.
pub fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|text| text.split(';').next().unwrap_or_default().trim());
    match kind {
        None | Some("application/json") => Ok(()),
        Some(other) => Err(ApiError::bad(format!(
            "unsupported Content-Type header ({other}): must be 'application/json'"
        ))),
    }
}

/// The body as the type that is expected; an empty one is its default.
pub fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    super::loose::from_slice(bytes)
        .map_err(|e| ApiError::bad(format!("invalid JSON in the request's body: {e}")))
}

/// A stream that ends with its sender.
pub fn streamed(content_type: &'static str, from: mpsc::Receiver<Vec<u8>>) -> Response {
    let chunks = stream::unfold(from, |mut from| async move {
        let chunk = from.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(chunk)), from))
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response()
}

/// A stream that breaks off the connection with an error: what only ended early would pass for whole.
pub fn streamed_whole(
    content_type: &'static str,
    from: mpsc::Receiver<std::io::Result<Bytes>>,
) -> Response {
    let chunks = stream::unfold(from, |mut from| async move { Some((from.recv().await?, from)) });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response()
}

/// One JSON object a line.
pub fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.extend_from_slice(b"\r\n");
    line
}

/// A query's flag: `1`, `true`, `True`.
pub fn flag(text: Option<&String>) -> bool {
    matches!(text.map(String::as_str), Some("1" | "true" | "True" | "TRUE" | "t"))
}

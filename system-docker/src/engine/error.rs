//! Why a request was not done, with the HTTP status that Docker gives such a reason.

use ros_runtime::RuntimeError;

/// Result of a verb.
pub type Result<T> = std::result::Result<T, ApiError>;

/// A refusal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For people.
    pub message: String,
}

impl ApiError {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// It may not be done.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, message)
    }

    /// There is no such thing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// It does not fit what is.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }

    /// It is so already.
    pub fn unchanged() -> Self {
        Self::new(304, "")
    }

    /// A system runtime does not do that.
    pub fn refused(what: &str) -> Self {
        Self::new(501, format!("{what} is not something system-docker does"))
    }

    /// What Docker answers where no swarm is.
    pub fn no_swarm() -> Self {
        Self::new(
            503,
            "This node is not a swarm manager and cannot be one: system-docker runs the containers of one machine",
        )
    }

    /// Our own failure.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }
}

impl From<ros_image::Error> for ApiError {
    fn from(error: ros_image::Error) -> Self {
        use ros_image::Error as E;
        let status = match &error {
            E::NotFound { .. } | E::Unauthorized { .. } => 404,
            E::InUse { .. } | E::Referenced { .. } => 409,
            E::Ambiguous { .. } | E::Name(_) | E::BadArchive { .. } | E::NoRegistry { .. } => 400,
            _ => 500,
        };
        let mut message = match &error {
            E::NotFound { reference } => format!("No such image: {}", in_full(reference)),
            other => other.to_string(),
        };
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            message = format!("{message}: {inner}");
            source = inner.source();
        }
        let known = matches!(error, E::NotFound { .. });
        if let Some(hint) = error.hint().filter(|_| !known) {
            message = format!("{message} ({hint})");
        }
        Self::new(status, message)
    }
}

/// A name as Docker completes it: `:latest` when it has no tag, unless it is an image's ID.
fn in_full(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    let id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    match last.contains([':', '@']) || id {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let status = match error {
            RuntimeError::WrongState(_) | RuntimeError::Gone(_) => 409,
            RuntimeError::Shim(_) | RuntimeError::Refused(_) => 500,
            _ => 400,
        };
        Self::new(status, error.to_string())
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error.to_string())
    }
}

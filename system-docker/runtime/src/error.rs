//! Why a container or an exec could not be run, in the classes that decide an exit code or an HTTP status.

use std::io;

use serde::{Deserialize, Serialize};

/// Crosses the shim's socket as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", content = "message", rename_all = "snake_case")]
pub enum RuntimeError {
    /// The command is not in the container; Docker's exit code 127.
    #[error("exec: {0}: executable file not found in $PATH")]
    CommandNotFound(String),
    /// The command is there and cannot be executed; Docker's exit code 126.
    #[error("exec: {0}: permission denied or not an executable")]
    NotExecutable(String),
    /// A mount is wrong: missing source, impossible target, propagation that the host does not offer.
    #[error("mount {0}")]
    BadMount(String),
    /// The user or group is not in the container's `/etc/passwd` or `/etc/group`.
    #[error("{0}")]
    BadUser(String),
    /// The working directory is not a directory of the container.
    #[error("working directory {0}")]
    BadWorkdir(String),
    /// The request does not fit the container's state.
    #[error("container is {0}")]
    WrongState(String),
    /// No such process any more.
    #[error("no such process: {0}")]
    Gone(String),
    /// libcontainer or the kernel refused; the text is for people.
    #[error("{0}")]
    Refused(String),
    /// The shim could not be started or talked to.
    #[error("shim: {0}")]
    Shim(String),
}

impl RuntimeError {
    /// The exit code that Docker reports for a container that could not be started.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::CommandNotFound(_) => 127,
            Self::NotExecutable(_) => 126,
            _ => 128,
        }
    }
}

/// An I/O error between daemon and shim.
impl From<io::Error> for RuntimeError {
    fn from(error: io::Error) -> Self {
        Self::Shim(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_dockers() {
        let table = [
            (RuntimeError::CommandNotFound("x".into()), 127),
            (RuntimeError::NotExecutable("x".into()), 126),
            (RuntimeError::BadMount("x".into()), 128),
            (RuntimeError::Refused("x".into()), 128),
        ];
        for (error, code) in table {
            assert_eq!(error.exit_code(), code, "{error}");
            let json = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<RuntimeError>(&json).unwrap(), error);
        }
    }
}

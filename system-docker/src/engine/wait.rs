//! `wait`: for the end that is meant.

use super::container::Container;
use super::error::{ApiError, Result};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does not run; so at once when it does not.
    NotRunning,
    /// It ends, after having been started perhaps.
    NextExit,
    /// It is gone.
    Removed,
}

impl Condition {
    /// Docker's words.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            _ => Err(ApiError::bad(format!(
                "invalid condition: {word:?}: expected not-running, next-exit or removed"
            ))),
        }
    }
}

/// A wait that counts from its making on.
pub struct Wait {
    condition: Condition,
    exits: tokio::sync::watch::Receiver<(u64, Option<ros_runtime::Exit>)>,
    seen: u64,
}

impl Wait {
    /// Begins to wait.
    pub fn new(container: &Container, condition: Condition) -> Self {
        let exits = container.exits();
        let seen = exits.borrow().0;
        Self { condition, exits, seen }
    }

    async fn next_exit(&mut self) -> i32 {
        let seen = self.seen;
        let ended = self.exits.wait_for(|(count, _)| *count > seen).await;
        ended.ok().and_then(|exits| exits.1).map_or(0, |exit| exit.code)
    }

    /// The exit code.
    pub async fn run(mut self, container: &Container) -> i32 {
        match self.condition {
            // One that its policy starts again has ended all the same.
            Condition::NotRunning => {
                let over = |container: &Container| {
                    !matches!(container.record().state.word(), "running" | "paused" | "restarting")
                };
                let mut changes = container.changes();
                tokio::select! {
                    biased;
                    _ = changes.wait_for(|_| over(container)) => {
                        container.record().state.exit().map_or(0, |exit| exit.code)
                    }
                    code = self.next_exit() => code,
                }
            }
            Condition::NextExit => self.next_exit().await,
            Condition::Removed => {
                let _ = container.removal().wait_for(|gone| *gone).await;
                container.record().state.exit().map_or(0, |exit| exit.code)
            }
        }
    }
}

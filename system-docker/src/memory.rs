//! What a pull or a burst of starts took of memory is free afterwards, but the C library keeps it, for years where nobody
//! asks for as much again. It is given back when things are quiet.

use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// How long after something happened: whatever happens meanwhile counts as one.
const PAUSE: Duration = Duration::from_secs(1);

/// Gives free memory back after each event of `news`; whatever takes much of it ends in one. On an idle machine nothing runs.
pub fn give_back_after<T: Clone + Send + 'static>(mut news: Receiver<T>) {
    tokio::spawn(async move {
        while !matches!(news.recv().await, Err(RecvError::Closed)) {
            tokio::time::sleep(PAUSE).await;
            news = news.resubscribe();
            ros_sys::memory::give_back();
        }
    });
}

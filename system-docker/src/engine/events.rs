//! What happens, told to whoever listens, and the latest of it to whoever asks later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::container::Container;
use super::time::now;

const REMEMBERED: usize = 256;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`.
    pub kind: &'static str,
    /// `start`, `die`, `health_status: healthy`…
    pub action: String,
    /// Id or name of what it happened to.
    pub actor: String,
    /// Attributes: name, image, labels, exit code.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub time: i64,
}

impl Event {
    /// As Docker writes it.
    pub fn to_json(&self) -> Value {
        let from = self.attributes.get("image").cloned().unwrap_or_default();
        json!({
            "status": self.action, "id": self.actor, "from": from,
            "Type": self.kind, "Action": self.action, "scope": "local",
            "Actor": { "ID": self.actor, "Attributes": self.attributes },
            "time": self.time / 1_000_000_000, "timeNano": self.time,
        })
    }
}

/// The line that events go over.
#[derive(Debug)]
pub struct Bus {
    line: broadcast::Sender<Event>,
    /// A lock because any task may tell; never held across an await.
    recent: Mutex<VecDeque<Event>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { line: broadcast::channel(REMEMBERED).0, recent: Mutex::default() }
    }
}

impl Bus {
    /// Tells what happened to a container.
    pub fn container(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let record = container.record();
        let mut attributes: BTreeMap<String, String> =
            record.config.labels.clone().unwrap_or_default().into_iter().collect();
        attributes.insert("name".into(), record.name.clone());
        attributes.insert("image".into(), record.image_name.clone());
        attributes.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.tell("container", action, &container.id, attributes);
    }

    /// Tells what happened to an image or a volume.
    pub fn other(&self, kind: &'static str, action: &str, actor: &str) {
        self.tell(kind, action, actor, BTreeMap::from([("name".to_owned(), actor.to_owned())]));
    }

    /// Tells what happened to a network, and which container it concerns.
    pub fn network(&self, action: &str, id: &str, name: &str, container: Option<&str>) {
        let mut attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        let driver = if matches!(name, "host" | "none") { name } else { "bridge" };
        attributes.insert("type".into(), driver.into());
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.tell("network", action, id, attributes);
    }

    fn tell(
        &self,
        kind: &'static str,
        action: &str,
        actor: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Event {
            kind,
            action: action.to_owned(),
            actor: actor.to_owned(),
            attributes,
            time: now(),
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.line.send(event);
    }

    /// What is remembered, and what comes.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.line.subscribe())
    }
}

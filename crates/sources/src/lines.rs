//! One line of JSON in any of the shapes that events come in, for reading recordings and exports.

use proto_events::{Event, limits};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::celery::{Normaliser, unwrap_envelope};
use crate::sdk;

/// Why a line gives no events, or not all of its events.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but of none of the known shapes.
    #[error("neither an event nor a batch of events that is known here")]
    UnknownShape,
    /// A message around the events that cannot be opened.
    #[error("{0}")]
    Envelope(String),
    /// Some of the line's events are of no use; the others are here.
    #[error("{} refused: {}", refused.len(), refused.join("; "))]
    Refused {
        /// The good ones.
        events: Vec<Event>,
        /// What is wrong with each of the others.
        refused: Vec<String>,
    },
}

/// Reads the events of one line: an ingest batch `{"events":[…]}`, a single ingest event, an event of the contract, a raw
/// Celery event or an array of any of these, a kombu message, or a recording of one of them under `event`, `message` or
/// `body`. Messages of Celery's control channels give no events.
pub fn events(line: &str, connection: Uuid) -> Result<Vec<Event>, LineError> {
    let value = parse(line)?;
    let mut found = Found { connection, events: Vec::new(), refused: Vec::new() };
    found.value(value)?;
    if found.refused.is_empty() {
        return Ok(found.events);
    }
    Err(LineError::Refused { events: found.events, refused: found.refused })
}

/// The connection that the line's first event to name one belongs to; [`events`] refuses those that name another than
/// they are read for.
pub fn connection(line: &str) -> Option<Uuid> {
    named(&parse(line).ok()?)
}

fn named(value: &Value) -> Option<Uuid> {
    match value {
        Value::Array(elements) => elements.iter().find_map(named),
        Value::Object(map) => {
            let id = map.get("connectionId").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
            id.or_else(|| ["events", "event", "body"].iter().find_map(|key| map.get(*key).and_then(named)))
        }
        _ => None,
    }
}

fn parse(text: &str) -> Result<Value, LineError> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&crate::json::repaired(text)))
        .map_err(|error| LineError::NotJson(error.to_string()))
}

struct Found {
    connection: Uuid,
    events: Vec<Event>,
    refused: Vec<String>,
}

impl Found {
    fn value(&mut self, value: Value) -> Result<(), LineError> {
        match value {
            Value::Array(elements) => elements.into_iter().try_for_each(|element| self.value(element)),
            Value::Object(map) => self.object(map),
            _ => Err(LineError::UnknownShape),
        }
    }

    fn object(&mut self, mut map: Map<String, Value>) -> Result<(), LineError> {
        // A type says that this is an event itself; a field `message` or `body` of it is then its own.
        if map.contains_key("type") {
            self.event(map);
            return Ok(());
        }
        if let Some(events @ Value::Array(_)) = map.remove("events") {
            return self.value(events);
        }
        if let Some(event) = map.remove("event") {
            return self.value(event);
        }
        if let Some(Value::String(message)) = map.remove("message") {
            return self.envelope(&message);
        }
        match map.get("body") {
            Some(Value::String(_)) => self.envelope(&Value::Object(map).to_string()),
            Some(Value::Object(_)) => map.remove("body").map_or(Ok(()), |body| self.value(body)),
            // What Celery's workers say to each other on their control channels.
            None if map.contains_key("method") => Ok(()),
            _ => Err(LineError::UnknownShape),
        }
    }

    fn envelope(&mut self, message: &str) -> Result<(), LineError> {
        let raw = unwrap_envelope(message.as_bytes()).map_err(|error| LineError::Envelope(error.to_string()))?;
        raw.into_iter().try_for_each(|event| self.value(event))
    }

    fn event(&mut self, map: Map<String, Value>) {
        let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let read = if kind.starts_with("task-") || kind.starts_with("worker-") {
            Normaliser::default().event(Value::Object(map)).map_err(|refused| refused.to_string())
        } else if map.contains_key("v") {
            contract(Value::Object(map))
        } else {
            sdk::event(map.into(), self.connection, &sdk::Options::default()).map_err(|fault| fault.message)
        };
        match read {
            Ok(event) => self.events.push(event),
            Err(reason) => self.refused.push(reason),
        }
    }
}

fn contract(value: Value) -> Result<Event, String> {
    let mut event: Event = serde_json::from_value(value).map_err(|error| format!("not an event: {error}"))?;
    event.check()?;
    limits::enforce(&mut event);
    Ok(event)
}

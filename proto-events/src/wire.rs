//! Messages: one event or an array of events as JSON, each element decoded on its own.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::Event;

/// The version of the contract that this code writes, and the newest that it reads.
pub const VERSION: u16 = 1;

/// Why an element of a message is not an event that we can use. The neighbours of such an element are unharmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not JSON, or not of an event's shape: it will never be readable.
    #[error("not an event: {0}")]
    Malformed(String),
    /// Written by a newer Forebay: readable after an upgrade.
    #[error("version {0} of the event contract is newer than this binary's {VERSION}")]
    Newer(u64),
}

/// Encodes a message: the bare event when there is one, else an array.
pub fn encode(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(events.len() * 512);
    let written = match events {
        [event] => serde_json::to_writer(&mut bytes, event),
        _ => serde_json::to_writer(&mut bytes, events),
    };
    written.expect("events hold nothing that JSON cannot write, and a vector always accepts");
    bytes
}

/// How many bytes the value takes in JSON, without making them.
pub fn encoded_len(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

/// Decodes a message. The outer error says that there are no elements to speak of; the inner ones speak of one each.
pub fn decode(bytes: &[u8]) -> Result<Vec<Result<Event, DecodeError>>, DecodeError> {
    let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
    let array = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !array {
        let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        return Ok(vec![decode_one(text)]);
    }
    // The usual case, all well, in one pass; only a message with a bad element is taken apart.
    if let Ok(events) = serde_json::from_slice::<Vec<Event>>(bytes) {
        return Ok(events.into_iter().map(|event| checked(event, u64::from(VERSION))).collect());
    }
    let elements: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(malformed)?;
    Ok(elements.into_iter().map(|element| decode_one(element.get())).collect())
}

fn decode_one(text: &str) -> Result<Event, DecodeError> {
    match serde_json::from_str::<Event>(text) {
        Ok(event) => checked(event, u64::from(VERSION)),
        Err(error) => Err(newer(text).unwrap_or_else(|| DecodeError::Malformed(error.to_string()))),
    }
}

/// The version check comes after the shape, since a newer version may well have the shape of ours.
fn checked(event: Event, newest: u64) -> Result<Event, DecodeError> {
    let version = u64::from(event.v);
    if version > newest {
        return Err(DecodeError::Newer(version));
    }
    event.check().map_err(|cause| DecodeError::Malformed(cause.to_owned()))?;
    Ok(event)
}

/// An event that does not have our shape may still say that it is newer.
fn newer(text: &str) -> Option<DecodeError> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u64,
    }
    let version = serde_json::from_str::<Version>(text).ok()?.v;
    (version > u64::from(VERSION)).then_some(DecodeError::Newer(version))
}

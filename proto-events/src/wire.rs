//! Messages: one event or an array of events as JSON, each element decoded on its own.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::upcast::{STEPS, Step, upcast};

/// The version of the contract that this code writes, and the newest that it reads. Older ones are read too, and come
/// out as this one.
pub const VERSION: u16 = newest(STEPS);

const fn newest(steps: &[Step]) -> u16 {
    1 + steps.len() as u16
}

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
/// Whatever version an element was written in, it comes out in the newest one.
pub fn decode(bytes: &[u8]) -> Result<Vec<Result<Event, DecodeError>>, DecodeError> {
    decode_with(bytes, STEPS)
}

pub(crate) fn decode_with(bytes: &[u8], steps: &[Step]) -> Result<Vec<Result<Event, DecodeError>>, DecodeError> {
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        return Ok(vec![decode_one(bytes, steps)]);
    }
    // The usual case, all well and of the newest version, in one pass; only another message is taken apart.
    if let Ok(events) = serde_json::from_slice::<Vec<Event>>(bytes)
        && events.iter().all(|event| event.v >= newest(steps))
    {
        return Ok(events.into_iter().map(|event| checked(event, steps)).collect());
    }
    match elements(bytes) {
        Some(elements) => Ok(elements.into_iter().map(|element| decode_one(element, steps)).collect()),
        None => Err(DecodeError::Malformed("an array that does not end where the message ends".to_owned())),
    }
}

/// The elements of a JSON array, each as the bytes that it was written in; `None` where the bytes are not an array from
/// end to end. Only the array is looked at: an element may be anything, even bytes that are no JSON, so that a bad one
/// can be refused alone.
pub fn elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let inside = bytes.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut elements, mut begin, mut depth, mut text, mut escaped) = (Vec::new(), 0, 0_usize, false, false);
    for (at, byte) in inside.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            _ if text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                elements.push(&inside[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    let last = &inside[begin..];
    if !elements.is_empty() || !last.trim_ascii().is_empty() {
        elements.push(last);
    }
    (depth == 0 && !text).then_some(elements)
}

fn decode_one(bytes: &[u8], steps: &[Step]) -> Result<Event, DecodeError> {
    let newest = newest(steps);
    let as_newest = serde_json::from_slice::<Event>(bytes);
    if let Ok(event) = as_newest
        && event.v >= newest
    {
        return checked(event, steps);
    }
    // Of another version the same fields may mean something else, or be none that we know.
    match version(bytes) {
        Some(version) if version > u64::from(newest) => Err(DecodeError::Newer(version)),
        Some(version @ 1..) if version < u64::from(newest) => {
            let element = serde_json::from_slice(bytes).map_err(malformed)?;
            checked(serde_json::from_value(upcast(element, version as usize, steps)).map_err(malformed)?, steps)
        }
        _ => checked(serde_json::from_slice(bytes).map_err(malformed)?, steps),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn malformed(error: serde_json::Error) -> DecodeError {
    DecodeError::Malformed(error.to_string())
}

/// The version check comes after the shape, since a newer version may well have the shape of ours.
fn checked(event: Event, steps: &[Step]) -> Result<Event, DecodeError> {
    if event.v > newest(steps) {
        return Err(DecodeError::Newer(event.v.into()));
    }
    event.check().map_err(|cause| DecodeError::Malformed(cause.to_owned()))?;
    Ok(event)
}

/// The version that an element says it has, whatever else it is; the first one where it says nothing.
fn version(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(default = "first")]
        v: u64,
    }
    fn first() -> u64 {
        1
    }
    serde_json::from_slice::<Version>(bytes).ok().map(|version| version.v)
}

//! Identities as pure functions: of a job, a worker, a queue, of an event, of a place in the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::Event;

/// The id of a job: UUIDv5 of its external id in the namespace of its connection.
///
/// The same on every node and after every replay. For the sample of the documented API:
/// ```
/// let connection = uuid::Uuid::parse_str("550e8400-e29b-41d4-a716-446655440000").unwrap();
/// let id = proto_events::job_id(connection, "abc123-def456-ghi789");
/// assert_eq!(id.to_string(), "fbe08da7-0069-502f-90f8-dff3d29e3dc6");
/// ```
pub fn job_id(connection: Uuid, external_id: &str) -> Uuid {
    Uuid::new_v5(&connection, external_id.as_bytes())
}

/// What the ids of workers, and of queues, are made from beside the connection, so that none is ever a job's.
const WORKERS: Uuid = Uuid::from_u128(0x6f0b_5a52_3c1d_4e0c_9a57_0d2f_41e8_b6c3);
const QUEUES: Uuid = Uuid::from_u128(0xb84e_91d7_7a26_4f3b_8c60_5e19_f2a3_0d74);

/// The id of a worker: UUIDv5 of the framework's name for it, in a namespace that its connection has for workers alone.
///
/// ```
/// let connection = uuid::Uuid::parse_str("550e8400-e29b-41d4-a716-446655440000").unwrap();
/// let id = proto_events::worker_id(connection, "celery@worker-1");
/// assert_eq!(id.to_string(), "329cfe1e-d9ba-5104-a551-52e271342456");
/// ```
pub fn worker_id(connection: Uuid, external_id: &str) -> Uuid {
    of_its_kind(WORKERS, connection, external_id)
}

/// The id of a queue: UUIDv5 of its name, in a namespace that its connection has for queues alone.
///
/// ```
/// let connection = uuid::Uuid::parse_str("550e8400-e29b-41d4-a716-446655440000").unwrap();
/// let id = proto_events::queue_id(connection, "default");
/// assert_eq!(id.to_string(), "c1995176-86fa-5706-9c8b-4b9f3b38cbc4");
/// ```
pub fn queue_id(connection: Uuid, name: &str) -> Uuid {
    of_its_kind(QUEUES, connection, name)
}

fn of_its_kind(kind: Uuid, connection: Uuid, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&kind, connection.as_bytes()), name.as_bytes())
}

/// The identity of an event: the first 128 bits of the BLAKE3 hash of its canonical content.
///
/// Two events are the same event when everything their sender said is the same; when they were received and where
/// they stand in the log plays no part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// Hashes the canonical JSON of the event: fields in the order of their declaration, absent ones left out, the
    /// keys of free-form objects sorted.
    pub fn of(event: &Event) -> Self {
        // One piece of text, since feeding a hasher the many small writes of a serializer costs three times as much.
        let mut canonical = Vec::with_capacity(1_024);
        // An event holds nothing that JSON cannot write: numbers that are not finite are refused when an event is read,
        // and were they made by hand they would be written as null.
        serde_json::to_writer(&mut canonical, event).expect("an event is always JSON, and a vector always accepts");
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(&canonical).as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in the log: the message's stream sequence (from 1) and the event's index in its array (from 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The stream sequence of the message; 0 stands before the first.
    pub sequence: u64,
    /// The index of the event in the message.
    pub index: u32,
}

impl Position {
    /// The position of an event.
    pub const fn new(sequence: u64, index: u32) -> Self {
        Self { sequence, index }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sequence, self.index)
    }
}

/// The text is not a position: `SEQUENCE` or `SEQUENCE.INDEX`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a log position: expected SEQUENCE or SEQUENCE.INDEX")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (sequence, index) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self::new(sequence.parse().map_err(|_| NotAPosition)?, index.parse().map_err(|_| NotAPosition)?))
    }
}

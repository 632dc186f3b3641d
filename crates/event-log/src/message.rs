//! Messages of the log, and the subjects they stand under.

use async_nats::jetstream::message::StreamMessage;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use proto_events::Timestamp;
use uuid::Uuid;

use crate::imported::Seal;

/// One message of the log: an event or an array of events of one connection.
#[derive(Clone, Debug)]
pub struct LogMessage {
    /// Its place in the log, from 1.
    pub sequence: u64,
    /// Whose events they are, said by the subject; nil when a foreign publisher used a subject that names nobody.
    pub connection: Uuid,
    /// When it was published. For a message that was brought in by an import that is when the first log took it.
    pub published: Timestamp,
    /// Whether an import brought it in from another log, whose positions mean nothing here.
    pub imported: bool,
    /// When this log took it; never earlier than that of the message before, but for the servers' clocks.
    pub stored: Timestamp,
    /// The events, as [`proto_events::decode`] reads them.
    pub payload: Bytes,
    subject: Subject,
}

impl LogMessage {
    /// A message as the log would deliver it; for tests of those who read the log.
    pub fn new(sequence: u64, connection: Uuid, published: Timestamp, payload: Bytes) -> Self {
        Self {
            sequence,
            connection,
            published,
            imported: false,
            stored: published,
            payload,
            subject: jobs_subject(connection).into(),
        }
    }

    pub(crate) fn received(
        sequence: u64,
        subject: Subject,
        stored: Timestamp,
        payload: Bytes,
        headers: Option<&HeaderMap>,
        seal: &Seal,
    ) -> Self {
        let first = headers.and_then(|headers| seal.published(headers, &subject, &payload));
        let (published, imported) = (first.unwrap_or(stored), first.is_some());
        Self { sequence, connection: connection_of(&subject), published, imported, stored, payload, subject }
    }

    pub(crate) fn of_stream(message: StreamMessage, seal: &Seal) -> Self {
        let stored = timestamp(message.time.unix_timestamp_nanos());
        let headers = Some(&message.headers);
        Self::received(message.sequence, message.subject, stored, message.payload, headers, seal)
    }

    /// The first 128 bits of the hash of subject and payload: what the fence recognises a position by.
    pub fn fingerprint(&self) -> [u8; 16] {
        short_hash(&[self.subject.as_bytes(), &self.payload])
    }
}

/// The time of the server's nanoseconds; a time that no calendar can write becomes the epoch.
pub(crate) fn timestamp(nanos: i128) -> Timestamp {
    i64::try_from(nanos.div_euclid(1_000)).ok().and_then(Timestamp::from_micros).unwrap_or_default()
}

/// The subject of a connection's events. There is one shard until someone needs more.
pub(crate) fn jobs_subject(connection: Uuid) -> String {
    format!("forebay.v1.jobs.{connection}.0")
}

/// The subject of the latest state of one named thing.
pub(crate) fn status_subject(connection: Uuid, kind: &str, name: &str) -> String {
    let name = hex(&short_hash(&[name.as_bytes()]));
    format!("forebay.v1.status.{connection}.{kind}.{name}")
}

/// The id by which the stream knows a message that is sent again. Deduplication spans all subjects of a stream, so the
/// connection is part of it.
pub(crate) fn message_id(connection: Uuid, payload: &[u8]) -> String {
    hex(&short_hash(&[connection.as_bytes(), payload]))
}

pub(crate) fn connection_of(subject: &str) -> Uuid {
    subject.split('.').nth(3).and_then(|token| Uuid::try_parse(token).ok()).unwrap_or_default()
}

pub(crate) fn short_hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        // The length keeps the parts apart: without it ("ab", "c") would be ("a", "bc").
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_decides_whose_a_message_is() {
        let connection = Uuid::from_u128(7);
        let seal = Seal::of(b"a secret");
        let message = |subject: &str| {
            LogMessage::received(1, subject.into(), Timestamp(0), Bytes::from_static(b"{}"), None, &seal)
        };
        assert_eq!(message(&jobs_subject(connection)).connection, connection);
        assert!(message("forebay.v1.jobs.somebody.0").connection.is_nil());
        assert_ne!(message("forebay.v1.jobs.a.0").fingerprint(), message("forebay.v1.jobs.b.0").fingerprint());
        let made = LogMessage::new(1, connection, Timestamp(0), Bytes::from_static(b"{}"));
        assert_eq!(made.fingerprint(), message(&jobs_subject(connection)).fingerprint());
    }

    #[test]
    fn a_message_id_depends_on_connection_and_payload() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(message_id(one, b"x"), message_id(one, b"x"));
        assert_ne!(message_id(one, b"x"), message_id(two, b"x"));
        assert_ne!(message_id(one, b"x"), message_id(one, b"y"));
    }

    #[test]
    fn a_status_subject_is_one_token_per_part_whatever_the_name() {
        let subject = status_subject(Uuid::nil(), "worker", "celery@host name.*>");
        assert_eq!(subject.split('.').count(), 6);
        assert!(!subject.contains(['*', '>', ' ', '@']));
    }
}

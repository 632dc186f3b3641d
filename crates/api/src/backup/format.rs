//! The format of an export: a header, one line for each message of the log, and a trailer, all of them JSON.
//!
//! The trailer counts and sums up what is before it, so that an export that was cut off or changed is noticed. A
//! message's own JSON stands in its line byte for byte; what is not JSON of one line is kept as base64.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use event_log::LogMessage;
use proto_events::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connections::Connection;
use crate::keys::ReadKey;

/// What a header says it is.
const FORMAT: &str = "forebay-export";
/// The version that is written, and the only one there is.
const VERSION: u32 = 1;

const SEQUENCE: &[u8] = b"{\"sequence\":";
const PAYLOAD: &[u8] = b",\"payload\":";
/// More than all that is before a payload.
const HEAD_BYTES: usize = 256;
const BASE64: &[u8] = b",\"base64\":\"";

/// One end of the range of an export, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// A position in the log; it belongs to the range.
    Sequence(u64),
    /// A publish time. A range begins with it, and ends before it.
    Time(Timestamp),
}

impl std::str::FromStr for Bound {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        Timestamp::parse(text).map(Self::Time).ok_or(())
    }
}

/// The first line of an export.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    pub(crate) format: String,
    pub(crate) version: u32,
    /// Of this export; an import remembers by it how far it came.
    pub id: Uuid,
    /// When it was begun.
    pub exported: Timestamp,
    /// When the log was created, which tells it from every other.
    pub log: Timestamp,
    /// The first position that the log held.
    pub first: u64,
    /// The last position that is covered; what came later is in no part of this export.
    pub last: u64,
    /// Where it begins, if that was asked for.
    pub from: Option<Bound>,
    /// Where it ends, likewise.
    pub to: Option<Bound>,
    /// The only connection in it, likewise.
    pub connection: Option<Uuid>,
    /// Whether the keys are good after an import.
    pub keys: bool,
    /// The connections: their names, and hashes of their keys.
    pub connections: Vec<Connection>,
    /// The read keys, as hashes; none in an export of one connection alone. Exports of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_keys: Vec<ReadKey>,
}

impl Header {
    /// A header of this version, of an export that begins now.
    pub(crate) fn new(log: Timestamp, exported: Timestamp) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            id: Uuid::new_v4(),
            exported,
            log,
            first: 0,
            last: 0,
            from: None,
            to: None,
            connection: None,
            keys: true,
            connections: Vec::new(),
            read_keys: Vec::new(),
        }
    }

    /// Whether both are of the same log, and the same was asked for.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        let asked = |header: &Self| (header.log, header.from, header.to, header.connection, header.keys);
        asked(self) == asked(other)
    }

    fn parse(line: &[u8]) -> Result<Self, FormatError> {
        /// What every version begins with.
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u32,
        }
        let kind: Kind = serde_json::from_slice(line).map_err(|_| FormatError::NoExport)?;
        match (kind.format.as_str(), kind.version) {
            (FORMAT, VERSION) => {}
            (FORMAT, found) => return Err(FormatError::Version { found }),
            _ => return Err(FormatError::NoExport),
        }
        serde_json::from_slice(line).map_err(|error| FormatError::Line { number: 1, reason: error.to_string() })
    }
}

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the log that was exported.
    pub sequence: u64,
    /// When it was published.
    pub published: Timestamp,
    /// Whose events they are.
    pub connection: Uuid,
    /// The events, to the byte.
    pub payload: Bytes,
}

/// All of a message's line but the payload.
#[derive(Deserialize)]
struct Head {
    sequence: u64,
    published: Timestamp,
    connection: Uuid,
}

impl Message {
    fn parse(line: &Bytes) -> Result<Self, String> {
        // What stands before the payload is a number, a time and an id, so the first mark found is the right one.
        let begin = &line[..line.len().min(HEAD_BYTES)];
        let mark = [PAYLOAD, BASE64].into_iter().find_map(|mark| Some((mark, position(begin, mark)?)));
        let (mark, end) = mark.ok_or("it has no payload")?;
        let head = [&line[..end], b"}"].concat();
        let Head { sequence, published, connection } =
            serde_json::from_slice(&head).map_err(|error| error.to_string())?;
        let begin = end + mark.len();
        let payload = if mark == PAYLOAD {
            let end =
                line.len().checked_sub(1).filter(|end| *end > begin && line[*end] == b'}').ok_or("it is cut off")?;
            let payload = line.slice(begin..end);
            if !is_json(&payload) {
                return Err("its payload is not JSON".to_owned());
            }
            payload
        } else {
            let text = line[begin..].strip_suffix(b"\"}").ok_or("it is cut off")?;
            STANDARD.decode(text).map_err(|error| format!("its payload is not base64: {error}"))?.into()
        };
        Ok(Self { sequence, published, connection, payload })
    }
}

/// Appends the line of a message, with its line feed.
pub(crate) fn write_message(text: &mut Vec<u8>, message: &LogMessage) {
    let LogMessage { sequence, published, connection, payload, .. } = message;
    let head = format!("{{\"sequence\":{sequence},\"published\":\"{published}\",\"connection\":\"{connection}\"");
    text.extend_from_slice(head.as_bytes());
    let one_line = !payload.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    if one_line && is_json(payload) {
        text.extend_from_slice(PAYLOAD);
        text.extend_from_slice(payload);
    } else {
        text.extend_from_slice(BASE64);
        text.extend_from_slice(STANDARD.encode(payload).as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(b"}\n");
}

/// Whether it is JSON, however deep. The parser does not look at the encoding of texts that it passes over.
fn is_json(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn position(line: &[u8], mark: &[u8]) -> Option<usize> {
    line.windows(mark.len()).position(|window| window == mark)
}

/// The last line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trailer {
    end: String,
    /// How many messages there are.
    pub messages: u64,
    /// The BLAKE3 hash of all lines before this one.
    pub checksum: String,
}

impl Trailer {
    pub(crate) fn new(messages: u64, lines: &blake3::Hasher) -> Self {
        Self { end: FORMAT.to_owned(), messages, checksum: format!("blake3:{}", lines.finalize().to_hex()) }
    }
}

/// One line as text, with its line feed.
pub fn line_of(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("numbers and texts under texts are JSON");
    line.push(b'\n');
    line
}

/// One line, understood.
#[derive(Clone, Debug)]
pub enum Line {
    /// The first.
    Header(Arc<Header>),
    /// Any between.
    Message(Message),
    /// The last.
    Trailer(Trailer),
}

/// Why an export cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// It is something else.
    #[error("this is not an export of forebay")]
    NoExport,
    /// It is newer than we are.
    #[error("this export has format version {found}, and this forebay reads version {VERSION}: use a newer forebay")]
    Version {
        /// Its version.
        found: u32,
    },
    /// A line is not what it should be.
    #[error("the export is damaged in line {number}: {reason}")]
    Line {
        /// Which, from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Its end is missing.
    #[error("the export is incomplete: it ends after line {lines}, without its last line")]
    Incomplete {
        /// How many lines there are.
        lines: u64,
    },
    /// It is whole in form, but not what was written.
    #[error("the export is damaged: its checksum does not fit what is in it")]
    Checksum,
}

/// Reads an export line by line, and makes sure that it is one, whole and unchanged.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    hasher: blake3::Hasher,
    lines: u64,
    header: Option<Arc<Header>>,
    last: Option<(u64, Bytes)>,
    messages: u64,
    ended: bool,
    partial: bool,
}

impl Checker {
    /// Of a whole export.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a part: the header and some of the other lines. What its end says of the whole cannot be checked.
    pub fn of_part() -> Self {
        Self { partial: true, ..Self::default() }
    }

    /// Takes the next line, without its line feed.
    pub fn line(&mut self, line: &Bytes) -> Result<Line, FormatError> {
        let number = self.lines + 1;
        let wrong = |reason: &str| FormatError::Line { number, reason: reason.to_owned() };
        let Some(header) = &self.header else {
            let header = Arc::new(Header::parse(line)?);
            self.header = Some(Arc::clone(&header));
            self.take(line);
            return Ok(Line::Header(header));
        };
        if self.ended {
            return Err(wrong("there is more after its last line"));
        }
        if !line.starts_with(SEQUENCE) {
            let trailer: Trailer = serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))?;
            if !self.partial && trailer != self.trailer() {
                return Err(FormatError::Checksum);
            }
            self.lines = number;
            self.ended = true;
            return Ok(Line::Trailer(trailer));
        }
        let message = Message::parse(line).map_err(|reason| wrong(&reason))?;
        if message.sequence <= self.last() || message.sequence > header.last {
            return Err(wrong("its sequence is out of order"));
        }
        self.message(message.sequence, line);
        Ok(Line::Message(message))
    }

    /// Takes the line of a message that another checker has understood.
    pub fn message(&mut self, sequence: u64, line: &Bytes) {
        self.last = Some((sequence, line.clone()));
        self.messages += 1;
        self.take(line);
    }

    fn take(&mut self, line: &[u8]) {
        self.hasher.update(line).update(b"\n");
        self.lines += 1;
    }

    /// Makes sure that the end was reached.
    pub fn finish(&self) -> Result<(), FormatError> {
        match (&self.header, self.ended || self.partial) {
            (None, _) => Err(FormatError::NoExport),
            (_, false) => Err(self.incomplete()),
            (_, true) => Ok(()),
        }
    }

    /// That the end is missing.
    pub fn incomplete(&self) -> FormatError {
        FormatError::Incomplete { lines: self.lines }
    }

    /// The header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_deref()
    }

    /// Whether the last line was read.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// How many messages there were.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The position of the last message, 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.as_ref().map_or(0, |(sequence, _)| *sequence)
    }

    /// The line of the last message.
    pub fn last_line(&self) -> Option<&Bytes> {
        self.last.as_ref().map(|(_, line)| line)
    }

    /// What the last line of all that was read so far must be.
    pub fn trailer(&self) -> Trailer {
        Trailer::new(self.messages, &self.hasher)
    }
}

#[cfg(test)]
mod tests;

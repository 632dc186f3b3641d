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
mod tests {
    use super::*;

    fn payloads() -> Vec<Bytes> {
        let deep = "[".repeat(5_000) + &"]".repeat(5_000);
        let texts = [
            r#"{"a":1,"payload":{"b":"}"},"n":123456789012345678901234567890.10e-400}"#,
            r#"[{"a" : 1}, "\u0000 ü"]"#,
            r#"","payload":"#,
            r#","base64":"QQ=="}"#,
            "{\n  \"pretty\": true\n}",
            "{\"cut",
            "not JSON",
            "",
            " ",
            &deep,
        ];
        let mut payloads: Vec<Bytes> = texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        payloads.push(Bytes::from_static(b"\"\xff\xfe\""));
        payloads.push(Bytes::from_static(b"\x00\r\n\x80"));
        payloads
    }

    fn messages() -> Vec<LogMessage> {
        let of = |(index, payload): (usize, Bytes)| {
            let sequence = index as u64 * 3 + 1;
            LogMessage::new(sequence, Uuid::from_u128(7), Timestamp(1_795_440_115_833_834 + index as i64), payload)
        };
        payloads().into_iter().enumerate().map(of).collect()
    }

    fn export(messages: &[LogMessage]) -> Vec<u8> {
        let last = messages.last().map_or(0, |message| message.sequence);
        let mut text = line_of(&Header { last, ..Header::new(Timestamp(1), Timestamp(2)) });
        for message in messages {
            write_message(&mut text, message);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&text);
        text.extend(line_of(&Trailer::new(messages.len() as u64, &hasher)));
        text
    }

    fn read(text: &[u8]) -> Result<Vec<Message>, FormatError> {
        let mut checker = Checker::new();
        let mut messages = Vec::new();
        for line in text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n') {
            if let Line::Message(message) = checker.line(&Bytes::copy_from_slice(line))? {
                messages.push(message);
            }
        }
        checker.finish().map(|()| messages)
    }

    #[test]
    fn every_payload_comes_back_to_the_byte_and_json_stays_readable() {
        let written = messages();
        let text = export(&written);
        let back = read(&text).unwrap();
        assert_eq!(back.len(), written.len());
        for (back, written) in back.iter().zip(&written) {
            assert_eq!((back.sequence, back.published), (written.sequence, written.published));
            assert_eq!((back.connection, &back.payload), (written.connection, &written.payload));
        }
        let line: serde_json::Value =
            serde_json::from_slice(text.split(|byte| *byte == b'\n').nth(2).unwrap()).unwrap();
        let expected = serde_json::json!({
            "sequence": 4, "published": "2026-11-23T13:21:55.833835Z", "connection": Uuid::from_u128(7),
            "payload": [{ "a": 1 }, "\u{0} ü"],
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn whatever_is_cut_off_changed_left_out_or_repeated_is_noticed() {
        let kept: Vec<LogMessage> = messages().into_iter().filter(|message| message.payload.len() < 100).collect();
        let text = export(&kept);
        for end in 0..text.len() - 1 {
            assert!(read(&text[..end]).is_err(), "cut off at {end}");
        }
        for place in 0..text.len() - 1 {
            for change in [1, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[place] ^= change;
                assert!(read(&changed).is_err(), "{place}: {}", String::from_utf8_lossy(&changed));
            }
        }
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        for place in 0..lines.len() {
            let without = [&lines[..place], &lines[place + 1..]].concat().concat();
            let twice = [&lines[..=place], &lines[place..]].concat().concat();
            assert!(read(&without).is_err() && read(&twice).is_err(), "line {}", place + 1);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = String::from_utf8(export(&messages())).unwrap();
        let said = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(said(""), "this is not an export of forebay");
        assert_eq!(said("{\"events\":[]}\n"), "this is not an export of forebay");
        let newer = text.replacen("\"version\":1", "\"version\":2,\"new\":{}", 1);
        assert_eq!(
            said(&newer),
            "this export has format version 2, and this forebay reads version 1: use a newer forebay"
        );
        let half = text.lines().take(3).collect::<Vec<_>>().join("\n");
        assert_eq!(said(&half), "the export is incomplete: it ends after line 3, without its last line");
        let cut = &text[..text.find("\"sequence\":4").unwrap() + 90];
        assert!(said(cut).starts_with("the export is damaged in line 3: "), "{}", said(cut));
        let other = text.replacen("not JSON", "not json", 1).replacen("bm90IEpTT04=", "bm90IGpzb24=", 1);
        assert_eq!(said(&other), "the export is damaged: its checksum does not fit what is in it");
    }
}

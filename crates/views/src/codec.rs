//! Everything that is stored, as bytes: the only place that knows bincode.
//!
//! Every value starts with a format byte of its type, since bincode does not describe itself: a value of another
//! format is refused, never guessed, and the views are filled anew from the log. Whoever changes the bytes of a type
//! changes its format byte; the golden tests see to it.

use std::borrow::Cow;
use std::sync::Arc;

use bincode::config;
use bincode::serde::{borrow_decode_from_slice, decode_from_slice, encode_into_std_write};
use projection::fleet::FleetFact;
use projection::{Evidence, Measure, Outcome, Record, Row, beginning, dispatches, outcome, rejections};
use proto_events::{Framework, JobState, Position, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::digest::Digest;
use crate::error::ViewError;
use crate::query::Brief;
use crate::recent::RecentPage;

/// No value is near this; a damaged length must not make us allocate what it says.
const LIMIT: usize = 64 << 20;
const CONFIG: config::Configuration<config::LittleEndian, config::Varint, config::Limit<LIMIT>> =
    config::standard().with_limit::<LIMIT>();

/// A type with one format.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// Changes whenever the bytes of the type do; never reused.
    const FORMAT: u8;
    /// For messages.
    const NAME: &'static str;
}

/// Which generation this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The layout of keys.
    pub(crate) layout: u32,
    /// The fold that made the records.
    pub(crate) fold_version: u32,
}

impl Stored for Meta {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "meta";
}

/// Up to where the views hold the log, and what they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// How many checkpoints were written before.
    pub number: u64,
    /// When the log's stream was created.
    pub created: Timestamp,
    /// The last message of the log that is in the views.
    pub sequence: u64,
    /// Its fingerprint.
    pub fingerprint: [u8; 16],
    /// The digest of all records at that message.
    pub digest: Digest,
    /// The fold that made them.
    pub fold_version: u32,
    /// What the log said before this message is forgotten: no view knows of it.
    pub floor: u64,
    /// Whether the disk has forgotten it too. Until it has, the digest is of some records more.
    pub settled: bool,
}

impl Stored for Checkpoint {
    const FORMAT: u8 = 2;
    const NAME: &'static str = "checkpoint";
}

/// What the rows on disk sum up to, written together with each chunk of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// How many there are.
    pub(crate) rows: u64,
    /// The digest of their records.
    pub(crate) digest: Digest,
    /// Some of them may hold events up to this message, though the checkpoint is behind it.
    pub(crate) ahead: u64,
}

impl Stored for FleetFact {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "fact about a worker";
}

impl Stored for Tally {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "tally";
}

/// A checkpoint of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its message.
    pub sequence: u64,
    /// The digest of all records there.
    pub digest: Digest,
}

impl Stored for Past {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "past checkpoint";
}

/// The fingerprint of some message of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmark {
    /// The message.
    pub sequence: u64,
    /// Its fingerprint.
    pub fingerprint: [u8; 16],
}

impl Stored for Landmark {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "landmark";
}

/// An event of the log that could not be used, by reference: the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Where it is.
    pub position: Position,
    /// Whose it is; nil where its subject names nobody.
    pub connection: Uuid,
    /// Its job, where that can be told.
    pub external_id: Option<String>,
    /// Why it could not be used.
    pub cause: String,
}

impl Stored for Quarantined {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "quarantined event";
}

impl Stored for RecentPage {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "recent executions";
}

/// The format of a row, head and all.
pub(crate) const ROW_FORMAT: u8 = 9;
/// A body of so many bytes is compressed, if that makes it smaller. sled writes what it holds several times over, and
/// frees its cache by the number of accesses, not bytes: 4,000 rows with tracebacks of 50 KB took 400 MB of memory and
/// 600 MB of disk, and a tenth of both when compressed. The events of an ordinary job say much of the same again and
/// again, too.
const COMPRESS_FROM: usize = 256;

/// What lists and statistics need of a row, before the row itself so that a scan decodes nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head<'a> {
    pub(crate) first: Position,
    /// The message with the job's last event.
    pub(crate) last: u64,
    pub(crate) created_at: Timestamp,
    /// By the millisecond, as it is shown.
    pub(crate) started_at: Option<Timestamp>,
    /// The same.
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) duration_ms: Option<u64>,
    /// Of the run that is shown.
    pub(crate) wait_ms: Option<u64>,
    pub(crate) attempt: u32,
    /// How often it was put into its queue.
    pub(crate) sent: u32,
    /// How often a worker took it.
    pub(crate) received: u32,
    pub(crate) state: JobState,
    pub(crate) framework: Framework,
    pub(crate) connection: Uuid,
    pub(crate) name: &'a str,
    pub(crate) queue: Option<&'a str>,
    pub(crate) worker: Option<&'a str>,
    /// What most jobs have not.
    pub(crate) rare: Option<Arc<Rare>>,
}

/// What most jobs have not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rare {
    /// The first 256 characters of the error that is shown.
    pub(crate) error: Option<Box<str>>,
    /// Labels, a JSON object that is not empty.
    pub(crate) tags: Option<Box<str>>,
    /// The first job of the workflow, where that is another one.
    pub(crate) root: Option<Uuid>,
    /// All runs, where there is more to say of them than what the fields above say of one.
    pub(crate) runs: Option<Vec<Measure>>,
    /// Since when the job waits, or from when on it will, where that is not since its creation.
    pub(crate) waits_since: Option<Timestamp>,
    /// How often its message was given back or refused.
    pub(crate) rejected: u32,
}

impl<'a> Head<'a> {
    pub(crate) fn of(row: &'a Row) -> Self {
        let record = &row.record;
        let runs = Measure::of(row);
        let wait_ms = if runs.is_none() { Measure::wait_of(row) } else { None };
        let waits_since = record.waits_since().filter(|since| *since != record.created_at);
        let rejected = rejections(row);
        let has_rare = record.error.is_some()
            || record.tags.as_str() != "{}"
            || record.root_id.is_some_and(|root| root != record.id)
            || runs.is_some()
            || waits_since.is_some()
            || rejected > 0;
        let rare = || {
            Arc::new(Rare {
                error: record.error.as_deref().map(beginning),
                tags: (record.tags.as_str() != "{}").then(|| record.tags.as_str().into()),
                root: record.root_id.filter(|root| *root != record.id),
                runs,
                waits_since,
                rejected,
            })
        };
        Self {
            first: row.first_position(),
            last: row.last_position().sequence,
            created_at: record.created_at,
            started_at: record.started_at.map(as_shown),
            completed_at: record.completed_at.map(as_shown),
            duration_ms: record.duration_ms.map(|ms| ms.min(LONGEST)),
            wait_ms: wait_ms.map(|ms| ms.min(LONGEST)),
            attempt: record.attempt,
            sent: dispatches(row),
            received: record.deliveries,
            state: record.state,
            framework: record.framework,
            connection: record.connection_id,
            name: &record.name,
            queue: record.queue.as_deref(),
            worker: record.worker_id.as_deref(),
            rare: has_rare.then(rare),
        }
    }

    /// Every run of the job's code, or the end of a job that no run is known of.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Counted<'_>> {
        let rare = self.rare.as_deref();
        let runs = rare.and_then(|rare| rare.runs.as_deref());
        let has_one = runs.is_none() && (self.started_at.is_some() || self.completed_at.is_some());
        let only = has_one.then(|| Counted {
            worker: self.worker,
            started_at: self.started_at,
            ended_at: self.completed_at,
            outcome: self.completed_at.and_then(|_| outcome(self.state)),
            runtime_ms: self.duration_ms,
            wait_ms: self.wait_ms,
            error: rare.and_then(|rare| rare.error.as_deref()),
        });
        runs.unwrap_or_default().iter().map(Counted::of).chain(only)
    }
}

/// Whoever claims that something took longer is not believed.
const LONGEST: u64 = i64::MAX as u64;

/// Without what is less than a millisecond.
pub(crate) fn as_shown(time: Timestamp) -> Timestamp {
    Timestamp(time.millis() * 1_000)
}

/// A [`Measure`] that is borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted<'a> {
    pub(crate) worker: Option<&'a str>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) runtime_ms: Option<u64>,
    pub(crate) wait_ms: Option<u64>,
    pub(crate) error: Option<&'a str>,
}

impl<'a> Counted<'a> {
    fn of(run: &'a Measure) -> Self {
        Self {
            worker: run.worker.as_deref(),
            started_at: run.started_at,
            ended_at: run.ended_at,
            outcome: run.outcome,
            runtime_ms: run.runtime_ms,
            wait_ms: run.wait_ms,
            error: run.error.as_deref(),
        }
    }
}

/// What tells the parts of a stored row apart.
#[derive(Serialize, Deserialize)]
struct Parts<'a> {
    id: Uuid,
    #[serde(borrow)]
    head: Head<'a>,
    external_id: &'a str,
    /// Of the record: opening adds these up and need not touch the records themselves.
    digest: Digest,
    record_len: u32,
    body_len: u32,
}

/// A stored row, of which only the head is decoded: format byte, [`Parts`], then record and evidence, the two compressed
/// together where they take fewer bytes than `body_len`.
pub(crate) struct StoredRow<'a> {
    /// The job.
    pub(crate) id: Uuid,
    pub(crate) head: Head<'a>,
    external_id: &'a str,
    /// What the digest of the record is to be.
    pub(crate) digest: Digest,
    stored: &'a [u8],
    record_len: usize,
    body_len: usize,
}

impl<'a> StoredRow<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ViewError> {
        let bytes = body(ROW_FORMAT, "row", bytes)?;
        let (Parts { id, head, external_id, digest, record_len, body_len }, used) =
            borrow_decode_from_slice(bytes, CONFIG).map_err(|error| corrupt("row", error))?;
        let (stored, record_len, body_len) = (&bytes[used..], record_len as usize, body_len as usize);
        if record_len > body_len || stored.len() > body_len || body_len > LIMIT {
            return Err(corrupt("row", "its parts do not fit"));
        }
        Ok(Self { id, head, external_id, digest, stored, record_len, body_len })
    }

    /// Record and evidence, one after the other.
    fn body(&self) -> Result<Cow<'a, [u8]>, ViewError> {
        if self.stored.len() == self.body_len {
            return Ok(Cow::Borrowed(self.stored));
        }
        decompress(self.stored, self.body_len).map(Cow::Owned)
    }

    /// Decodes the record, which must be the one that was written for this job.
    pub(crate) fn record(&self, id: Uuid) -> Result<Record, ViewError> {
        self.checked(id, &self.body()?)
    }

    /// What is shown of the job beside another one; the record is decoded only where there is an error to show.
    pub(crate) fn brief(&self, id: Uuid) -> Result<Brief, ViewError> {
        let head = &self.head;
        let has_error = head.rare.as_deref().is_some_and(|rare| rare.error.is_some());
        Ok(Brief {
            id,
            external_id: self.external_id.to_owned(),
            state: head.state,
            created_at: head.created_at,
            started_at: head.started_at,
            completed_at: head.completed_at,
            duration_ms: head.duration_ms,
            error: if has_error { self.record(id)?.error } else { None },
        })
    }

    /// Decodes the record and what it was folded from.
    pub(crate) fn row(&self, id: Uuid) -> Result<Row, ViewError> {
        let body = self.body()?;
        let evidence: Evidence = whole("evidence", &body[self.record_len..])?;
        Ok(Row { record: self.checked(id, &body)?, evidence })
    }

    fn checked(&self, id: Uuid, body: &[u8]) -> Result<Record, ViewError> {
        let bytes = &body[..self.record_len];
        if Digest::of(id, bytes) != self.digest {
            return Err(corrupt("record", "it is not what was written"));
        }
        whole("record", bytes)
    }
}

fn decompress(stored: &[u8], length: usize) -> Result<Vec<u8>, ViewError> {
    let body = lz4_flex::block::decompress(stored, length).map_err(|error| corrupt("row", error))?;
    if body.len() == length { Ok(body) } else { Err(corrupt("row", "it is too short")) }
}

/// Encodes a row; gives the bytes and the digest of its record.
pub(crate) fn encode_row(row: &Row) -> (Vec<u8>, Digest) {
    encode_row_from(row, COMPRESS_FROM)
}

/// The same, with the body compressed from so many bytes on.
pub(crate) fn encode_row_from(row: &Row, compress_from: usize) -> (Vec<u8>, Digest) {
    let mut body = Vec::with_capacity(1_024);
    append(&mut body, &row.record);
    let record_len = body.len();
    append(&mut body, &row.evidence);
    let digest = Digest::of(row.record.id, &body[..record_len]);
    let (record_len, body_len) = (record_len as u32, body.len() as u32);
    let (head, external_id) = (Head::of(row), row.record.external_id.as_str());
    let parts = Parts { id: row.record.id, head, external_id, digest, record_len, body_len };
    if body.len() >= compress_from {
        let compressed = lz4_flex::block::compress(&body);
        if compressed.len() < body.len() {
            body = compressed;
        }
    }
    let mut bytes = Vec::with_capacity(body.len() + 128);
    bytes.push(ROW_FORMAT);
    append(&mut bytes, &parts);
    bytes.extend_from_slice(&body);
    (bytes, digest)
}

/// Encodes a value of a type with one format.
pub(crate) fn encode<T: Stored>(value: &T) -> Vec<u8> {
    let mut bytes = vec![T::FORMAT];
    append(&mut bytes, value);
    bytes
}

/// Decodes a value of a type with one format.
pub(crate) fn decode<T: Stored>(bytes: &[u8]) -> Result<T, ViewError> {
    whole(T::NAME, body(T::FORMAT, T::NAME, bytes)?)
}

/// Appends a value that only this process reads again, and before it ends: no format byte.
pub(crate) fn append_scratch(bytes: &mut Vec<u8>, value: &impl Serialize) {
    append(bytes, value);
}

/// Takes such a value off the front.
pub(crate) fn take_scratch<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, ViewError> {
    let (value, used) = decode_from_slice(bytes, CONFIG).map_err(|error| corrupt("scratch value", error))?;
    *bytes = &bytes[used..];
    Ok(value)
}

/// Such a value, compressed; `None` where it is too large to be read again.
pub(crate) fn encode_page(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    append(&mut bytes, value);
    (bytes.len() < LIMIT / 2).then(|| lz4_flex::block::compress_prepend_size(&bytes))
}

/// The value again.
pub(crate) fn decode_page<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ViewError> {
    let bytes = lz4_flex::block::decompress_size_prepended(bytes).map_err(|error| corrupt("page", error))?;
    whole("page", &bytes)
}

fn append(bytes: &mut Vec<u8>, value: &impl Serialize) {
    encode_into_std_write(value, bytes, CONFIG)
        .expect("a vector always accepts, and our types hold sequences of known length and nothing that refuses");
}

fn body<'a>(format: u8, what: &str, bytes: &'a [u8]) -> Result<&'a [u8], ViewError> {
    match bytes.split_first() {
        Some((&found, body)) if found == format => Ok(body),
        Some((found, _)) => Err(corrupt(what, format_args!("its format is {found}, not {format}"))),
        None => Err(corrupt(what, "it is empty")),
    }
}

fn whole<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ViewError> {
    let (value, used) = decode_from_slice(bytes, CONFIG).map_err(|error| corrupt(what, error))?;
    if used == bytes.len() { Ok(value) } else { Err(corrupt(what, "bytes follow its end")) }
}

fn corrupt(what: &str, cause: impl std::fmt::Display) -> ViewError {
    ViewError::Corrupt(format!("cannot decode a stored {what}: {cause}"))
}

//! `POST /api/import`: the messages of an export into the log.
//!
//! How far an export was imported is kept in the bucket under the export's id, so that whoever is interrupted, on
//! either side, sends it again and it goes on where it stopped. It may also be sent in parts, each with the header
//! before its lines.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use event_log::{AppendError, Appended, EventLog, Imported, KvError, LogInfo};
use failpoints::{Point, hit};
use proto_events::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::NDJSON;
use super::export::log_info;
use super::format::{Checker, FormatError, Header, Line, Message};
use crate::app::{App, Parts};
use crate::errors::{ApiError, LOG_AWAY, LOG_FULL, wrong_method};
use crate::http::{Call, json};
use crate::maintenance::Maintenance;
use crate::operation::{self, Access, Body, Operation};
use crate::params::kinds::Flag;
use crate::params::{Asked, Defaulted, Param};

/// Messages, and bytes of them, that may be on their way to the log unacknowledged.
const IN_FLIGHT: usize = 512;
const IN_FLIGHT_BYTES: usize = 16 << 20;
/// How far it came is remembered whenever so many bytes more are in the log.
const REMEMBER_BYTES: usize = 8 << 20;
/// How long the views may take to show the last message.
const VIEWS_TIME: Duration = Duration::from_secs(5);
/// A line may be so long, or twice as long as the largest message that the log takes.
const LINE_BYTES: usize = 16 << 20;

const MERGE: Defaulted<Flag> = Param::new("merge", Flag, "Take it in although the log holds jobs already.").or(false);
const PART: Defaulted<Flag> = Param::new("part", Flag, "The end may be missing; more is to come.").or(false);
const KEYS: Defaulted<Flag> = Param::new("keys", Flag, "The keys of its connections become good here.").or(true);

const PARAMS: crate::params::Params = &[&MERGE, &PART, &KEYS];

pub(super) const OPERATION: Operation = Operation {
    method: "POST",
    about: "Interrupted, it goes on where it was when the same export is sent again; it may come in parts, each with the \
            first line before it. What is damaged is refused.",
    query: PARAMS,
    body: Some(Body {
        required: true,
        content_type: NDJSON,
        schema: schemars::SchemaGenerator::subschema_for::<String>,
    }),
    answers: &[operation::Answer::json::<Answer>(StatusCode::OK, "What is taken in.")],
    errors: &[
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::SERVICE_UNAVAILABLE,
    ],
    ..Operation::get("/api/import", "importLog", "backup", "Takes in an export", Access::Admin)
};

/// What is asked for.
struct Params {
    /// The log may hold jobs.
    merge: bool,
    /// The end may be missing; more is to come.
    part: bool,
    /// The keys of the connections and the read keys become good here.
    keys: bool,
}

impl Params {
    fn parse(raw: &str) -> Result<Self, ApiError> {
        let asked = Asked::of(PARAMS, raw)?;
        Ok(Self { merge: asked.get_or(&MERGE), part: asked.get_or(&PART), keys: asked.get_or(&KEYS) })
    }
}

/// How far an export was imported, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    /// When the log that took it was created: in another one nothing is there.
    log: Timestamp,
    /// The last position of our log that it reached: a log that was rolled back behind it lacks some.
    reached: u64,
    /// All messages of the export up to this one are in our log.
    sequence: u64,
    /// How many these are.
    messages: u64,
    /// Whether that is all of it.
    complete: bool,
}

impl Progress {
    fn key(export: Uuid) -> String {
        format!("imports.{}", export.simple())
    }

    /// What was kept, if it is true of this log.
    async fn load(log: &EventLog, info: &LogInfo, export: Uuid) -> Result<Option<Self>, ApiError> {
        let kept = log.kv().get(&Self::key(export)).await.map_err(|error| not_kept(&error))?;
        let kept: Option<Self> = kept.and_then(|kept| serde_json::from_slice(&kept).ok());
        Ok(kept.filter(|kept| kept.log == info.created && kept.reached <= info.last_sequence))
    }

    async fn save(&self, log: &EventLog, export: Uuid) -> Result<(), ApiError> {
        let kept = serde_json::to_vec(self).map_err(ApiError::internal)?;
        log.kv().put(&Self::key(export), kept.into()).await.map_err(|error| not_kept(&error))
    }
}

fn not_kept(error: &KvError) -> ApiError {
    tracing::warn!(%error, "how far an import came cannot be looked up or kept");
    LOG_AWAY
}

/// How a connection of the export stands here.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ImportedConnection")]
struct Known {
    id: Uuid,
    name: String,
    /// Its name in the export, where it has another one here.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<String>,
}

/// How far an export is taken in.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Imported")]
struct Answer {
    /// Of the export.
    id: Uuid,
    /// The messages of the export up to this position are in the log.
    sequence: u64,
    /// How many these are.
    messages: u64,
    /// Whether that is all of it.
    complete: bool,
    connections: Vec<Known>,
}

pub(crate) async fn import(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    let imported = import_body(&app, &mut call).await;
    if imported.is_err() {
        call.drain().await;
    }
    imported.map(|answer| json(StatusCode::OK, &answer))
}

async fn import_body(app: &App, call: &mut Call) -> Result<Answer, ApiError> {
    app.auth.require_token(call)?;
    let params = Params::parse(&call.query)?;
    let parts = app.parts()?;
    let Ok(_only_one) = app.import.try_acquire() else {
        return Err(ApiError::Conflict("Another import is under way.".to_owned()));
    };
    let limit = LINE_BYTES.max(2 * parts.log.max_payload());
    let mut lines = Lines { call, buffer: BytesMut::new(), searched: 0, limit };
    let mut checker = if params.part { Checker::of_part() } else { Checker::new() };
    let first = lines.next().await?.unwrap_or_default();
    let Line::Header(header) = checker.line(&first)? else { return Err(FormatError::NoExport.into()) };
    let progress = begin(parts, &header, &params).await?;
    let connections = take_connections_and_keys(parts, &header, params.keys).await?;
    let mut import = Import {
        log: &parts.log,
        maintenance: &parts.maintenance,
        header: &header,
        progress,
        on_their_way: VecDeque::new(),
        bytes: 0,
        fresh: 0,
    };
    let taken = import.take(&mut lines, &mut checker).await;
    // What is stored is remembered also where it cannot go on.
    let settled = import.settle(0).await;
    let remembered = import.remember().await;
    taken.and(settled).and(remembered)?;
    checker.finish()?;
    let Progress { sequence, messages, complete, .. } = import.progress;
    if complete {
        tracing::info!(id = %header.id, messages, "an export is imported");
        app.told(lines.call, "import", json!({ "id": header.id, "messages": messages })).await;
    }
    Ok(Answer { id: header.id, sequence, messages, complete, connections })
}

/// Where to go on. An export that was not begun here yet is begun, if the log may take one.
async fn begin(parts: &Parts, header: &Header, params: &Params) -> Result<Progress, ApiError> {
    let info = log_info(&parts.log).await?;
    if let Some(progress) = Progress::load(&parts.log, &info, header.id).await? {
        return Ok(progress);
    }
    if !params.merge && holds_jobs(parts, &info).await? {
        let message = "The log holds jobs already: import into a new one, or merge (--merge, merge=true).";
        return Err(ApiError::Conflict(message.to_owned()));
    }
    let progress = Progress { log: info.created, reached: 0, sequence: 0, messages: 0, complete: false };
    progress.save(&parts.log, header.id).await?;
    hit(Point::ImportBegun);
    tracing::info!(id = %header.id, log = %header.log, exported = %header.exported, "importing an export");
    Ok(progress)
}

/// A log may hold no job and yet not be empty: a server writes into it that time passes.
async fn holds_jobs(parts: &Parts, info: &LogInfo) -> Result<bool, ApiError> {
    if info.messages == 0 {
        return Ok(false);
    }
    if !parts.projector.wait_applied(info.last_sequence, VIEWS_TIME).await {
        return Err(ApiError::Unavailable("Whether the log holds jobs is not known before the views hold all of it."));
    }
    Ok(parts.reader.counts(None).total() > 0 || parts.projector.status().quarantined > 0)
}

async fn take_connections_and_keys(parts: &Parts, header: &Header, keys: bool) -> Result<Vec<Known>, ApiError> {
    let mut known = Vec::with_capacity(header.connections.len());
    for connection in header.connections.iter().cloned() {
        let name = connection.name.clone();
        let connection = if keys { connection } else { connection.without_key() };
        let here = parts.connections.import(connection).await?;
        let was = (here.name != name).then_some(name);
        known.push(Known { id: here.id, name: here.name, was });
    }
    for key in header.read_keys.iter().filter(|_| keys).cloned() {
        parts.keys.import(key).await?;
    }
    Ok(known)
}

type Acknowledgement = Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send>>;

/// An import under way.
struct Import<'a> {
    log: &'a EventLog,
    maintenance: &'a Maintenance,
    header: &'a Header,
    progress: Progress,
    /// In the order of the export, which is the order of the log unless a message has to be sent again.
    on_their_way: VecDeque<(Imported, Acknowledgement)>,
    bytes: usize,
    /// Bytes that are stored and not remembered yet.
    fresh: usize,
}

impl Import<'_> {
    async fn take(&mut self, lines: &mut Lines<'_>, checker: &mut Checker) -> Result<(), ApiError> {
        while let Some(line) = lines.next().await? {
            match checker.line(&line)? {
                Line::Message(message) if message.sequence > self.progress.sequence => self.send(message).await?,
                Line::Message(_) | Line::Header(_) => {}
                Line::Trailer(trailer) => {
                    self.settle(0).await?;
                    if self.progress.messages != trailer.messages {
                        return Err(incomplete(self.progress.messages, trailer.messages));
                    }
                    self.progress.complete = true;
                }
            }
            if self.fresh > REMEMBER_BYTES {
                self.remember().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) -> Result<(), ApiError> {
        let Message { sequence, published, connection, payload } = message;
        self.maintenance.take_room(payload.len())?;
        let message = Imported { connection, published, payload, log: self.header.log, sequence };
        self.settle(IN_FLIGHT - 1).await?;
        let sent = match self.log.append_imported_pipelined(&message).await {
            Ok(acknowledgement) => Box::pin(acknowledgement) as Acknowledgement,
            // It is sent again in its turn.
            Err(error @ AppendError::Unavailable { .. }) => Box::pin(std::future::ready(Err(error))),
            Err(error) => return Err(not_stored(sequence, &error)),
        };
        self.bytes += message.payload.len();
        self.on_their_way.push_back((message, sent));
        hit(Point::ImportSent);
        Ok(())
    }

    /// Waits until at most so many messages are on their way, and not too many bytes.
    async fn settle(&mut self, at_most: usize) -> Result<(), ApiError> {
        while self.on_their_way.len() > at_most || self.bytes > IN_FLIGHT_BYTES {
            let Some((message, acknowledgement)) = self.on_their_way.pop_front() else { break };
            self.bytes -= message.payload.len();
            let stored = match acknowledgement.await {
                Err(AppendError::Unavailable { .. }) => self.log.append_imported(&message).await,
                stored => stored,
            };
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    // Each of them would wait as long again.
                    self.on_their_way.clear();
                    return Err(not_stored(message.sequence, &error));
                }
            };
            self.fresh += message.payload.len();
            let progress = &mut self.progress;
            progress.reached = progress.reached.max(stored.sequence);
            progress.sequence = message.sequence;
            progress.messages += 1;
        }
        Ok(())
    }

    async fn remember(&mut self) -> Result<(), ApiError> {
        hit(Point::ImportBefore);
        self.fresh = 0;
        let saved = self.progress.save(self.log, self.header.id).await;
        hit(Point::ImportAfter);
        saved
    }
}

/// The count of what came in parts is what the end of the export is checked by.
fn incomplete(found: u64, expected: u64) -> ApiError {
    let message = format!("The export has {expected} messages, and {found} of them came: send it whole.");
    ApiError::Validation { message, details: None }
}

fn not_stored(sequence: u64, error: &AppendError) -> ApiError {
    tracing::warn!(sequence, %error, "a message of an export was not stored");
    match error {
        AppendError::TooLarge { bytes, limit } => ApiError::Validation {
            message: format!(
                "The message at {sequence} has {bytes} bytes, and the log takes at most {limit}: raise max_payload of the NATS server."
            ),
            details: None,
        },
        AppendError::Full { .. } => LOG_FULL,
        _ => LOG_AWAY,
    }
}

impl From<FormatError> for ApiError {
    fn from(error: FormatError) -> Self {
        Self::Validation { message: format!("{error}."), details: None }
    }
}

/// The lines of a body as they come in, one at a time in memory.
struct Lines<'a> {
    call: &'a mut Call,
    buffer: BytesMut,
    /// So much of the buffer holds no line feed.
    searched: usize,
    limit: usize,
}

impl Lines<'_> {
    /// The next line without its line feed. One that is cut off counts as one, too; it will be found wanting.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.buffer.len();
            if self.searched > self.limit {
                return Err(ApiError::PayloadTooLarge { limit: self.limit });
            }
            match self.call.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

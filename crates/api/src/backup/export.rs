//! `GET /api/export`: the log, or a part of it, as JSON lines.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use event_log::{EventLog, Fence, Known, LogError, LogInfo, LogMessage, ReadError, Reader};
use proto_events::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::{Reply as _, Response};

use super::NDJSON;
use super::format::{Bound, Header, Trailer, line_of, write_message};
use crate::app::{App, Parts};
use crate::errors::{ApiError, LOG_AWAY, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, Operation};
use crate::params::kinds::{Flag, Integer, Kind, SAFE_INTEGER, Text, Time};
use crate::params::{Asked, Defaulted, Param};

/// Pieces of a few megabytes that wait for the client; the log is read on only when there is room.
const WAITING: usize = 2;
/// How long the log may be away before the export breaks off. Whoever asked takes it up again where it ended.
const LOG_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether there is still something to wait for.
const LOOK: Duration = Duration::from_secs(1);

/// One end of the range.
struct Edge;

impl Kind for Edge {
    type Value = Bound;

    fn read(&self, text: &str) -> Result<Bound, String> {
        let bound = POSITION.read(text).map(Bound::Sequence).or_else(|_| Time.read(text).map(Bound::Time));
        bound.map_err(|_| "must be a log position or a time in RFC 3339".to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [POSITION.schema(), Time.schema()] })
    }
}

const POSITION: Integer = Integer::between(0, SAFE_INTEGER);
const FROM: Param<Edge> = Param::new("from", Edge, "The first position, or the earliest time of publishing.");
const TO: Param<Edge> = Param::new("to", Edge, "The last position, or the time of publishing before which it ends.");
const CONNECTION: Param<Text> = Param::new("connection", Text::of(1, 255), "Only of this connection, by name or id.");
const KEYS: Defaulted<Flag> = Param::new("keys", Flag, "With the hashes of the connections' keys.").or(true);
const AFTER: Defaulted<Integer> =
    Param::new("after", POSITION, "To take up an export that ended early: the last position that is there already.")
        .or(0);
const LAST: Param<Integer> = Param::new("last", POSITION, "Likewise: the last position that was to be in it.");

const PARAMS: crate::params::Params = &[&FROM, &TO, &CONNECTION, &KEYS, &AFTER, &LAST];

pub(super) const OPERATION: Operation = Operation {
    about: "JSON lines: a header, a line for each message, and an end by which the whole can be checked.",
    query: PARAMS,
    answers: &[Answer::of::<String>(StatusCode::OK, "The log.", NDJSON)],
    errors: &[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
    ..Operation::get("/api/export", "exportLog", "backup", "The log, or a part of it", Access::Admin)
};

/// What is asked for.
#[derive(Debug)]
struct Params {
    from: Option<Bound>,
    to: Option<Bound>,
    connection: Option<String>,
    keys: bool,
    /// To take up an export that ended early: the last position that is there already.
    after: u64,
    /// Likewise: the last position that was to be in it.
    last: Option<u64>,
}

impl Params {
    fn parse(raw: &str) -> Result<Self, ApiError> {
        let asked = Asked::of(PARAMS, raw)?;
        Ok(Self {
            from: asked.get(&FROM),
            to: asked.get(&TO),
            connection: asked.get(&CONNECTION),
            keys: asked.get_or(&KEYS),
            after: asked.get_or(&AFTER),
            last: asked.get(&LAST),
        })
    }
}

pub(crate) async fn export(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require_token(&call)?;
    let params = Params::parse(&call.query)?;
    let parts = app.parts()?;
    // What is forgotten may still be there for a moment: an import of it must not know more than the views. Asked for
    // before the end of the log, so that the export holds the messages that tell what was forgotten.
    let floor = parts.reader.floor();
    let info = log_info(&parts.log).await?;
    let info = LogInfo { first_sequence: info.first_sequence.max(floor), ..info };
    let header = header_of(parts, &info, &params)?;
    tracing::info!(id = %header.id, first = header.first, last = header.last, "exporting the log");
    let about = json!({ "id": header.id, "first": header.first, "last": header.last, "keys": params.keys });
    app.told(&call, "export", about).await;
    let (pieces, mut waiting) = mpsc::channel(WAITING);
    tokio::spawn(Export::new(parts.log.clone(), header, params.after, pieces).run());
    let body = futures_util::stream::poll_fn(move |context| waiting.poll_recv(context));
    let mut response = warp::reply::stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

pub(super) async fn log_info(log: &EventLog) -> Result<LogInfo, ApiError> {
    if !log.connected() {
        return Err(LOG_AWAY);
    }
    log.info().await.map_err(|error| {
        tracing::warn!(%error, "the log does not say what it is");
        LOG_AWAY
    })
}

fn header_of(parts: &Parts, info: &LogInfo, params: &Params) -> Result<Header, ApiError> {
    let connection = params.connection.as_deref().map(|asked| connection_id(parts, asked)).transpose()?;
    let mut last = params.last.unwrap_or(info.last_sequence);
    if last > info.last_sequence {
        let message =
            "The log is shorter than it was when this export was begun: it is another log, or was rolled back.";
        return Err(ApiError::Conflict(message.to_owned()));
    }
    if let Some(Bound::Sequence(to)) = params.to {
        last = last.min(to);
    }
    let mut connections = parts.connections.export(connection);
    if !params.keys {
        connections = connections.into_iter().map(crate::Connection::without_key).collect();
    }
    // Who may read all jobs is nothing that one connection brings with it.
    let with_all = params.keys && connection.is_none();
    let read_keys = if with_all { parts.keys.export() } else { Vec::new() };
    Ok(Header {
        first: info.first_sequence,
        last,
        from: params.from,
        to: params.to,
        connection,
        keys: params.keys,
        connections,
        read_keys,
        ..Header::new(info.created, now())
    })
}

/// The jobs of a connection outlive it, so an id need not be a known one.
fn connection_id(parts: &Parts, asked: &str) -> Result<Uuid, ApiError> {
    let known = parts.connections.find(asked).map(|connection| connection.id);
    known.or_else(|| Uuid::try_parse(asked).ok()).ok_or(ApiError::ConnectionNotFound)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Why it ends early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client went away")]
    Gone,
    #[error("the log is not what it was when the export began: {0:?}")]
    Fence(Fence),
    #[error("the log has forgotten messages that were still to come: begin the export anew")]
    Forgotten,
    #[error("the log did not answer for {} s", LOG_PATIENCE.as_secs())]
    Away,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("a thread failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The export under way.
struct Export {
    log: EventLog,
    header: Header,
    reader: Reader,
    known: Known,
    lines: Lines,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Export {
    fn new(log: EventLog, header: Header, after: u64, pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        let from = match header.from {
            Some(Bound::Sequence(from)) => from.saturating_sub(1),
            _ => 0,
        };
        let sequence = after.max(from).max(header.first.saturating_sub(1));
        let reader = log.reader(sequence);
        let known = Known { created: header.log, sequence: 0, fingerprint: [0; 16] };
        let lines = Lines { filter: Filter::of(&header), hasher: blake3::Hasher::new(), messages: 0 };
        Self { log, header, reader, known, lines, pieces }
    }

    async fn run(mut self) {
        match self.write().await {
            Ok(()) => {}
            Err(Broken::Gone) => tracing::info!(id = %self.header.id, "an export's client went away"),
            Err(error) => {
                tracing::warn!(id = %self.header.id, %error, "an export breaks off");
                let _ = self.pieces.send(Err(io::Error::other(error.to_string()))).await;
            }
        }
    }

    async fn write(&mut self) -> Result<(), Broken> {
        let header = line_of(&self.header);
        self.lines.hasher.update(&header);
        self.send(header).await?;
        while self.reader.position() < self.header.last {
            let messages = self.next().await?;
            let mut lines = self.lines.clone();
            // A few megabytes of JSON are looked through, while other requests go on.
            let (lines, text) = tokio::task::spawn_blocking(move || {
                let text = lines.write(&messages);
                (lines, text)
            })
            .await?;
            self.lines = lines;
            self.send(text).await?;
        }
        let trailer = self.lines.trailer();
        self.send(line_of(&trailer)).await
    }

    async fn send(&self, text: Vec<u8>) -> Result<(), Broken> {
        if text.is_empty() {
            return if self.pieces.is_closed() { Err(Broken::Gone) } else { Ok(()) };
        }
        self.pieces.send(Ok(text.into())).await.map_err(|_| Broken::Gone)
    }

    /// The next messages. An export with a hole would be imported as if that had never been, so it breaks off instead.
    async fn next(&mut self) -> Result<Vec<LogMessage>, Broken> {
        let (mut heard, next) = (Instant::now(), self.reader.position() + 1);
        loop {
            match tokio::time::timeout(LOOK, self.reader.next()).await {
                Ok(Ok(batch)) => {
                    if batch.messages.first().is_some_and(|first| first.sequence > next) {
                        self.not_forgotten(next).await?;
                    }
                    if let Some(last) = batch.messages.last() {
                        let (sequence, fingerprint) = (last.sequence, last.fingerprint());
                        self.known = Known { sequence, fingerprint, ..self.known };
                    }
                    return Ok(batch.messages);
                }
                Ok(Err(ReadError::Reconnected { .. })) => self.check().await?,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => match self.log.info().await {
                    Ok(info) if info.first_sequence > next => return Err(Broken::Forgotten),
                    Ok(_) => heard = Instant::now(),
                    Err(_) if heard.elapsed() > LOG_PATIENCE => return Err(Broken::Away),
                    Err(_) => {}
                },
            }
        }
    }

    /// Makes sure that the log still holds this message, and so all after it.
    async fn not_forgotten(&self, next: u64) -> Result<(), Broken> {
        let began = Instant::now();
        loop {
            match self.log.info().await {
                Ok(info) if info.first_sequence > next => return Err(Broken::Forgotten),
                Ok(_) => return Ok(()),
                Err(LogError::Unavailable { .. }) if began.elapsed() < LOG_PATIENCE => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes sure that this is still the log that the export began with.
    async fn check(&self) -> Result<(), Broken> {
        let began = Instant::now();
        loop {
            match self.log.fence(&self.known).await {
                // Whether what was dropped is missed is found out when the next messages come.
                Ok(Fence::Same | Fence::Trimmed { .. }) => return Ok(()),
                Ok(fence) => return Err(Broken::Fence(fence)),
                Err(LogError::Unavailable { .. }) if began.elapsed() < LOG_PATIENCE => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What belongs in the export.
#[derive(Clone, Copy)]
struct Filter {
    last: u64,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    connection: Option<Uuid>,
}

impl Filter {
    fn of(header: &Header) -> Self {
        let time = |bound| match bound {
            Some(Bound::Time(time)) => Some(time),
            _ => None,
        };
        Self { last: header.last, from: time(header.from), to: time(header.to), connection: header.connection }
    }

    /// Publish times need not grow from message to message, where a log was imported into another: each is looked at.
    fn wants(&self, message: &LogMessage) -> bool {
        message.sequence <= self.last
            && self.from.is_none_or(|from| message.published >= from)
            && self.to.is_none_or(|to| message.published < to)
            && self.connection.is_none_or(|connection| message.connection == connection)
    }
}

/// What was written, as the trailer tells it.
#[derive(Clone)]
struct Lines {
    filter: Filter,
    hasher: blake3::Hasher,
    messages: u64,
}

impl Lines {
    fn write(&mut self, messages: &[LogMessage]) -> Vec<u8> {
        let mut text = Vec::new();
        for message in messages.iter().filter(|message| self.filter.wants(message)) {
            write_message(&mut text, message);
            self.messages += 1;
        }
        self.hasher.update(&text);
        text
    }

    fn trailer(&self) -> Trailer {
        Trailer::new(self.messages, &self.hasher)
    }
}

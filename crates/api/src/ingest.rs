//! `POST /api/ingest`: a batch of events into the log. The answer comes after the log's acknowledgement.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::{AppendError, EventLog};
use failpoints::{Point, hit};
use flate2::read::MultiGzDecoder;
use proto_events::{Event, EventType, Framework, JobState, Timestamp, WorkerState};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use sources::sdk::{self, Batch, Options, Rejected};
use tokio::task::JoinSet;
use uuid::Uuid;
use warp::http::{HeaderMap, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::{App, BODY_UNIT, Parts};
use crate::auth::bearer;
use crate::errors::{ApiError, LOG_AWAY, LOG_FULL, wrong_method};
use crate::http::{Call, json};
use crate::operation::{self, Access, Operation};
use crate::trace;

/// Bytes of a body, as sent and as unpacked.
const BODY_BYTES: usize = 32 * 1_024 * 1_024;
/// Bodies beyond this are read on a thread of their own, so that other requests do not wait.
const LIGHT_BYTES: usize = 64 * 1_024;

/// What a message takes in the log beside its events, about.
const MESSAGE_BYTES: usize = 250;

/// How long a batch waits for a log that is away. A forked worker process waits one second for us, and its task with it.
const RECONNECT_TIME: Duration = Duration::from_millis(800);
const RECONNECT_LOOK: Duration = Duration::from_millis(10);

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    method: "POST",
    about: "Answered once the log has the events. A bad event never sinks its batch: it is left out and named. The key \
            decides the connection. At most 10,000 events and 32 MB, plain or with `Content-Encoding: gzip`.",
    body: Some(operation::Body::json::<Sent>(true)),
    answers: &[operation::Answer::json::<Answer>(StatusCode::ACCEPTED, "The batch is stored.")],
    errors: &[
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::SERVICE_UNAVAILABLE,
    ],
    ..Operation::get("/api/ingest", "ingest", "ingest", "Takes in a batch of events", Access::Sender)
}];

/// What became of a batch.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ingested")]
struct Answer {
    /// Good events.
    accepted: usize,
    /// Those of them that the log had already, from a batch that was sent again.
    duplicates: usize,
    /// The others.
    rejected: Vec<Refusal>,
    /// Where the last of them stands in the log, for `atLeast`; null where none is for the log.
    sequence: Option<u64>,
}

/// An event that was left out.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RejectedEvent")]
struct Refusal {
    /// Its place in the batch, from 0.
    index: usize,
    /// `VALIDATION_ERROR` or `CONNECTION_MISMATCH`.
    code: &'static str,
    /// What is wrong with it.
    message: String,
}

/// The body, for the document alone: an event is read field by field, so that an odd one is kept rather than refused.
struct Sent;

impl JsonSchema for Sent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Batch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let state = generator.subschema_for::<JobState>();
        let time = generator.subschema_for::<Timestamp>();
        let job = json_schema!({
            "type": "object",
            "description": "What is said of a job. All but the first two may be left out; other fields are kept among \
                            its extensions.",
            "required": ["externalId", "state"],
            "properties": {
                "externalId": { "type": "string", "minLength": 1, "maxLength": 512 }, "state": state,
                "name": {}, "queue": {}, "workerId": {}, "previousState": {}, "attempt": {}, "maxRetries": {},
                "progress": {}, "error": {}, "stacktrace": {}, "createdAt": {}, "scheduledFor": {}, "startedAt": {},
                "completedAt": {}, "args": {}, "kwargs": {}, "result": {}, "parentId": {}, "rootId": {}, "tags": {},
                "extensions": {},
            },
        });
        let event = json_schema!({
            "type": "object",
            "description": "One of `job`, `worker` and `queue` goes with the type.",
            "required": ["type", "timestamp", "framework"],
            "properties": {
                "type": { "enum": ["job_state_change", "job.state_change", "worker_state_change", "worker.state_change",
                                   "queue_snapshot", "queue.snapshot"] },
                "timestamp": time,
                "framework": generator.subschema_for::<Framework>(),
                "connectionId": { "type": "string", "description": "That of the key, where it is a UUID." },
                "job": job,
                "worker": {
                    "type": "object", "required": ["externalId", "state"],
                    "properties": { "externalId": { "type": "string" },
                                    "state": { "enum": ["online", "heartbeat", "offline", "busy", "idle"] } },
                },
                "queue": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
            },
        });
        json_schema!({
            "type": "object",
            "required": ["events"],
            "properties": { "events": { "type": "array", "maxItems": sdk::MAX_EVENTS, "items": event } },
        })
    }
}

pub(crate) async fn ingest(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    let parts = app.parts()?;
    let Some(connection) = bearer(&call.headers).and_then(|key| parts.connections.by_key(key)) else {
        call.drain().await;
        return Err(ApiError::InvalidKey);
    };
    if let Err(full) = parts.maintenance.require_room() {
        call.drain().await;
        return Err(full);
    }
    let gzipped = is_gzipped(&call.headers)?;
    // Until its batch is taken apart: many senders at once must not fill the memory.
    let units = call.announced().unwrap_or(BODY_BYTES).min(BODY_BYTES).div_ceil(BODY_UNIT).max(1);
    let _room = app.bodies.acquire_many(units as u32).await.map_err(ApiError::internal)?;
    let body = call.body(BODY_BYTES).await?;
    let work = Work {
        connection,
        gzipped,
        options: Options { redaction: parts.redaction.clone() },
        message_bytes: parts.log.max_payload() / 2,
    };
    let batch = if gzipped || body.len() > LIGHT_BYTES {
        let _one_of_few = Arc::clone(&app.heavy).acquire_owned().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || work.read(body)).await.map_err(ApiError::internal)?
    } else {
        work.read(body)
    }?;
    store(&app, parts, connection, batch).await
}

fn is_gzipped(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    let is = |name: &str| encoding.as_bytes().eq_ignore_ascii_case(name.as_bytes());
    if is("gzip") || is("x-gzip") {
        return Ok(true);
    }
    if is("identity") || is("") { Ok(false) } else { Err(ApiError::UnsupportedEncoding) }
}

/// What turns a body into messages.
struct Work {
    connection: Uuid,
    gzipped: bool,
    options: Options,
    message_bytes: usize,
}

/// What is to be stored of a batch.
struct Prepared {
    accepted: usize,
    rejected: Vec<Rejected>,
    /// For the log, with the number of events in each.
    messages: Vec<(Bytes, usize)>,
    /// The latest of each named thing.
    statuses: HashMap<(&'static str, String), Bytes>,
}

impl Work {
    fn read(&self, body: Bytes) -> Result<Prepared, ApiError> {
        let body = if self.gzipped { unpacked(&body)? } else { body };
        let batch = sdk::batch(&body, self.connection, &self.options)
            .map_err(|error| ApiError::Validation { message: error.to_string(), details: None })?;
        Ok(self.prepare(batch))
    }

    fn prepare(&self, batch: Batch) -> Prepared {
        let accepted = batch.events.len();
        let (statuses, events): (Vec<_>, Vec<_>) = batch.events.into_iter().partition(is_status);
        let mut prepared =
            Prepared { accepted, rejected: batch.rejected, messages: Vec::new(), statuses: HashMap::new() };
        for event in statuses {
            let name = match (&event.worker, &event.queue) {
                (Some(worker), _) => ("worker", worker.external_id.clone()),
                (_, Some(queue)) => ("queue", queue.name.clone()),
                _ => continue,
            };
            prepared.statuses.insert(name, proto_events::encode(&[event]).into());
        }
        self.cut(&events, &mut prepared.messages);
        prepared
    }

    /// One message, or where that is too large as many halves as need be.
    fn cut(&self, events: &[Event], messages: &mut Vec<(Bytes, usize)>) {
        if events.is_empty() {
            return;
        }
        let message = proto_events::encode(events);
        if message.len() <= self.message_bytes || events.len() == 1 {
            messages.push((message.into(), events.len()));
            return;
        }
        let (first, second) = events.split_at(events.len() / 2);
        self.cut(first, messages);
        self.cut(second, messages);
    }
}

/// Heartbeats and depths are a live view and no part of the log.
fn is_status(event: &Event) -> bool {
    let heartbeat = || event.worker.as_ref().is_some_and(|worker| worker.state == WorkerState::Heartbeat);
    match event.kind {
        EventType::QueueSnapshot => true,
        EventType::WorkerStateChange => heartbeat(),
        _ => false,
    }
}

fn unpacked(body: &[u8]) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    // One byte past the limit tells that there is more; what a bomb would unpack to is never made.
    let mut reader = MultiGzDecoder::new(body).take(BODY_BYTES as u64 + 1);
    if let Err(error) = reader.read_to_end(&mut whole) {
        let message = format!("The body is not valid gzip: {error}.");
        return Err(ApiError::Validation { message, details: None });
    }
    if whole.len() > BODY_BYTES { Err(ApiError::PayloadTooLarge { limit: BODY_BYTES }) } else { Ok(whole.into()) }
}

async fn store(app: &App, parts: &Parts, connection: Uuid, batch: Prepared) -> Result<Response, ApiError> {
    let log = &parts.log;
    parts.maintenance.take_room(batch.messages.iter().map(|(message, _)| message.len() + MESSAGE_BYTES).sum())?;
    wait_connected(log).await?;
    // The statuses first: were they refused after the events were stored, the whole would be sent again.
    let mut statuses = JoinSet::new();
    for ((kind, name), payload) in batch.statuses {
        let log = log.clone();
        statuses.spawn(async move { log.publish_status(connection, kind, &name, payload).await });
    }
    while let Some(published) = statuses.join_next().await {
        published.map_err(ApiError::internal)?.map_err(|error| not_stored(&error))?;
    }
    let (sequence, duplicates) = append(log, connection, batch.messages).await.map_err(|error| not_stored(&error))?;
    hit(Point::IngestStored);
    app.ingested.note(batch.accepted.saturating_sub(duplicates), duplicates, batch.rejected.len());
    trace::stored(batch.accepted, sequence);
    let refusal = |it: Rejected| Refusal { index: it.index, code: it.code, message: it.message };
    let rejected = batch.rejected.into_iter().map(refusal).collect();
    Ok(json(StatusCode::ACCEPTED, &Answer { accepted: batch.accepted, duplicates, rejected, sequence }))
}

/// A moment without the log is bridged; a longer one is told at once, for the sender stands still until it is answered.
pub(crate) async fn wait_connected(log: &EventLog) -> Result<(), ApiError> {
    let deadline = Instant::now() + RECONNECT_TIME;
    while !log.connected() {
        if Instant::now() > deadline {
            return Err(LOG_AWAY);
        }
        tokio::time::sleep(RECONNECT_LOOK).await;
    }
    Ok(())
}

/// Stores the messages in their order: the position of the last, and how many events had been there already.
async fn append(
    log: &EventLog,
    connection: Uuid,
    messages: Vec<(Bytes, usize)>,
) -> Result<(Option<u64>, usize), AppendError> {
    let mut sequence = None;
    let mut duplicates = 0;
    for (message, events) in messages {
        let appended = log.append(connection, message).await?;
        hit(Point::IngestPart);
        sequence = sequence.max(Some(appended.sequence));
        if appended.duplicate {
            duplicates += events;
        }
    }
    Ok((sequence, duplicates))
}

fn not_stored(error: &AppendError) -> ApiError {
    tracing::warn!(%error, "a batch was not stored");
    match error {
        AppendError::TooLarge { .. } => ApiError::PayloadTooLarge { limit: BODY_BYTES },
        AppendError::Full { .. } => LOG_FULL,
        _ => LOG_AWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write as _;

    proptest! {
        #[test]
        fn whatever_is_said_to_be_gzip_is_unpacked_within_bounds_or_refused(
            plain in prop::collection::vec(any::<u8>(), 0..400),
            zeros in prop_oneof![15 => 0..10_000_usize, 1 => Just(BODY_BYTES + 1)],
            harms in prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)],
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
            noise in prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 1..40)],
        ) {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.write_all(&vec![0; zeros]).unwrap();
            let whole = encoder.finish().unwrap();
            let mut packed = whole.clone();
            for (place, change) in harms {
                let place = place.index(packed.len());
                packed[place] ^= change;
            }
            packed.truncate(cut.map_or(packed.len(), |cut| cut.index(packed.len())));
            packed.extend(noise);
            match unpacked(&packed) {
                Ok(body) => prop_assert!(body.len() <= BODY_BYTES),
                Err(error) => {
                    let is_refusal = matches!(error, ApiError::Validation { .. } | ApiError::PayloadTooLarge { .. });
                    prop_assert!(is_refusal, "{error:?}");
                    prop_assert!(packed != whole || zeros > BODY_BYTES, "{error:?}");
                }
            }
        }
    }
}

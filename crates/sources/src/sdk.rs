//! The body of `POST /api/ingest`, as the SDK and the agent send it: `{"events":[…]}`.
//!
//! A bad event never sinks its batch: it is left out and reported with its index. What is merely odd (an optional field
//! of a strange type, a number out of range, a field that we do not know) is kept in the extensions.

use proto_events::event::check_external_id;
use proto_events::{Event, EventType, Framework, Job, JobState, Queue, Timestamp, Worker, WorkerState, limits};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::frameworks;
use crate::json::{Broken, Fields, each_object_in, shown};
use crate::redact::Redaction;

/// Events of one batch; more is no batch but an import, to be sent in parts.
pub const MAX_EVENTS: usize = 10_000;

/// What holds arguments and results, the names that BullMQ has for them among them.
const ARGUMENTS: [&str; 5] = ["args", "kwargs", "result", "data", "returnvalue"];

/// An event does not have the documented shape.
pub const VALIDATION_ERROR: &str = "VALIDATION_ERROR";
/// An event names another connection than the key's.
pub const CONNECTION_MISMATCH: &str = "CONNECTION_MISMATCH";

/// What the operator may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is kept out of the events.
    pub redaction: Redaction,
}

/// A batch, each event judged on its own.
#[derive(Debug, Default)]
pub struct Batch {
    /// The good events, in the order of the body.
    pub events: Vec<Event>,
    /// The index in the body of each good event.
    pub indexes: Vec<usize>,
    /// The others.
    pub rejected: Vec<Rejected>,
    /// How many there were.
    pub total: usize,
}

/// An event that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its index in the body.
    pub index: usize,
    /// [`VALIDATION_ERROR`] or [`CONNECTION_MISMATCH`].
    pub code: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// There is no batch in the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Not JSON.
    #[error("The body is not valid JSON: {0}.")]
    NotJson(String),
    /// JSON of another shape.
    #[error("The body must be an object with an array \"events\".")]
    NoEvents,
    /// Too many events.
    #[error("The batch holds {0} events; at most {MAX_EVENTS} are accepted at once.")]
    TooMany(usize),
}

/// Reads a batch for the connection that the key belongs to.
pub fn batch(body: &[u8], connection: Uuid, options: &Options) -> Result<Batch, BatchError> {
    let text = std::str::from_utf8(body).map_err(|_| BatchError::NotJson("it is not UTF-8".to_owned()))?;
    let read = |batch: &mut Batch, fields: Result<Fields<'_>, Broken>| {
        let index = batch.total;
        batch.total += 1;
        // Past the limit the batch is refused as a whole, so that the rest is only counted.
        if index >= MAX_EVENTS {
            return;
        }
        match fields.map_err(Fault::from).and_then(|fields| event(fields, connection, options)) {
            Ok(event) => {
                batch.events.push(event);
                batch.indexes.push(index);
            }
            Err(Fault { code, message }) => batch.rejected.push(Rejected { index, code, message }),
        }
    };
    let batch: Batch =
        each_object_in(text, "events", read).map_err(BatchError::NotJson)?.ok_or(BatchError::NoEvents)?;
    if batch.total > MAX_EVENTS { Err(BatchError::TooMany(batch.total)) } else { Ok(batch) }
}

/// What is wrong with one event.
pub(crate) struct Fault {
    code: &'static str,
    pub(crate) message: String,
}

impl Fault {
    fn invalid(message: impl Into<String>) -> Self {
        Self { code: VALIDATION_ERROR, message: message.into() }
    }

    fn inside(self, payload: &str) -> Self {
        Self { message: format!("{payload}.{}", self.message), ..self }
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::NotAnObject => Self::invalid("The event must be an object."),
            Broken::Malformed(reason) => Self::invalid(format!("The event is not readable: {reason}.")),
        }
    }
}

/// One event of a batch.
pub(crate) fn event(mut fields: Fields<'_>, connection: Uuid, options: &Options) -> Result<Event, Fault> {
    check_connection(&mut fields, connection)?;
    let timestamp = timestamp(&mut fields)?;
    let framework = required::<Framework>(&mut fields, "framework", "celery, bullmq or sidekiq")?;
    let kind = required_text(&mut fields, "type")?;
    let payload = payload_for(&kind, &fields)?;
    let content = fields.object(payload).ok_or_else(|| Fault::invalid(format!("{payload} must be an object.")))?;
    let mut event = match payload {
        "job" => Event::job(timestamp, framework, job(framework, content.into(), options)?),
        "worker" => Event {
            worker: Some(Box::new(worker(content.into())?)),
            ..Event::bare(EventType::WorkerStateChange, timestamp, framework)
        },
        _ => Event {
            queue: Some(Box::new(queue(content.into())?)),
            ..Event::bare(EventType::QueueSnapshot, timestamp, framework)
        },
    };
    options.redaction.apply(&mut event);
    limits::enforce(&mut event);
    Ok(event)
}

/// The key decides the connection. A name that is no UUID is an alias, such as the `default` of the agent.
fn check_connection(fields: &mut Fields<'_>, connection: Uuid) -> Result<(), Fault> {
    match fields.take("connectionId") {
        None => Ok(()),
        Some(Value::String(id)) => match Uuid::parse_str(&id) {
            Ok(other) if other != connection => Err(Fault {
                code: CONNECTION_MISMATCH,
                message: format!("connectionId {other} is not the connection of the API key."),
            }),
            _ => Ok(()),
        },
        Some(_) => Err(Fault::invalid("connectionId must be a text.")),
    }
}

fn timestamp(fields: &mut Fields<'_>) -> Result<Timestamp, Fault> {
    let text = required_text(fields, "timestamp")?;
    Timestamp::parse(&text).ok_or_else(|| {
        Fault::invalid(format!(
            "timestamp must be a time in ISO 8601, such as 2026-02-27T10:30:02.000Z, not {:?}.",
            shown(&text)
        ))
    })
}

fn required_text(fields: &mut Fields<'_>, key: &str) -> Result<String, Fault> {
    if fields.get(key).is_none() {
        return Err(Fault::invalid(format!("{key} is required.")));
    }
    fields.text(key).ok_or_else(|| Fault::invalid(format!("{key} must be a text.")))
}

/// A required text that is one of a few.
fn required<T: for<'de> Deserialize<'de>>(fields: &mut Fields<'_>, key: &str, allowed: &str) -> Result<T, Fault> {
    let text = required_text(fields, key)?;
    one_of(&text).ok_or_else(|| Fault::invalid(format!("{key} must be {allowed}, not {:?}.", shown(&text))))
}

fn one_of<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(text).ok()
}

/// Which payload counts: the one that the type promises, else the only one there is.
fn payload_for(kind: &str, fields: &Fields<'_>) -> Result<&'static str, Fault> {
    let promised = match one_of(kind) {
        Some(EventType::JobStateChange) => Some("job"),
        Some(EventType::WorkerStateChange) => Some("worker"),
        Some(EventType::QueueSnapshot) => Some("queue"),
        _ => None,
    };
    let present = ["job", "worker", "queue"].into_iter().filter(|payload| fields.get(payload).is_some());
    let present: Vec<_> = present.collect();
    match (promised, present.as_slice()) {
        (Some(promised), present) if present.contains(&promised) => Ok(promised),
        (_, [only]) => Ok(only),
        (Some(promised), []) => Err(Fault::invalid(format!("{promised} is required for this type."))),
        (None, []) => Err(Fault::invalid("One of job, worker or queue is required.")),
        (_, _) => Err(Fault::invalid(format!("type {:?} does not say which payload counts.", shown(kind)))),
    }
}

fn job(framework: Framework, mut fields: Fields<'_>, options: &Options) -> Result<Job, Fault> {
    let id = required_text(&mut fields, "externalId").map_err(|fault| fault.inside("job"))?;
    check_external_id(&id).map_err(|reason| Fault::invalid(format!("job.{reason}.")))?;
    let own = fields.get("state").and_then(Value::as_str).map(str::to_owned);
    let named = own.and_then(|name| frameworks::state(framework, &name).map(|named| (named, name)));
    let state = match &named {
        Some((named, _)) => Ok(named.state),
        None => required::<JobState>(&mut fields, "state", "one of the eight job states"),
    };
    let state = state.map_err(|fault| fault.inside("job"))?;
    let redacted = |value: Option<Value>| value.filter(|_| !options.redaction.drops_arguments());
    let attempt = fields.get("attempt").and_then(Value::as_u64);
    let mut job = Job {
        name: fields.filled_text("name"),
        queue: fields.filled_text("queue"),
        previous_state: previous_state(&mut fields),
        worker_id: fields.filled_text("workerId"),
        // Attempts count from 1; a 0 is kept as it was said.
        attempt: if attempt == Some(0) { None } else { fields.small_count("attempt") },
        max_retries: fields.small_count("maxRetries"),
        progress: fields.number("progress").map(|progress| frameworks::progress(framework, progress)),
        error: fields.text("error"),
        stacktrace: fields.text("stacktrace"),
        created_at: fields.time("createdAt"),
        scheduled_for: fields.time("scheduledFor"),
        started_at: fields.time("startedAt"),
        completed_at: fields.time("completedAt"),
        args: redacted(fields.take("args")),
        kwargs: redacted(fields.take("kwargs")),
        result: redacted(fields.take("result")),
        parent_id: fields.filled_text("parentId"),
        root_id: fields.filled_text("rootId"),
        tags: fields.object("tags").unwrap_or_default(),
        ..Job::new(id, state)
    };
    if named.is_some() {
        fields.take("state");
    }
    frameworks::fill(framework, named, &mut job, &mut fields);
    let own = std::mem::take(&mut job.extensions);
    job.extensions = extensions(fields);
    job.extensions.extend(own);
    if options.redaction.drops_arguments() {
        for key in ARGUMENTS {
            job.extensions.remove(key);
        }
    }
    Ok(job)
}

fn previous_state(fields: &mut Fields<'_>) -> Option<JobState> {
    let state = one_of(fields.get("previousState")?.as_str()?)?;
    fields.take("previousState");
    Some(state)
}

fn worker(mut fields: Fields<'_>) -> Result<Worker, Fault> {
    let state = required::<WorkerState>(&mut fields, "state", "online, heartbeat, offline, busy or idle");
    let state = state.map_err(|fault| fault.inside("worker"))?;
    if state == WorkerState::Silent {
        // Our own finding, which no sender can make for us.
        return Err(Fault::invalid("worker.state must be online, heartbeat, offline, busy or idle, not \"silent\"."));
    }
    let (id, hostname) = (fields.filled_text("externalId"), fields.filled_text("hostname"));
    let Some(external_id) = id.or_else(|| hostname.clone()) else {
        return Err(Fault::invalid("worker.externalId is required."));
    };
    // The SDK's builder puts these two among the metadata.
    let mut metadata = Fields::from(fields.object("metadata").unwrap_or_default());
    Ok(Worker {
        hostname: hostname.unwrap_or_else(|| external_id.clone()),
        external_id,
        state,
        pid: fields.signed("pid"),
        active_jobs: fields.count("activeJobs"),
        concurrency: fields.count("concurrency"),
        processed_total: fields.count("processedTotal").or_else(|| metadata.count("processedTotal")),
        heartbeat_freq: fields.number("heartbeatFreq").or_else(|| metadata.number("heartbeatFreq")),
        metadata: metadata.rest(),
        extensions: extensions(fields),
    })
}

fn queue(mut fields: Fields<'_>) -> Result<Queue, Fault> {
    let name = fields.filled_text("name").ok_or_else(|| Fault::invalid("queue.name is required."))?;
    let (depth, consumers) = (fields.count("depth"), fields.count("consumers"));
    Ok(Queue { name, depth, consumers, extensions: extensions(fields) })
}

/// The sender's own extensions, and beside them every field that was not understood.
fn extensions(mut fields: Fields<'_>) -> Map<String, Value> {
    let mut extensions = fields.object("extensions").unwrap_or_default();
    for (key, value) in fields.rest() {
        extensions.entry(key).or_insert(value);
    }
    extensions
}

//! One of Celery's raw events into the event contract.

use proto_events::event::check_external_id;
use proto_events::{
    CeleryFacts, CeleryKind, Event, EventType, Framework, Job, JobState, Producer, Timestamp, Worker, WorkerState,
    limits,
};
use serde_json::{Map, Value};

use super::envelope::{EnvelopeError, open};
use crate::json::{Broken, Fields, each_object, shown};
use crate::redact::Redaction;

/// Makes events of Celery's raw events.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    /// What is kept out of them.
    pub redaction: Redaction,
}

/// Why a raw event is of no use. Its neighbours in the same message are unharmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not an object.
    #[error("not an object")]
    NotAnObject,
    /// Broken inside: too deep, or a number that no one can hold.
    #[error("not readable: {0}")]
    Malformed(String),
    /// No `type`, or one that is neither `task-*` nor one of the three `worker-*`.
    #[error("not an event of Celery: type {0}")]
    UnknownType(String),
    /// A task event must name its task, in at most 512 characters.
    #[error("{kind} without a usable uuid: {reason}")]
    Uuid {
        /// Its type.
        kind: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A worker event must name its worker.
    #[error("{0} without a hostname")]
    NoHostname(String),
    /// The time is missing, not a number, or outside the years 1 to 9999.
    #[error("{0} without a usable timestamp")]
    Timestamp(String),
}

/// What one message held.
#[derive(Debug, Default)]
pub struct Message {
    /// The events, in order.
    pub events: Vec<Event>,
    /// How many were refused.
    pub refused: u64,
    /// Why the first of them was.
    pub first_refused: Option<Refused>,
}

impl Normaliser {
    /// One raw Celery event.
    pub fn event(&self, raw: Value) -> Result<Event, Refused> {
        match raw {
            Value::Object(map) => self.normalise(map.into()),
            _ => Err(Refused::NotAnObject),
        }
    }

    /// A whole kombu message as Redis delivers it: the event or the array of events inside, each on its own.
    pub fn message(&self, payload: &[u8]) -> Result<Message, EnvelopeError> {
        self.body(&open(payload)?)
    }

    /// The body of a message, JSON text: one event or an array of them.
    pub fn body(&self, body: &str) -> Result<Message, EnvelopeError> {
        let read = |message: &mut Message, fields: Result<Fields<'_>, Broken>| {
            let event = fields.map_err(Refused::from).and_then(|fields| self.normalise(fields));
            match event {
                Ok(event) => message.events.push(event),
                Err(refused) => {
                    message.refused += 1;
                    message.first_refused.get_or_insert(refused);
                }
            }
        };
        each_object(body, read).map_err(EnvelopeError::Body)
    }

    fn normalise(&self, mut raw: Fields<'_>) -> Result<Event, Refused> {
        let kind = raw.text("type").unwrap_or_default();
        let mut event = if let Some(what) = kind.strip_prefix("task-") {
            self.task(celery_kind(what), &kind, raw)?
        } else {
            let state = match kind.as_str() {
                "worker-online" => WorkerState::Online,
                "worker-heartbeat" => WorkerState::Heartbeat,
                "worker-offline" => WorkerState::Offline,
                _ => return Err(Refused::UnknownType(shown(&kind))),
            };
            worker(state, &kind, raw)?
        };
        self.redaction.apply(&mut event);
        limits::enforce(&mut event);
        Ok(event)
    }

    fn task(&self, kind: CeleryKind, type_name: &str, mut raw: Fields<'_>) -> Result<Event, Refused> {
        let id = raw.filled_text("uuid");
        let id = id.ok_or("it is missing, empty or not a text").and_then(|id| check_external_id(&id).map(|()| id));
        let id = id.map_err(|reason| Refused::Uuid { kind: shown(type_name), reason })?;
        let timestamp = time_of(&mut raw, type_name)?;
        let producer = producer(&mut raw);
        if self.redaction.drops_arguments() {
            for key in ["args", "kwargs", "result"] {
                raw.take(key);
            }
        }
        let mut job = Job::new(id, state_of(kind));
        if kind == CeleryKind::Custom {
            custom(&mut job, type_name, raw);
        } else {
            known(&mut job, kind, raw);
            if kind != CeleryKind::Sent {
                job.worker_id = producer.as_ref().map(|producer| producer.hostname.clone());
            }
        }
        Ok(Event { producer, ..Event::job(timestamp, Framework::Celery, job) })
    }
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::NotAnObject => Self::NotAnObject,
            Broken::Malformed(reason) => Self::Malformed(reason),
        }
    }
}

fn celery_kind(what: &str) -> CeleryKind {
    match what {
        "sent" => CeleryKind::Sent,
        "received" => CeleryKind::Received,
        "started" => CeleryKind::Started,
        "succeeded" => CeleryKind::Succeeded,
        "failed" => CeleryKind::Failed,
        "retried" => CeleryKind::Retried,
        "revoked" => CeleryKind::Revoked,
        "rejected" => CeleryKind::Rejected,
        "cancelled" => CeleryKind::Cancelled,
        _ => CeleryKind::Custom,
    }
}

/// The state where the event alone decides it.
fn state_of(kind: CeleryKind) -> JobState {
    match kind {
        CeleryKind::Sent | CeleryKind::Received => JobState::Queued,
        CeleryKind::Started => JobState::Active,
        CeleryKind::Succeeded => JobState::Completed,
        CeleryKind::Failed | CeleryKind::Rejected => JobState::Failed,
        CeleryKind::Retried => JobState::Retrying,
        CeleryKind::Revoked | CeleryKind::Cancelled => JobState::Cancelled,
        CeleryKind::Custom => JobState::Unknown,
    }
}

/// Celery's own events: what is understood goes to its place, the rest to the extensions.
fn known(job: &mut Job, kind: CeleryKind, mut raw: Fields<'_>) {
    let mut facts = CeleryFacts::new(kind);
    match kind {
        CeleryKind::Sent | CeleryKind::Received => {
            facts.retries = raw.small_count("retries");
            job.attempt = facts.retries.and_then(|retries| retries.checked_add(1));
            job.scheduled_for = raw.time("eta");
            if kind == CeleryKind::Sent {
                job.queue = raw.filled_text("queue");
            } else if job.scheduled_for.is_some() {
                job.state = JobState::Scheduled;
            }
        }
        CeleryKind::Succeeded => facts.runtime = raw.number("runtime"),
        CeleryKind::Failed | CeleryKind::Retried => {
            job.error = raw.text("exception");
            job.stacktrace = raw.text("traceback");
        }
        CeleryKind::Revoked => {
            facts.terminated = raw.boolean("terminated");
            facts.expired = raw.boolean("expired");
            facts.signum = raw.text("signum").or_else(|| raw.signed("signum").map(|number| number.to_string()));
        }
        CeleryKind::Rejected => {
            facts.requeue = raw.boolean("requeue");
            if facts.requeue == Some(true) {
                job.state = JobState::Queued;
            }
        }
        CeleryKind::Started | CeleryKind::Cancelled | CeleryKind::Custom => {}
    }
    job.celery = Some(facts);
    job.name = raw.filled_text("name");
    job.args = raw.take("args");
    job.kwargs = raw.take("kwargs");
    job.result = raw.take("result");
    job.parent_id = raw.filled_text("parent_id");
    job.root_id = raw.filled_text("root_id");
    // The default exchange is the empty text, which says nothing.
    job.extensions = raw.rest();
    job.extensions.retain(|_, value| value.as_str() != Some(""));
}

/// An event of the user's own: everything it says is kept as it was said.
fn custom(job: &mut Job, type_name: &str, mut raw: Fields<'_>) {
    job.celery = Some(CeleryFacts::new(CeleryKind::Custom));
    if type_name == "task-progress" {
        // What is neither a part of one nor a part of a total is not guessed at: it stays in the extensions as it was sent.
        let number = |key| raw.get(key).and_then(Value::as_f64);
        let of_total = number("current").zip(number("total")).filter(|(_, total)| *total > 0.0);
        let progress = number("progress").or_else(|| of_total.map(|(current, total)| current / total));
        job.progress = progress.filter(|progress| (0.0..=1.0).contains(progress));
    }
    raw.take("celeryEvent");
    job.extensions = raw.rest();
    job.extensions.insert("celeryEvent".to_owned(), Value::String(type_name.to_owned()));
}

fn worker(state: WorkerState, kind: &str, mut raw: Fields<'_>) -> Result<Event, Refused> {
    let timestamp = time_of(&mut raw, kind)?;
    let producer = producer(&mut raw).ok_or_else(|| Refused::NoHostname(kind.to_owned()))?;
    let mut metadata = Map::new();
    for (theirs, ours) in
        [("sw_ident", "software"), ("sw_ver", "softwareVersion"), ("sw_sys", "softwareSystem"), ("loadavg", "loadavg")]
    {
        if let Some(value) = raw.take(theirs) {
            metadata.insert(ours.to_owned(), value);
        }
    }
    let worker = Worker {
        external_id: producer.hostname.clone(),
        hostname: producer.hostname.clone(),
        state,
        pid: producer.pid,
        active_jobs: raw.count("active"),
        concurrency: None,
        processed_total: raw.count("processed"),
        heartbeat_freq: raw.number("freq"),
        metadata,
        extensions: raw.rest(),
    };
    let event = Event::bare(EventType::WorkerStateChange, timestamp, Framework::Celery);
    Ok(Event { producer: Some(producer), worker: Some(Box::new(worker)), ..event })
}

fn time_of(raw: &mut Fields<'_>, kind: &str) -> Result<Timestamp, Refused> {
    let seconds = raw.number("timestamp");
    seconds.and_then(Timestamp::from_epoch_seconds).ok_or_else(|| Refused::Timestamp(shown(kind)))
}

/// The process that spoke, and away with what only says how to misread the time.
fn producer(raw: &mut Fields<'_>) -> Option<Producer> {
    raw.take("utcoffset");
    raw.take("local_received");
    let hostname = raw.filled_text("hostname")?;
    Some(Producer { hostname, pid: raw.signed("pid"), clock: raw.signed("clock") })
}

//! The events: one fact each, with its time, its framework and exactly one payload.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::about::{Queue, Source, Trim, Worker};
use crate::limits;
use crate::time::Timestamp;
use crate::wire::VERSION;

/// One fact, as the log keeps it.
///
/// Which connection it belongs to is said by the subject it was published on, never by the event itself, so that no
/// sender can write into another's jobs. Unknown fields are ignored when read: a newer writer of the same version may
/// add some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The version of the contract, 1.
    #[serde(default = "first_version")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1)))]
    pub v: u16,
    /// What kind of fact; it says which payload is there.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When it happened, by the clock of whoever saw it.
    pub timestamp: Timestamp,
    /// The job framework it comes from.
    pub framework: Framework,
    /// The process that spoke, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<Producer>,
    /// Of `job.state_change`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Box<Job>>,
    /// Of `worker.state_change`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Box<Worker>>,
    /// Of `queue.snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Box<Queue>>,
    /// Of `source.state_change`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<Source>>,
    /// Of `log.trim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trim: Option<Box<Trim>>,
}

/// What was written before there were versions, or by who does not care, is of the first.
const fn first_version() -> u16 {
    1
}

/// Many a sender writes null where it has nothing to say.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Event {
    /// A job event with nothing but what every job event has.
    pub fn job(timestamp: Timestamp, framework: Framework, job: Job) -> Self {
        Self { job: Some(Box::new(job)), ..Self::bare(EventType::JobStateChange, timestamp, framework) }
    }

    /// An event without a payload, to be given one.
    pub fn bare(kind: EventType, timestamp: Timestamp, framework: Framework) -> Self {
        Self {
            v: VERSION,
            kind,
            timestamp,
            framework,
            producer: None,
            job: None,
            worker: None,
            queue: None,
            source: None,
            trim: None,
        }
    }

    /// Checks what the types alone cannot say: a version that exists, the payload that the kind promises, and a usable
    /// external id.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.v == 0 {
            return Err("there is no version 0");
        }
        match self.kind {
            EventType::JobStateChange => {
                let job = self.job.as_deref().ok_or("job.state_change without a job")?;
                check_external_id(&job.external_id)
            }
            EventType::WorkerStateChange => {
                self.worker.is_some().then_some(()).ok_or("worker.state_change without a worker")
            }
            EventType::QueueSnapshot => self.queue.is_some().then_some(()).ok_or("queue.snapshot without a queue"),
            EventType::SourceStateChange => {
                self.source.is_some().then_some(()).ok_or("source.state_change without a source")
            }
            EventType::ClockTick => Ok(()),
            EventType::LogTrim => self.trim.is_some().then_some(()).ok_or("log.trim without a trim"),
        }
    }
}

/// An external id has 1 to 512 characters; a longer one is refused, since cutting could merge two jobs.
pub fn check_external_id(id: &str) -> Result<(), &'static str> {
    if id.is_empty() {
        return Err("externalId is empty");
    }
    if id.len() > limits::EXTERNAL_ID && id.chars().count() > limits::EXTERNAL_ID {
        return Err("externalId is longer than 512 characters");
    }
    Ok(())
}

/// The kinds of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EventType {
    /// Something happened to a job.
    #[serde(rename = "job.state_change", alias = "job_state_change")]
    JobStateChange,
    /// Something happened to a worker.
    #[serde(rename = "worker.state_change", alias = "worker_state_change")]
    WorkerStateChange,
    /// How full a queue was.
    #[serde(rename = "queue.snapshot", alias = "queue_snapshot")]
    QueueSnapshot,
    /// A source of ours began or ceased to hear its broker.
    #[serde(rename = "source.state_change")]
    SourceStateChange,
    /// Time passed: what replay knows of the clock.
    #[serde(rename = "clock.tick")]
    ClockTick,
    /// The beginning of the log is forgotten: what replay knows of retention.
    #[serde(rename = "log.trim")]
    LogTrim,
}

/// The job frameworks of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Framework {
    /// Celery, Python.
    Celery,
    /// `BullMQ`, Node.js.
    Bullmq,
    /// Sidekiq, Ruby.
    Sidekiq,
}

impl Framework {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Celery => "celery",
            Self::Bullmq => "bullmq",
            Self::Sidekiq => "sidekiq",
        }
    }
}

/// The eight unified states of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Nothing is known but the id.
    Unknown,
    /// Waiting for a worker.
    Queued,
    /// Waiting for its time.
    Scheduled,
    /// Running.
    Active,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Failed and will be tried again.
    Retrying,
    /// Revoked, or ended by its worker.
    Cancelled,
}

impl JobState {
    /// All states, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Queued,
        Self::Scheduled,
        Self::Active,
        Self::Completed,
        Self::Failed,
        Self::Retrying,
        Self::Cancelled,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a job in this state has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// The process that sent an event: Celery's `hostname`, `pid` and `clock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Producer {
    /// The node name, `celery@worker-1`; of a publisher `gen4000@web`.
    pub hostname: String,
    /// The process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// The Lamport clock: an order within one run of one process, nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<i64>,
}

/// What an event says about a job. Everything but the id and the state may be absent, and absent means "not said".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The framework's own id of the job, 1 to 512 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 512)))]
    pub external_id: String,
    /// The task name, at most 1,024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The unified state that this event stands for.
    pub state: JobState,
    /// What Celery's own event said beyond that; absent when the event is a report by the SDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub celery: Option<CeleryFacts>,
    /// The queue, at most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The state before, as the sender knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<JobState>,
    /// The worker that runs it, at most 512 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// Which try this is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How many retries are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How far it is, 0.0 to 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// The error, at most 10,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The traceback, at most 50,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stacktrace: Option<String>,
    /// When it was dispatched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Not to run before this time (Celery's `eta`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// The arguments; from Celery's stream the text that it displays, not data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Value>,
    /// The keyword arguments, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Value>,
    /// The return value, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The external id of the job that dispatched this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// The external id of the first job of the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_id: Option<String>,
    /// Labels of the user.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// Whatever else the framework said.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub extensions: Map<String, Value>,
    /// Whose word it is where nobody announced it; absent when the framework itself did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where an event was read that nobody announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Origin {
    /// Celery's result backend, which was asked how the job ended. Of its end alone: what was announced is better known.
    #[serde(rename = "result-backend")]
    ResultBackend,
}

impl Job {
    /// A job of which only the id and a state are known.
    pub fn new(external_id: impl Into<String>, state: JobState) -> Self {
        Self {
            external_id: external_id.into(),
            name: None,
            state,
            celery: None,
            queue: None,
            previous_state: None,
            worker_id: None,
            attempt: None,
            max_retries: None,
            progress: None,
            error: None,
            stacktrace: None,
            created_at: None,
            scheduled_for: None,
            started_at: None,
            completed_at: None,
            args: None,
            kwargs: None,
            result: None,
            parent_id: None,
            root_id: None,
            tags: Map::new(),
            extensions: Map::new(),
            origin: None,
        }
    }
}

/// What one of Celery's own task events says about the life of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CeleryFacts {
    /// Which event it was.
    pub event: CeleryKind,
    /// `retries`: how often it was tried before; only sent and received carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// `runtime` of succeeded, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<f64>,
    /// `requeue` of rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requeue: Option<bool>,
    /// `terminated` of revoked: it was running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<bool>,
    /// `expired` of revoked: nobody revoked it, it was too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// `signum` of revoked, a number or a name as Celery wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signum: Option<String>,
}

impl CeleryFacts {
    /// The bare fact that the event was seen.
    pub const fn new(event: CeleryKind) -> Self {
        Self { event, retries: None, runtime: None, requeue: None, terminated: None, expired: None, signum: None }
    }
}

/// Celery's task events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum CeleryKind {
    /// The publisher sent it.
    #[serde(rename = "task-sent")]
    Sent,
    /// A worker took it from the broker.
    #[serde(rename = "task-received")]
    Received,
    /// A pool process began to run it.
    #[serde(rename = "task-started")]
    Started,
    /// It returned.
    #[serde(rename = "task-succeeded")]
    Succeeded,
    /// It raised, or its process died.
    #[serde(rename = "task-failed")]
    Failed,
    /// It raised and will be tried again.
    #[serde(rename = "task-retried")]
    Retried,
    /// It was revoked, or had expired.
    #[serde(rename = "task-revoked")]
    Revoked,
    /// It was given back or refused.
    #[serde(rename = "task-rejected")]
    Rejected,
    /// The worker itself gave it up (connection loss, SIGQUIT).
    #[serde(rename = "task-cancelled")]
    Cancelled,
    /// Any other `task-*` event; its name is in `extensions.celeryEvent`.
    #[serde(rename = "task-custom")]
    Custom,
}

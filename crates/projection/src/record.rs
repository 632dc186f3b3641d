//! The record of a job: what the API answers, and what the views keep.
//!
//! Serialises as the documented JSON (camelCase, times with milliseconds and `Z`) to textual formats, and as plain
//! integers and texts to binary ones. No field is ever left out, so that binary formats can read it back.

use proto_events::{Framework, JobState, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::json::JsonText;

/// Everything that is known of one job: a function of the set of its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// UUIDv5 of the connection and the external id.
    pub id: Uuid,
    /// The framework's own id.
    pub external_id: String,
    /// The framework.
    pub framework: Framework,
    /// The connection it belongs to.
    pub connection_id: Uuid,
    /// The task name; `unknown` while no event told it.
    pub name: String,
    /// The queue; only a publisher's event tells it.
    pub queue: Option<String>,
    /// Labels of the user, an object.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub tags: JsonText,
    /// The state now.
    pub state: JobState,
    /// Since when: the time of the last entry of the history.
    #[serde(with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "millis::Shown"))]
    pub state_changed_at: Timestamp,
    /// The state before, null while there was none.
    pub previous_state: Option<JobState>,
    /// The earliest evidence.
    #[serde(with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "millis::Shown"))]
    pub created_at: Timestamp,
    /// The ETA of the attempt shown.
    #[serde(with = "millis_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<millis::Shown>"))]
    pub scheduled_for: Option<Timestamp>,
    /// Start of the execution shown.
    #[serde(with = "millis_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<millis::Shown>"))]
    pub started_at: Option<Timestamp>,
    /// End of the execution shown, or of the job where it ended without one.
    #[serde(with = "millis_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<millis::Shown>"))]
    pub completed_at: Option<Timestamp>,
    /// `completedAt` minus `startedAt` as shown, in milliseconds; the reported runtime where no start is known.
    pub duration_ms: Option<u64>,
    /// The worker of the execution shown.
    pub worker_id: Option<String>,
    /// Which try, from 1.
    pub attempt: u32,
    /// How many retries are allowed.
    pub max_retries: Option<u32>,
    /// 0.0 to 1.0, of the execution shown.
    pub progress: Option<f64>,
    /// Arguments; from Celery the text it displays.
    pub args: Option<JsonText>,
    /// Keyword arguments, likewise.
    pub kwargs: Option<JsonText>,
    /// Return value of the execution shown, likewise.
    pub result: Option<JsonText>,
    /// Error of the execution shown.
    pub error: Option<String>,
    /// Traceback of the execution shown.
    pub stacktrace: Option<String>,
    /// The job that dispatched this one.
    pub parent_id: Option<Uuid>,
    /// The first job of the workflow.
    pub root_id: Option<Uuid>,
    /// Whatever else the framework said, an object.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub extensions: JsonText,
    /// Every change of state, in order.
    pub state_history: Vec<Transition>,
    /// Every run of the code, in the order of their starts.
    pub executions: Vec<Execution>,
    /// How often a worker took it from the broker.
    pub deliveries: u32,
    /// Whether it lacks events: there were too many, or the log has forgotten the first of them.
    pub truncated: bool,
    /// What the task itself said (`self.send_event('task-…')`), in the order of time: the first 20 and the last 80.
    pub notes: Vec<Note>,
    /// Whether there were more of them.
    pub notes_truncated: bool,
    /// Who told how it ended, or that it is tried again; null while it did not.
    pub outcome_from: Option<OutcomeFrom>,
}

/// What a task said of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The type of its event, such as `task-invoiced`.
    pub name: String,
    /// When.
    #[serde(with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "millis::Shown"))]
    pub timestamp: Timestamp,
    /// The fields that it sent; where they take more than 1,024 bytes the beginning of them, as a text.
    pub data: JsonText,
    /// Whether there was more of it.
    pub truncated: bool,
}

/// Who told of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeFrom {
    /// An event of the framework, or a report.
    Event,
    /// No event came; Celery's result backend was asked.
    ResultBackend,
}

impl Record {
    /// Since when it waits for a worker, or from when on it will: its ETA, where it has one that it waits for. `None` where
    /// it does not wait.
    pub fn waits_since(&self) -> Option<Timestamp> {
        match self.state {
            JobState::Queued => Some(self.state_changed_at),
            JobState::Scheduled => Some(self.scheduled_for.unwrap_or(self.state_changed_at)),
            _ => None,
        }
    }

    /// When its run began, as far as is known; `None` where it does not run.
    pub fn runs_since(&self) -> Option<Timestamp> {
        (self.state == JobState::Active).then(|| self.started_at.unwrap_or(self.created_at))
    }
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// The state entered.
    pub state: JobState,
    /// When.
    #[serde(with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "millis::Shown"))]
    pub timestamp: Timestamp,
}

/// One run of the job's code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// The try that it belongs to, from 1.
    pub attempt: u32,
    /// The worker.
    pub worker_id: Option<String>,
    /// The process id that the worker announces.
    pub pid: Option<i64>,
    /// When it began.
    #[serde(with = "millis_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<millis::Shown>"))]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "millis_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<millis::Shown>"))]
    pub completed_at: Option<Timestamp>,
    /// How it ended; null while it runs.
    pub outcome: Option<Outcome>,
    /// Its error.
    pub error: Option<String>,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It returned.
    Completed,
    /// It raised, or its process died.
    Failed,
    /// It raised and the job is tried again.
    Retrying,
    /// It gave the message back or refused it.
    Rejected,
    /// It was revoked, or given up by its worker.
    Cancelled,
    /// Its process is gone and never said how it ended.
    Lost,
    /// It handed the job over to another task under the same id (`self.replace()`).
    Replaced,
}

pub(crate) mod millis {
    use proto_events::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's `with` passes references")]
    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&time.to_millis_text())
        } else {
            time.serialize(serializer)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(deserializer)
    }

    /// The schema of a time as it is shown.
    #[cfg(feature = "schema")]
    pub(crate) struct Shown;

    #[cfg(feature = "schema")]
    impl schemars::JsonSchema for Shown {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Millis".into()
        }

        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            proto_events::time::millis_schema()
        }
    }
}

pub(crate) mod millis_option {
    use proto_events::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde's `with` passes references")]
    pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            time.map(Timestamp::to_millis_text).serialize(serializer)
        } else {
            time.serialize(serializer)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        Option::<Timestamp>::deserialize(deserializer)
    }
}

//! What an event may be about when it is not about a job.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::event::null_is_empty;

/// What an event says about a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// The framework's own name of the worker; Celery's node name.
    pub external_id: String,
    /// Its host name.
    pub hostname: String,
    /// What it said.
    pub state: WorkerState,
    /// The process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// Jobs it runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_jobs: Option<u64>,
    /// Jobs it can run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Jobs it has run since it came online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_total: Option<u64>,
    /// Seconds between its heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_freq: Option<f64>,
    /// Software and load, as it announced them.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Whatever else it said.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub extensions: Map<String, Value>,
}

/// What a worker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It started, or its connection came back.
    Online,
    /// It is alive.
    Heartbeat,
    /// It stops, or its connection went.
    Offline,
    /// It runs something (a sender other than Celery).
    Busy,
    /// It runs nothing (a sender other than Celery).
    Idle,
    /// Our own finding: it was not heard although the broker was.
    Silent,
}

/// How full a queue was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Its name, at most 255 characters.
    pub name: String,
    /// Jobs waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u64>,
    /// Workers that consume it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<u64>,
    /// Whatever else was said.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub extensions: Map<String, Value>,
}

/// That one of our sources began or ceased to hear its broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The source's name.
    pub name: String,
    /// What became of it.
    pub state: SourceState,
    /// Why, where there is a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a source hears its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It does, from now on.
    Connected,
    /// It does not, from now on.
    Disconnected,
}

/// What the log forgets, and which jobs lose a part of what was known of them.
///
/// It stands in the log so that views that followed it and views that are made anew from it agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Trim {
    /// Messages of the log with a smaller sequence are forgotten. Absent where the event only names jobs; without effect
    /// where it lies behind the event itself, and in another log than the one that it was written into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Ids of jobs that have events on both sides of the cut, at most 3,000. More of them are told by several events, of
    /// which the last one cuts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 3_000)))]
    pub jobs: Vec<Uuid>,
}

//! The object of a task, as Flower has it: all of its fields, null where nothing is known.

use std::collections::HashMap;

use projection::{JsonText, Record, Row};
use proto_events::{JobState, Timestamp};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use views::{Reader, ViewError};

/// Children that are looked for among so many jobs of a workflow.
const WORKFLOW: usize = 10_000;
/// Jobs of workflows that are remembered at once.
const REMEMBERED: usize = 50_000;

/// A task.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    uuid: String,
    name: String,
    state: &'static str,
    received: Option<Seconds>,
    sent: Option<Seconds>,
    started: Option<Seconds>,
    rejected: Option<Seconds>,
    succeeded: Option<Seconds>,
    failed: Option<Seconds>,
    retried: Option<Seconds>,
    revoked: Option<Seconds>,
    args: Option<String>,
    kwargs: Option<String>,
    /// As Python writes a time.
    eta: Option<String>,
    expires: Value,
    retries: Option<u32>,
    worker: Option<String>,
    result: Option<String>,
    exception: Option<String>,
    timestamp: Option<Seconds>,
    /// Seconds.
    runtime: Option<f64>,
    traceback: Option<String>,
    exchange: Value,
    routing_key: Value,
    clock: i64,
    client: Option<String>,
    root: Option<String>,
    root_id: Option<String>,
    parent: Option<String>,
    parent_id: Option<String>,
    children: Vec<String>,
}

/// A time in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seconds(pub(super) Timestamp);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.micros() as f64 / 1e6)
    }
}

impl Info {
    /// Blocks.
    pub(super) fn of(row: &Row, reader: &Reader, children: &mut Children) -> Result<Self, ViewError> {
        let Row { record, evidence } = row;
        let told = evidence.monitored();
        let extensions = record.extensions.value();
        // Who sends says it, and of the default exchange the name is the empty text, which is not kept.
        let exchange = match &extensions["exchange"] {
            Value::Null if told.client.is_some() => Value::String(String::new()),
            exchange => exchange.clone(),
        };
        let known = |id: Option<Uuid>, text: Option<&String>| {
            // A job is known to itself.
            let is_known = id.is_some_and(|id| id == record.id || reader.has(id));
            text.filter(|_| is_known).cloned()
        };
        Ok(Self {
            uuid: record.external_id.clone(),
            name: record.name.clone(),
            state: state(record),
            received: told.received.map(Seconds),
            sent: told.sent.map(Seconds),
            started: told.started.map(Seconds),
            rejected: told.rejected.map(Seconds),
            succeeded: told.succeeded.map(Seconds),
            failed: told.failed.map(Seconds),
            retried: told.retried.map(Seconds),
            revoked: told.revoked.map(Seconds),
            args: record.args.as_ref().map(text),
            kwargs: record.kwargs.as_ref().map(text),
            eta: record.scheduled_for.map(|eta| eta.to_micros_text().replace('Z', "+00:00")),
            expires: extensions["expires"].clone(),
            retries: told.retries,
            worker: record.worker_id.clone(),
            result: record.result.as_ref().map(text),
            exception: record.error.clone().or(told.exception),
            timestamp: told.timestamp.map(Seconds),
            runtime: told.runtime,
            traceback: record.stacktrace.clone().or(told.traceback),
            exchange,
            routing_key: extensions["routing_key"].clone(),
            clock: told.clock.unwrap_or_default(),
            client: told.client,
            root: known(record.root_id, told.root.as_ref()),
            root_id: told.root,
            parent: known(record.parent_id, told.parent.as_ref()),
            parent_id: told.parent,
            children: children.of(record, reader)?,
        })
    }
}

/// The ids of the tasks that each task dispatched, workflow by workflow: a whole one is read at once, and remembered for the
/// others of it that come soon.
#[derive(Default)]
pub(super) struct Children {
    of_roots: HashMap<Uuid, HashMap<Uuid, Vec<String>>>,
    remembered: usize,
}

impl Children {
    /// Blocks.
    fn of(&mut self, record: &Record, reader: &Reader) -> Result<Vec<String>, ViewError> {
        let Some(root) = record.root_id else { return Ok(Vec::new()) };
        if !self.of_roots.contains_key(&root) {
            let (jobs, _) = reader.workflow(root, WORKFLOW)?;
            self.remembered += jobs.len() + 1;
            if self.remembered > REMEMBERED {
                self.of_roots.clear();
                self.remembered = jobs.len() + 1;
            }
            let mut of_root: HashMap<Uuid, Vec<String>> = HashMap::new();
            for job in jobs {
                if let Some(parent) = job.parent_id {
                    of_root.entry(parent).or_default().push(job.external_id);
                }
            }
            self.of_roots.insert(root, of_root);
        }
        Ok(self.of_roots.get(&root).and_then(|parents| parents.get(&record.id)).cloned().unwrap_or_default())
    }
}

/// What Celery calls the state of a job.
pub(super) fn state(record: &Record) -> &'static str {
    match record.state {
        JobState::Queued | JobState::Scheduled | JobState::Unknown if record.worker_id.is_some() => "RECEIVED",
        JobState::Queued | JobState::Scheduled | JobState::Unknown => "PENDING",
        JobState::Active => "STARTED",
        JobState::Completed => "SUCCESS",
        JobState::Failed => "FAILURE",
        JobState::Retrying => "RETRY",
        JobState::Cancelled => "REVOKED",
    }
}

/// A value as the text that Celery's events have of it.
pub(super) fn text(value: &JsonText) -> String {
    match value.value() {
        Value::String(text) => text,
        _ => value.as_str().to_owned(),
    }
}

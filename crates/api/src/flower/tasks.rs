//! Tasks: the list of them, one of them, its result, and the names that there are.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use projection::{Record, Row};
use projector::Phase;
use proto_events::JobState;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use views::{Reader, ViewError};
use warp::reply::Response;

use super::info::{self, Children, Info};
use super::params;
use crate::app::{App, Parts};
use crate::consistency::{self, Wanted};
use crate::errors::ApiError;
use crate::http::Call;
use crate::jobs::{encoded, job_ids, read, readable};
use crate::params::kinds::{Kind, Text};
use crate::params::{self as declared, Asked, Param, Params};
use crate::walk::{self, Walk, Writer};

const JSON: &str = "application/json";
/// How long the end of a task is waited for at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// `GET api/tasks`: an object with a task under each id, in the order of the list.
pub(super) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let walk: Walk = params::asked(&call.query)?;
    let tasks = Tasks { known: HashSet::new(), children: Children::default() };
    let list = async { walk::answer(&app, parts, call.hangup.clone(), walk, tasks, JSON) };
    Ok(consistency::respond(parts, Wanted::default(), list).await)
}

/// One id may stand for a task of each connection, and an object has each key once: the one that comes first.
struct Tasks {
    /// Hashes of the ids.
    known: HashSet<u128>,
    children: Children,
}

impl Writer for Tasks {
    fn begin(&mut self, out: &mut Vec<u8>) {
        out.push(b'{');
    }

    fn job(&mut self, reader: &Reader, id: Uuid, out: &mut Vec<u8>) -> Result<bool, ViewError> {
        let Some(row) = reader.row(id)? else { return Ok(false) };
        let external_id = &row.record.external_id;
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, external_id.as_bytes()).as_u128();
        let is_first = self.known.is_empty();
        if !self.known.insert(hash) {
            return Ok(false);
        }
        let info = Info::of(&row, reader, &mut self.children)?;
        if !is_first {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(json!(external_id).to_string().as_bytes());
        out.extend_from_slice(b": ");
        // Texts and numbers are always JSON.
        out.extend_from_slice(&serde_json::to_vec(&info).unwrap_or_else(|_| b"null".to_vec()));
        Ok(true)
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.push(b'}');
    }
}

/// `GET api/task/types`: the names, in their order.
pub(super) async fn types(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    declared::none(&call.query)?;
    let types = async {
        let names = read(&parts.reader, |reader| Ok(reader.names())).await?;
        let names: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
        encoded(&json!({ "task-types": names }))
    };
    Ok(consistency::answer(parts, &call.headers, Wanted::default(), types).await)
}

/// `GET api/task/info/ID`.
pub(super) async fn info(id: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    declared::none(&call.query)?;
    let info = async {
        let ids = ids(&id, parts);
        let found = read(&parts.reader, move |reader| {
            newest(&ids, reader)?.map(|row| Info::of(&row, reader, &mut Children::default())).transpose()
        });
        encoded(&found.await?.ok_or(ApiError::NotFound("Unknown task."))?)
    };
    Ok(consistency::answer(parts, &call.headers, Wanted::default(), info).await)
}

/// Seconds, as Flower has them: with a fraction or without.
struct Seconds;

impl Kind for Seconds {
    type Value = Duration;

    fn read(&self, text: &str) -> Result<Duration, String> {
        let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=1e9).contains(seconds));
        seconds.map(Duration::from_secs_f64).ok_or_else(|| "must be a number of seconds".to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "type": "number", "minimum": 0 })
    }
}

const TIMEOUT: Param<Seconds> = Param::new("timeout", Seconds, "For how long to wait for the end of the task.");
const RESULT: Params = &[&TIMEOUT];

/// `GET api/task/result/ID`: the state, and how it ended where it has. Of an id that nobody has heard of Celery says that
/// it waits.
pub(super) async fn result(id: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let timeout = Asked::of(RESULT, &call.query)?.get(&TIMEOUT).unwrap_or_default().min(PATIENCE);
    let until = Instant::now() + timeout;
    let answer = async {
        let ids = ids(&id, parts);
        let mut waiter = None;
        loop {
            let wanted = ids.clone();
            let row = read(&parts.reader, move |reader| newest(&wanted, reader)).await?;
            let has_ended = row.as_ref().is_some_and(|row| has_ended(&row.record));
            // Nothing is applied any more.
            let stands_still = matches!(parts.projector.status().phase, Phase::Fenced(_) | Phase::Failed(_));
            if has_ended || stands_still || Instant::now() >= until {
                return encoded(&ended(&id, row.as_deref()));
            }
            match &waiter {
                // It is looked at once more: it may have ended between the look and now.
                None => waiter = Some(app.awaited.wait(ids.clone(), &parts.projector)?),
                Some(waiter) => drop(timeout_at(until, waiter.woken()).await),
            }
        }
    };
    Ok(consistency::answer(parts, &call.headers, Wanted::default(), answer).await)
}

fn has_ended(record: &Record) -> bool {
    matches!(record.state, JobState::Completed | JobState::Failed | JobState::Cancelled)
}

#[derive(Serialize)]
struct Ended {
    #[serde(rename = "task-id")]
    id: String,
    state: &'static str,
    #[serde(flatten)]
    outcome: Map<String, Value>,
}

fn ended(id: &str, row: Option<&Row>) -> Ended {
    let Some(Row { record, .. }) = row else {
        return Ended { id: decoded(id), state: "PENDING", outcome: Map::new() };
    };
    let mut outcome = Map::new();
    if has_ended(record) {
        let result = if record.state == JobState::Completed {
            record.result.as_ref().map(info::text)
        } else {
            record.error.clone()
        };
        outcome.insert("result".to_owned(), json!(result));
    }
    if record.state == JobState::Failed {
        outcome.insert("traceback".to_owned(), json!(record.stacktrace));
    }
    Ended { id: record.external_id.clone(), state: info::state(record), outcome }
}

fn decoded(id: &str) -> String {
    percent_decode_str(id).decode_utf8_lossy().into_owned()
}

/// The jobs that an id of a path may stand for.
fn ids(id: &str, parts: &Parts) -> Vec<Uuid> {
    let id = Text::of(1, proto_events::limits::EXTERNAL_ID).read(&decoded(id));
    id.map(|id| job_ids(&id, &parts.connections.ids())).unwrap_or_default()
}

/// The one of them that was created last.
fn newest(ids: &[Uuid], reader: &Reader) -> Result<Option<Arc<Row>>, ViewError> {
    let rows: Result<Vec<_>, _> = ids.iter().filter_map(|id| reader.row(*id).transpose()).collect();
    Ok(rows?.into_iter().max_by_key(|row| row.record.created_at))
}

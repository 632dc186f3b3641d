//! What is asked of the list of jobs, and what it answers.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use projection::Record;
use proto_events::{Framework, JobState, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::as_shown;

/// Which jobs are wanted, and in which order. What is `None` asks for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only of these connections.
    pub connections: Option<Vec<Uuid>>,
    /// Only in one of these states.
    pub states: Option<Vec<JobState>>,
    /// Only where the task name contains this text, whatever the case of its letters.
    pub search: Option<String>,
    /// Only of this very task name.
    pub name: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this worker, by its id.
    pub worker: Option<String>,
    /// Only those of which a worker is known, or only the others.
    pub taken: Option<bool>,
    /// Only of this framework.
    pub framework: Option<Framework>,
    /// Only created at or after this time.
    pub created_after: Option<Timestamp>,
    /// Only created before this time.
    pub created_before: Option<Timestamp>,
    /// Only the jobs of this external id.
    pub external_id: Option<String>,
    /// Only where the first 256 characters of the error contain this text, whatever the case of its letters.
    pub error_contains: Option<String>,
    /// Only at this try or a later one.
    pub attempt_at_least: Option<u32>,
    /// Only with this label, or with this label of this value.
    pub tag: Option<(String, Option<String>)>,
    /// Only the lost ones, or only the others; needs [`Signs`].
    pub lost: Option<bool>,
    /// Only the stuck ones, or only the others; needs [`Signs`].
    pub stuck: Option<bool>,
    /// Only those that wait for far too long, or only the others; needs [`Signs`].
    pub waiting: Option<bool>,
}

/// A field that jobs can be ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SortBy {
    /// When they were created.
    #[default]
    CreatedAt,
    /// By task name.
    Name,
    /// By the name of the state.
    State,
    /// By how long they ran.
    DurationMs,
    /// By queue.
    Queue,
    /// By when they were started.
    StartedAt,
    /// By the id of the worker.
    Worker,
}

/// Which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// The smallest first.
    Ascending,
    /// The largest first.
    #[default]
    Descending,
}

/// What is asked of the list. Times are compared by the millisecond, as they are shown; jobs that have no value come last
/// whatever the order; jobs of the same value are ordered by id, the same way.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which jobs.
    pub filter: Filter,
    /// In which order.
    pub sort_by: SortBy,
    /// Which way.
    pub sort_order: SortOrder,
    /// At most so many.
    pub limit: usize,
    /// Only what comes after this place.
    pub cursor: Option<Cursor>,
}

/// What tells jobs that something may be wrong with from others: of the moment at which a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// Now.
    pub now: Timestamp,
    /// Workers that are gone, by connection and id, since when: what they began before is lost.
    pub gone: HashMap<(Uuid, String), Timestamp>,
    /// How long is too long.
    pub patience: Arc<Patience>,
}

/// How long jobs usually run and wait, and from when on that is far too long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// For how long an active job may run, by connection and task name.
    pub runs: HashMap<(Uuid, String), Limit>,
    /// For how long a job may wait in its queue, or beyond its ETA, by connection and queue.
    pub waits: HashMap<(Uuid, String), Limit>,
    /// Milliseconds for both where too little is known.
    pub default: u64,
}

/// A length of time, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What 99 of 100 took at most in the last week; `None` where too little is known.
    pub p99: Option<u64>,
    /// More than this is far too long.
    pub most: u64,
}

impl Patience {
    /// For how long a job of this task may run.
    pub fn run(&self, connection: Uuid, task: &str) -> Limit {
        self.of(&self.runs, connection, task)
    }

    /// For how long a job may wait in this queue. Where the queue is not known nobody knows when it was put into one.
    pub fn wait(&self, connection: Uuid, queue: &str) -> Limit {
        self.of(&self.waits, connection, queue)
    }

    fn of(&self, limits: &HashMap<(Uuid, String), Limit>, connection: Uuid, name: &str) -> Limit {
        let known = limits.get(&(connection, name.to_owned())).copied();
        known.unwrap_or(Limit { p99: None, most: self.default })
    }
}

impl Default for Query {
    fn default() -> Self {
        let (sort_by, sort_order) = (SortBy::default(), SortOrder::default());
        Self { filter: Filter::default(), sort_by, sort_order, limit: 50, cursor: None }
    }
}

/// What is shown of a job beside another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Brief {
    /// The job.
    pub id: Uuid,
    /// The framework's own id.
    pub external_id: String,
    /// Its state.
    pub state: JobState,
    /// When it was created.
    pub created_at: Timestamp,
    /// Start of the execution shown, by the millisecond.
    pub started_at: Option<Timestamp>,
    /// Its end, likewise.
    pub completed_at: Option<Timestamp>,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
    /// The error of the execution shown.
    pub error: Option<String>,
}

/// The most recent jobs of a task name but one.
pub struct Recent {
    /// One more than are shown, for the one that is left out. Shared with others who ask for the same name.
    pub(crate) jobs: Arc<[Brief]>,
    pub(crate) limit: usize,
    pub(crate) except: Uuid,
}

impl Recent {
    /// The jobs, the one that was created last first.
    pub fn iter(&self) -> impl Iterator<Item = &Brief> {
        self.jobs.iter().filter(|job| job.id != self.except).take(self.limit)
    }
}

impl Brief {
    /// What is shown of this job.
    pub fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            external_id: record.external_id.clone(),
            state: record.state,
            created_at: record.created_at,
            started_at: record.started_at.map(as_shown),
            completed_at: record.completed_at.map(as_shown),
            duration_ms: record.duration_ms,
            error: record.error.clone(),
        }
    }
}

/// A part of the list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Record>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<Cursor>,
    /// How many jobs the query matches in all, this page's place aside.
    pub total: u64,
}

/// A part of the list, without what is shown of its jobs.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// The jobs.
    pub jobs: Vec<Uuid>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<Cursor>,
}

/// A place in the list: after the job of this value and id. Written as an opaque text.
///
/// It names a place and no job: whatever comes, goes or changes meanwhile, the list goes on there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    sort_by: SortBy,
    value: CursorValue,
    id: Uuid,
}

/// The value that the last job of a page had in the field that the list is ordered by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum CursorValue {
    /// None.
    None,
    /// Milliseconds.
    Number(i64),
    /// A text, or the beginning of a long one with the hash of all of it.
    Text {
        beginning: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<u64>,
    },
}

impl CursorValue {
    pub(crate) fn text(text: &str) -> Self {
        let end = (0..=CURSOR_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        let beginning = text[..end].to_owned();
        Self::Text { beginning, hash: (end < text.len()).then(|| hash(text)) }
    }

    /// Whether it is of this text.
    pub(crate) fn is_of(&self, text: &str) -> bool {
        match self {
            Self::Text { beginning, hash: None } => beginning == text,
            Self::Text { beginning, hash: Some(of) } => text.starts_with(beginning.as_str()) && hash(text) == *of,
            Self::None | Self::Number(_) => false,
        }
    }

    /// Whether it comes after this text, which it is not of. Of a long text that is gone only the beginning is known, and
    /// all that begins so is taken to come before it.
    pub(crate) fn comes_after(&self, text: &str) -> bool {
        match self {
            Self::Text { beginning, hash: None } => beginning.as_str() > text,
            Self::Text { beginning, hash: Some(_) } => {
                beginning.as_str() > text || text.starts_with(beginning.as_str())
            }
            Self::None | Self::Number(_) => false,
        }
    }
}

/// Bytes of a text that a cursor carries: it has to fit into 1,000 characters, whatever is in it.
const CURSOR_TEXT: usize = 96;

/// The first bits of the hash of a text.
pub(crate) fn hash(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

impl Cursor {
    pub(crate) fn new(sort_by: SortBy, value: CursorValue, id: Uuid) -> Self {
        Self { sort_by, value, id }
    }

    /// The order that it is a place in.
    pub fn sort_by(&self) -> SortBy {
        self.sort_by
    }

    pub(crate) fn value(&self) -> &CursorValue {
        &self.value
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }
}

/// The text is not a cursor that an earlier answer gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: pass on the one that the previous page gave, unchanged")]
pub struct NotACursor;

/// What stands in a cursor's text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: Uuid,
    by: SortBy,
    value: CursorValue,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = Written { id: self.id, by: self.sort_by, value: self.value.clone() };
        let text = serde_json::to_string(&written).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let Written { id, by, value } = serde_json::from_slice(&json).map_err(|_| NotACursor)?;
        let fits = match (&value, by) {
            (CursorValue::None, SortBy::CreatedAt | SortBy::Name | SortBy::State) => false,
            (CursorValue::None, _) => true,
            (CursorValue::Number(number), SortBy::DurationMs) => *number >= 0,
            (CursorValue::Number(_), _) => matches!(by, SortBy::CreatedAt | SortBy::StartedAt),
            (CursorValue::Text { beginning, .. }, SortBy::State) => {
                JobState::ALL.iter().any(|state| state.as_str() == beginning)
            }
            (CursorValue::Text { .. }, _) => matches!(by, SortBy::Name | SortBy::Queue | SortBy::Worker),
        };
        if fits { Ok(Self { sort_by: by, value, id }) } else { Err(NotACursor) }
    }
}

/// How many jobs are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; JobState::ALL.len()]);

impl Counts {
    /// How many are in this state.
    pub fn of(&self, state: JobState) -> u64 {
        self.0[state as usize]
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, state: JobState) {
        self.0[state as usize] += 1;
    }

    pub(crate) fn remove(&mut self, state: JobState) {
        self.0[state as usize] -= 1;
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, other)| *count += other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_is_one() {
        let text = |text: &str| CursorValue::text(text);
        let values = [
            (SortBy::CreatedAt, CursorValue::Number(i64::MIN)),
            (SortBy::StartedAt, CursorValue::Number(-1)),
            (SortBy::StartedAt, CursorValue::None),
            (SortBy::DurationMs, CursorValue::Number(i64::MAX)),
            (SortBy::DurationMs, CursorValue::None),
            (SortBy::State, text("active")),
            (SortBy::Name, text("")),
            (SortBy::Queue, text(&"\u{1}".repeat(255))),
            (SortBy::Worker, text(&"ü\"".repeat(500))),
        ];
        for (sort_by, value) in values {
            let cursor = Cursor::new(sort_by, value, Uuid::from_u128(7));
            let text = cursor.to_string();
            assert!(text.len() <= 1_000, "{}", text.len());
            assert_eq!(text.parse(), Ok(cursor));
        }
        let wrong = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let id = Uuid::from_u128(7);
        let texts = [
            String::new(),
            "abc".to_owned(),
            "é".to_owned(),
            wrong("{}"),
            wrong(&format!(r#"{{"id":"{id}","by":"createdAt","value":null}}"#)),
            wrong(&format!(r#"{{"id":"{id}","by":"createdAt","value":1.5}}"#)),
            wrong(&format!(r#"{{"id":"{id}","by":"durationMs","value":-1}}"#)),
            wrong(&format!(r#"{{"id":"{id}","by":"state","value":{{"beginning":"stuck"}}}}"#)),
            wrong(&format!(r#"{{"id":"{id}","by":"name","value":3}}"#)),
            wrong(&format!(r#"{{"id":"{id}","by":"name","value":{{"beginning":"x"}},"more":1}}"#)),
        ];
        for text in texts {
            assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text}");
        }
    }

    #[test]
    fn a_long_text_is_known_again_and_keeps_its_place_when_it_is_gone() {
        let long = "x".repeat(200);
        let value = CursorValue::text(&long);
        assert!(value.is_of(&long) && !value.is_of(&long[1..]) && !value.is_of(&"x".repeat(96)));
        assert!(value.comes_after("w") && value.comes_after(&"x".repeat(300)) && !value.comes_after("y"));
    }

    proptest! {
        #[test]
        fn whatever_is_given_as_a_cursor_it_is_read_or_refused(
            text in "\\PC{0,60}|[A-Za-z0-9_-]{0,80}",
            by in "createdAt|name|state|durationMs|queue|startedAt|worker|x",
            value in "null|-?[0-9]{1,20}|\\{\"beginning\":\"[a-z]{0,9}\"\\}|\\{\"beginning\":\"\\PC{0,9}\",\"hash\":[0-9]{0,40}\\}",
            more in ",\"x\":1|\\PC{0,3}",
        ) {
            let id = Uuid::from_u128(7);
            let written = URL_SAFE_NO_PAD.encode(format!("{{\"id\":\"{id}\",\"by\":\"{by}\",\"value\":{value}{more}}}"));
            for text in [text, written] {
                if let Ok(cursor) = text.parse::<Cursor>() {
                    // It may be passed on as often as one likes.
                    prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
                }
            }
        }
    }
}

//! What is asked of the list of jobs, and what it answers.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use projection::Record;
use proto_events::{Framework, JobState, Timestamp};
use uuid::Uuid;

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
}

/// A field that jobs can be ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// What tells lost and stuck jobs from those that run: of the moment at which a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// Now.
    pub now: Timestamp,
    /// Workers that are gone, by connection and id, since when: what they began before is lost.
    pub gone: HashMap<(Uuid, String), Timestamp>,
    /// Milliseconds from which on an active job of this connection and task name is stuck.
    pub patience: HashMap<(Uuid, String), u64>,
    /// The same, of a task of which nothing is known.
    pub default_patience: u64,
}

impl Default for Query {
    fn default() -> Self {
        let (sort_by, sort_order) = (SortBy::default(), SortOrder::default());
        Self { filter: Filter::default(), sort_by, sort_order, limit: 50, cursor: None }
    }
}

/// A part of the list, newest `createdAt` first; jobs created at the same time are ordered by id.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Record>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<Cursor>,
    /// How many jobs the query matches in all, this page's place aside.
    pub total: u64,
}

/// A place in the list: after the job of this creation time and id. Written as an opaque text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the job was created.
    pub created_at: Timestamp,
    /// Its id.
    pub id: Uuid,
}

/// The text is not a cursor that an earlier answer gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: pass on the one that the previous page gave, unchanged")]
pub struct NotACursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.created_at.micros(), self.id.simple())
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let (time, id) = text.split_at_checked(16).ok_or(NotACursor)?;
        if id.len() != 32 || !time.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotACursor);
        }
        let micros = u64::from_str_radix(time, 16).map_err(|_| NotACursor)?.cast_signed();
        Ok(Self { created_at: Timestamp(micros), id: Uuid::try_parse(id).map_err(|_| NotACursor)? })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_is_one() {
        for micros in [i64::MIN, -1, 0, 1, i64::MAX] {
            let cursor = Cursor { created_at: Timestamp(micros), id: Uuid::from_u128(7) };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        let long = "f".repeat(49);
        for text in
            ["", "abc", "+000000000000000", "é", long.as_str(), "zz00000000000000ffffffffffffffffffffffffffffffff"]
        {
            assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text}");
        }
    }
}

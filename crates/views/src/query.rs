//! What is asked of the list of jobs, and what it answers.

use std::fmt;
use std::str::FromStr;

use projection::Record;
use proto_events::{JobState, Timestamp};
use uuid::Uuid;

/// Which jobs are wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only of these connections; `None` means of all.
    pub connections: Option<Vec<Uuid>>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only where the task name contains this text, whatever the case of its letters.
    pub search: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// Only what comes after this place.
    pub cursor: Option<Cursor>,
}

impl Default for Query {
    fn default() -> Self {
        Self { connections: None, state: None, search: None, limit: 50, cursor: None }
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

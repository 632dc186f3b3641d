//! The fold of Forebay: the events of one job in, its record out.
//!
//! Pure: no I/O, no clock, no randomness. The record is a function of the *set* of the job's events; the order in
//! which they arrived, how they were batched and how often each came must not matter, because they are noise.
//!
//! # Layout
//! - [`Record`]: what the API answers and the views keep ([`record`])
//! - [`Evidence`]: the distinct events of one job, bounded ([`evidence`])
//! - [`fold`]: evidence to record, in four steps: what Celery's own events testify to (`stream`), one order for all of
//!   it (`order`), the walk through the states (`timeline`), the fields (`fold`)
//! - [`fleet`]: the processes of workers, which are gone, and when nobody listened
//! - [`explain`]: what the fold made of each event
//! - [`Measure`], [`FailureKind`]: what statistics count of a job (`measure`, `failure`)
//! - [`Monitored`]: what the events said last, for those who know tasks by the monitors of Celery (`monitor`)
//! - [`Row`]: both together, as the views store them

mod evidence;
mod explain;
mod failure;
pub mod fleet;
mod fold;
mod json;
mod measure;
mod monitor;
mod order;
#[cfg(feature = "testing")]
mod pretended;
mod record;
mod seen;
mod stream;
mod timeline;

pub use evidence::{Added, Evidence, Fact, Trimmed};
pub use explain::{Testimony, Verdict, explain};
pub use failure::FailureKind;
pub use fold::fold;
pub use json::JsonText;
pub use measure::{ERROR_CHARACTERS, Measure, beginning, dispatches, outcome, rejections};
pub use monitor::Monitored;
#[cfg(feature = "testing")]
pub use pretended::pretend;
pub use record::{Execution, Note, Outcome, OutcomeFrom, Record, Transition};

use proto_events::{Event, Position};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of the fold. Views written by another one are rebuilt from the log.
pub const FOLD_VERSION: u32 = 2;

/// The version in force: [`FOLD_VERSION`], unless a test pretends to be another one.
pub fn fold_version() -> u32 {
    #[cfg(feature = "testing")]
    if let Some(version) = pretended::version() {
        return version;
    }
    FOLD_VERSION
}

/// A job as the views store it: its record, and the evidence that the record was folded from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is shown.
    pub record: Record,
    /// What it was folded from.
    pub evidence: Evidence,
}

impl Row {
    /// Adds events of this job to what is known of it (`None`: nothing yet) and folds again. `None` when no event is a
    /// job event of that external id.
    pub fn apply<'a>(
        known: Option<&Row>,
        connection: Uuid,
        external_id: &str,
        events: impl IntoIterator<Item = (Position, &'a Event)>,
    ) -> Option<Row> {
        let mut evidence = known.map_or_else(Evidence::default, |row| row.evidence.clone());
        for (position, event) in events {
            evidence.add(position, event);
        }
        Self::of(connection, external_id, evidence)
    }

    /// The row of this evidence; `None` where there is no evidence.
    pub fn of(connection: Uuid, external_id: &str, evidence: Evidence) -> Option<Row> {
        let record = fold(connection, external_id, &evidence)?;
        Some(Row { record, evidence })
    }

    /// The lowest log position of any event of the job.
    pub fn first_position(&self) -> Position {
        self.evidence.first_position()
    }

    /// The highest log position of any event of the job.
    pub fn last_position(&self) -> Position {
        self.evidence.last_position()
    }
}

//! Events that cannot be used: quarantined by reference, and nothing else is harmed.
//!
//! An event that makes the fold panic is left out of its job as if it had never come. Which one it is is found by adding
//! the job's events one by one, in the order of the log, so that the live way and a pass over the whole log find the same.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use event_log::LogMessage;
use projection::{Evidence, Fact, Row};
use proto_events::{Event, Position};
use uuid::Uuid;
use views::Quarantined;

/// Characters of a cause that are kept.
const CAUSE: usize = 1_000;

/// Why a message without a connection cannot be used.
pub(crate) const NOBODY: &str = "its subject names no connection";

/// What came of the facts of a job.
pub(crate) struct Folded {
    /// `None` where no fact could be used.
    pub(crate) row: Option<Row>,
    pub(crate) quarantined: Vec<Quarantined>,
}

/// An element of a message that cannot be read.
pub(crate) fn unusable(message: &LogMessage, index: u32, cause: &impl Display) -> Quarantined {
    let position = Position::new(message.sequence, index);
    Quarantined { position, connection: message.connection, external_id: None, cause: cut(cause.to_string()) }
}

/// Folds all facts of a job, in the order of the log, of which a trim that this message tells of took a part (0: none).
pub(crate) fn fold_facts(connection: Uuid, external_id: &str, facts: Vec<Fact>, trim: u64) -> Folded {
    let mut evidence = Evidence::default();
    for fact in facts {
        evidence.add_fact(fact);
    }
    evidence.note_trim(trim);
    fold_evidence(connection, external_id, evidence)
}

/// Folds what is known of a job.
pub(crate) fn fold_evidence(connection: Uuid, external_id: &str, evidence: Evidence) -> Folded {
    if let Ok(record) = guarded(|| projection::fold(connection, external_id, &evidence)) {
        return Folded { row: record.map(|record| Row { record, evidence }), quarantined: Vec::new() };
    }
    let trim = evidence.trim().unwrap_or(0);
    one_by_one(connection, external_id, evidence.into_facts(), trim)
}

/// What an event says; an event that cannot even be understood without a panic is quarantined.
pub(crate) fn fact(connection: Uuid, position: Position, event: &Event) -> Result<Option<Fact>, Box<Quarantined>> {
    let external_id = || event.job.as_ref().map_or("", |job| &job.external_id);
    guarded(|| Fact::of(position, event))
        .map_err(|cause| Box::new(poisonous(connection, position, external_id(), &cause)))
}

/// An event that makes the fold panic.
pub(crate) fn poisonous(connection: Uuid, position: Position, external_id: &str, cause: &str) -> Quarantined {
    let cause = cut(format!("the fold panicked: {cause}"));
    Quarantined { position, connection, external_id: Some(external_id.to_owned()), cause }
}

/// Adds facts one by one, and leaves out those that make the fold panic.
fn one_by_one(connection: Uuid, external_id: &str, facts: Vec<Fact>, trim: u64) -> Folded {
    let mut row: Option<Row> = None;
    let mut quarantined = Vec::new();
    for fact in facts {
        let position = fact.position();
        let evidence = row.as_ref().map_or_else(Evidence::default, |row| row.evidence.clone());
        let added = guarded(move || {
            let mut evidence = evidence;
            evidence.add_fact(fact);
            evidence.note_trim(trim);
            Row::of(connection, external_id, evidence)
        });
        match added {
            Ok(added) => row = added.or(row),
            Err(cause) => quarantined.push(poisonous(connection, position, external_id, &cause)),
        }
    }
    Folded { row, quarantined }
}

/// Runs the fold. It works on its own copy of everything, so nothing half-done is seen after a panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic))
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

fn cut(mut cause: String) -> String {
    proto_events::limits::cut(&mut cause, CAUSE);
    cause
}

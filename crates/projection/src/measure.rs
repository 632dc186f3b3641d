//! What statistics count of a job: its runs, each with its times and how it ended.

use proto_events::{Framework, JobState, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Row;
use crate::record::{Execution, Outcome, Record};
use crate::seen::{Said, Seen};

/// Characters of an error that can be searched and are told apart in groups.
pub const ERROR_CHARACTERS: usize = 256;

/// One run of a job's code, or the end of a job that no run is known of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The worker.
    pub worker: Option<Box<str>>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// Milliseconds that it took.
    pub runtime_ms: Option<u64>,
    /// Milliseconds between the later of its dispatch and its ETA, and its start. Never negative; `None` where the moment
    /// of dispatch is not known.
    pub wait_ms: Option<u64>,
    /// The first [`ERROR_CHARACTERS`] characters of its error.
    pub error: Option<Box<str>>,
}

impl Measure {
    /// The runs of a job, in the order of their starts; `None` where the fields of the record say all there is to say,
    /// but for the wait.
    pub fn of(row: &Row) -> Option<Vec<Self>> {
        let record = &row.record;
        let is_plain = match record.executions.as_slice() {
            [] => true,
            [only] => is_shown(record, only),
            _ => false,
        };
        let run = |execution: &Execution| Self {
            worker: execution.worker_id.as_deref().map(Into::into),
            started_at: execution.started_at,
            ended_at: execution.completed_at,
            outcome: execution.outcome,
            runtime_ms: runtime(record, execution),
            wait_ms: execution.started_at.and_then(|started| wait(row, execution.attempt, started)),
            error: execution.error.as_deref().map(beginning),
        };
        (!is_plain).then(|| record.executions.iter().map(run).collect())
    }

    /// The wait of the only run of a job whose record says all else of it.
    pub fn wait_of(row: &Row) -> Option<u64> {
        let only = row.record.executions.first()?;
        wait(row, only.attempt, only.started_at?)
    }
}

/// How often a job was put into its queue, as far as that was told: a try that was sent again counts again.
pub fn dispatches(row: &Row) -> u32 {
    let reported = || u32::from(row.evidence.events().iter().any(|seen| dispatched(seen).is_some()));
    match said(row, Said::Sent) {
        0 => reported(),
        sent => sent,
    }
}

/// How often a worker said that it gave the job's message back or refused it, whatever it said beside that.
pub fn rejections(row: &Row) -> u32 {
    said(row, Said::Rejected)
}

/// How often this was said; the same word that came two ways counts once.
fn said(row: &Row, what: Said) -> u32 {
    let events = row.evidence.events().iter().filter(|seen| seen.said == what);
    let time = |seen: &Seen| if seen.clock.is_some() { 0 } else { seen.at.micros() };
    let mut words: Vec<_> = events.map(|seen| (&seen.host, seen.pid, seen.clock, time(seen))).collect();
    words.sort_unstable();
    words.dedup();
    words.len() as u32
}

/// Whether the record shows this run and nothing else.
fn is_shown(record: &Record, only: &Execution) -> bool {
    only.started_at == record.started_at
        && only.completed_at == record.completed_at
        && only.outcome == record.completed_at.and_then(|_| outcome(record.state))
        && only.worker_id == record.worker_id
        && only.error == record.error
        && runtime(record, only) == record.duration_ms
}

/// How the run ended that left a job in this state.
pub fn outcome(state: JobState) -> Option<Outcome> {
    match state {
        JobState::Completed => Some(Outcome::Completed),
        JobState::Failed => Some(Outcome::Failed),
        JobState::Retrying => Some(Outcome::Retrying),
        JobState::Cancelled => Some(Outcome::Cancelled),
        JobState::Unknown | JobState::Queued | JobState::Scheduled | JobState::Active => None,
    }
}

/// The part of an error that is searched.
pub fn beginning(error: &str) -> Box<str> {
    let end = error.char_indices().nth(ERROR_CHARACTERS).map_or(error.len(), |(end, _)| end);
    error[..end].into()
}

/// As shown; of the run that the record shows, what was reported where no start is known.
fn runtime(record: &Record, execution: &Execution) -> Option<u64> {
    match (execution.started_at, execution.completed_at) {
        (Some(started), Some(ended)) => Some((ended.millis() - started.millis()).max(0) as u64),
        (None, Some(ended)) if record.completed_at == Some(ended) && record.started_at.is_none() => record.duration_ms,
        _ => None,
    }
}

/// How long an attempt waited: of a redelivered one, since it was dispatched.
fn wait(row: &Row, attempt: u32, started: Timestamp) -> Option<u64> {
    let of_attempt = |seen: &&Seen| seen.attempt.unwrap_or(1) == attempt;
    let events = row.evidence.events();
    let sent = events.iter().filter(|seen| dispatched(seen).is_some()).find(of_attempt)?;
    let eta = events.iter().filter(of_attempt).filter_map(|seen| seen.scheduled_for).max();
    let due = dispatched(sent)?.max(eta.unwrap_or(Timestamp(i64::MIN)));
    Some((started.millis() - due.millis()).max(0) as u64)
}

/// When this event says that the job was dispatched.
fn dispatched(seen: &Seen) -> Option<Timestamp> {
    match (seen.said, seen.state) {
        (Said::Sent, _) => Some(seen.at),
        // Other frameworks report it; the SDK's `queued` is a receipt, and only a time of creation says more.
        (Said::Reported, JobState::Queued | JobState::Scheduled | JobState::Unknown) => {
            seen.created_at.or((seen.framework != Framework::Celery).then_some(seen.at))
        }
        _ => None,
    }
}

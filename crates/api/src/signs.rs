//! What may be wrong with a job that has not ended: it is lost, stuck, or waits for too long. Found out at each read from
//! the record, from what the log says of its worker, and from how long such jobs usually take; never a state of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use projection::Record;
use projection::fleet::Proof;
use proto_events::{JobState, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use views::{Limit, Patience, Reader, Signs};

use crate::times::{Millis, now};

/// From so many runs of a task, or waits in a queue, on it is known how long it takes.
const ENOUGH: u64 = 20;
/// Milliseconds that are too many where that is not known.
const DEFAULT: u64 = 3_600_000;
/// How long what usually takes how long is believed before it is looked at again: it is of a whole week.
const BELIEVED: Duration = Duration::from_secs(10);
/// How long a job waits for that, beside which the writer may be busy.
const SOON: Duration = Duration::from_millis(20);
/// And how long it is then till the next look.
const AGAIN: Duration = Duration::from_millis(250);

/// How long jobs usually take, looked at now and then.
#[derive(Default)]
pub(crate) struct Habits(Mutex<Option<Known>>);

/// What was seen at the last look.
struct Known {
    /// When it is time for the next one.
    until: Instant,
    /// `None` where nothing was ever seen.
    patience: Option<Arc<Patience>>,
}

impl Habits {
    /// Blocks while it is looked at, and while the statistics are made for the first time.
    pub(crate) fn patience(&self, reader: &Reader) -> Arc<Patience> {
        let (is_recent, known) = self.known();
        known.filter(|_| is_recent).unwrap_or_else(|| self.keep(reader.patience(now(), ENOUGH, DEFAULT)))
    }

    /// What was known last where it is not to be had at once; `None` where nothing was.
    fn patience_soon(&self, look: impl FnOnce() -> Option<Patience>) -> Option<Arc<Patience>> {
        let (is_recent, known) = self.known();
        if is_recent {
            return known;
        }
        if let Some(patience) = look() {
            return Some(self.keep(patience));
        }
        // Somebody else may have seen it meanwhile. If not, not every job of a list is to wait in turn.
        let mut known = self.0.lock();
        let now = Instant::now();
        let patience = known.as_ref().and_then(|known| known.patience.clone());
        if known.as_ref().is_none_or(|known| known.until <= now) {
            *known = Some(Known { until: now + AGAIN, patience: patience.clone() });
        }
        patience
    }

    /// Whether it is not yet time to look again, and what was seen.
    fn known(&self) -> (bool, Option<Arc<Patience>>) {
        match &*self.0.lock() {
            Some(known) => (Instant::now() < known.until, known.patience.clone()),
            None => (false, None),
        }
    }

    fn keep(&self, patience: Patience) -> Arc<Patience> {
        let patience = Arc::new(patience);
        let known = Known { until: Instant::now() + BELIEVED, patience: Some(Arc::clone(&patience)) };
        *self.0.lock() = Some(known);
        patience
    }

    /// What a list needs to tell such jobs from others. Blocks.
    pub(crate) fn signs(&self, reader: &Reader) -> Signs {
        Signs { now: now(), gone: reader.gone(), patience: self.patience(reader) }
    }

    /// What may be wrong with a job. Blocks for moments. While the statistics are made it is not known what takes too long,
    /// and nothing is said of that: a job is not to be waited for because of it.
    pub(crate) fn of(&self, reader: &Reader, record: &Record) -> Found {
        let mut found = Found::default();
        let (runs, waits) = (record.runs_since(), record.waits_since());
        if runs.is_none() && waits.is_none() {
            return found;
        }
        found.lost = runs.and_then(|began| lost(reader, record, began));
        let look = || reader.patience_within(SOON, now(), ENOUGH, DEFAULT);
        let Some(patience) = self.patience_soon(look) else { return found };
        let now = now();
        if let Some(began) = runs {
            found.stuck = over(patience.run(record.connection_id, &record.name), began, now).map(|limit| Stuck {
                since: limit.since,
                began_at: Millis(began),
                limit: limit.limit,
            });
        }
        if let Some(waits) = waits {
            found.waiting = waiting(&patience, record, waits, now);
        }
        found
    }
}

/// What may be wrong with a job.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) lost: Option<Lost>,
    pub(crate) stuck: Option<Stuck>,
    pub(crate) waiting: Option<Waiting>,
}

/// What proves that the process of a job is gone.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LostEvidence")]
enum Evidence {
    /// A process of another pid took its place under the worker's name.
    NewProcess,
    /// A process of the same pid counts Celery's logical clock anew.
    ClockRestarted,
    /// A process of the same pid counts the jobs that it ran anew.
    CountRestarted,
    /// No heartbeat of it came although the broker was listened to all the time.
    Silent,
}

/// That the process which ran the job is gone, and never said how the job ended. The next event of the job, or of that
/// process, takes it back.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Lost")]
pub(crate) struct Lost {
    /// Since when: the first word of the next process, or when the worker was last heard.
    since: Millis,
    /// When that was found out.
    noticed_at: Millis,
    /// The worker.
    worker_id: String,
    evidence: Evidence,
    /// The process that is gone.
    pid: Option<i64>,
    /// The process that took its place.
    new_pid: Option<i64>,
    /// The clock or the count of jobs as it was last heard of the process that is gone, where that is the evidence.
    counted_before: Option<i64>,
    /// The same, of the process that took its place.
    counted_after: Option<i64>,
    /// When the worker was last heard, where its silence is the evidence.
    last_heard: Option<Millis>,
    /// Since when its heartbeats would have been heard, where its silence is the evidence.
    listening_since: Option<Millis>,
}

/// How long something may take.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TimeLimit")]
struct TimeLimit {
    /// Milliseconds that are far too long: three times the p99 and at least a minute, or an hour where that is not known.
    limit_ms: u64,
    /// What 99 of 100 took at most in the last week; null where fewer than 20 are known.
    p99_ms: Option<u64>,
}

/// That the job runs for far longer than its task usually does.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Stuck")]
pub(crate) struct Stuck {
    /// Since when it has been too long.
    since: Millis,
    /// When it began to run.
    began_at: Millis,
    #[serde(flatten)]
    limit: TimeLimit,
}

/// That the job waits for far longer than others in its queue, or far beyond its ETA.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Waiting")]
pub(crate) struct Waiting {
    /// Since when it has been too long.
    since: Millis,
    /// When it was put into its queue, or its ETA.
    began_at: Millis,
    /// Whether it waits beyond its ETA.
    past_eta: bool,
    /// The queue.
    queue: Option<String>,
    #[serde(flatten)]
    limit: TimeLimit,
}

/// What took longer than it may.
struct Over {
    since: Millis,
    limit: TimeLimit,
}

/// By the millisecond, as lists do.
fn over(limit: Limit, began: Timestamp, now: Timestamp) -> Option<Over> {
    let most = i64::try_from(limit.most).unwrap_or(i64::MAX);
    if now.millis().saturating_sub(began.millis()) <= most {
        return None;
    }
    let since = Millis(Timestamp(began.micros().saturating_add(most.saturating_mul(1_000))));
    Some(Over { since, limit: TimeLimit { limit_ms: limit.most, p99_ms: limit.p99 } })
}

fn waiting(patience: &Patience, record: &Record, waits: Timestamp, now: Timestamp) -> Option<Waiting> {
    let past_eta = record.state == JobState::Scheduled;
    let queue = record.queue.as_deref();
    // Where no queue is known, nobody knows when the job was put into one; an ETA is known all the same.
    if queue.is_none() && !past_eta {
        return None;
    }
    let limit = patience.wait(record.connection_id, queue.unwrap_or_default());
    let Over { since, limit } = over(limit, waits, now)?;
    Some(Waiting { since, began_at: Millis(waits), past_eta, queue: record.queue.clone(), limit })
}

fn lost(reader: &Reader, record: &Record, began: Timestamp) -> Option<Lost> {
    let worker = record.worker_id.as_deref()?;
    let lost = reader.fleet(|fleet| fleet.gone(record.connection_id, worker)?.lost(began).cloned())?;
    // What the job itself says of its process is nearer to the truth than who was last there before the next one.
    let of_job = record.executions.iter().rfind(|run| run.outcome.is_none()).and_then(|run| run.pid);
    let mut answer = Lost {
        since: Millis(lost.heard()),
        noticed_at: Millis(lost.at),
        worker_id: worker.to_owned(),
        evidence: Evidence::NewProcess,
        pid: of_job,
        new_pid: None,
        counted_before: None,
        counted_after: None,
        last_heard: None,
        listening_since: None,
    };
    let number = |count: u64| i64::try_from(count).ok();
    match lost.proof {
        Proof::NewProcess { from, to } => {
            (answer.pid, answer.new_pid) = (of_job.or(Some(from)), Some(to));
        }
        Proof::ClockRestarted { pid, from, to } => {
            (answer.evidence, answer.pid, answer.new_pid) = (Evidence::ClockRestarted, Some(pid), Some(pid));
            (answer.counted_before, answer.counted_after) = (Some(from), Some(to));
        }
        Proof::CountRestarted { pid, from, to } => {
            (answer.evidence, answer.pid, answer.new_pid) = (Evidence::CountRestarted, Some(pid), Some(pid));
            (answer.counted_before, answer.counted_after) = (number(from), number(to));
        }
        Proof::Silent { pid, heard, listening } => {
            (answer.evidence, answer.pid) = (Evidence::Silent, of_job.or(pid));
            (answer.last_heard, answer.listening_since) = (Some(Millis(heard)), listening.map(Millis));
        }
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_the_statistics_are_made_one_job_waits_a_moment_and_the_next_ones_not_at_all() {
        let habits = Habits::default();
        let began = Instant::now();
        assert!(habits.patience_soon(|| None).is_none());
        assert!(habits.0.lock().as_ref().is_some_and(|known| known.until >= began + AGAIN));
        habits.keep(Patience::default());
        assert!(habits.patience_soon(|| panic!("it is known")).is_some());
    }

    #[test]
    fn what_somebody_else_saw_meanwhile_counts() {
        let habits = Habits::default();
        let seen_by_another = || {
            habits.keep(Patience::default());
            None
        };
        assert!(habits.patience_soon(seen_by_another).is_some());
        let (is_recent, known) = habits.known();
        assert!(is_recent && known.is_some());
    }
}

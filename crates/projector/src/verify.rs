//! Verifying: the whole log folded afresh and compared with what the views show, job by job, while they are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_log::EventLog;
use parking_lot::Mutex;
use projection::{Record, Row};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use views::{Generations, Reader};

use crate::pass::{Pace, PassError, Watch, scatter};

/// Differing jobs that are reported in full.
const REPORTED: usize = 1_000;

/// What came of comparing the views with a fresh replay.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether they are the same.
    pub equal: bool,
    /// The message of the log up to which both were compared.
    pub sequence: u64,
    /// Events in the log up to there.
    pub events: u64,
    /// Jobs in the log up to there.
    pub jobs: u64,
    /// How many jobs differ.
    pub differing: u64,
    /// The first thousand of them.
    pub differences: Vec<Difference>,
}

/// A job of which the views show something else than a fresh replay.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The job.
    pub id: Uuid,
    /// Its external id.
    pub external_id: String,
    /// What differs; a job that one of them lacks differs in the field `record`.
    pub fields: Vec<FieldDifference>,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldDifference {
    /// Its name.
    pub field: String,
    /// What the views show.
    pub views: Value,
    /// What a fresh replay gives.
    pub replay: Value,
}

/// A verification under way.
#[derive(Clone, Default)]
pub struct Verification {
    watch: Arc<Watch>,
}

impl Verification {
    /// Events done and events in all, the latter estimated at first.
    pub fn progress(&self) -> (u64, u64) {
        self.watch.events()
    }

    /// Stops it.
    pub fn abort(&self) {
        self.watch.stop();
    }

    /// Folds the log up to what the views have applied now, and compares. The views may go on meanwhile: of a job that
    /// has had events since, what it was then is folded from the evidence that stood in the log by then.
    pub async fn run(&self, log: &EventLog, views: Reader, generations: &Generations) -> Result<Verdict, PassError> {
        let target = views.applied();
        let scattered = scatter(log, target, generations.path(), &self.watch).await?;
        let watch = Arc::clone(&self.watch);
        let compared = tokio::task::spawn_blocking(move || {
            let mut verdict =
                Verdict { equal: true, sequence: target, events: 0, jobs: 0, differing: 0, differences: Vec::new() };
            let events = AtomicU64::new(0);
            let mut seen = Vec::new();
            scattered.fold(
                &watch,
                |replayed| {
                    events.fetch_add(replayed.evidence.len() as u64, Ordering::Relaxed);
                    Ok((replayed.record.id, compare(&views, &replayed, target)?))
                },
                |(id, difference)| {
                    seen.push(id);
                    verdict.note(difference);
                    Ok(())
                },
            )?;
            // In ascending order, as the pass gives them.
            for (id, first) in views.jobs() {
                if first.sequence <= target && seen.binary_search(&id).is_err() {
                    verdict.note(views.job(id)?.map(|record| lacking(&record, false)));
                }
            }
            (verdict.events, verdict.jobs) = (events.into_inner(), seen.len() as u64);
            Ok(verdict)
        });
        compared.await.map_err(|error| PassError::Panicked(error.to_string()))?
    }
}

/// What a verification does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// The log is read, folded and compared.
    Running,
    /// There is a verdict.
    Completed,
    /// There is none, and `reason` says why.
    Failed,
}

/// A verification, as it is told.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationStatus {
    /// Its id.
    pub id: Uuid,
    /// What it does.
    pub state: VerificationState,
    /// Events done: each is half done when it is read.
    pub events_done: u64,
    /// Events in all, estimated until all are read.
    pub events_total: u64,
    /// Events a second, so far.
    pub events_per_second: f64,
    /// Seconds until it is done; null while that cannot be told.
    pub eta_seconds: Option<f64>,
    /// Why there is no verdict.
    pub reason: Option<String>,
    /// What came of it.
    pub verdict: Option<Verdict>,
}

/// Verifies the views of one server, one verification at a time. Cheap to clone.
#[derive(Clone)]
pub struct Verifications {
    log: EventLog,
    views: Reader,
    generations: Generations,
    latest: Arc<Mutex<Option<Arc<Latest>>>>,
}

struct Latest {
    id: Uuid,
    verification: Verification,
    pace: Pace,
    result: Mutex<Option<Result<Verdict, PassError>>>,
}

impl Latest {
    fn status(&self) -> VerificationStatus {
        let (events_done, events_total) = self.verification.progress();
        let (events_per_second, eta) = self.pace.of(events_done, events_total);
        let result = self.result.lock().clone();
        let (state, reason, verdict) = match result {
            None => (VerificationState::Running, None, None),
            Some(Ok(verdict)) => (VerificationState::Completed, None, Some(verdict)),
            Some(Err(error)) => (VerificationState::Failed, Some(error.to_string()), None),
        };
        let eta_seconds = eta.filter(|_| state == VerificationState::Running);
        VerificationStatus {
            id: self.id,
            state,
            events_done,
            events_total,
            events_per_second,
            eta_seconds,
            reason,
            verdict,
        }
    }
}

impl Verifications {
    /// Of the views that this reader reads.
    pub fn new(log: EventLog, views: Reader, generations: Generations) -> Self {
        Self { log, views, generations, latest: Arc::default() }
    }

    /// Begins one; while one is under way, that one is what you get.
    pub fn begin(&self) -> VerificationStatus {
        let mut latest = self.latest.lock();
        if let Some(running) = latest.as_ref().filter(|latest| latest.result.lock().is_none()) {
            return running.status();
        }
        let begun = Arc::new(Latest {
            id: Uuid::new_v4(),
            verification: Verification::default(),
            pace: Pace::begin(),
            result: Mutex::default(),
        });
        *latest = Some(Arc::clone(&begun));
        let status = begun.status();
        let this = self.clone();
        tokio::spawn(async move {
            let result = begun.verification.run(&this.log, this.views, &this.generations).await;
            match &result {
                Ok(verdict) if verdict.equal => tracing::info!(jobs = verdict.jobs, "the views equal a fresh replay"),
                Ok(verdict) => tracing::error!(differing = verdict.differing, "the views differ from a fresh replay"),
                Err(error) => tracing::warn!(%error, "the views could not be verified"),
            }
            *begun.result.lock() = Some(result);
        });
        status
    }

    /// The latest one, if it has this id.
    pub fn status(&self, id: Uuid) -> Option<VerificationStatus> {
        self.latest.lock().as_ref().filter(|latest| latest.id == id).map(|latest| latest.status())
    }

    /// Stops it. `false` when it is not the latest one.
    pub fn abort(&self, id: Uuid) -> bool {
        let latest = self.latest.lock().clone();
        latest.filter(|latest| latest.id == id).is_some_and(|latest| {
            latest.verification.abort();
            true
        })
    }
}

impl Verdict {
    fn note(&mut self, difference: Option<Difference>) {
        let Some(difference) = difference else { return };
        self.equal = false;
        self.differing += 1;
        if self.differences.len() < REPORTED {
            self.differences.push(difference);
        }
    }
}

fn compare(views: &Reader, replayed: &Row, target: u64) -> Result<Option<Difference>, PassError> {
    let Some(shown) = views.row(replayed.record.id)? else { return Ok(Some(lacking(&replayed.record, true))) };
    if shown.record == replayed.record {
        return Ok(None);
    }
    if !shown.evidence.reaches_beyond(target) {
        return Ok(difference(&shown.record, &replayed.record));
    }
    let record = &shown.record;
    let then = Row::of(record.connection_id, &record.external_id, shown.evidence.up_to(target));
    // What was left out of a job with too many events cannot be brought back, so its past cannot be compared.
    if shown.evidence.is_truncated() {
        return Ok(None);
    }
    Ok(match then {
        Some(then) => difference(&then.record, &replayed.record),
        None => Some(lacking(&replayed.record, true)),
    })
}

/// A job that the views lack, or that they alone have.
fn lacking(record: &Record, in_views: bool) -> Difference {
    let value = serde_json::to_value(record).unwrap_or_default();
    let (views, replay) = if in_views { (Value::Null, value) } else { (value, Value::Null) };
    let fields = vec![FieldDifference { field: "record".to_owned(), views, replay }];
    Difference { id: record.id, external_id: record.external_id.clone(), fields }
}

fn difference(views: &Record, replay: &Record) -> Option<Difference> {
    if views == replay {
        return None;
    }
    let (left, right) = (serde_json::to_value(views).ok()?, serde_json::to_value(replay).ok()?);
    let fields = right.as_object()?.iter().filter(|(field, value)| left[field.as_str()] != **value);
    let fields = fields.map(|(field, value)| FieldDifference {
        field: field.clone(),
        views: left[field.as_str()].clone(),
        replay: value.clone(),
    });
    let mut fields: Vec<FieldDifference> = fields.collect();
    if fields.is_empty() {
        // Records hold microseconds and show milliseconds.
        let text = |record: &Record| Value::String(format!("{record:?}"));
        fields.push(FieldDifference { field: "record".to_owned(), views: text(views), replay: text(replay) });
    }
    Some(Difference { id: replay.id, external_id: replay.external_id.clone(), fields })
}

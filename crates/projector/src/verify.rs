//! Verifying: the whole log folded afresh and compared with what the views show, job by job, while they are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_log::EventLog;
use projection::{Record, Row};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use views::{Generations, Reader};

use crate::pass::{PassError, Watch, scatter};

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

//! Verifying: the whole log folded afresh and compared with what the views show, job by job, while they are served.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_log::EventLog;
use parking_lot::Mutex;
use projection::{Record, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use views::{Generations, Reader};

use crate::findings::{Finding, Findings};
use crate::handle::Handle;
use crate::pass::{Pace, PassError, Watch, scatter};
use crate::status::{Phase, now};

/// Differing jobs that are reported in full.
const REPORTED: usize = 1_000;

/// For the views to reach the end that the log has.
const APPLIED: Duration = Duration::from_secs(5);

/// What came of comparing the views with a fresh replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "VerificationVerdict"))]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    live: Option<Handle>,
}

impl Verification {
    /// One of the views that this projector keeps up to date: it trims nothing meanwhile, and what somebody else trimmed is
    /// trimmed first. Otherwise whatever is trimmed meanwhile makes an end of it.
    #[must_use]
    pub fn beside(live: &Handle) -> Self {
        Self { live: Some(live.clone()), ..Self::default() }
    }

    /// One that rests so many times as long as it works, on one thread, so that nobody notices it.
    #[must_use]
    pub fn slow(rests: u32) -> Self {
        Self { watch: Arc::new(Watch::slow(rests)), live: None }
    }

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
        let (of_views, ours) = (views.fold_version(), generations.fold_version());
        if of_views != ours {
            return Err(PassError::OtherFold { views: of_views, ours });
        }
        loop {
            if let Some(live) = &self.live {
                live.is_of(log).await?;
            }
            let _untrimmed = match &self.live {
                Some(live) => Some(live.shared.trimming.read().await),
                None => None,
            };
            let floor = views.floor();
            let verdict = self.compared(log, views.clone(), generations).await;
            // Another node may trim whenever it likes.
            let is_of_one_piece = views.floor() == floor && !matches!(verdict, Err(PassError::Trimmed));
            match verdict {
                Ok(verdict) if verdict.equal || is_of_one_piece => return Ok(verdict),
                Err(error) if is_of_one_piece || self.live.is_none() => return Err(error),
                Ok(_) if self.live.is_none() => return Err(PassError::Trimmed),
                Ok(_) | Err(_) => tracing::info!("the log was trimmed while it was verified: once more"),
            }
        }
    }

    async fn compared(&self, log: &EventLog, views: Reader, generations: &Generations) -> Result<Verdict, PassError> {
        let target = views.applied();
        let first = first_message(log).await?;
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
            for (id, first) in views.jobs()? {
                if first.sequence <= target && seen.binary_search(&id).is_err() {
                    verdict.note(views.job(id)?.map(|record| lacking(&record, false)));
                }
            }
            if !views.sums_agree(now())? {
                verdict.note(Some(otherwise("statistics", "the sums of the jobs")));
            }
            if !views.disk_agrees()? {
                verdict.note(Some(otherwise("list", "what the records of older jobs say")));
            }
            (verdict.events, verdict.jobs) = (events.into_inner(), seen.len() as u64);
            Ok::<_, PassError>(verdict)
        });
        let verdict = compared.await.map_err(|error| PassError::Panicked(error.to_string()))??;
        // Whoever trims the log, be it another node, changes what a replay gives.
        if !verdict.equal && first_message(log).await? != first {
            return Err(PassError::Trimmed);
        }
        Ok(verdict)
    }
}

impl Handle {
    /// Fails where a replay of the log cannot say whether the views are right, since it is not theirs, or not all of it.
    pub(crate) async fn is_of(&self, log: &EventLog) -> Result<(), PassError> {
        if let Phase::Fenced(fenced) = self.status().phase {
            return Err(PassError::Fenced(fenced));
        }
        let info = log.info().await.map_err(|error| PassError::Log(error.to_string()))?;
        // What was told of what the log dropped is applied first.
        self.wait_applied(info.last_sequence, APPLIED).await;
        match self.lost(&info).await? {
            Some(first) => Err(PassError::Lost { first }),
            None => Ok(()),
        }
    }
}

async fn first_message(log: &EventLog) -> Result<u64, PassError> {
    log.info().await.map(|info| info.first_sequence).map_err(|error| PassError::Log(error.to_string()))
}

/// What a verification does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    live: Handle,
    views: Reader,
    generations: Generations,
    latest: Arc<Mutex<Option<Arc<Latest>>>>,
    findings: Findings,
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
    /// Of the views that this reader reads and this projector keeps up to date.
    pub fn new(log: EventLog, live: Handle, views: Reader, generations: Generations) -> Self {
        let findings = Findings::open(generations.clone());
        Self { log, live, views, generations, latest: Arc::default(), findings }
    }

    /// What is known for certain of the views that serve.
    pub(crate) fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Whether one is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.latest.lock().as_ref().is_some_and(|latest| latest.result.lock().is_none())
    }

    /// Begins one; while one is under way, that one is what you get.
    pub fn begin(&self) -> VerificationStatus {
        let mut latest = self.latest.lock();
        if let Some(running) = latest.as_ref().filter(|latest| latest.result.lock().is_none()) {
            return running.status();
        }
        let begun = Arc::new(Latest {
            id: Uuid::new_v4(),
            verification: Verification::beside(&self.live),
            pace: Pace::begin(),
            result: Mutex::default(),
        });
        *latest = Some(Arc::clone(&begun));
        let status = begun.status();
        let this = self.clone();
        tokio::spawn(async move {
            let result = begun.verification.run(&this.log, this.views, &this.generations).await;
            match &result {
                Ok(verdict) if verdict.equal => {
                    tracing::info!(jobs = verdict.jobs, "the views equal a fresh replay");
                    this.findings.put(begun.id, verdict);
                }
                Ok(verdict) => tracing::error!(differing = verdict.differing, "the views differ from a fresh replay"),
                Err(error) => tracing::warn!(%error, "the views could not be verified"),
            }
            *begun.result.lock() = Some(result);
        });
        status
    }

    /// The latest one, if it has this id, or that of the latest scrub.
    pub fn status(&self, id: Uuid) -> Option<VerificationStatus> {
        let latest = self.latest.lock().as_ref().filter(|latest| latest.id == id).map(|latest| latest.status());
        latest.or_else(|| self.findings.get().filter(|finding| finding.id == id).map(VerificationStatus::of))
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

impl VerificationStatus {
    fn of(finding: Finding) -> Self {
        let events = finding.verdict.events;
        Self {
            id: finding.id,
            state: VerificationState::Completed,
            events_done: events,
            events_total: events,
            events_per_second: 0.0,
            eta_seconds: None,
            reason: None,
            verdict: Some(finding.verdict),
        }
    }
}

impl Verdict {
    /// What this one and an earlier one agree on.
    pub(crate) fn confirming(mut self, earlier: &Self) -> Self {
        // Both name the first thousand; where there are more, it makes no difference how many more.
        let all_named = self.differing <= REPORTED as u64;
        let ids: HashSet<Uuid> = earlier.differences.iter().map(|difference| difference.id).collect();
        self.differences.retain(|difference| ids.contains(&difference.id));
        if all_named || self.differences.is_empty() {
            self.differing = self.differences.len() as u64;
        }
        self.equal = self.differing == 0;
        self
    }

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
        // Where both were folded from the same, the list says of the job what a list made anew would.
        let is_listed_so = shown.evidence != replayed.evidence || views.goes_by(replayed) || is_gone_on(views, &shown)?;
        return Ok((!is_listed_so).then(|| otherwise_listed(&replayed.record)));
    }
    if !shown.evidence.reaches_beyond(target) {
        return Ok(difference(&shown.record, &replayed.record));
    }
    let record = &shown.record;
    let then = Row::of(record.connection_id, &record.external_id, shown.evidence.up_to(target));
    // What was left out of a job with too many events cannot be brought back, nor which trims had been told of by then, so
    // its past cannot be compared.
    if shown.evidence.is_truncated() || shown.evidence.trim().is_some_and(|trim| trim > target) {
        return Ok(None);
    }
    Ok(match then {
        Some(then) => difference(&then.record, &replayed.record),
        None => Some(lacking(&replayed.record, true)),
    })
}

/// Whether the job has had events since.
fn is_gone_on(views: &Reader, then: &Row) -> Result<bool, PassError> {
    Ok(views.row(then.record.id)?.is_none_or(|now| *now != *then))
}

/// A job of which the list, and so every sum, says something else than its record.
fn otherwise_listed(record: &Record) -> Difference {
    let (views, replay) = (Value::from("otherwise"), Value::from("as the record says"));
    let fields = vec![FieldDifference { field: "list".to_owned(), views, replay }];
    Difference { id: record.id, external_id: record.external_id.clone(), fields }
}

/// Something made of the jobs, each of which may be right, that is not what it should be.
fn otherwise(what: &str, should_be: &str) -> Difference {
    let (views, replay) = (Value::from("otherwise"), Value::from(should_be));
    let fields = vec![FieldDifference { field: what.to_owned(), views, replay }];
    Difference { id: Uuid::nil(), external_id: what.to_owned(), fields }
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

//! One event as the evidence keeps it: compact, cleaned, without what the fold cannot use.

use proto_events::{CeleryKind, Event, EventId, Framework, Job, JobState, Origin, Position, Timestamp, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::JsonText;

/// What kind of testimony an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Celery's own events.
    Sent,
    Received,
    Started,
    Succeeded,
    Failed,
    Retried,
    Revoked,
    Rejected,
    Cancelled,
    Custom,
    /// A report of a state, by the SDK or by another framework.
    Reported,
    /// How the job ended, by the word of the result backend.
    Reconciled,
}

/// What a task said of its own, beside how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) name: Box<str>,
    pub(crate) data: JsonText,
    /// Whether there was more of it.
    pub(crate) cut: bool,
}

/// Where an event stands in the log beside its lowest place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Again {
    /// Nowhere.
    #[default]
    Never,
    /// At one other place.
    Once(Position),
    /// At two others or more, of which this is the highest.
    Often(Position),
}

/// What is left of an event when the log forgets its beginning.
pub(crate) enum Left {
    /// All of it stood there.
    Nothing,
    /// It is known of each place where it stands whether that is left.
    Places(Position, Again),
    /// It stood there and further on, and where it stands first now is not known.
    Unclear,
}

/// One distinct event of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) at: Timestamp,
    pub(crate) id: EventId,
    /// The lowest place in the log where it stands: kept beside the evidence, never used by the fold.
    pub(crate) position: Position,
    /// And where it stands again.
    pub(crate) again: Again,
    pub(crate) framework: Framework,
    pub(crate) said: Said,
    pub(crate) state: JobState,
    /// The state before, by the word of a report.
    pub(crate) before: Option<JobState>,
    /// Whether its worker was found gone: `BullMQ` calls such a job stalled.
    pub(crate) stalled: bool,
    pub(crate) host: Option<Box<str>>,
    pub(crate) pid: Option<i64>,
    pub(crate) clock: Option<i64>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) queue: Option<Box<str>>,
    pub(crate) worker: Option<Box<str>>,
    /// From 1; of Celery's own events only sent and received have it.
    pub(crate) attempt: Option<u32>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) progress: Option<f64>,
    /// Seconds.
    pub(crate) runtime: Option<f64>,
    pub(crate) requeue: Option<bool>,
    pub(crate) terminated: Option<bool>,
    pub(crate) expired: Option<bool>,
    pub(crate) signum: Option<Box<str>>,
    pub(crate) error: Option<Box<str>>,
    pub(crate) stacktrace: Option<Box<str>>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) scheduled_for: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) args: Option<JsonText>,
    pub(crate) kwargs: Option<JsonText>,
    pub(crate) result: Option<JsonText>,
    pub(crate) parent: Option<Box<str>>,
    pub(crate) root: Option<Box<str>>,
    pub(crate) tags: Option<JsonText>,
    pub(crate) extensions: Option<JsonText>,
    pub(crate) note: Option<Told>,
}

/// Bytes of what a task says at once; of more the beginning is kept.
const NOTE: usize = 1_024;
/// Characters of the name that it says it under.
const NOTE_NAME: usize = 128;

/// Attempts beyond are nonsense, and the fold counts on from those that it hears of.
const ATTEMPTS: u32 = u32::MAX / 2;

impl Seen {
    /// What a job event says; `None` for an event of another kind.
    pub(crate) fn of(position: Position, event: &Event) -> Option<Self> {
        let job = event.job.as_deref()?;
        let celery = job.celery.as_ref();
        let said = match (job.origin, celery) {
            (Some(Origin::ResultBackend), _) => Said::Reconciled,
            (None, Some(facts)) => said(facts.event),
            (None, None) => Said::Reported,
        };
        let note = if said == Said::Custom { told(job) } else { None };
        let producer = event.producer.as_ref();
        let stacktrace = text(job.stacktrace.as_deref()).filter(|trace| !trace.starts_with("<traceback object at"));
        let error = clean_error(job.error.as_deref()).or_else(|| stacktrace.as_deref().and_then(last_line));
        // The publisher of a sent event, and the pool child of a custom one, are not the worker.
        let worker = match said {
            Said::Sent | Said::Custom => None,
            _ => text(job.worker_id.as_deref()).or_else(|| {
                producer.filter(|_| !said.is_by_word()).and_then(|producer| text(Some(&producer.hostname)))
            }),
        };
        let attempt = celery.and_then(|facts| facts.retries).map(|retries| retries.saturating_add(1)).or(job.attempt);
        let is_own = |id: &&str| *id != job.external_id;
        Some(Self {
            at: event.timestamp,
            id: EventId::of(event),
            position,
            again: Again::Never,
            framework: event.framework,
            said,
            state: job.state,
            before: job.previous_state.filter(|_| said == Said::Reported),
            stalled: job.extensions.get("bullmqState").is_some_and(|state| state == "stalled"),
            host: producer.map(|producer| producer.hostname.as_str().into()),
            pid: producer.and_then(|producer| producer.pid),
            clock: producer.and_then(|producer| producer.clock),
            name: text(job.name.as_deref()).filter(|name| &**name != "unknown"),
            queue: text(job.queue.as_deref()),
            worker,
            attempt: attempt.filter(|attempt| *attempt > 0).map(|attempt| attempt.min(ATTEMPTS)),
            max_retries: job.max_retries,
            progress: job.progress.filter(|progress| progress.is_finite()),
            runtime: celery.and_then(|facts| facts.runtime).filter(|runtime| runtime.is_finite() && *runtime >= 0.0),
            requeue: celery.and_then(|facts| facts.requeue),
            terminated: celery.and_then(|facts| facts.terminated),
            expired: celery.and_then(|facts| facts.expired),
            signum: celery.and_then(|facts| text(facts.signum.as_deref())),
            error,
            stacktrace,
            created_at: job.created_at,
            scheduled_for: job.scheduled_for,
            started_at: job.started_at,
            completed_at: job.completed_at,
            args: value(job.args.as_ref()),
            kwargs: value(job.kwargs.as_ref()),
            result: value(job.result.as_ref()),
            parent: text(job.parent_id.as_deref().filter(is_own)),
            root: text(job.root_id.as_deref()),
            tags: (!job.tags.is_empty()).then(|| JsonText::of_map(&job.tags)),
            extensions: (!job.extensions.is_empty() && note.is_none()).then(|| JsonText::of_map(&job.extensions)),
            note,
        })
    }

    /// The highest place in the log where it stands.
    pub(crate) fn latest(&self) -> Position {
        match self.again {
            Again::Never => self.position,
            Again::Once(latest) | Again::Often(latest) => latest,
        }
    }

    /// Takes in where the same event stands, by other word: the outermost places of both, whatever the order in which
    /// they come and however often.
    pub(crate) fn stands_also(&mut self, other: &Self) {
        let often = |seen: &Self| matches!(seen.again, Again::Often(_));
        let mut places = [self.position, self.latest(), other.position, other.latest()];
        places.sort_unstable();
        let between = places[1..3].iter().any(|place| *place != places[0] && *place != places[3]);
        self.again = if places[0] == places[3] {
            Again::Never
        } else if between || often(self) || often(other) {
            Again::Often(places[3])
        } else {
            Again::Once(places[3])
        };
        self.position = places[0];
    }

    /// Where it stands once the log has forgotten the messages before this one.
    pub(crate) fn left_from(&self, sequence: u64) -> Left {
        let latest = self.latest();
        if self.position.sequence >= sequence {
            Left::Places(self.position, self.again)
        } else if latest.sequence < sequence {
            Left::Nothing
        } else if matches!(self.again, Again::Often(_)) {
            Left::Unclear
        } else {
            Left::Places(latest, Again::Never)
        }
    }

    /// The order of the evidence: by time, then by identity.
    pub(crate) fn key(&self) -> (Timestamp, EventId) {
        (self.at, self.id)
    }

    /// The earliest moment that this event testifies to.
    pub(crate) fn earliest(&self) -> Timestamp {
        [self.created_at, self.started_at].into_iter().flatten().fold(self.at, Timestamp::min)
    }

    /// `scheduled` when its time lies after this event, else `queued`.
    pub(crate) fn waiting_state(&self) -> JobState {
        match (self.said, self.state) {
            (Said::Reported, JobState::Scheduled) => JobState::Scheduled,
            (Said::Reported, _) => JobState::Queued,
            _ if self.scheduled_for.is_some_and(|eta| eta > self.at) => JobState::Scheduled,
            _ => JobState::Queued,
        }
    }
}

impl Said {
    /// Whether it is what somebody says of the job, not an event of Celery's own stream.
    pub(crate) const fn is_by_word(self) -> bool {
        matches!(self, Self::Reported | Self::Reconciled)
    }
}

/// What a custom event says, unless it only tells how far the task is.
fn told(job: &Job) -> Option<Told> {
    let mut fields = job.extensions.clone();
    let name = match fields.remove("celeryEvent") {
        Some(Value::String(name)) => name,
        _ => "task-custom".to_owned(),
    };
    if name == "task-progress" {
        return None;
    }
    let mut name = name;
    limits::cut(&mut name, NOTE_NAME);
    let data = JsonText::of_map(&fields);
    let cut = data.as_str().len() > NOTE;
    let data = if cut { data.shortened(NOTE / 4) } else { data };
    Some(Told { name: name.into(), data, cut })
}

fn said(kind: CeleryKind) -> Said {
    match kind {
        CeleryKind::Sent => Said::Sent,
        CeleryKind::Received => Said::Received,
        CeleryKind::Started => Said::Started,
        CeleryKind::Succeeded => Said::Succeeded,
        CeleryKind::Failed => Said::Failed,
        CeleryKind::Retried => Said::Retried,
        CeleryKind::Revoked => Said::Revoked,
        CeleryKind::Rejected => Said::Rejected,
        CeleryKind::Cancelled => Said::Cancelled,
        CeleryKind::Custom => Said::Custom,
    }
}

fn text(text: Option<&str>) -> Option<Box<str>> {
    text.filter(|text| !text.is_empty()).map(Into::into)
}

fn value(value: Option<&Value>) -> Option<JsonText> {
    value.filter(|value| !value.is_null()).map(JsonText::of)
}

/// An error that says something: Celery writes `ExceptionWithTraceback()` for killed children and hard limits, the SDK
/// may send an empty text or the address of a traceback object. gevent wraps what was retried in `Retry(Retry(...), …)`.
fn clean_error(error: Option<&str>) -> Option<Box<str>> {
    let error = error?.trim();
    if error.is_empty() || error == "ExceptionWithTraceback()" || error.starts_with("<traceback object at") {
        return None;
    }
    let wrapped = error.strip_prefix("Retry(Retry(...), ").and_then(|rest| rest.strip_suffix(')'));
    let inner = wrapped.and_then(|rest| rest.rsplit_once(", ")).map(|(inner, _)| inner);
    Some(inner.filter(|inner| !inner.is_empty()).unwrap_or(error).into())
}

/// The last line of a traceback is its exception. A chained traceback may end in quotes of a remote one.
fn last_line(trace: &str) -> Option<Box<str>> {
    let line = trace.lines().map(str::trim).rfind(|line| !line.is_empty() && *line != "\"\"\"" && *line != "'''")?;
    Some(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_content_counts_as_absent() {
        for error in ["", "  ", "ExceptionWithTraceback()", "<traceback object at 0x7f3a>"] {
            assert_eq!(clean_error(Some(error)), None, "{error:?}");
        }
        assert_eq!(clean_error(Some("ValueError('x')")).as_deref(), Some("ValueError('x')"));
        assert_eq!(
            clean_error(Some("Retry(Retry(...), ValueError('a, b'), 1)")).as_deref(),
            Some("ValueError('a, b')")
        );
    }

    #[test]
    fn the_last_line_of_a_traceback_is_its_exception() {
        let trace =
            "Traceback (most recent call last):\n  File \"x\"\nbilliard.TimeLimitExceeded: TimeLimitExceeded(1,)\n";
        assert_eq!(last_line(trace).as_deref(), Some("billiard.TimeLimitExceeded: TimeLimitExceeded(1,)"));
        let remote = "\"\"\"\nTraceback:\nWorkerLostError: signal 9 (SIGKILL)\n\"\"\"\n";
        assert_eq!(last_line(remote).as_deref(), Some("WorkerLostError: signal 9 (SIGKILL)"));
    }
}

//! What Celery has stored for a task, into the event contract.

use proto_events::{Event, Framework, Job, JobState, Origin, Timestamp, limits};
use serde::Deserialize;
use serde_json::Value;

use super::{Unended, display};
use crate::redact::Redaction;

/// Bytes from which on only the outcome of a stored answer is read, not its value.
const LARGE: usize = 1 << 20;
/// Characters of a value that are kept, as many as Celery's events hold.
const VALUE: usize = 1_024;
/// Microseconds by which the start of a run may be announced later than its result was stored.
const LATE_START: i64 = 5_000_000;

/// Why a stored answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Another serialiser than JSON, or not Celery's at all.
    #[error(
        "it is not the JSON that Celery stores ({0}): only result_serializer = \"json\" without compression is read"
    )]
    NotJson(String),
}

/// How a task ended, by the word of the backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    state: JobState,
    value: Option<Value>,
    is_large: bool,
    traceback: Option<String>,
    done: Option<Timestamp>,
    name: Option<String>,
    worker: Option<String>,
    queue: Option<String>,
    retries: Option<u32>,
}

/// The fields of Celery's that count, where the value may be large.
#[derive(Deserialize)]
struct Outcome {
    status: String,
    #[serde(default)]
    traceback: Option<Value>,
    #[serde(default)]
    date_done: Option<Value>,
    #[serde(default)]
    name: Option<Value>,
    #[serde(default)]
    worker: Option<Value>,
    #[serde(default)]
    queue: Option<Value>,
    #[serde(default)]
    retries: Option<Value>,
}

#[derive(Deserialize)]
struct Returned {
    #[serde(default)]
    result: Option<Value>,
}

/// Reads what is stored under the key of a task; `None` where it is no end (the task has not run, runs, or has a state of
/// its user's own).
pub fn read(stored: &[u8]) -> Result<Option<Answer>, Unreadable> {
    let broken = |error: serde_json::Error| Unreadable::NotJson(error.to_string());
    let outcome: Outcome = serde_json::from_slice(stored).map_err(broken)?;
    let state = match outcome.status.as_str() {
        "SUCCESS" => JobState::Completed,
        "FAILURE" => JobState::Failed,
        "REVOKED" => JobState::Cancelled,
        "RETRY" => JobState::Retrying,
        _ => return Ok(None),
    };
    let is_large = stored.len() > LARGE;
    let value = if is_large { None } else { serde_json::from_slice::<Returned>(stored).map_err(broken)?.result };
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    Ok(Some(Answer {
        state,
        value,
        is_large,
        traceback: text(outcome.traceback),
        done: text(outcome.date_done).as_deref().and_then(time),
        name: text(outcome.name),
        worker: text(outcome.worker),
        queue: text(outcome.queue),
        retries: outcome.retries.and_then(|retries| u32::try_from(retries.as_u64()?).ok()),
    }))
}

/// Celery writes UTC, older versions without saying so.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}Z")))
}

impl Answer {
    /// The event that says so; `None` where the answer is of an earlier run than the one that is asked for.
    pub fn event(mut self, job: &Unended, now: Timestamp, redaction: &Redaction) -> Option<Event> {
        let attempt = self.retries.and_then(|retries| retries.checked_add(1));
        if attempt.is_some_and(|attempt| attempt < job.attempt) {
            return None;
        }
        // A retry stays stored while the next try waits and runs, so only the try that it names, or the first, is told.
        let is_this_retry = job.state == JobState::Active && (job.attempt == 1 || attempt == Some(job.attempt));
        if self.state == JobState::Retrying && !is_this_retry {
            return None;
        }
        let is_earlier =
            |done: Timestamp| job.started_at.is_some_and(|started| done.micros() < started.micros() - LATE_START);
        if self.done.is_some_and(is_earlier) {
            return None;
        }
        if let Some(value) = &mut self.value {
            redaction.apply_to(value);
        }
        let mut told = Job::new(job.external_id.clone(), self.state);
        told.origin = Some(Origin::ResultBackend);
        told.completed_at = self.done;
        told.name = self.name;
        told.queue = self.queue;
        // A task that was revoked before it ran has none.
        told.worker_id = self.worker.filter(|_| self.state != JobState::Cancelled);
        told.attempt = attempt;
        match self.state {
            JobState::Completed => {
                let text =
                    self.value.as_ref().filter(|value| !value.is_null()).map(|value| display::value(value, VALUE));
                let text = if self.is_large { Some(limits::CUT.to_owned()) } else { text };
                told.result = text.filter(|_| !redaction.drops_arguments()).map(Value::String);
            }
            _ => told.error = self.value.as_ref().and_then(display::error),
        }
        told.stacktrace = self.traceback;
        let mut event = Event::job(self.done.unwrap_or(now), Framework::Celery, told);
        redaction.apply(&mut event);
        limits::enforce(&mut event);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn job(state: JobState, attempt: u32) -> Unended {
        let started_at = (state == JobState::Active).then(|| Timestamp::parse("2026-11-23T12:00:00Z").unwrap());
        let since = Timestamp::parse("2026-11-23T12:00:00Z").unwrap();
        Unended { external_id: "a".to_owned(), state, attempt, started_at, since }
    }

    fn told(stored: &Value, job: &Unended) -> Option<Job> {
        let answer = read(stored.to_string().as_bytes()).unwrap()?;
        let event = answer.event(job, Timestamp::parse("2026-11-23T13:00:00Z").unwrap(), &Redaction::default())?;
        Some(*event.job.unwrap())
    }

    #[test]
    fn each_end_is_told_and_nothing_else() {
        let active = job(JobState::Active, 1);
        let done = "2026-11-23T12:00:05.250000+00:00";
        let good =
            told(&json!({"status": "SUCCESS", "result": {"a": ["it's", null]}, "date_done": done}), &active).unwrap();
        assert_eq!((good.state, good.result), (JobState::Completed, Some(json!(r#"{'a': ["it's", None]}"#))));
        assert_eq!(good.completed_at, Timestamp::parse("2026-11-23T12:00:05.250Z"));
        let naive = told(&json!({"status": "SUCCESS", "result": null, "date_done": "2026-11-23T12:00:05.25"}), &active);
        assert_eq!(naive.unwrap().completed_at, good.completed_at);
        let exception = json!({"exc_type": "KeyError", "exc_message": ["x", 1], "exc_module": "builtins"});
        let bad = json!({"status": "FAILURE", "result": exception, "traceback": "T", "date_done": done, "retries": 0, "worker": "w@h"});
        let bad = told(&bad, &active).unwrap();
        assert_eq!((bad.state, bad.error.as_deref()), (JobState::Failed, Some("KeyError('x', 1)")));
        assert_eq!(
            (bad.stacktrace.as_deref(), bad.worker_id.as_deref(), bad.attempt),
            (Some("T"), Some("w@h"), Some(1))
        );
        let revoked =
            json!({"exc_type": "TaskRevokedError", "exc_message": ["terminated"], "exc_module": "celery.exceptions"});
        assert_eq!(told(&json!({"status": "REVOKED", "result": revoked}), &active).unwrap().state, JobState::Cancelled);
        for status in ["PENDING", "STARTED", "RECEIVED", "PROGRESS", ""] {
            assert_eq!(told(&json!({"status": status, "result": null}), &active), None, "{status}");
        }
    }

    #[test]
    fn an_answer_about_another_run_is_none() {
        let retry = json!({"status": "RETRY", "result": {"exc_type": "E", "exc_message": []}});
        assert_eq!(told(&retry, &job(JobState::Active, 1)).unwrap().state, JobState::Retrying);
        assert_eq!(told(&retry, &job(JobState::Active, 2)), None);
        assert_eq!(told(&retry, &job(JobState::Queued, 1)), None);
        let extended = |retries: u32| json!({"status": "RETRY", "result": {"exc_type": "E", "exc_message": []}, "retries": retries});
        assert!(told(&extended(1), &job(JobState::Active, 2)).is_some());
        assert_eq!(told(&extended(0), &job(JobState::Active, 2)), None);
        let earlier = json!({"status": "SUCCESS", "result": 1, "date_done": "2026-11-23T11:59:00+00:00"});
        assert_eq!(told(&earlier, &job(JobState::Active, 1)), None);
    }

    #[test]
    fn a_huge_result_costs_only_itself() {
        let stored =
            json!({"status": "SUCCESS", "result": "x".repeat(2 << 20), "date_done": "2026-11-23T12:00:05+00:00"});
        assert_eq!(told(&stored, &job(JobState::Active, 1)).unwrap().result, Some(json!(limits::CUT)));
        let long = told(&json!({"status": "SUCCESS", "result": vec!["é"; 5_000]}), &job(JobState::Active, 1)).unwrap();
        assert_eq!(long.result.unwrap().as_str().unwrap().chars().count(), VALUE);
        assert!(read(b"\x80\x04\x95").is_err() && read(b"[1]").is_err() && read(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_stored_gives_an_event_of_the_contract_or_a_reason(
            status in prop_oneof!["SUCCESS", "FAILURE", "REVOKED", "RETRY", ".{0,9}"], text in ".{0,30}", number in any::<f64>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..120), nested in 0_usize..200,
        ) {
            let _ = read(&bytes);
            let deep = format!("{}{}", "[".repeat(nested), "]".repeat(nested));
            let deep: Value = serde_json::from_str(&deep).unwrap_or(Value::Null);
            for value in [json!(text), json!(number), deep, json!({"exc_type": text, "exc_message": [number, text]}), json!({"exc_type": 7})] {
                let stored = json!({"status": status, "result": value, "traceback": text, "date_done": text, "retries": number});
                if let Ok(Some(answer)) = read(stored.to_string().as_bytes())
                    && let Some(event) = answer.event(&job(JobState::Active, 1), Timestamp(0), &Redaction::default())
                {
                    prop_assert_eq!(event.check(), Ok(()));
                    prop_assert!(proto_events::encode(&[event]).len() <= limits::EVENT_BYTES);
                }
            }
        }
    }
}

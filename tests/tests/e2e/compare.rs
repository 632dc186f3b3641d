//! A record of Forebay's beside what Celery itself says of the job.

use chrono::DateTime;
use forebay_tests::{Api, Run, Shop, Truth, job_id, wait_or_show};
use serde_json::{Value, json};

/// An event is written down by another process than the one that runs the job, on a machine that is busy.
const TOLERANCE: f64 = 5.0;

/// The history that a story must have.
fn history(story: &str) -> &'static [&'static str] {
    match story {
        "fail" | "time limit" | "soft time limit" | "killed" | "refused" => &["queued", "active", "failed"],
        "retry twice" => {
            &["queued", "active", "retrying", "queued", "active", "retrying", "queued", "active", "completed"]
        }
        "back off" => {
            &["queued", "active", "retrying", "scheduled", "active", "retrying", "scheduled", "active", "completed"]
        }
        "give up" => &["queued", "active", "retrying", "queued", "active", "failed"],
        "eta" => &["scheduled", "active", "completed"],
        "revoked waiting" | "expired" => &["queued", "cancelled"],
        "revoked running" => &["queued", "active", "cancelled"],
        "unknown task" => &["queued", "failed"],
        _ => &["queued", "active", "completed"],
    }
}

/// What Celery calls it, in Forebay's word.
pub(crate) fn state(truth: &Truth) -> &'static str {
    match truth.status.as_str() {
        "SUCCESS" => "completed",
        "FAILURE" => "failed",
        "REVOKED" => "cancelled",
        other => panic!("{}: Celery leaves it {other}", truth.story),
    }
}

/// Waits until the record has the state that Celery reports; only then is there something to compare.
pub(crate) fn record(api: &Api, truth: &Truth) -> Value {
    let wanted = state(truth);
    wait_or_show(&format!("{} ({}) to be {wanted}", truth.story, truth.id), 90, || match api.job(&job_id(&truth.id)) {
        Some(record) if record["state"] == wanted => Ok(record),
        other => Err(other),
    })
}

/// Compares everything that both know.
pub(crate) fn check(record: &Value, truth: &Truth, shop: &Shop) {
    check_with(record, truth, &shop.runs(&truth.id));
}

/// The same, with the diary of the job.
pub(crate) fn check_with(record: &Value, truth: &Truth, runs: &[Run]) {
    let starts: Vec<Run> = runs.iter().filter(|run| run.what == "start").cloned().collect();
    let case = Case { record, truth, starts: &starts };
    case.identity();
    case.history();
    case.executions();
    case.times();
    case.outcome();
}

struct Case<'a> {
    record: &'a Value,
    truth: &'a Truth,
    starts: &'a [Run],
}

impl Case<'_> {
    #[track_caller]
    fn equal(&self, field: &str, expected: &Value) {
        assert_eq!(&self.record[field], expected, "{} of {}: {:#}", field, self.truth.story, self.record);
    }

    #[track_caller]
    fn holds(&self, condition: bool, what: &str) {
        assert!(condition, "{}: {what}: {:?} {:#}", self.truth.story, self.truth, self.record);
    }

    #[track_caller]
    fn near(&self, actual: f64, expected: f64, what: &str) {
        self.holds((actual - expected).abs() < TOLERANCE, &format!("{what}: {actual}, but Celery says {expected}"));
    }

    fn identity(&self) {
        let truth = self.truth;
        self.equal("id", &json!(job_id(&truth.id)));
        self.equal("externalId", &json!(truth.id));
        self.equal("framework", &json!("celery"));
        self.equal("connectionId", &json!(forebay_tests::CONNECTION.to_string()));
        self.equal("queue", &json!(truth.queue));
        if let Some(name) = &truth.name {
            self.equal("name", &json!(name));
        }
        if let Some(args) = &truth.args {
            self.equal("args", &json!(args));
        }
        let parents: Vec<Value> = truth.parents.iter().map(|id| json!(job_id(id))).collect();
        let parent = &self.record["parentId"];
        self.holds(if parents.is_empty() { parent.is_null() } else { parents.contains(parent) }, "parentId");
        if let Some(root) = &truth.root {
            self.equal("rootId", &json!(job_id(root)));
        }
    }

    fn history(&self) {
        let entries = self.record["stateHistory"].as_array().unwrap();
        let states: Vec<&str> = entries.iter().map(|entry| entry["state"].as_str().unwrap()).collect();
        self.holds(states == history(&self.truth.story), "stateHistory");
        for entry in entries {
            let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
            self.holds(keys == ["state", "timestamp"], "the keys of an entry of the history");
        }
        let times: Vec<f64> = entries.iter().map(|entry| seconds(&entry["timestamp"])).collect();
        self.holds(times.is_sorted(), "the order of the history");
        self.equal("state", &json!(state(self.truth)));
        self.equal("stateChangedAt", &entries[entries.len() - 1]["timestamp"]);
        let previous = entries.len().checked_sub(2).map_or(Value::Null, |at| entries[at]["state"].clone());
        self.equal("previousState", &previous);
    }

    fn executions(&self) {
        let executions = self.record["executions"].as_array().unwrap();
        self.holds(executions.len() == self.starts.len(), "as many executions as the tasks wrote down");
        for (number, (execution, run)) in executions.iter().zip(self.starts).enumerate() {
            self.holds(execution["attempt"] == json!(run.retries + 1), "the attempt of an execution");
            self.holds(execution["workerId"] == json!(run.hostname), "the worker of an execution");
            // A worker speaks with the process id of its main process, which is the parent of the pool's.
            let pids = [json!(run.pid), json!(run.parent_pid)];
            self.holds(pids.contains(&execution["pid"]), "the process of an execution");
            self.near(seconds(&execution["startedAt"]), run.time, "the start of an execution");
            let last = number + 1 == executions.len();
            let outcome = if last { state(self.truth) } else { "retrying" };
            let rejected = self.truth.story == "refused" && execution["outcome"] == "rejected";
            self.holds(rejected || execution["outcome"] == json!(outcome), "the outcome of an execution");
        }
        let attempt = self.starts.last().map_or(0, |run| run.retries) + 1;
        self.equal("attempt", &json!(attempt));
        if let Some(retries) = self.truth.retries {
            self.equal("attempt", &json!(retries + 1));
        }
        let worker = self.starts.last().map(|run| json!(run.hostname));
        if let Some(worker) = worker {
            self.equal("workerId", &worker);
        }
        if let Some(worker) = &self.truth.worker {
            self.equal("workerId", &json!(worker));
        }
    }

    fn times(&self) {
        let record = self.record;
        let created = seconds(&record["createdAt"]);
        // A job of a workflow is sent by the one before it.
        let sent_by_us = self.truth.parents.is_empty();
        self.holds(!sent_by_us || created <= self.truth.sent_at + 0.1, "created when it was sent");
        self.near(created, self.truth.sent_at, "createdAt");
        match self.starts.last() {
            Some(run) => self.near(seconds(&record["startedAt"]), run.time, "startedAt"),
            None => self.equal("startedAt", &Value::Null),
        }
        let completed = seconds(&record["completedAt"]);
        // The backend says revoked at once, the worker only when the job's turn comes.
        if let Some(done) = self.truth.done_at.filter(|_| self.truth.story != "revoked waiting") {
            self.near(completed, done, "completedAt");
        }
        if !record["startedAt"].is_null() {
            let milliseconds = ((completed - seconds(&record["startedAt"])) * 1_000.0).round();
            self.equal("durationMs", &json!(milliseconds as u64));
        }
        match &self.truth.eta {
            Some(eta) => self.holds(
                (seconds(&record["scheduledFor"]) - seconds(&json!(eta))).abs() < 0.001,
                "scheduledFor is the ETA to the millisecond",
            ),
            None if self.truth.story == "back off" => self.holds(record["scheduledFor"].is_string(), "scheduledFor"),
            None => self.equal("scheduledFor", &Value::Null),
        }
    }

    fn outcome(&self) {
        let (record, truth) = (self.record, self.truth);
        let error = record["error"].as_str().unwrap_or_default();
        match (state(truth), truth.story.as_str()) {
            ("completed", _) => {
                self.equal("error", &Value::Null);
                self.equal("stacktrace", &Value::Null);
                self.equal("result", &json!(truth.value));
            }
            ("failed", "refused") => self.holds(error.contains("not ours"), "the error"),
            ("failed", "killed") => {
                self.holds(error.contains("WorkerLostError") && error.contains("signal 9 (SIGKILL)"), "the error");
            }
            ("failed", _) => {
                self.holds(error.contains(truth.error_type.as_deref().unwrap()), "the type of the error");
                self.holds(error.contains(truth.error_text.as_deref().unwrap()), "the text of the error");
            }
            _ => self.holds(record["result"].is_null(), "no result of what was cancelled"),
        }
        if let Some(traceback) = &truth.traceback {
            let stacktrace = record["stacktrace"].as_str().unwrap_or_default();
            let last = traceback.trim_end().lines().last().unwrap();
            self.holds(stacktrace.starts_with("Traceback") && stacktrace.contains(last), "the stacktrace");
        }
        if truth.story == "progress" {
            self.equal("progress", &json!(0.5));
            let note = &record["notes"][0];
            self.holds(
                (&note["name"], &note["data"]) == (&json!("task-invoiced"), &json!({"invoice": 17})),
                "what the task said of its own",
            );
        }
    }
}

/// Epoch seconds of an RFC 3339 time.
fn seconds(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros() as f64 / 1e6
}

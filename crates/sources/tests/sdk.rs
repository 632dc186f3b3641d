//! The body of `POST /api/ingest`, from the SDK as captured and from anybody else.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use proto_events::{Event, EventType, JobState, Timestamp, WorkerState};
use serde_json::{Value, json};
use sources::Redaction;
use sources::sdk::{self, Batch, BatchError, CONNECTION_MISMATCH, Options, VALIDATION_ERROR};
use uuid::Uuid;

const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

fn read(body: impl AsRef<[u8]>) -> Result<Batch, BatchError> {
    sdk::batch(body.as_ref(), CONNECTION, &Options::default())
}

fn batch(events: &[Value]) -> Batch {
    read(json!({"events": events}).to_string()).unwrap()
}

/// An event that is all right, with some of it changed; null takes a field away.
fn event(change: Value) -> Value {
    let mut event = json!({
        "type": "job.state_change", "timestamp": "2026-11-23T12:36:59.620658Z", "framework": "celery",
        "connectionId": CONNECTION, "job": {"externalId": "j-1", "name": "app.send", "state": "active"}
    });
    merge(&mut event, change);
    event
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, change) => *into = change,
    }
}

fn accepted(change: Value) -> Event {
    let mut batch = batch(&[event(change)]);
    assert_eq!(batch.rejected, []);
    batch.events.remove(0)
}

#[test]
fn a_captured_batch_is_read_as_it_was_meant() {
    let recorded: Value = serde_json::from_str(include_str!("data/sdk.jsonl").lines().last().unwrap()).unwrap();
    let batch = read(recorded["body"].to_string()).unwrap();
    assert_eq!((batch.total, batch.events.len(), batch.rejected.len()), (24, 24, 0));
    let first = &batch.events[0];
    let job = first.job.as_ref().unwrap();
    assert_eq!(first.timestamp, Timestamp::parse("2026-11-23T12:37:28.264193Z").unwrap());
    assert_eq!(job.external_id, "ad26af19-33f6-4242-9e99-84f8ce3ddee0");
    assert_eq!((job.name.as_deref(), job.state), (Some("tasksapp.ok"), JobState::Queued));
    assert_eq!(job.worker_id.as_deref(), Some("w1@worker-host"));
    assert_eq!(job.extensions["celeryState"], "RECEIVED");
    assert_eq!((&first.producer, &job.celery), (&None, &None));
}

#[test]
fn every_documented_field_finds_its_place_and_every_other_is_kept() {
    let event = accepted(json!({"type": "job_state_change", "job": {
        "queue": "default", "previousState": "queued", "workerId": "celery@worker-1", "attempt": 2, "maxRetries": 3,
        "progress": 0.5, "error": "", "stacktrace": "<traceback object at 0x1>",
        "createdAt": "2026-02-27T10:29:55.000Z", "scheduledFor": "2026-02-27T12:29:55+02:00",
        "startedAt": "2026-02-27T10:29:56", "completedAt": "2026-02-27T10:30:02.000Z", "args": [1, {"a": 2}],
        "kwargs": {"b": 3}, "result": 0, "parentId": "p", "rootId": "r", "tags": {"team": "mail"},
        "extensions": {"celeryState": "STARTED", "colour": "sender's"}, "colour": "field's", "shape": [1]
    }}));
    let job = serde_json::to_value(event.job.unwrap()).unwrap();
    let expected = json!({
        "externalId": "j-1", "name": "app.send", "state": "active", "queue": "default", "previousState": "queued",
        "workerId": "celery@worker-1", "attempt": 2, "maxRetries": 3, "progress": 0.5, "error": "",
        "stacktrace": "<traceback object at 0x1>", "createdAt": "2026-02-27T10:29:55.000000Z",
        "scheduledFor": "2026-02-27T10:29:55.000000Z", "startedAt": "2026-02-27T10:29:56.000000Z",
        "completedAt": "2026-02-27T10:30:02.000000Z", "args": [1, {"a": 2}], "kwargs": {"b": 3}, "result": 0,
        "parentId": "p", "rootId": "r", "tags": {"team": "mail"},
        "extensions": {"celeryState": "STARTED", "colour": "sender's", "shape": [1]}
    });
    assert_eq!(job, expected);
}

#[test]
fn a_bad_event_is_rejected_with_its_index_and_reason_and_never_sinks_the_batch() {
    let other = "11111111-2222-3333-4444-555555555555";
    let bad = [
        (json!({"job": {"externalId": "x".repeat(513)}}), VALIDATION_ERROR, "512"),
        (json!({"job": {"externalId": ""}}), VALIDATION_ERROR, "empty"),
        (json!({"job": {"externalId": null}}), VALIDATION_ERROR, "job.externalId is required"),
        (json!({"job": {"externalId": 5}}), VALIDATION_ERROR, "job.externalId must be a text"),
        (json!({"job": {"state": "stuck"}}), VALIDATION_ERROR, "stuck"),
        (json!({"job": {"state": null}}), VALIDATION_ERROR, "job.state is required"),
        (json!({"job": null}), VALIDATION_ERROR, "job is required"),
        (json!({"job": "done"}), VALIDATION_ERROR, "job must be an object"),
        (json!({"framework": "resque"}), VALIDATION_ERROR, "framework"),
        (json!({"framework": null}), VALIDATION_ERROR, "framework is required"),
        (json!({"timestamp": null}), VALIDATION_ERROR, "timestamp is required"),
        (json!({"timestamp": "yesterday"}), VALIDATION_ERROR, "yesterday"),
        (json!({"timestamp": 1_795_437_419}), VALIDATION_ERROR, "timestamp"),
        (json!({"timestamp": "+99999-01-01T00:00:00Z"}), VALIDATION_ERROR, "timestamp"),
        (json!({"type": null}), VALIDATION_ERROR, "type is required"),
        (json!({"type": "odd", "job": null}), VALIDATION_ERROR, "One of job"),
        (json!({"connectionId": other}), CONNECTION_MISMATCH, other),
        (json!({"connectionId": 5}), VALIDATION_ERROR, "connectionId"),
        (
            json!({"job": null, "type": "worker_state_change", "worker": {"state": "online"}}),
            VALIDATION_ERROR,
            "worker.externalId",
        ),
        (json!({"job": null, "worker": {"state": "silent", "hostname": "h"}}), VALIDATION_ERROR, "worker.state"),
        (json!({"job": null, "queue": {"depth": 4}}), VALIDATION_ERROR, "queue.name"),
    ];
    let mut events: Vec<Value> = bad.iter().map(|(change, _, _)| event(change.clone())).collect();
    events.insert(0, event(json!({})));
    events.extend([json!(7), json!(null), event(json!({"job": {"externalId": "last"}}))]);
    let batch = batch(&events);
    assert_eq!(batch.total, events.len());
    assert_eq!(batch.indexes, [0, events.len() - 1]);
    assert_eq!(batch.events[1].job.as_ref().unwrap().external_id, "last");
    assert_eq!(batch.rejected.len(), bad.len() + 2);
    for (at, (rejected, (change, code, message))) in batch.rejected.iter().zip(&bad).enumerate() {
        assert_eq!((rejected.index, rejected.code), (at + 1, *code), "{change}");
        assert!(rejected.message.contains(message), "{} for {change}", rejected.message);
        assert!(rejected.message.len() < 300, "{}", rejected.message);
    }
}

#[test]
fn what_is_merely_odd_is_accepted() {
    let job = |change: Value| accepted(json!({"job": change})).job.unwrap();
    assert_eq!(job(json!({"name": null})).name, None);
    assert_eq!(job(json!({"progress": 7})).progress, Some(1.0));
    assert_eq!(job(json!({"progress": -0.5})).progress, Some(0.0));
    assert_eq!(job(json!({"attempt": 2.0})).attempt, Some(2));
    for (field, value) in [
        ("attempt", json!(0)),
        ("attempt", json!(-1)),
        ("attempt", json!(5_000_000_000_u64)),
        ("maxRetries", json!("many")),
        ("previousState", json!("born")),
        ("startedAt", json!("soon")),
        ("queue", json!(["a"])),
        ("tags", json!(["a"])),
        ("error", json!({"code": 1})),
    ] {
        let job = job(json!({field: value}));
        assert_eq!(job.extensions[field], value, "{field}");
        assert_eq!((job.attempt, job.max_retries, job.previous_state, job.started_at), (None, None, None, None));
    }
    let long = job(json!({"error": "e".repeat(11_000), "name": "n".repeat(2_000)}));
    assert_eq!(long.error.unwrap().chars().count(), 10_000);
    assert_eq!(long.name.unwrap().chars().count(), 1_024);
    for connection in [json!(null), json!("default"), json!(""), json!(CONNECTION.simple().to_string())] {
        accepted(json!({"connectionId": connection}));
    }
    // The type is a label; where it is odd or wrong, the payload that is there says what it is.
    for kind in ["job_state_change", "job.state_change", "job:state_change", "state", "worker.state_change"] {
        assert_eq!(accepted(json!({"type": kind})).kind, EventType::JobStateChange, "{kind}");
    }
}

#[test]
fn workers_and_queues_are_read_in_both_spellings() {
    let worker = json!({
        "externalId": "celery@w", "hostname": "celery@w", "state": "heartbeat", "pid": 12, "activeJobs": 3, "concurrency": 8,
        "metadata": {"software": "celery", "processedTotal": 40, "heartbeatFreq": 2.0, "loadavg": [1, 2, 3]}, "extra": 1
    });
    for kind in ["worker_state_change", "worker.state_change"] {
        let worker = accepted(json!({"type": kind, "job": null, "worker": worker})).worker.unwrap();
        assert_eq!(
            (worker.state, worker.processed_total, worker.active_jobs),
            (WorkerState::Heartbeat, Some(40), Some(3))
        );
        assert_eq!((worker.heartbeat_freq, worker.concurrency), (Some(2.0), Some(8)));
        assert_eq!(Value::Object(worker.metadata.clone()), json!({"software": "celery", "loadavg": [1, 2, 3]}));
        assert_eq!(worker.extensions["extra"], 1);
    }
    let queue = json!({"name": "mail", "depth": 7, "consumers": 2, "extensions": {"priority": 3}});
    for kind in ["queue_snapshot", "queue.snapshot"] {
        let event = accepted(json!({"type": kind, "job": null, "queue": queue}));
        let queue = event.queue.unwrap();
        assert_eq!((event.kind, queue.depth, queue.consumers), (EventType::QueueSnapshot, Some(7), Some(2)));
        assert_eq!(queue.extensions["priority"], 3);
    }
}

#[test]
fn a_body_without_a_batch_is_refused_whole() {
    let cases: [&[u8]; 13] = [
        b"",
        b"{\"events\": [{\"type\": \"job",
        b"{\"events\": [nope]}",
        b"{\"events\": [1 2]}",
        b"{\"events\": [], \"more\": nope}",
        b"{\"events\": []} tail",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"\"events\"",
        b"{}",
        b"{\"events\": null}",
        b"{\"events\": {\"0\": 1}}",
    ];
    for (at, body) in cases.iter().enumerate() {
        let expected = if at < 7 { "not valid JSON" } else { "array" };
        let error = read(body).expect_err(&String::from_utf8_lossy(body));
        assert!(error.to_string().contains(expected), "{error} for case {at}");
    }
    let many = |count| json!({"events": vec![json!({}); count]}).to_string();
    assert_eq!(read(many(10_001)).unwrap_err(), BatchError::TooMany(10_001));
    assert_eq!(read(many(10_000)).unwrap().rejected.len(), 10_000);
    assert_eq!(read(r#"{"events": []}"#).unwrap().total, 0);
}

#[test]
fn what_only_one_event_gets_wrong_in_its_json_costs_only_that_event() {
    let good = event(json!({})).to_string();
    let deep = format!("{}1{}", "{\"a\":".repeat(3_000), "}".repeat(3_000));
    let with = |extra: &str| good.replacen('{', &format!("{{\"extra\": {extra}, "), 1);
    let half = good.replace("app.send", "caf\\udce9");
    let body = format!(
        r#"{{"sent": 1, "events": [{good}, {}, {}, {}, {half}, {good}], "more": "]}}"}}"#,
        with(&deep),
        with("1e999"),
        with("NaN")
    );
    let batch = read(&body).unwrap();
    assert_eq!((batch.total, &batch.indexes[..]), (6, &[0, 3, 4, 5][..]));
    assert!(batch.rejected.iter().all(|rejected| rejected.message.contains("not readable")), "{:?}", batch.rejected);
    assert_eq!(batch.events[2].job.as_ref().unwrap().name.as_deref(), Some("caf\u{FFFD}"));
}

#[test]
fn arguments_and_results_are_dropped_when_they_are_to_be() {
    // BullMQ has other names for them, and a sender may put them among what is not understood.
    let secret = json!({"events": [event(json!({"job": {
        "args": "s3cret", "kwargs": {"k": "s3cret"}, "result": ["s3cret"], "data": {"k": "s3cret"}, "returnvalue": "s3cret",
        "extensions": {"args": "s3cret"},
    }}))]});
    let text = |redact_args| {
        let options = Options { redaction: Redaction::new(redact_args, Vec::new()) };
        let batch = sdk::batch(secret.to_string().as_bytes(), CONNECTION, &options).unwrap();
        serde_json::to_string(&batch.events[0]).unwrap()
    };
    assert!(text(false).contains("s3cret") && !text(true).contains("s3cret"));
}

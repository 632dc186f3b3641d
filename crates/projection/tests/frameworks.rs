//! What `BullMQ` and Sidekiq tell through the ingest API, folded by the rules of all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use projection::{Record, Row};
use proptest::prelude::*;
use proto_events::{Event, Position, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);
const NOON: i64 = 1_795_435_200_000_000;

/// What a sender tells: seconds after noon, and the job's fields.
type Step = (f64, Value);

fn events(framework: &str, steps: &[Step]) -> Vec<Event> {
    let events: Vec<Value> = steps
        .iter()
        .map(|(seconds, fields)| {
            let mut job = json!({"externalId": "17", "name": "mail.send", "queue": "mail"});
            job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let timestamp = Timestamp(NOON + (seconds * 1e6) as i64).to_millis_text();
            json!({"type": "job.state_change", "framework": framework, "timestamp": timestamp, "job": job})
        })
        .collect();
    let batch = sources::sdk::batch(
        json!({ "events": events }).to_string().as_bytes(),
        CONNECTION,
        &sources::sdk::Options::default(),
    );
    let batch = batch.unwrap();
    assert_eq!(batch.rejected, []);
    batch.events
}

fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Record {
    let positions = events.into_iter().enumerate().map(|(place, event)| (Position::new(place as u64 + 1, 0), event));
    Row::apply(None, CONNECTION, "17", positions).unwrap().record
}

fn history(record: &Record) -> String {
    record.state_history.iter().map(|entry| entry.state.as_str()).collect::<Vec<_>>().join(" ")
}

fn outcomes(record: &Record) -> Value {
    record.executions.iter().map(|run| json!([run.attempt, run.outcome])).collect()
}

/// Each story with its history and its executions, whatever the order in which it is told.
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn stories() -> Vec<(&'static str, Vec<Step>, &'static str, Value)> {
    let step = |seconds: f64, fields: Value| (seconds, fields);
    let plain = |framework, steps, history, outcomes| (framework, steps, history, outcomes);
    vec![
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "prioritized", "opts": {"attempts": 3}})),
                step(1.0, json!({"state": "active", "attemptsMade": 0, "progress": 20})),
                step(2.0, json!({"state": "active", "attemptsMade": 0, "progress": 65})),
                step(3.0, json!({"state": "completed", "attemptsMade": 1, "result": {"sent": true}})),
            ],
            "queued active completed",
            json!([[1, "completed"]]),
        ),
        // It fails, waits for its backoff, and fails again for good.
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "waiting", "maxRetries": 1})),
                step(1.0, json!({"state": "active", "attemptsMade": 0})),
                step(2.0, json!({"state": "retrying", "attemptsMade": 1, "failedReason": "busy"})),
                step(2.0, json!({"state": "delayed", "attemptsMade": 1, "scheduledFor": "2026-11-23T12:00:07.000Z"})),
                step(7.0, json!({"state": "active", "attemptsMade": 1})),
                step(
                    8.0,
                    json!({"state": "failed", "attemptsMade": 2, "failedReason": "gone", "stacktrace": ["a", "b"]}),
                ),
            ],
            "queued active retrying scheduled active failed",
            json!([[1, "retrying"], [2, "failed"]]),
        ),
        // The same by who knows nothing but the events' names: a person tries it again within seconds.
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "waiting"})),
                step(1.0, json!({"state": "active"})),
                step(2.0, json!({"state": "failed", "failedReason": "busy"})),
                step(3.0, json!({"state": "waiting"})),
                step(4.0, json!({"state": "active"})),
                step(5.0, json!({"state": "completed"})),
            ],
            "queued active failed queued active completed",
            json!([[1, "failed"], [1, "completed"]]),
        ),
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "waiting"})),
                step(1.0, json!({"state": "active"})),
                step(2.0, json!({"state": "failed", "failedReason": "busy"})),
                step(60.0, json!({"state": "waiting", "previousState": "failed"})),
            ],
            "queued active failed queued",
            json!([[1, "failed"]]),
        ),
        // A worker dies, and another one takes the job over.
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "waiting"})),
                step(1.0, json!({"state": "active", "workerId": "w1"})),
                step(31.0, json!({"state": "stalled"})),
                step(32.0, json!({"state": "active", "workerId": "w2"})),
                step(33.0, json!({"state": "completed", "workerId": "w2"})),
            ],
            "queued active queued active completed",
            json!([[1, "lost"], [1, "completed"]]),
        ),
        // A parent waits for its children in mid-run.
        plain(
            "bullmq",
            vec![
                step(0.0, json!({"state": "waiting"})),
                step(1.0, json!({"state": "active"})),
                step(2.0, json!({"state": "waiting-children"})),
                step(9.0, json!({"state": "waiting"})),
                step(10.0, json!({"state": "active"})),
                step(11.0, json!({"state": "completed"})),
            ],
            "queued active queued active completed",
            json!([[1, "rejected"], [1, "completed"]]),
        ),
        plain(
            "sidekiq",
            vec![
                step(0.0, json!({"state": "enqueued", "maxRetries": 1})),
                step(1.0, json!({"state": "busy", "workerId": "host:7:abc"})),
                step(2.0, json!({"state": "retry", "retry_count": 0, "error_class": "KeyError", "error_message": "x"})),
                step(17.0, json!({"state": "enqueued", "retry_count": 0})),
                step(18.0, json!({"state": "busy", "retry_count": 0})),
                step(19.0, json!({"state": "dead", "retry_count": 0, "error_class": "KeyError", "error_message": "y"})),
            ],
            "queued active retrying queued active failed",
            json!([[1, "retrying"], [2, "failed"]]),
        ),
        plain(
            "sidekiq",
            vec![
                step(0.0, json!({"state": "scheduled", "scheduledFor": "2026-11-23T13:00:00.000Z"})),
                step(3_600.0, json!({"state": "queued"})),
                step(3_601.0, json!({"state": "active"})),
                step(3_602.0, json!({"state": "completed"})),
            ],
            "scheduled queued active completed",
            json!([[1, "completed"]]),
        ),
    ]
}

#[test]
fn what_bullmq_and_sidekiq_tell_gives_its_true_record() {
    for (framework, steps, expected, runs) in stories() {
        let record = fold(&events(framework, &steps));
        assert_eq!((history(&record).as_str(), outcomes(&record)), (expected, runs), "{steps:#?} {record:#?}");
        assert_eq!(record.framework.as_str(), framework);
    }
    let (framework, steps, ..) = &stories()[0];
    let running = fold(&events(framework, &steps[..3]));
    assert_eq!((running.progress, running.max_retries), (Some(0.65), Some(2)));
    let (framework, steps, ..) = &stories()[1];
    let failed = fold(&events(framework, steps));
    assert_eq!((failed.error.as_deref(), failed.stacktrace.as_deref()), (Some("gone"), Some("b")));
    assert_eq!((failed.attempt, failed.max_retries), (2, Some(1)));
    let (framework, steps, ..) = &stories()[6];
    let dead = fold(&events(framework, steps));
    assert_eq!(dead.error.as_deref(), Some("KeyError: y"));
    assert_eq!(dead.extensions.value()["sidekiqState"], "dead");
}

proptest! {
    #[test]
    fn the_order_in_which_other_frameworks_tell_it_does_not_matter(story in 0_usize..8, seed in any::<u64>()) {
        let (framework, steps, expected, _) = &stories()[story];
        let events = events(framework, steps);
        let mut shuffled: Vec<&Event> = events.iter().chain(&events).collect();
        shuffled.sort_by_key(|event| (event.timestamp.micros() as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let record = fold(shuffled);
        prop_assert_eq!(&history(&record), expected);
        prop_assert_eq!(record, fold(&events));
    }
}

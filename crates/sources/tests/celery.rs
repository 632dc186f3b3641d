//! Celery's raw events and kombu messages, as captured from real workers, and as nobody should send them.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto_events::Event;
use serde_json::{Value, json};
use sources::Redaction;
use sources::celery::{EnvelopeError, Normaliser, Refused, unwrap_envelope};
use sources::lines;
use uuid::Uuid;

const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

fn normalise(raw: Value) -> Result<Event, Refused> {
    Normaliser::default().event(raw)
}

fn json_of(event: &Event) -> Value {
    serde_json::to_value(event).unwrap()
}

/// A raw event: the fields that all have, and the given ones; null takes a field away.
fn raw(fields: Value) -> Value {
    let mut raw = json!({
        "type": "task-started", "uuid": "u-1", "hostname": "w1@h", "utcoffset": -6, "pid": 7, "clock": 42,
        "timestamp": 1_795_440_115.833_834_4, "local_received": 1.0
    });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (key, value) in fields {
        raw[key] = value;
    }
    raw.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    raw
}

fn envelope(body: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut envelope = json!({
        "body": STANDARD.encode(body), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"hostname": "w1@h"},
        "properties": {"delivery_mode": 1, "priority": 0, "body_encoding": "base64", "delivery_tag": "t",
                       "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"}}
    });
    change(&mut envelope);
    envelope.to_string().into_bytes()
}

#[test]
fn every_kind_of_captured_event_becomes_what_was_reviewed() {
    let golden = include_str!("data/normalised.jsonl");
    let mut checked = 0;
    for line in golden.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let event = normalise(case["raw"].clone()).unwrap();
        assert_eq!(json_of(&event), case["event"], "{}", case["raw"]["type"]);
        assert_eq!(event.check(), Ok(()));
        checked += 1;
    }
    assert_eq!(checked, 18);
}

#[test]
fn every_recorded_line_is_read_and_nothing_is_refused() {
    let recordings = [
        (include_str!("data/celery-redis-prefork.jsonl"), 20, 2),
        (include_str!("data/celery-redis-solo-kolkata.jsonl"), 8, 2),
        (include_str!("data/celery-rabbitmq-prefork.jsonl"), 16, 0),
        (include_str!("data/celery-hard-cases.jsonl"), 30, 0),
        (include_str!("data/sdk.jsonl"), 14, 0),
    ];
    for (recording, lines, of_the_control_channel) in recordings {
        let read: Vec<_> = recording.lines().map(|line| lines::events(line, CONNECTION).unwrap()).collect();
        assert_eq!(read.len(), lines);
        assert_eq!(read.iter().filter(|events| events.is_empty()).count(), of_the_control_channel);
        assert!(read.iter().flatten().all(|event| event.check().is_ok()));
        let named: HashSet<_> = recording.lines().filter_map(lines::connection).collect();
        assert!(named.iter().eq(recording.contains("connectionId").then_some(&CONNECTION)));
    }
}

#[test]
fn a_message_of_the_control_channel_and_events_of_the_contract_are_read_from_lines() {
    let event = normalise(raw(json!({}))).unwrap();
    let line = json!([event, raw(json!({"uuid": "u-2"}))]).to_string();
    let events = lines::events(&line, CONNECTION).unwrap();
    assert_eq!(events[0], event);
    assert_eq!(events[1].job.as_ref().unwrap().external_id, "u-2");
    assert_eq!(lines::events(r#"{"method": "enable_events", "arguments": {}}"#, CONNECTION), Ok(vec![]));
    for line in ["", "7", "{", "{}", r#"{"body": 1}"#, r#"{"event": null}"#, r#"{"events": 3}"#] {
        assert!(lines::events(line, CONNECTION).is_err(), "{line}");
    }
}

#[test]
fn a_bad_event_of_a_line_is_named_and_the_others_are_kept() {
    let line = json!([raw(json!({})), raw(json!({"uuid": null})), {"type": "nonsense"}]).to_string();
    let Err(lines::LineError::Refused { events, refused }) = lines::events(&line, CONNECTION) else {
        panic!("must be refused in part")
    };
    assert_eq!((events.len(), refused.len()), (1, 2));
    assert!(refused[0].contains("uuid"), "{refused:?}");
}

#[test]
fn what_cannot_be_a_task_event_is_refused_with_its_reason() {
    let long = "x".repeat(513);
    let cases = [
        (json!({"uuid": null}), "uuid"),
        (json!({"uuid": 5}), "uuid"),
        (json!({"uuid": ""}), "uuid"),
        (json!({"uuid": long}), "512"),
        (json!({"timestamp": null}), "timestamp"),
        (json!({"timestamp": "1795440115"}), "timestamp"),
        (json!({"timestamp": 1e300}), "timestamp"),
        (json!({"type": null}), "type"),
        (json!({"type": "worker-dances"}), "worker-dances"),
        (json!({"type": "worker-online", "hostname": ""}), "hostname"),
    ];
    for (fields, reason) in cases {
        let refused = normalise(raw(fields.clone())).expect_err(&fields.to_string()).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    assert_eq!(normalise(json!([1])), Err(Refused::NotAnObject));
    // 512 characters are an id, whatever their bytes.
    assert!(normalise(raw(json!({"uuid": "é".repeat(512)}))).is_ok());
}

#[test]
fn fields_of_a_wrong_type_are_kept_as_they_came_and_do_not_count() {
    let odd = json!({
        "type": "task-received", "retries": "two", "pid": "x", "clock": {"a": 1}, "eta": "tomorrow", "name": 5,
        "hostname": "w1@h", "parent_id": [], "runtime": "fast", "new_field": {"of": "Celery 6"}
    });
    let job = normalise(raw(odd)).unwrap().job.unwrap();
    assert_eq!((job.attempt, job.name, job.scheduled_for, job.parent_id), (None, None, None, None));
    let expected = json!({
        "retries": "two", "pid": "x", "clock": {"a": 1}, "eta": "tomorrow", "name": 5, "parent_id": [],
        "runtime": "fast", "new_field": {"of": "Celery 6"}
    });
    assert_eq!(Value::Object(job.extensions), expected);
    let highest = raw(json!({"type": "task-received", "retries": u32::MAX}));
    assert_eq!(normalise(highest).unwrap().job.unwrap().attempt, None);
}

#[test]
fn arguments_and_results_are_dropped_when_they_are_to_be() {
    let redacting = Normaliser { redaction: Redaction::new(true, Vec::new()) };
    for kind in ["task-received", "task-succeeded", "task-custom"] {
        let secret =
            raw(json!({"type": kind, "args": "('s3cret',)", "kwargs": "{'k': 's3cret'}", "result": "'s3cret'"}));
        let event = redacting.event(secret.clone()).unwrap();
        assert!(!json_of(&event).to_string().contains("s3cret"), "{kind}");
        assert!(json_of(&normalise(secret).unwrap()).to_string().contains("s3cret"), "{kind}");
    }
}

#[test]
fn long_texts_are_cut_and_progress_is_a_share_or_not_known() {
    let long = raw(json!({"type": "task-failed", "exception": "e".repeat(20_000), "traceback": "t".repeat(90_000)}));
    let job = normalise(long).unwrap().job.unwrap();
    assert_eq!(job.error.unwrap().chars().count(), 10_000);
    assert_eq!(job.stacktrace.unwrap().chars().count(), 50_000);
    for (said, shown) in [(json!(0.25), Some(0.25)), (json!(40), None), (json!(-1), None), (json!("half"), None)] {
        let event = normalise(raw(json!({"type": "task-progress", "progress": said}))).unwrap();
        let job = event.job.unwrap();
        assert_eq!((job.progress, &job.extensions["progress"]), (shown, &said));
    }
}

#[test]
fn an_array_of_any_size_is_opened_and_one_bad_event_harms_no_other() {
    let many: Vec<Value> = (0..5_000).map(|number| raw(json!({"uuid": number.to_string()}))).collect();
    let message = envelope(json!(many).to_string().as_bytes(), |_| {});
    assert_eq!(unwrap_envelope(&message).unwrap().len(), 5_000);
    assert_eq!(Normaliser::default().message(&message).unwrap().events.len(), 5_000);

    // Too deep, too large, half a character, no number and no object: as Python writes them or an enemy might.
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let good = raw(json!({})).to_string();
    let rest = good.strip_suffix('}').unwrap();
    let body = format!(
        r#"[{good}, {rest}, "a": {deep}}}, {rest}, "b": 1e999}}, 7, {rest}, "c": "\udce9"}}, {rest}, "d": NaN}}, {good}]"#
    );
    let message = Normaliser::default().message(&envelope(body.as_bytes(), |_| {})).unwrap();
    assert_eq!((message.events.len(), message.refused), (4, 3), "{:?}", message.first_refused);
    assert_eq!(message.events[1].job.as_ref().unwrap().extensions["c"], "\u{FFFD}");
}

#[test]
fn other_serialisers_and_compression_are_refused_with_what_to_do() {
    let body = raw(json!({})).to_string();
    for kind in ["application/x-python-serialize", "application/x-msgpack", "application/x-yaml"] {
        let message = envelope(body.as_bytes(), |envelope| envelope["content-type"] = json!(kind));
        let refused = Normaliser::default().message(&message).unwrap_err();
        assert_eq!(refused, EnvelopeError::Serialiser(kind.to_owned()));
        assert!(refused.to_string().contains("event_serializer"), "{refused}");
    }
    let zipped = envelope(body.as_bytes(), |envelope| envelope["headers"]["compression"] = json!("application/x-gzip"));
    assert!(matches!(unwrap_envelope(&zipped), Err(EnvelopeError::Compressed(_))));
    let odd = envelope(b"", |envelope| envelope["body"] = json!("%%%"));
    assert!(matches!(unwrap_envelope(&odd), Err(EnvelopeError::Encoding(_))));
    let latin = envelope(b"{\"type\": \"\xe9\"}", |_| {});
    assert!(matches!(unwrap_envelope(&latin), Err(EnvelopeError::Encoding(_))));
    let cut = envelope(&body.as_bytes()[..20], |_| {});
    assert!(matches!(unwrap_envelope(&cut), Err(EnvelopeError::Body(_))));
    assert!(matches!(unwrap_envelope(b"PING"), Err(EnvelopeError::NotAnEnvelope(_))));
}

//! Whatever comes in, every parser answers and none panics; and what is let through is an event of the contract.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

mod cases;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proto_events::{Event, limits};
use serde_json::{Map, Value, json};
use sources::celery::{Normaliser, unwrap_envelope};
use sources::{lines, parse_sources, sdk};
use uuid::Uuid;

const RECORDINGS: [&str; 5] = [
    include_str!("data/celery-hard-cases.jsonl"),
    include_str!("data/celery-redis-prefork.jsonl"),
    include_str!("data/celery-redis-solo-kolkata.jsonl"),
    include_str!("data/celery-rabbitmq-prefork.jsonl"),
    include_str!("data/sdk.jsonl"),
];

/// The names that the parsers look at, so that arbitrary objects reach what lies behind them.
const KEYS: [&str; 34] = [
    "type",
    "uuid",
    "timestamp",
    "hostname",
    "pid",
    "clock",
    "retries",
    "eta",
    "name",
    "args",
    "progress",
    "events",
    "event",
    "job",
    "worker",
    "queue",
    "externalId",
    "state",
    "framework",
    "connectionId",
    "attempt",
    "extensions",
    "tags",
    "metadata",
    "message",
    "body",
    "v",
    "method",
    "requeue",
    "signum",
    "runtime",
    "headers",
    "properties",
    "$serde_json::private::RawValue",
];

fn scalar() -> impl Strategy<Value = Value> {
    let texts = vec![
        "task-sent",
        "task-received",
        "task-revoked",
        "task-x",
        "worker-online",
        "job.state_change",
        "celery",
        "active",
        "queued",
        "2026-02-27T10:30:02.000Z",
        "online",
        "",
        "\0",
        "\u{FFFD}",
        "{}",
        "[1]",
        "base64",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(texts).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        (1_usize..2_000).prop_map(|length| Value::from("é".repeat(length))),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 64, 8, |inner| {
        let key = prop_oneof![select(&KEYS[..]).prop_map(str::to_owned), ".{0,8}"];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(key, inner, 0..8).prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// A line of a recording with the envelope taken off, and some of its values replaced.
fn mutated() -> impl Strategy<Value = Value> {
    let lines: Vec<&'static str> = RECORDINGS.iter().flat_map(|recording| recording.lines()).collect();
    (select(lines), vec((any::<Index>(), any_json()), 1..6)).prop_map(|(line, changes)| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        if let Some(message) = value["message"].as_str() {
            value = json!(unwrap_envelope(message.as_bytes()).unwrap());
        }
        for (index, change) in changes {
            let mut places = Vec::new();
            collect(&mut value, &mut places);
            // Nothing is left where all was replaced by what is empty.
            if places.is_empty() {
                break;
            }
            let at = index.index(places.len());
            *places.swap_remove(at) = change;
        }
        value
    })
}

fn collect<'a>(value: &'a mut Value, places: &mut Vec<&'a mut Value>) {
    let is_leaf = !matches!(value, Value::Array(_) | Value::Object(_));
    match value {
        _ if is_leaf => places.push(value),
        Value::Array(values) => values.iter_mut().for_each(|value| collect(value, places)),
        Value::Object(map) => map.values_mut().for_each(|value| collect(value, places)),
        _ => {}
    }
}

/// Every parser of this crate on the same value.
fn all_parsers(value: &Value) -> Vec<Event> {
    let text = value.to_string();
    let mut events = Vec::new();
    events.extend(Normaliser::default().event(value.clone()));
    events.extend(Normaliser::default().body(&text).map(|message| message.events).unwrap_or_default());
    let _ = unwrap_envelope(text.as_bytes());
    let _ = Normaliser::default().message(text.as_bytes());
    for body in [text.clone(), json!({"events": value}).to_string(), json!({"events": [value]}).to_string()] {
        let batch = sdk::batch(body.as_bytes(), Uuid::nil(), &sdk::Options::default()).unwrap_or_default();
        assert_eq!(batch.total, batch.events.len() + batch.rejected.len());
        assert_eq!(batch.events.len(), batch.indexes.len());
        events.extend(batch.events);
    }
    match lines::events(&text, Uuid::nil()) {
        Ok(read) | Err(lines::LineError::Refused { events: read, .. }) => events.extend(read),
        Err(_) => {}
    }
    events
}

proptest! {
    #![proptest_config(cases::at_least(1_500))]

    #[test]
    fn any_json_gives_events_of_the_contract_or_a_reason(value in prop_oneof![any_json(), mutated()]) {
        for event in all_parsers(&value) {
            prop_assert_eq!(event.check(), Ok(()));
            let bytes = proto_events::encode(std::slice::from_ref(&event));
            prop_assert!(bytes.len() <= limits::EVENT_BYTES);
            // What was let in can be read back, and is the same.
            let read = proto_events::decode(&bytes).unwrap().remove(0);
            prop_assert_eq!(read, Ok(event));
        }
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in vec(any::<u8>(), 0..200), cut in any::<Index>(), flip in any::<u8>()) {
        let line = RECORDINGS[cut.index(RECORDINGS.len())].lines().next().unwrap();
        let mut broken = line.as_bytes().to_vec();
        let at = cut.index(broken.len());
        broken[at] ^= flip;
        for bytes in [&bytes[..], &broken, &line.as_bytes()[..at]] {
            let _ = unwrap_envelope(bytes);
            let _ = Normaliser::default().message(bytes);
            let _ = sdk::batch(bytes, Uuid::nil(), &sdk::Options::default());
            let text = String::from_utf8_lossy(bytes);
            let _ = Normaliser::default().body(&text);
            let _ = lines::events(&text, Uuid::nil());
            let _ = parse_sources(&text);
        }
    }
}

#[test]
fn nesting_of_any_depth_is_refused_and_not_followed() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"events\":[", "]}"), ("{\"event\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(lines::events(&deep, Uuid::nil()).is_err());
        let _ = Normaliser::default().body(&deep);
        let _ = unwrap_envelope(deep.as_bytes());
        let batch = sdk::batch(format!("{{\"events\": [{deep}]}}").as_bytes(), Uuid::nil(), &sdk::Options::default());
        assert_eq!(batch.unwrap().rejected.len(), 1);
    }
}

//! What a task says of its own: kept beside its record, within bounds, and moving nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

use projection::{Record, Row};
use proptest::prelude::*;
use proto_events::{Event, JobState, Position};
use serde_json::{Value, json};
use sources::celery::Normaliser;
use uuid::Uuid;

const NOON: f64 = 1_795_435_200.0;

fn event(kind: &str, seconds: f64, clock: i64, fields: &Value) -> Event {
    let mut raw = json!({
        "type": kind, "uuid": "job", "hostname": "celery@w", "pid": 7, "clock": clock, "timestamp": NOON + seconds,
    });
    raw.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Normaliser::default().event(raw).unwrap()
}

fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Record {
    let positions = events.into_iter().enumerate().map(|(place, event)| (Position::new(place as u64 + 1, 0), event));
    Row::apply(None, Uuid::nil(), "job", positions).unwrap().record
}

fn started() -> Vec<Event> {
    vec![
        event("task-received", 0.0, 1, &json!({"name": "app.bill", "retries": 0})),
        event("task-started", 1.0, 2, &json!({})),
    ]
}

fn say(number: usize, fields: &Value) -> Event {
    event("task-invoiced", 2.0 + number as f64, 10 + number as i64, fields)
}

#[test]
fn what_a_task_says_is_in_its_record_and_moves_nothing() {
    let plain = fold(&started());
    let mut events = started();
    events.push(say(0, &json!({"invoice": 17, "lines": ["a", "b"]})));
    events.push(event("task-progress", 3.0, 20, &json!({"current": 3, "total": 4, "step": "posting"})));
    events.push(event("task-progress", 4.0, 21, &json!({"progress": 75})));
    let mut record = fold(&events);
    assert_eq!(record.progress, Some(0.75));
    // The last word on how far it is, beside what the number says.
    assert_eq!(record.extensions.value(), json!({"task-progress": {"progress": 75}}));
    let notes = serde_json::to_value(&record.notes).unwrap();
    let expected = json!([{
        "name": "task-invoiced", "timestamp": "2026-11-23T12:00:02.000Z",
        "data": {"invoice": 17, "lines": ["a", "b"]}, "truncated": false,
    }]);
    assert_eq!(notes, expected);
    (record.notes, record.progress, record.extensions) = (Vec::new(), None, plain.extensions.clone());
    assert_eq!(record, plain);
    events.push(event("task-succeeded", 5.0, 22, &json!({"runtime": 4.0})));
    assert_eq!((fold(&events).state, fold(&events).notes.len()), (JobState::Completed, 1));
}

proptest! {
    #![proptest_config(cases::at_least(24))]

    #[test]
    fn notes_are_those_of_the_set_of_events_and_within_bounds(
        lengths in proptest::collection::vec(0_usize..4_000, 1..160), seed in any::<u64>(),
    ) {
        let mut events = started();
        events.extend(lengths.iter().enumerate().map(|(number, length)| say(number, &json!({"n": number, "x": "z".repeat(*length)}))));
        let record = fold(&events);
        prop_assert_eq!(record.notes_truncated, lengths.len() > 100);
        prop_assert_eq!(record.notes.len(), lengths.len().min(100));
        let kept: Vec<usize> = (0..lengths.len()).filter(|place| *place < 20 || place + 80 >= lengths.len()).collect();
        for (note, place) in record.notes.iter().zip(kept) {
            let whole = json!({"n": place, "x": "z".repeat(lengths[place])});
            prop_assert_eq!(note.truncated, whole.to_string().len() > 1_024);
            prop_assert!(note.data.as_str().len() <= 1_024);
            if !note.truncated {
                prop_assert_eq!(note.data.value(), whole);
            }
        }
        let mut shuffled: Vec<&Event> = events.iter().chain(&events).collect();
        shuffled.sort_by_key(|event| (event.timestamp.micros() as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        prop_assert_eq!(fold(shuffled), record);
    }
}

//! Older versions of the contract, brought to the newest before anything else sees them.
//!
//! The log keeps what was written for as long as it keeps anything, so each version ever written stays readable. A change
//! that an older reader would misunderstand makes a new version: a step is added here, which turns an element of the
//! newest version until then into one of the next, and samples of the new version beside those of all others. An addition
//! that older readers may ignore needs none of this.

use serde_json::{Map, Value};

/// Turns the fields of an element of one version into those of the next; the version itself is set by who calls it.
/// It is total: what does not look as expected is left as it is, and refused as malformed afterwards.
pub(crate) type Step = fn(&mut Map<String, Value>);

/// The steps in their order: the first is from version 1 to version 2. There is no version 2 yet.
pub(crate) const STEPS: &[Step] = &[];

/// Brings an element of this version to the newest.
pub(crate) fn upcast(mut element: Value, version: usize, steps: &[Step]) -> Value {
    if let Value::Object(fields) = &mut element {
        for (step, next) in steps.iter().zip(2..).skip(version - 1) {
            step(fields);
            fields.insert("v".to_owned(), Value::from(next));
        }
    }
    element
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::decode_with;
    use crate::{DecodeError, Event, EventId};

    /// What changes of the contract may look like: one field gets another name, then another one does.
    const CHANGES: &[Step] = &[
        |event| {
            if let Some(Value::Object(job)) = event.get_mut("job") {
                rename(job, "label", "name");
            }
        },
        |event| rename(event, "at", "timestamp"),
    ];

    fn rename(fields: &mut Map<String, Value>, from: &str, to: &str) {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }

    fn decoded(elements: &Value) -> Vec<Result<Event, DecodeError>> {
        decode_with(elements.to_string().as_bytes(), CHANGES).unwrap()
    }

    fn element(version: u64) -> Value {
        let (time, name) = (if version < 3 { "at" } else { "timestamp" }, if version < 2 { "label" } else { "name" });
        json!({
            "v": version, "type": "job.state_change", time: "2026-01-01T00:00:00Z", "framework": "celery",
            "job": { "externalId": "a", "state": "queued", name: "app.send" },
        })
    }

    #[test]
    fn every_version_comes_out_as_the_newest_with_one_identity() {
        let mut unversioned = element(1);
        unversioned.as_object_mut().unwrap().remove("v");
        let mixed = json!([element(1), unversioned, element(2), element(3)]);
        let events: Vec<Event> = decoded(&mixed).into_iter().map(Result::unwrap).collect();
        assert_eq!(events.len(), 4);
        for event in &events {
            assert_eq!((event, EventId::of(event)), (&events[3], EventId::of(&events[3])));
        }
        assert_eq!((events[0].v, events[0].job.as_ref().unwrap().name.as_deref()), (3, Some("app.send")));
        // One alone, too.
        assert_eq!(decoded(&element(1)), [Ok(events[3].clone())]);
    }

    #[test]
    fn what_no_step_can_help_is_refused_alone() {
        let results = decoded(&json!([element(0), 7, { "v": 1 }, element(4), element(2)]));
        assert!(results[..3].iter().all(|it| matches!(it, Err(DecodeError::Malformed(_)))), "{results:?}");
        assert_eq!(results[3], Err(DecodeError::Newer(4)));
        assert!(results[4].is_ok());
    }
}

//! `forebay job --events`: the events that a record was folded from, for people.

use anyhow::Context as _;
use projection::Verdict;
use proto_events::{Event, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::text::{Paint, short, table, time};

/// Characters of a worker's or an event's name.
const CELL: usize = 40;

/// What the API answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Events {
    external_id: String,
    truncated: bool,
    data: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    position: String,
    published_at: Option<Timestamp>,
    timestamp: Timestamp,
    verdict: Verdict,
    reason: Option<String>,
    event: Option<Event>,
    missing: Option<String>,
}

/// The answer of `GET /api/jobs/{id}/events` as text.
pub(crate) fn describe(answer: &Value, paint: Paint) -> anyhow::Result<String> {
    let unexpected = "the server's answer is not a list of events: is it another version of forebay?";
    let events = Events::deserialize(answer).context(unexpected)?;
    let rows: Vec<Vec<String>> = events.data.iter().map(row).collect();
    let headings = ["position", "published", "happened", "event", "worker", "verdict", "reason"];
    let mut text = format!("{}\n{}", paint.bold(&short(&events.external_id, CELL)), table(&headings, &rows, paint));
    if events.truncated {
        text.push_str("  Not all events of this job are kept.\n");
    }
    Ok(text)
}

fn row(item: &Item) -> Vec<String> {
    let none = || "-".to_owned();
    let what = match (&item.event, item.missing.as_deref()) {
        (Some(event), _) => what(event),
        (None, Some("large")) => "(too large)".to_owned(),
        (None, _) => "(not in the log any more)".to_owned(),
    };
    let worker = item.event.as_ref().and_then(|event| event.job.as_ref()?.worker_id.as_deref());
    let verdict = match item.verdict {
        Verdict::Counted => "counted",
        Verdict::Collapsed => "collapsed",
        Verdict::Refused => "refused",
    };
    vec![
        item.position.clone(),
        // To the microsecond: it can be given to --as-of.
        item.published_at.map_or_else(none, |time| time.to_micros_text().replacen('T', " ", 1)),
        time(item.timestamp),
        short(&what, CELL),
        worker.map_or_else(none, |worker| short(worker, CELL)),
        verdict.to_owned(),
        item.reason.as_deref().unwrap_or_default().to_owned(),
    ]
}

/// Celery's name of its event, or the state that was reported.
fn what(event: &Event) -> String {
    let Some(job) = &event.job else { return "-".to_owned() };
    let custom = job.extensions.get("celeryEvent").and_then(Value::as_str);
    let celery = job.celery.as_ref().and_then(|facts| serde_json::to_value(facts.event).ok());
    let named = custom.or_else(|| celery.as_ref()?.as_str());
    named.map_or_else(|| job.state.as_str().to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_a_table_and_what_is_gone_is_told() {
        let event = |state: &str, fields: Value| {
            let mut event = json!({
                "v": 1, "type": "job.state_change", "timestamp": "2026-02-27T10:29:55.000000Z", "framework": "celery",
                "job": { "externalId": "a", "state": state, "workerId": "w\u{1b}[2J" },
            });
            event["job"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            event
        };
        let item = |position: &str, reason: Value, event: Value| {
            json!({
                "position": position, "timestamp": "2026-02-27T10:29:55.000000Z", "verdict": "collapsed",
                "publishedAt": (!event.is_null()).then_some("2026-02-27T10:29:55.123456Z"),
                "reason": reason, "event": event,
            })
        };
        let answer = json!({ "externalId": "a", "truncated": true, "data": [
            item("7.0", json!("the job waits already"), event("queued", json!({}))),
            item("7.12", Value::Null, event("active", json!({ "celery": { "event": "task-started" } }))),
            item("3.0", Value::Null, Value::Null),
        ] });
        let expected = "a
  position  published                    happened                  event                      worker  verdict    reason
  7.0       2026-02-27 10:29:55.123456Z  2026-02-27 10:29:55.000Z  queued                     w\u{fffd}[2J   collapsed  the job waits already
  7.12      2026-02-27 10:29:55.123456Z  2026-02-27 10:29:55.000Z  task-started               w\u{fffd}[2J   collapsed
  3.0       -                            2026-02-27 10:29:55.000Z  (not in the log any more)  -       collapsed
  Not all events of this job are kept.
";
        assert_eq!(describe(&answer, Paint::plain()).unwrap(), expected);
        assert!(describe(&json!({ "data": 7 }), Paint::plain()).is_err());
    }
}

//! The events behind a record, and the record as it was.

use bytes::Bytes;
use event_log::EventLog;
use projection::Row;
use proto_events::{Event, Position, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Answer, CONNECTION, Server, event};

/// A raw event of Celery about the job `a`, as the log keeps it.
fn celery(kind: &str, clock: u32, time: f64, fields: &Value) -> Event {
    let mut raw = json!({
        "type": kind, "uuid": "a", "hostname": "worker-1@host", "pid": 7, "clock": clock, "timestamp": time,
    });
    raw.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    sources::lines::events(&raw.to_string(), CONNECTION).unwrap().remove(0)
}

async fn append(log: &EventLog, events: &[Event]) -> u64 {
    log.append(CONNECTION, Bytes::from(proto_events::encode(events))).await.unwrap().sequence
}

/// A task that is tried twice, in four messages, beside another job.
async fn retried(server: &Server) -> Vec<(Position, Event)> {
    let other: Event = serde_json::from_value(event("b", "queued", "2026-02-27T10:29:55Z")).unwrap();
    let messages = [
        vec![
            celery("task-received", 1, 100.0, &json!({ "name": "n", "retries": 0, "args": "(1,)" })),
            celery("task-started", 2, 100.5, &json!({})),
        ],
        vec![other, celery("task-retried", 3, 101.0, &json!({ "exception": "KeyError('x')", "traceback": "T" }))],
        vec![
            celery("task-received", 4, 101.1, &json!({ "name": "n", "retries": 1 })),
            celery("task-started", 5, 111.0, &json!({})),
        ],
        vec![celery("task-succeeded", 6, 112.0, &json!({ "result": "'x'", "runtime": 1.0 }))],
    ];
    let mut places = Vec::new();
    for events in messages {
        let sequence = append(&server.log, &events).await;
        let positions = (0..).map(|index| Position::new(sequence, index));
        let ours = positions.zip(events).filter(|(_, event)| event.job.as_ref().unwrap().external_id == "a");
        places.extend(ours);
    }
    places
}

fn get(server: &Server, path: &str) -> Answer {
    let answer = server.client.get(path).admin().send();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}

/// What the fold of the first so many events of the job gives.
fn folded(events: &[(Position, Event)]) -> Value {
    let events = events.iter().map(|(position, event)| (*position, event));
    let mut record = serde_json::to_value(Row::apply(None, CONNECTION, "a", events).unwrap().record).unwrap();
    record["recentExecutions"] = json!([]);
    for of_now in ["lost", "stuck", "waiting"] {
        record[of_now] = Value::Null;
    }
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_as_it_was_is_the_fold_of_what_the_log_held_then() {
    let server = Server::start().await;
    let events = retried(&server).await;
    let listed = get(&server, "/api/jobs/a/events?atLeast=4").body;
    let data = listed["data"].as_array().unwrap();
    assert_eq!(data.len(), events.len());
    let time = |item: &Value| Timestamp::parse(item["publishedAt"].as_str().unwrap()).unwrap();
    let as_of = |then: &str| get(&server, &format!("/api/jobs/a?asOf={then}")).body;
    let before = |time: Timestamp| Timestamp(time.micros() - 1).to_micros_text();
    for (number, ((position, event), item)) in events.iter().zip(data).enumerate() {
        assert_eq!(item["position"], position.to_string());
        assert_eq!(item["event"], serde_json::to_value(event).unwrap(), "as the log has it");
        assert_eq!(item["timestamp"], event.timestamp.to_micros_text());
        assert_eq!(as_of(&position.to_string()), folded(&events[..=number]), "up to {position}");
        // A time and a whole message end with the last event of the message.
        let whole = events.partition_point(|(at, _)| at.sequence <= position.sequence);
        assert_eq!(as_of(&position.sequence.to_string()), folded(&events[..whole]));
        assert_eq!(as_of(&time(item).to_micros_text()), folded(&events[..whole]));
        let earlier = events.partition_point(|(at, _)| at.sequence < position.sequence);
        if earlier > 0 {
            assert_eq!(as_of(&before(time(item))), folded(&events[..earlier]));
        }
    }
    assert_eq!(as_of("2.0"), folded(&events[..2]), "an event of another job stands there");
    assert_eq!(as_of("2100-01-01T00:00:00Z"), folded(&events));
    assert_eq!(as_of("4")["state"], "completed");

    for then in ["0", &before(time(&data[0]))] {
        let unknown = server.client.get(&format!("/api/jobs/a?asOf={then}")).admin().send();
        let details = unknown.error(404, "NOT_FOUND")["details"].clone();
        assert_eq!(details["asOf"], "Nothing was known of this job by then.");
        assert_eq!((&details["firstPosition"], &details["firstPublishedAt"]), (&json!("1.0"), &data[0]["publishedAt"]));
        assert_eq!(unknown.header("forebay-applied"), Some("4"));
    }
    let nobody = server.client.get("/api/jobs/nobody?asOf=4").admin().send();
    assert!(nobody.error(404, "NOT_FOUND")["details"]["logSince"].is_string());
    server.client.get("/api/jobs/nobody/events").admin().send().error(404, "NOT_FOUND");
    let wrong = server.client.get("/api/jobs/a?asOf=yesterday").admin().send();
    assert!(wrong.error(400, "VALIDATION_ERROR")["details"]["asOf"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_dropped_is_listed_without_its_event_and_never_guessed() {
    let server = Server::start().await;
    let events = retried(&server).await;
    let whole = get(&server, "/api/jobs/a/events?atLeast=4").body;
    server.log.jobs_stream().purge().sequence(3).await.unwrap();
    let listed = get(&server, "/api/jobs/a/events").body;
    for (number, (now, before)) in
        listed["data"].as_array().unwrap().iter().zip(whole["data"].as_array().unwrap()).enumerate()
    {
        let mut expected = before.clone();
        if number < 3 {
            expected["event"] = Value::Null;
            expected["publishedAt"] = Value::Null;
            expected["missing"] = json!("gone");
        }
        assert_eq!(*now, expected);
    }
    let mut rest = folded(&events[3..4]);
    rest["truncated"] = json!(true);
    assert_eq!(get(&server, "/api/jobs/a?asOf=3.0").body, rest, "what can be said, and that it is not all");
    let gone = server.client.get("/api/jobs/a?asOf=2").admin().send();
    let details = &gone.error(404, "NOT_FOUND")["details"];
    assert_eq!(details["asOf"], "The log does not hold any more what was known of this job by then.");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_said_to_be_forgotten() {
    let server = Server::start().await;
    let events = retried(&server).await;
    let before = get(&server, "/api/jobs/a/events?atLeast=4").body["data"][0]["publishedAt"].clone();
    server.given(&json!([event("later", "queued", "2026-02-27T10:40:00Z")]));
    server.projector.trim(&server.log, CONNECTION, 3).await.unwrap();
    let job = get(&server, "/api/jobs/a").body;
    assert_eq!(job["truncated"], true);
    let listed = get(&server, "/api/jobs/a/events").body;
    let left = events.iter().filter(|(at, _)| at.sequence >= 3).count();
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["truncated"]), (left, &json!(true)));
    // What the job was by then, or whether another of its name was there: nobody knows.
    for (job, then) in [("a", "2"), ("a", before.as_str().unwrap()), ("later", "2"), ("later", "2020-01-01T00:00:00Z")]
    {
        let forgotten = server.client.get(&format!("/api/jobs/{job}?asOf={then}")).admin().send();
        let details = &forgotten.error(404, "NOT_FOUND")["details"];
        let expected = "The log does not hold any more what was known of this job by then.";
        assert_eq!(details["asOf"], expected, "{job} at {then}");
    }
    let unheard = server.client.get("/api/jobs/later?asOf=3").admin().send();
    assert_eq!(unheard.error(404, "NOT_FOUND")["details"]["asOf"], "Nothing was known of this job by then.");
    let then = get(&server, "/api/jobs/a?asOf=4").body;
    assert_eq!(then["truncated"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_told_with_what_the_fold_made_of_it() {
    let server = Server::start().await;
    let at = |seconds: f64| format!("2026-02-27T10:30:{seconds:09.6}Z");
    let mut again = event("x/y", "active", &at(2.5));
    again["job"]["workerId"] = json!("worker-2");
    server.given(&json!([event("x/y", "queued", &at(1.0)), event("x/y", "active", &at(2.0))]));
    server.given(&json!([event("x/y", "completed", &at(3.0)), again]));
    server.given(&json!([event("x/y", "queued", &at(4.0))]));
    let answer = get(&server, "/api/jobs/x%2Fy/events");
    let record = get(&server, "/api/jobs/x%2Fy").body;
    assert_eq!(answer.body["id"], record["id"]);
    assert_eq!((&answer.body["externalId"], &answer.body["truncated"]), (&json!("x/y"), &json!(false)));
    let told: Vec<_> = answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["position"].as_str().unwrap(), it["verdict"].as_str().unwrap(), it["reason"].as_str()))
        .collect();
    let expected = [
        ("1.0", "counted", None),
        ("1.1", "counted", None),
        ("2.1", "collapsed", Some("the same state was reported before")),
        ("2.0", "counted", None),
        ("3.0", "refused", Some("the job had ended")),
    ];
    assert_eq!(told, expected, "in the order of the fold, not of the log");
    assert_eq!(record["state"], "completed");
    let by_id = get(&server, &format!("/api/jobs/{}/events", record["id"].as_str().unwrap()));
    assert_eq!(by_id.body, answer.body);
    assert_eq!(by_id.header("etag"), answer.header("etag"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_with_as_many_as_a_job_can_have() {
    let server = Server::start().await;
    let events: Vec<Value> = (0..1_100)
        .map(|number| {
            let mut event = event("a", "active", &format!("2026-02-27T10:{:02}:{:02}Z", number / 60, number % 60));
            event["job"]["progress"] = json!(f64::from(number) / 2_000.0);
            event
        })
        .collect();
    for batch in events.chunks(7) {
        server.given(&json!(batch));
    }
    let answer = get(&server, "/api/jobs/a/events").body;
    let data = answer["data"].as_array().unwrap();
    assert_eq!((data.len(), &answer["truncated"]), (1_000, &json!(true)));
    assert!(data.iter().all(|item| item["event"]["job"]["externalId"] == "a"));
    let record = get(&server, "/api/jobs/a").body;
    let mut now = get(&server, "/api/jobs/a?asOf=2100-01-01T00:00:00Z").body;
    for of_now in ["recentExecutions", "lost", "stuck", "waiting"] {
        now[of_now] = record[of_now].clone();
    }
    assert_eq!(now, record);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_of_a_time_after_an_acknowledgement_holds_what_was_acknowledged() {
    let server = Server::start().await;
    for number in 0..100 {
        let id = format!("job-{number}");
        assert_eq!(server.ingest(&json!([event(&id, "completed", "2026-02-27T10:30:00Z")])).status, 202);
        let record = get(&server, &format!("/api/jobs/{id}?asOf=2100-01-01T00:00:00Z")).body;
        assert_eq!(record["state"], "completed", "{id}");
    }
}

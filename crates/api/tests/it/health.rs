//! What is said about how things are.

use std::time::Instant;

use event_log::testing::TestServer;
use proto_events::{Event, Framework, Job, JobState, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Bare, CONNECTION, DEADLINE, KEY, PASSWORD, Server, event};

#[tokio::test(flavor = "multi_thread")]
async fn until_the_parts_are_there_everything_but_life_is_unavailable() {
    let bare = Bare::start(PASSWORD).await;
    let live = bare.client.get("/api/health/live").send();
    assert_eq!((live.status, live.body), (200, json!({ "status": "ok", "version": "1.2.3" })));
    let health = bare.client.get("/api/health").send();
    assert_eq!((health.status, &health.body["reason"]), (503, &json!("STARTING")));
    assert_eq!(health.body["status"], "unavailable");
    let unavailable = [
        bare.client.get("/api/jobs").admin().send(),
        bare.client.get("/api/jobs/x").admin().send(),
        bare.client.get("/api/connections").admin().send(),
        bare.client.post("/api/ingest", &json!({ "events": [] })).bearer(KEY).send(),
    ];
    for answer in unavailable {
        answer.error(503, "UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_nothing_is_read_before_all_that_the_log_held_is_applied() {
    const JOBS: i64 = 20_000;
    let nats = TestServer::start();
    let job =
        |number| Event::job(Timestamp(number), Framework::Celery, Job::new(format!("{number}"), JobState::Queued));
    let log = event_log::EventLog::open(nats.config()).await.unwrap();
    for chunk in (0..JOBS).map(job).collect::<Vec<_>>().chunks(500) {
        log.append(CONNECTION, proto_events::encode(chunk).into()).await.unwrap();
    }
    let server = Server::begin(nats).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let read = server.client.get("/api/jobs").admin().send();
        if read.status == 200 {
            assert_eq!(read.body["pagination"]["total"], json!(JOBS), "older than before the start");
            break;
        }
        read.error(503, "UNAVAILABLE");
        let health = server.client.get("/api/health").send();
        assert!(health.status == 200 || health.body["reason"] == "CATCHING_UP", "{}", health.body);
        assert!(Instant::now() < deadline, "{}", health.body);
    }
    assert_eq!(server.client.get("/api/health").send().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_away_is_told_and_reads_go_on() {
    let mut server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    let well = server.client.until("/api/health", |answer| answer.body["projector"]["applied"] == 1);
    assert_eq!(well.status, 200);
    assert_eq!((&well.body["status"], well.body.get("reason")), (&json!("ok"), None));
    assert_eq!(well.body["log"]["lastSequence"], 1);
    assert_eq!(
        (&well.body["projector"]["phase"], &well.body["projector"]["lagEvents"]),
        (&json!("following"), &json!(0))
    );
    assert_eq!((&well.body["sources"], &well.body["version"]), (&json!([]), &json!("1.2.3")));

    server.nats.kill();
    let ill = server.client.until("/api/health", |answer| answer.status == 503);
    assert_eq!((&ill.body["status"], &ill.body["reason"]), (&json!("unavailable"), &json!("LOG_UNREACHABLE")));
    assert_eq!(ill.body["log"]["connected"], false);
    assert_eq!(ill.body["log"]["lastSequence"], Value::Null);
    assert_eq!(server.client.get("/api/jobs/a").admin().send().status, 200, "the views are still there");
    server.client.get("/api/jobs/b").admin().send().error(404, "NOT_FOUND");
    let refused = server.ingest(&json!([event("b", "queued", "2026-02-27T10:29:55Z")]));
    refused.error(503, "UNAVAILABLE");
    assert_eq!(refused.header("retry-after"), Some("2"));
    let refused = server.client.post("/api/connections", &json!({ "name": "new" })).admin().send();
    refused.error(503, "UNAVAILABLE");

    server.nats.restart();
    server.client.until("/api/health", |answer| answer.status == 200);
    server.given(&json!([event("b", "queued", "2026-02-27T10:29:55Z")]));
    assert_eq!(server.client.get("/api/jobs/b").admin().send().status, 200);
}

/// What the schema of this name may be.
fn values(document: &Value, schema: &str) -> Vec<String> {
    let schema = &document["components"]["schemas"][schema];
    let plain = schema["enum"].as_array().into_iter().flatten();
    let described = schema["oneOf"].as_array().into_iter().flatten();
    let described =
        described.flat_map(|one| one["enum"].as_array().cloned().unwrap_or_else(|| vec![one["const"].clone()]));
    plain.cloned().chain(described).map(|value| value.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_says_of_every_reason_and_warning_what_to_do() {
    let bare = Bare::start(PASSWORD).await;
    let document = bare.client.get("/api/openapi.json").send().body;
    let runbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../forebay/README.md")).unwrap();
    let section = runbook.split("## What health says").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let mut told: Vec<String> =
        rows.map(|(name, _)| name.to_owned()).filter(|name| !["reason", "what"].contains(&name.as_str())).collect();
    let mut known = [values(&document, "HealthReason"), values(&document, "MissingWhat")].concat();
    assert!(known.len() > 15, "{known:?}");
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);
    // And with the status that it has.
    for unavailable in ["STARTING", "CATCHING_UP", "LOG_UNREACHABLE", "PROJECTOR_FAILED", "LOG_CHANGED"] {
        assert!(section.contains(&format!("| `{unavailable}` | 503 |")), "{unavailable}");
    }
    for link in runbook.match_indices("](#").map(|(at, _)| &runbook[at + 3..]) {
        let anchor = link.split(')').next().unwrap();
        let title = format!("\n## {}\n", anchor.replace('-', " "));
        assert!(runbook.to_lowercase().contains(&title), "{anchor}");
    }
}

//! Workers as they are now.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, CONNECTION, Server};

/// What a worker says, as the SDK's builder makes it.
fn worker(name: &str, state: &str, second: u32, fields: &Value) -> Value {
    let mut worker = json!({ "externalId": name, "hostname": name, "state": state });
    worker.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({
        "type": "worker.state_change", "timestamp": format!("2026-02-27T10:29:{second:02}Z"), "framework": "celery",
        "connectionId": CONNECTION, "worker": worker,
    })
}

fn say(server: &Server, events: &[Value]) {
    let answer = server.ingest(&json!(events));
    assert_eq!((answer.status, &answer.body["rejected"]), (202, &json!([])), "{}", answer.body);
}

fn values<'a>(answer: &'a Answer, field: &str) -> Vec<&'a Value> {
    answer.body["data"].as_array().unwrap().iter().map(|row| &row[field]).collect()
}

/// Asks until all these workers are listed.
fn listed(server: &Server, path: &str, names: &[&str]) -> Answer {
    server.client.until(path, |answer| answer.status == 200 && values(answer, "externalId") == names)
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_as_documented_and_go_offline_by_themselves() {
    let server = Server::start().await;
    let metadata = json!({
        "software": "py-celery", "softwareVersion": "5.6.2", "pool": "prefork", "processedTotal": 120,
        "loadavg": [0.1, 0.2, 0.3], "heartbeatFreq": 2.0,
    });
    let fields = json!({ "pid": 7, "activeJobs": 2, "concurrency": 4, "metadata": metadata, "region": "eu" });
    say(&server, &[worker("celery@w", "online", 1, &json!({})), worker("celery@w", "heartbeat", 2, &fields)]);
    let busy = |answer: &Answer| answer.body["data"][0]["state"] == "busy";
    let answer = server.client.until("/api/workers", busy);
    assert_eq!(answer.body["pagination"], json!({ "page": 1, "limit": 50, "total": 1, "totalPages": 1 }));
    let mut row = answer.body["data"][0].clone();
    let mut take = |name: &str| row.as_object_mut().unwrap().remove(name).unwrap_or_else(|| panic!("no {name}"));
    assert!([take("lastHeartbeat"), take("createdAt"), take("lastOnlineAt")].iter().all(|time| {
        let text = time.as_str().unwrap_or_default();
        text.len() == 24 && text.ends_with('Z') && !text.starts_with("2026-02-27")
    }));
    let id: Uuid = take("id").as_str().unwrap().parse().unwrap();
    assert_eq!(id, proto_events::worker_id(CONNECTION, "celery@w"));
    assert_ne!(id, proto_events::job_id(CONNECTION, "celery@w"));
    let expected = json!({
        "externalId": "celery@w", "framework": "celery", "connectionId": CONNECTION, "hostname": "celery@w", "pid": 7,
        "state": "busy", "concurrency": 4, "activeJobs": 2, "queues": [], "taskRate": null, "processedTotal": 120,
        "metadata": {
            "software": "celery 5.6.2", "softwareVersion": "5.6.2", "pool": "prefork", "processedTotal": 120,
            "loadavg": [0.1, 0.2, 0.3], "heartbeatFreq": 2.0,
        },
        "extensions": { "region": "eu" }, "lastOfflineAt": null, "restartedAt": null,
    });
    assert_eq!(row, expected);
    // Nothing more is said, and after six seconds that says enough.
    let offline = server.client.until("/api/workers?state=offline", |answer| answer.body["pagination"]["total"] == 1);
    assert_eq!(offline.body["data"][0]["activeJobs"], 2, "what it was doing when it was heard last");
    assert_eq!(offline.body["data"][0]["lastHeartbeat"], answer.body["data"][0]["lastHeartbeat"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_its_leave_is_offline_at_once_and_another_process_is_told() {
    let server = Server::start().await;
    say(&server, &[worker("w", "online", 1, &json!({ "pid": 1 })), worker("w", "offline", 2, &json!({ "pid": 1 }))]);
    server.client.until("/api/workers", |answer| values(answer, "state") == ["offline"]);
    say(&server, &[worker("w", "online", 3, &json!({ "pid": 2 })), worker("w", "idle", 4, &json!({ "pid": 2 }))]);
    let back = server.client.until("/api/workers", |answer| values(answer, "state") == ["idle"]);
    let row = &back.body["data"][0];
    assert_eq!((&row["pid"], &row["restartedAt"]), (&json!(2), &json!("2026-02-27T10:29:03.000Z")));
    assert!(row["lastOfflineAt"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_filtered_sorted_and_paged() {
    let server = Server::start().await;
    let beat = |name: &str, fields: Value| worker(name, "heartbeat", 1, &fields);
    let patient = |active: Value| json!({ "activeJobs": active, "heartbeatFreq": 60.0 });
    let mut bullmq = beat("d", patient(json!(null)));
    bullmq["framework"] = json!("bullmq");
    say(&server, &[beat("a", patient(json!(3))), beat("b", patient(json!(0))), beat("c", patient(json!(7))), bullmq]);
    listed(&server, "/api/workers", &["a", "b", "c", "d"]);
    for (query, names) in [
        ("sortOrder=desc", &["d", "c", "b", "a"][..]),
        ("sortBy=activeJobs", &["b", "d", "a", "c"]),
        ("sortBy=activeJobs&sortOrder=desc", &["c", "a", "b", "d"]),
        ("sortBy=state", &["a", "c", "b", "d"]),
        ("sortBy=taskRate", &["a", "b", "c", "d"]),
        ("state=busy", &["a", "c"]),
        ("state=idle", &["b"]),
        ("state=online", &["d"]),
        ("state=offline", &[]),
        ("framework=bullmq", &["d"]),
        ("framework=sidekiq", &[]),
        ("connectionId=550e8400-e29b-41d4-a716-446655440000", &["a", "b", "c", "d"]),
        ("connectionId=550e8400-e29b-41d4-a716-446655440001", &[]),
        ("limit=3&page=2", &["d"]),
        ("limit=3&page=3", &[]),
    ] {
        let answer = server.client.get(&format!("/api/workers?{query}")).admin().send();
        assert_eq!(
            (answer.status, values(&answer, "externalId")),
            (200, names.iter().map(|name| json!(name)).collect::<Vec<_>>().iter().collect()),
            "{query}"
        );
    }
    let page = server.client.get("/api/workers?limit=3&page=2").admin().send();
    assert_eq!(page.body["pagination"], json!({ "page": 2, "limit": 3, "total": 4, "totalPages": 2 }));
    for (query, field) in [
        ("state=gone", "state"),
        ("sortBy=name", "sortBy"),
        ("timeRange=1h", "timeRange"),
        ("queue=x", "queue"),
        ("page=0", "page"),
    ] {
        let answer = server.client.get(&format!("/api/workers?{query}")).admin().send();
        assert!(answer.error(400, "VALIDATION_ERROR")["details"][field].is_string(), "{query}");
    }
    server.client.get("/api/workers").send().error(401, "UNAUTHORIZED");
    server.client.post("/api/workers", &json!({})).admin().send().error(405, "METHOD_NOT_ALLOWED");
}

//! Queues as they were described last.

use serde_json::{Value, json};

use crate::harness::{Answer, CONNECTION, Server};

fn snapshot(name: &str, depth: &Value, consumers: &Value) -> Value {
    json!({
        "type": "queue_snapshot", "timestamp": "2026-02-27T10:29:55Z", "framework": "bullmq", "connectionId": CONNECTION,
        "queue": { "name": name, "depth": depth, "consumers": consumers, "paused": false },
    })
}

fn names(answer: &Answer) -> Vec<&Value> {
    answer.body["data"].as_array().unwrap().iter().map(|row| &row["name"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_listed_as_documented() {
    let server = Server::start().await;
    let answer = server.client.get("/api/queues").admin().send();
    let none = json!({ "data": [], "pagination": { "page": 1, "limit": 50, "total": 0, "totalPages": 0 } });
    assert_eq!((answer.status, answer.body), (200, none));
    let all = [
        snapshot("mail", &json!(17), &json!(3)),
        snapshot("default", &json!(4), &json!(null)),
        snapshot("unknown", &json!(null), &json!(null)),
    ];
    assert_eq!(server.ingest(&json!(all)).body["accepted"], 3);
    let answer = server.client.until("/api/queues", |answer| names(answer) == ["default", "mail", "unknown"]);
    let mut mail = answer.body["data"][1].clone();
    for time in ["createdAt", "depthAt"] {
        assert!(mail.as_object_mut().unwrap().remove(time).unwrap().is_string());
    }
    let hours = mail["healthBar"]["buckets"].take();
    assert_eq!(hours.as_array().unwrap().len(), 24);
    assert!(
        hours.as_array().unwrap().iter().all(|hour| (&hour["succeeded"], &hour["failed"]) == (&json!(0), &json!(0)))
    );
    let expected = json!({
        "id": proto_events::queue_id(CONNECTION, "mail"), "name": "mail", "framework": "bullmq",
        "connectionId": CONNECTION, "depth": 17, "consumers": 3, "throughput": 0.0, "avgLatencyMs": null,
        "failureRate": 0.0, "healthBar": { "timeRange": "24h", "buckets": null }, "extensions": { "paused": false },
        "oldestQueuedAt": null,
    });
    assert_eq!(mail, expected);
    assert_eq!(server.ingest(&json!([snapshot("mail", &json!(2), &json!(3))])).status, 202);
    server.client.until("/api/queues", |answer| answer.body["data"][1]["depth"] == 2);
    for (query, expected) in [
        ("sortBy=depth", ["unknown", "mail", "default"]),
        ("sortBy=depth&sortOrder=desc", ["default", "mail", "unknown"]),
        ("sortBy=consumers&sortOrder=desc", ["mail", "default", "unknown"]),
        ("sortBy=failureRate&sortOrder=desc", ["default", "mail", "unknown"]),
        ("sortOrder=desc", ["unknown", "mail", "default"]),
    ] {
        let answer = server.client.get(&format!("/api/queues?{query}")).admin().send();
        assert_eq!(names(&answer), expected, "{query}");
    }
    let week = server.client.get("/api/queues?timeRange=7d&limit=1&page=3").admin().send();
    assert_eq!(
        (names(&week), &week.body["data"][0]["healthBar"]["timeRange"]),
        (vec![&json!("unknown")], &json!("7d"))
    );
    let total = |query: &str| {
        server.client.get(&format!("/api/queues?{query}")).admin().send().body["pagination"]["total"].clone()
    };
    assert_eq!((total("framework=celery"), total("framework=bullmq")), (json!(0), json!(3)));
    for (query, field) in
        [("timeRange=2h", "timeRange"), ("sortBy=state", "sortBy"), ("state=busy", "state"), ("limit=0", "limit")]
    {
        let answer = server.client.get(&format!("/api/queues?{query}")).admin().send();
        assert!(answer.error(400, "VALIDATION_ERROR")["details"][field].is_string(), "{query}");
    }
    server.client.get("/api/queues").send().error(401, "UNAUTHORIZED");
}

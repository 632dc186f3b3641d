//! The documented answers about jobs.

use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Server, event};

/// The answer of the API's documentation, its ids replaced by those that the connection and the external ids give, and
/// without what Forebay adds.
fn documented() -> Value {
    let stacktrace = "Traceback (most recent call last):\n  File \"/app/tasks.py\", line 42, in send_email\n    \
                      smtp.connect(host, port)\nConnectionRefusedError: [Errno 111] Connection refused";
    json!({
        "id": "fbe08da7-0069-502f-90f8-dff3d29e3dc6",
        "externalId": "abc123-def456-ghi789",
        "framework": "celery",
        "connectionId": "550e8400-e29b-41d4-a716-446655440000",
        "name": "app.tasks.send_email",
        "queue": "default",
        "tags": {},
        "state": "failed",
        "stateChangedAt": "2026-02-27T10:30:02.000Z",
        "previousState": "active",
        "createdAt": "2026-02-27T10:29:55.000Z",
        "scheduledFor": null,
        "startedAt": "2026-02-27T10:29:56.000Z",
        "completedAt": "2026-02-27T10:30:02.000Z",
        "durationMs": 6000,
        "workerId": "celery@worker-1",
        "attempt": 1,
        "maxRetries": 3,
        "progress": null,
        "args": null,
        "result": null,
        "error": "ConnectionRefusedError: [Errno 111] Connection refused",
        "stacktrace": stacktrace,
        "parentId": null,
        "rootId": null,
        "extensions": {},
        "stateHistory": [
            { "state": "queued", "timestamp": "2026-02-27T10:29:55.000Z" },
            { "state": "active", "timestamp": "2026-02-27T10:29:56.000Z" },
            { "state": "failed", "timestamp": "2026-02-27T10:30:02.000Z" },
        ],
        "recentExecutions": [{
            "externalId": "xyz789-abc123-def456",
            "state": "completed",
            "createdAt": "2026-02-27T09:15:00.000Z",
            "startedAt": "2026-02-27T09:15:01.000Z",
            "completedAt": "2026-02-27T09:15:03.000Z",
            "durationMs": 2000,
            "error": null,
        }],
    })
}

fn seed_events() -> Value {
    let with = |id: &str, state: &str, time: &str, fields: Value| {
        let mut event = event(id, state, time);
        for (key, value) in fields.as_object().unwrap() {
            event["job"][key] = value.clone();
        }
        event
    };
    let (this, other) = ("abc123-def456-ghi789", "xyz789-abc123-def456");
    let documented = documented();
    let failure = json!({
        "workerId": "celery@worker-1", "error": documented["error"], "stacktrace": documented["stacktrace"],
    });
    json!([
        with(this, "queued", "2026-02-27T10:29:55Z", json!({ "queue": "default", "maxRetries": 3, "attempt": 1 })),
        with(this, "active", "2026-02-27T10:29:56Z", json!({ "workerId": "celery@worker-1" })),
        with(this, "failed", "2026-02-27T10:30:02Z", failure),
        with(other, "queued", "2026-02-27T09:15:00Z", json!({})),
        with(other, "active", "2026-02-27T09:15:01Z", json!({ "workerId": "celery@worker-1" })),
        with(other, "completed", "2026-02-27T09:15:03Z", json!({})),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_example_comes_back_field_for_field() {
    let server = Server::start().await;
    server.given(&seed_events());
    let by_id = server.client.get("/api/jobs/fbe08da7-0069-502f-90f8-dff3d29e3dc6").admin().send();
    assert_eq!(by_id.status, 200, "{}", by_id.body);
    let mut answer = by_id.body.clone();
    let ours = ["kwargs", "executions", "deliveries", "truncated", "notes", "notesTruncated", "outcomeFrom"];
    let added = [ours.as_slice(), &["lost", "stuck", "waiting"]].concat();
    for name in added {
        assert!(answer.as_object_mut().unwrap().remove(name).is_some(), "{name} is additive, and there");
    }
    let other = answer["recentExecutions"][0].as_object_mut().unwrap().remove("id").unwrap();
    assert_eq!(answer, documented());
    let found = server.client.get(&format!("/api/jobs/{}", other.as_str().unwrap())).admin().send();
    assert_eq!(found.body["externalId"], "xyz789-abc123-def456");
    let by_external_id = server.client.get("/api/jobs/abc123-def456-ghi789").admin().send();
    assert_eq!(by_external_id.body, by_id.body);
    let head = server.client.request(Method::HEAD, "/api/jobs/abc123-def456-ghi789").admin().send();
    assert_eq!((head.status, head.header("content-length")), (200, by_id.header("content-length")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_the_documented_items_and_pages_to_its_end() {
    let server = Server::start().await;
    server.given(&seed_events());
    let events: Vec<Value> = (0..23)
        .map(|number| event(&format!("job-{number}"), "completed", &format!("2026-03-01T10:00:{number:02}Z")))
        .collect();
    server.given(&json!(events));
    let list = |query: &str| {
        let answer = server.client.get(&format!("/api/jobs?{query}")).admin().send();
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        answer.body
    };
    let failed = list("state=failed");
    let full = documented();
    let names = [
        "id",
        "externalId",
        "framework",
        "connectionId",
        "name",
        "queue",
        "state",
        "stateChangedAt",
        "scheduledFor",
        "createdAt",
        "startedAt",
        "completedAt",
        "durationMs",
        "workerId",
        "error",
    ];
    let mut item: Value = names.iter().map(|name| ((*name).to_owned(), full[*name].clone())).collect();
    for added in ["lost", "stuck", "waiting"] {
        item[added] = Value::Null;
    }
    let pagination = json!({ "nextCursor": null, "limit": 50, "total": 1 });
    assert_eq!(failed, json!({ "data": [item], "pagination": pagination }));

    let mut seen = Vec::new();
    let mut query = "limit=10".to_owned();
    loop {
        let page = list(&query);
        assert_eq!((&page["pagination"]["total"], &page["pagination"]["limit"]), (&json!(25), &json!(10)));
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["createdAt"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["pagination"]["nextCursor"].as_str() else { break };
        query = format!("limit=10&cursor={cursor}");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice: {seen:?}");

    assert_eq!(list("search=SEND_email&state=completed")["pagination"]["total"], 24);
    assert_eq!(list("search=nothing")["pagination"]["total"], 0);
    assert_eq!(list("connectionId=550e8400-e29b-41d4-a716-446655440000")["pagination"]["total"], 25);
    assert_eq!(list("connectionId=550e8400-e29b-41d4-a716-446655440001")["pagination"]["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parameter_is_named() {
    let server = Server::start().await;
    for (query, field) in [("limit=0", "limit"), ("state=stuck", "state"), ("cursor=x", "cursor"), ("nope=1", "nope")] {
        let answer = server.client.get(&format!("/api/jobs?{query}")).admin().send();
        let error = answer.error(400, "VALIDATION_ERROR");
        assert!(error["details"][field].is_string(), "{query}: {error}");
    }
}

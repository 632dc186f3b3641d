//! The example of the documented API, sent as events, comes back as the documented answer.

use forebay_tests::{CONNECTION, Forebay, Options, job_id, wait_for};
use serde_json::{Value, json};

const NAME: &str = "app.tasks.send_email";
const ERROR: &str = "ConnectionRefusedError: [Errno 111] Connection refused";

fn event(external_id: &str, state: &str, timestamp: &str, more: &Value) -> Value {
    let mut job = json!({ "externalId": external_id, "name": NAME, "state": state });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "type": "job_state_change", "timestamp": timestamp, "framework": "celery",
        "connectionId": CONNECTION.to_string(), "job": job,
    })
}

#[test]
fn the_documented_example_comes_back_field_for_field() {
    let mut forebay = Forebay::start(Options::default());
    let (id, other) = ("abc123-def456-ghi789", "xyz789-abc123-def456");
    let worker = json!({ "workerId": "celery@worker-1" });
    let stacktrace = "Traceback (most recent call last):\n  File \"/app/tasks.py\", line 42, in send_email\n    \
                      smtp.connect(host, port)\nConnectionRefusedError: [Errno 111] Connection refused";
    let events = [
        event(other, "queued", "2026-02-27T09:15:00.000Z", &json!({})),
        event(other, "active", "2026-02-27T09:15:01.000Z", &worker),
        event(other, "completed", "2026-02-27T09:15:03.000Z", &json!({})),
        event(id, "queued", "2026-02-27T10:29:55.000Z", &json!({ "queue": "default", "attempt": 1, "maxRetries": 3 })),
        event(id, "active", "2026-02-27T10:29:56.000Z", &worker),
        event(id, "failed", "2026-02-27T10:30:02.000Z", &json!({ "error": ERROR, "stacktrace": stacktrace })),
    ];
    let answer = forebay.api.ingest(&events).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!((&answer.body["accepted"], &answer.body["rejected"]), (&json!(6), &json!([])));

    let expected = json!({
        "id": "fbe08da7-0069-502f-90f8-dff3d29e3dc6",
        "externalId": id,
        "framework": "celery",
        "connectionId": "550e8400-e29b-41d4-a716-446655440000",
        "name": NAME,
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
        "error": ERROR,
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
            "id": job_id(other),
            "externalId": other,
            "state": "completed",
            "createdAt": "2026-02-27T09:15:00.000Z",
            "startedAt": "2026-02-27T09:15:01.000Z",
            "completedAt": "2026-02-27T09:15:03.000Z",
            "durationMs": 2000,
            "error": null,
        }],
    });
    assert_eq!(job_id(id), expected["id"]);
    let documented = |forebay: &Forebay| {
        let mut record = wait_for("the job to be readable", 10, || forebay.api.job(&job_id(id)));
        record.as_object_mut().unwrap().retain(|field, _| expected.get(field).is_some());
        record
    };
    assert_eq!(documented(&forebay), expected);
    assert_eq!(forebay.api.job(id).unwrap()["id"], expected["id"], "found by the framework's own id too");
    forebay.crash_and_restart();
    assert_eq!(documented(&forebay), expected, "after kill -9");

    let unknown = forebay.api.get("/api/jobs/00000000-0000-4000-8000-000000000000");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.body["error"]["code"], "NOT_FOUND");
    assert_eq!(unknown.body["error"]["message"], "Job not found.");
    assert_eq!(unknown.body["error"]["docs_url"], "https://docs.sluice.sh/troubleshooting/api-errors");
}

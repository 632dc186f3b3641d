//! What Prometheus is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Answer, CONNECTION, KEY, PASSWORD, Server};

/// An event about something, as senders make it.
fn event(kind: &str, second: u32, what: &str, fields: &Value) -> Value {
    json!({
        "type": kind, "timestamp": format!("2026-02-27T10:29:{second:02}Z"), "framework": "celery",
        "connectionId": CONNECTION, what: fields,
    })
}

fn job(id: &str, state: &str, second: u32, more: &Value) -> Value {
    let mut job = json!({ "externalId": id, "name": "app.send", "queue": "mail", "state": state });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event("job.state_change", second, "job", &job)
}

fn given(server: &Server) {
    let worker = json!({ "workerId": "celery@w1" });
    let failed = json!({ "workerId": "celery@w1", "error": "ValueError('no address')" });
    server.given(&json!([
        job("a", "queued", 1, &json!({ "createdAt": "2026-02-27T10:29:01Z" })),
        job("a", "active", 2, &worker),
        job("a", "completed", 5, &worker),
        job("b", "active", 3, &worker),
        job("b", "failed", 4, &failed),
        event("worker.state_change", 1, "worker",
            &json!({ "externalId": "celery@w1", "hostname": "w1", "state": "heartbeat", "activeJobs": 2, "concurrency": 4 })),
        event("queue.snapshot", 1, "queue", &json!({ "name": "mail", "depth": 7, "consumers": 3 })),
    ]));
    server.client.until("/api/workers", |answer| answer.body["data"][0]["state"] == "busy");
    server.client.until("/api/queues", |answer| answer.body["data"][0]["depth"] == 7);
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    String::from_utf8(answer.bytes.clone()).unwrap()
}

/// Each family with its type, the names of its labels, and its bounds if it has some.
fn shape(text: &str) -> String {
    let mut kinds = BTreeMap::new();
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut bounds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} is declared twice");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, inside) =
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, &rest[..rest.len() - 1]));
        let of_histogram = ["_bucket", "_count", "_sum"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        let family = of_histogram.chain([name]).find(|family| kinds.contains_key(family)).unwrap_or(name);
        assert!(kinds.contains_key(family), "{line} is of no family");
        for label in inside.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            if name == "le" {
                let value = value.trim_end_matches('"');
                let bounds = bounds.entry(family).or_default();
                if !bounds.contains(&value) {
                    bounds.push(value);
                }
            } else {
                labels.entry(family).or_default().insert(name.to_owned());
            }
        }
    }
    let line = |(name, kind): (&&str, &&str)| {
        let labels: Vec<String> = labels.get(name).into_iter().flatten().cloned().collect();
        let bounds = bounds.get(name).map_or_else(String::new, |bounds| format!(" {}", bounds.join(" ")));
        format!("{name} {kind} {{{}}}{bounds}\n", labels.join(","))
    };
    kinds.iter().map(line).collect()
}

/// Who has dashboards for celery-exporter goes by these names, types, labels and buckets.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_keep_their_names_types_labels_and_buckets() {
    let server = Server::start().await;
    given(&server);
    let shape = shape(&text(&server.client.get("/metrics").admin().send()));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden/metrics.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden")).unwrap();
        std::fs::write(path, &shape).unwrap();
    }
    assert_eq!(shape, std::fs::read_to_string(path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_there_was_and_what_there_is() {
    let server = Server::start().await;
    given(&server);
    let told = text(&server.client.get("/metrics").admin().send());
    let of = "{name=\"app.send\",queue_name=\"mail\",connection=\"default\"";
    let lines = [
        format!("celery_task_sent_total{of}}} 1"),
        format!("celery_task_received_total{of}}} 2"),
        format!("celery_task_started_total{of}}} 2"),
        format!("celery_task_succeeded_total{of}}} 1"),
        format!("celery_task_failed_total{of},exception=\"\"}} 0"),
        format!("celery_task_failed_total{of},exception=\"ValueError\"}} 1"),
        format!("celery_task_revoked_total{of}}} 0"),
        format!("celery_task_runtime_bucket{of},le=\"2.5\"}} 0"),
        format!("celery_task_runtime_bucket{of},le=\"5.0\"}} 1"),
        format!("celery_task_runtime_sum{of}}} 3.0"),
        format!("celery_task_queue_wait_time_bucket{of},le=\"1.0\"}} 1"),
        "celery_worker_up{hostname=\"w1\",connection=\"default\"} 1".to_owned(),
        "celery_worker_tasks_active{hostname=\"w1\",connection=\"default\"} 2".to_owned(),
        "celery_queue_length{queue_name=\"mail\",connection=\"default\"} 7".to_owned(),
        "celery_active_consumer_count{queue_name=\"mail\",connection=\"default\"} 3".to_owned(),
        "forebay_projector_following 1".to_owned(),
        "forebay_projector_lag_messages 0".to_owned(),
        "forebay_projector_events_applied_total 5".to_owned(),
        "forebay_ingest_events_total{result=\"accepted\"} 7".to_owned(),
        "forebay_jobs{state=\"failed\"} 1".to_owned(),
        "forebay_http_requests_total{endpoint=\"/api/ingest\",status=\"202\"} 1".to_owned(),
        "forebay_log_up 1".to_owned(),
    ];
    for line in lines {
        assert!(told.lines().any(|it| it == line), "{line} is not in:\n{told}");
    }
    server.client.get("/api/jobs/none/x/y").admin().send();
    server.client.get("/nothing").send();
    let told = text(&server.client.get("/metrics").admin().send());
    for endpoint in
        ["endpoint=\"/api/jobs/*\",status=\"404\"} 1", "endpoint=\"page\",status=\"404\"} 1", "endpoint=\"/metrics\""]
    {
        assert!(told.contains(endpoint), "{endpoint} is not in:\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_who_may_read_in_the_format_that_they_take() {
    let server = Server::start().await;
    let client = &server.client;
    for stranger in ["", KEY, "rk_live_0123456789012345678901234567890123456789"] {
        client.get("/metrics").bearer(stranger).send().error(401, "UNAUTHORIZED");
    }
    let cookie = client.log_in(PASSWORD).header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    text(&client.get("/metrics").header("cookie", &cookie).send());
    let key = client.post("/api/keys", &json!({ "name": "prometheus" })).admin().send();
    let key = key.body["apiKey"].as_str().unwrap();
    let answer = client.get("/metrics").bearer(key).send();
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let plain = text(&answer);
    assert!(plain.contains("# TYPE forebay_http_requests_total counter\n") && !plain.contains("# EOF"), "{plain}");
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let answer = client.get("/metrics").bearer(key).header("accept", accept).send();
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),);
    assert!(text(&answer).ends_with("\n# EOF\n"));
    // The client of the tests would unpack it itself.
    let packed = client.get("/metrics").bearer(key).header("accept-encoding", "gzip;q=1.0, x").send();
    let unpacked = if packed.header("content-encoding") == Some("gzip") {
        let mut unpacked = String::new();
        GzDecoder::new(&*packed.bytes).read_to_string(&mut unpacked).unwrap();
        unpacked
    } else {
        text(&packed)
    };
    assert!(unpacked.contains("forebay_build_info{"), "{unpacked}");
    assert_eq!(client.request(Method::HEAD, "/metrics").bearer(key).send().bytes, b"");
    client.request(Method::POST, "/metrics").admin().send().error(405, "METHOD_NOT_ALLOWED");
    client.get("/metrics?name=x").admin().send().error(400, "VALIDATION_ERROR");
}

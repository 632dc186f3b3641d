//! What nobody should send, and what becomes of it: an answer in the envelope, and a server that goes on.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Bare, DEADLINE, KEY, PASSWORD, Server, event};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_refused_and_nothing_of_it_is_stored() {
    let server = Server::start().await;
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\0".to_vec(),
        br#"{"events":[{"type":"job.state_change","#.to_vec(),
        br#"{"events":"#.to_vec(),
        b"[]".to_vec(),
        b"7".to_vec(),
        b"null".to_vec(),
        b"{}".to_vec(),
        br#"{"events":{}}"#.to_vec(),
        br#"{"events":"x"}"#.to_vec(),
        br#"{"events":null}"#.to_vec(),
        b"{\"events\":[\"\xff\xfe\"]}".to_vec(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = server.client.request(Method::POST, "/api/ingest").bearer(KEY).body(body).send();
        assert_eq!(answer.status, 400, "{shown}: {}", answer.body);
        answer.error(400, "VALIDATION_ERROR");
    }
    assert_eq!(server.last_sequence().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_nested_too_deep_to_be_answered() {
    let server = Server::start().await;
    let nested = |open: &str, close: &str| open.repeat(200_000) + "1" + &close.repeat(200_000);
    let (arrays, objects) = (nested("[", "]"), nested("{\"a\":", "}"));
    let good = event("good", "queued", "2026-02-27T10:29:55Z").to_string();
    let bodies = [
        arrays.clone(),
        objects.clone(),
        format!("{{\"events\":{arrays}}}"),
        format!("{{\"events\":[{objects}]}}"),
        format!("{{\"events\":[{},\"extra\":{arrays}}}]}}", &good[..good.len() - 1]),
        format!("{{\"events\":[],\"extra\":{objects}}}"),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let answer = server.client.request(Method::POST, "/api/ingest").bearer(KEY).body(body).send();
        assert!([202, 400].contains(&answer.status), "{number}: {}", answer.body);
        assert!([&json!(0), &Value::Null].contains(&&answer.body["accepted"]), "{number}: {}", answer.body);
    }
    assert_eq!(server.last_sequence().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_however_it_comes() {
    let server = Server::start().await;
    let large = vec![b' '; 40 * 1_024 * 1_024];
    let post = || server.client.request(Method::POST, "/api/ingest").bearer(KEY);
    post().body(large.clone()).send().error(413, "PAYLOAD_TOO_LARGE");
    post().body(large.clone()).send_chunked().error(413, "PAYLOAD_TOO_LARGE");
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..5 {
        bomb.write_all(&large).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1_024 * 1_024, "200 MB in {} bytes", bomb.len());
    post().header("content-encoding", "gzip").body(bomb).send().error(413, "PAYLOAD_TOO_LARGE");
    let answer = server.ingest(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    assert_eq!((answer.status, &answer.body["sequence"]), (202, &json!(1)), "and goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_that_are_not_what_they_say_are_refused() {
    let server = Server::start().await;
    let post = |encoding: &str| {
        server.client.request(Method::POST, "/api/ingest").bearer(KEY).header("content-encoding", encoding)
    };
    post("gzip").body("{\"events\":[]}").send().error(400, "VALIDATION_ERROR");
    post("gzip").body("").send().error(400, "VALIDATION_ERROR");
    post("br").body("{\"events\":[]}").send().error(415, "UNSUPPORTED_MEDIA_TYPE");
    assert_eq!(post("identity").body("{\"events\":[]}").send().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_opens_nothing() {
    let server = Server::start().await;
    let expected = json!({ "error": {
        "code": "UNAUTHORIZED", "message": "Invalid or missing API key.",
        "docs_url": "https://docs.sluice.sh/troubleshooting/api-key",
    } });
    let wrong =
        ["", "Bearer", "Bearer ", "Bearer sk_live_wrong", KEY, &format!("Basic {KEY}"), &format!("Bearer {KEY}x")];
    for credential in wrong {
        let body = json!({ "events": [event("a", "queued", "2026-02-27T10:29:55Z")] });
        let answer = server.client.post("/api/ingest", &body).header("authorization", credential).send();
        answer.error(401, "UNAUTHORIZED");
        assert_eq!(answer.body, expected, "{credential}");
    }
    let large = vec![b' '; 40 * 1_024 * 1_024];
    let answer = server.client.request(Method::POST, "/api/ingest").body(large).send();
    assert_eq!(answer.body, expected, "the answer is heard although nobody wanted the body");
    assert_eq!(server.last_sequence().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_answered_in_the_envelope() {
    let bare = Bare::start(PASSWORD).await;
    for path in [
        "/nope",
        "/api",
        "/api/",
        "/api/nope",
        "/api/healthy",
        "/api/health/x",
        "/api/ingest/x",
        "/%2e%2e/etc",
        "/api//jobs",
    ] {
        bare.client.get(path).send().error(404, "NOT_FOUND");
    }
    let cases = [
        (Method::GET, "/api/ingest", "POST"),
        (Method::DELETE, "/api/jobs", "GET, HEAD"),
        (Method::POST, "/api/jobs/x", "GET, HEAD"),
        (Method::PUT, "/api/session", "GET, HEAD, POST, DELETE"),
        (Method::PATCH, "/api/connections", "GET, HEAD, POST"),
        (Method::GET, "/api/connections/x", "PATCH, DELETE"),
        (Method::PATCH, "/api/keys", "GET, HEAD, POST"),
        (Method::GET, "/api/keys/x", "DELETE"),
        (Method::POST, "/api/health", "GET, HEAD"),
        (Method::OPTIONS, "/api/health/live", "GET, HEAD"),
    ];
    for (method, path, allow) in cases {
        let answer = bare.client.request(method, path).send();
        answer.error(405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_ids_are_found_if_they_exist_and_not_found_if_not() {
    let server = Server::start().await;
    let ids = ["a/b", "/a//b/", "100%", "%2F", "a b+c?d#e", "é…", "..", "fbe08da7-0069-502f-90f8-dff3d29e3dc6"];
    let events: Vec<Value> = ids.iter().map(|id| event(id, "queued", "2026-02-27T10:29:55Z")).collect();
    server.given(&json!(events));
    let get = |path: &str| server.client.get(&format!("/api/jobs/{path}")).admin().send();
    for id in ids {
        let encoded = id.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        assert_eq!(get(&encoded).body["externalId"], id, "{encoded}");
    }
    for (raw, id) in [("a/b", "a/b"), ("/a//b/", "/a//b/"), ("100%", "100%"), ("a%2fb", "a/b")] {
        assert_eq!(get(raw).body["externalId"], id, "{raw}");
    }
    let long = "x".repeat(5_000);
    for missing in [&long, "%ff", "a%2Fb%2Fc", "{}", "a%00b", "00000000-0000-0000-0000-000000000000"] {
        let answer = get(missing);
        assert_eq!(answer.error(404, "NOT_FOUND")["message"], "Job not found.", "{missing}");
        assert_eq!(answer.body["error"]["docs_url"], "https://docs.sluice.sh/troubleshooting/api-errors");
        assert!(answer.body["error"]["details"]["logSince"].is_string());
    }
}

/// What a client may send, more or less: a request line, headers and a body, each as it should be or not.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let paths = vec![
        "/",
        "/api/jobs",
        "/api/jobs/a/events",
        "/api/jobs/a/tree",
        "/api/jobs?format=csv",
        "/api/overview",
        "/api/tasks/a",
        "/api/queues",
        "/api/events/stream",
        "/api/session",
        "/api/session/oidc/callback",
        "/api/export",
        "/api/ingest",
        "/api/health",
        "/metrics",
        "/flower/api/tasks",
        "/flower/api/task/info/a",
        "/assets/x/app.css",
    ];
    let headers = vec![
        "authorization",
        "cookie",
        "origin",
        "sec-fetch-site",
        "host",
        "if-none-match",
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-type",
        "content-length",
        "transfer-encoding",
        "expect",
        "range",
        "last-event-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "connection",
        "upgrade",
    ];
    let known = vec![
        "Basic OmE6Yg==",
        "Bearer ",
        "Bearer the token in admin.json",
        "forebay_session=",
        "http://localhost",
        "*",
        "W/\"",
        "text/csv;q=0.5, application/x-ndjson",
        "gzip;q=",
        "gzip",
        "application/json",
        "bytes=0-18446744073709551616,-1",
        "18446744073709551615",
        "chunked",
        "0000000000000001-1",
        "close",
        "100-continue",
        "[::1",
        ",,;=,",
    ];
    let value = prop_oneof![
        3 => select(known).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(0x20_u8..=0xff, 0..60),
        1 => "[ -~]{0,40}".prop_map(String::into_bytes),
    ];
    let query = prop_oneof![Just(String::new()), "\\?[ -~]{0,40}", "\\?lastEventId=[0-9a-f-]{0,40}"];
    let method = prop_oneof![8 => Just("GET".to_owned()), 1 => Just("HEAD".to_owned()), 1 => "[A-Z]{1,8}"];
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/9")];
    let head = (method, select(paths), query, version, vec((select(headers), value), 0..6));
    (head, vec(any::<u8>(), 0..60)).prop_map(|((method, path, query, version, headers), body)| {
        let mut bytes = format!("{method} {path}{query} {version}\r\nhost: a\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        [&bytes, &b"\r\n"[..], &body].concat()
    })
}

/// The first line of the answer; nothing where the connection was closed.
fn status_line(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may be refused before it was all heard.
    let _ = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut line = Vec::new();
    let read = BufReader::new(stream).read_until(b'\n', &mut line);
    match read {
        Ok(_) => String::from_utf8_lossy(&line).trim_end().to_owned(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("no answer, {error}: {}", String::from_utf8_lossy(request)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_sends_it_is_answered_or_hung_up_on_and_no_error_of_ours() {
    let server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    let address = server.client.address().to_owned();
    // Who panics hangs up, too.
    let (panics, told) = (Arc::new(AtomicUsize::new(0)), std::panic::take_hook());
    let counted = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::Relaxed);
        told(panic);
    }));
    let tried = move || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config).run(&request(), |request| {
            let line = status_line(&address, &request);
            let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
            // That nobody commands here is a 501.
            let is_answer = status.is_some_and(|status| status < "500" || status == "501");
            let shown = String::from_utf8_lossy(&request);
            prop_assert!(is_answer || line.is_empty(), "{line}: {shown}");
            prop_assert_eq!(panics.load(Ordering::Relaxed), 0, "{}", shown);
            Ok(())
        })
    };
    tokio::task::spawn_blocking(tried).await.unwrap().unwrap();
    assert_eq!(server.client.get("/api/jobs/a").admin().send().body["state"], "queued", "and goes on");
}

/// A number that nobody expects, or a plain one.
fn number() -> impl Strategy<Value = Value> {
    let numbers = select(vec![
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(9_007_199_254_740_992_u64),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(0.5),
    ]);
    // Two of them are more than there is room for.
    prop_oneof![2 => numbers, 1 => Just(json!(u64::MAX))]
}

/// A time at the edge of some calendar, or of our days.
fn time() -> impl Strategy<Value = &'static str> {
    select(vec![
        "2026-02-27T10:30:02Z",
        "2026-02-27T10:30:02.000001Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "-262143-01-01T00:00:00Z",
        "+262142-12-31T23:59:59.999999Z",
    ])
}

/// An event of few jobs, workers and queues, with any numbers and times.
fn strange_event() -> impl Strategy<Value = Value> {
    let state = select(vec!["queued", "scheduled", "active", "retrying", "completed", "failed", "cancelled", "paused"]);
    let job = (0..6, 0..3, state, [number(), number(), number()], [time(), time(), time(), time()]).prop_map(
        |(id, name, state, [attempt, retries, progress], [created, scheduled, started, completed])| {
            json!({ "job": {
                "externalId": format!("j{id}"), "name": format!("t{name}"), "queue": format!("q{}", id % 2),
                "workerId": format!("w{name}@h"), "state": state, "attempt": attempt, "maxRetries": retries,
                "progress": progress, "createdAt": created, "scheduledFor": scheduled, "startedAt": started,
                "completedAt": completed,
            } })
        },
    );
    let state = select(vec!["online", "heartbeat", "offline", "busy", "idle"]);
    let worker = (0..3, state, [number(), number(), number(), number(), number()]).prop_map(
        |(id, state, [pid, active, concurrency, processed, freq])| {
            json!({ "worker": {
                "externalId": format!("w{id}@h"), "state": state, "pid": pid, "activeJobs": active,
                "concurrency": concurrency, "processedTotal": processed, "heartbeatFreq": freq,
            } })
        },
    );
    let queue = (0..2, number(), number()).prop_map(|(id, depth, consumers)| {
        json!({ "queue": { "name": format!("q{id}"), "depth": depth, "consumers": consumers } })
    });
    let payload = prop_oneof![4 => job, 2 => worker, 1 => queue];
    (payload, time(), select(vec!["celery", "celery", "celery", "celery", "bullmq", "sidekiq"])).prop_map(
        |(mut event, timestamp, framework)| {
            let kinds = [("job", "job.state_change"), ("worker", "worker.state_change"), ("queue", "queue.snapshot")];
            let kind = kinds.iter().find(|(payload, _)| event[*payload].is_object()).unwrap().1;
            event["type"] = json!(kind);
            event["timestamp"] = json!(timestamp);
            event["framework"] = json!(framework);
            event
        },
    )
}

/// Everything that is made of what was told.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = [
        "/api/workers",
        "/api/coverage",
        "/metrics",
        "/flower/api/tasks",
        "/flower/api/workers",
        "/flower/api/queues/length",
        "/api/jobs?lost=true",
        "/api/jobs?stuck=true",
        "/api/jobs?format=csv",
    ]
    .map(str::to_owned)
    .into();
    for field in ["createdAt", "name", "state", "durationMs", "queue", "startedAt", "worker"] {
        pages.push(format!("/api/jobs?sortBy={field}"));
    }
    for range in ["1h", "6h", "24h", "7d"] {
        pages.extend(
            ["tasks", "tasks/t0", "failures", "queues", "overview"].map(|it| format!("/api/{it}?timeRange={range}")),
        );
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_numbers_and_times_are_told_every_page_is_answered() {
    let server = Server::start().await;
    let tried = move || {
        // Each case asks for some fifty pages.
        let usual = ProptestConfig::default();
        let config = ProptestConfig { cases: (usual.cases / 20).max(1), failure_persistence: None, ..usual };
        let get = |path: &str| server.client.get(path).admin().send();
        let told = |events: Vec<Value>| {
            let sent = server.ingest(&json!(events));
            prop_assert_eq!(sent.status, 202, "{}", sent.body);
            // What is no number or time of the contract is refused or kept as it is; the rest is recorded.
            let sequence = sent.body["sequence"].as_u64().unwrap_or_default();
            prop_assert_eq!(get(&format!("/api/jobs?atLeast={sequence}")).status, 200);
            let jobs = events.iter().filter_map(|event| event["job"]["externalId"].as_str());
            let jobs = jobs.flat_map(|id| ["", "/events", "/tree"].map(|what| format!("/api/jobs/{id}{what}")));
            for path in pages().into_iter().chain(jobs) {
                let answer = get(&path);
                // A task of which nothing is known in that time, or a job whose event was refused, is not there.
                let is_fine = answer.status == 200 || answer.status == 404 && path.matches('/').count() > 2;
                prop_assert!(is_fine, "{path}: {} {}", answer.status, answer.body);
            }
            Ok(())
        };
        TestRunner::new(config).run(&vec(strange_event(), 1..60), told)
    };
    tokio::task::spawn_blocking(tried).await.unwrap().unwrap();
}

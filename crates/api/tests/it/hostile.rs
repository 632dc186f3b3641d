//! What nobody should send, and what becomes of it: an answer in the envelope, and a server that goes on.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Bare, KEY, PASSWORD, Server, event};

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

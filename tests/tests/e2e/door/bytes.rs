//! Bytes that no client of good will sends.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use forebay_tests::API_KEY;
use serde_json::json;
use ureq::http::Method;

use super::{ask, raw, read, serving, session, status};

const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn no_text_of_a_client_becomes_a_header() {
    let forebay = serving(&[]);
    let api = &forebay.api;
    let session = session(api);
    let evil = "x\r\nSet-Cookie: evil=1\r\n\r\nbody";
    for path in ["/api/connections", "/api/keys", "/api/sources"] {
        let body = json!({ "name": evil, "url": evil });
        let answer = api.try_post(path, &body).unwrap();
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.headers.get("set-cookie").is_none());
    }
    let encoded = "%0d%0aSet-Cookie:%20evil=1%0d%0a%0d%0abody";
    let paths = [
        format!("/login/{encoded}"),
        format!("/{encoded}"),
        format!("/api/jobs/{encoded}"),
        format!("/api/jobs?name={encoded}"),
        format!("/api/session/oidc?next=/{encoded}"),
        format!("/api/events/stream?lastEventId={encoded}"),
        format!("/assets/{encoded}/app.css"),
    ];
    for path in paths {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {session}\r\nLast-Event-ID: {encoded}\r\n\r\n");
        let answer = raw(api.address(), request.as_bytes(), Duration::from_millis(300));
        let head = answer.split("\r\n\r\n").next().unwrap();
        assert!(status(&answer) > 0 && !head.to_lowercase().contains("evil"), "{path}: {head}");
    }
}

#[test]
fn no_other_spelling_of_a_path_leads_past_the_door() {
    let forebay = serving(&["--base-path", "/forebay"]);
    let api = &forebay.api;
    let paths = [
        "//api/jobs",
        "/api//jobs",
        "/./api/jobs",
        "/api/./jobs",
        "/x/../api/jobs",
        "/assets/../api/jobs",
        "/%61pi/jobs",
        "/api%2fjobs",
        "/API/jobs",
        "/Api/Jobs",
        "/api/jobs.",
        "/api/jobs/.",
        "/api/jobs;x=y",
        "/api/jobs/",
        "/api/jobs%00",
        "/api/jobs%20",
        "/api/health/../jobs",
        "/api/health/%2e%2e/jobs",
        "/api/health/live/../../jobs",
        "/api/session/../connections",
        "/login/../api/jobs",
        "/forebay/api/jobs",
        "/forebay//api/jobs",
        "/forebay/forebay/api/jobs",
        "/forebay/../api/jobs",
        "/FOREBAY/api/jobs",
        "/api\\jobs",
        "/api/jobs?x=/api/health",
        "/api/jobs#/api/health",
        "/api/connections/..%2fjobs",
        "http://localhost/api/jobs",
        "/assets/%2e%2e/%2e%2e/admin.json",
        "/assets/../../admin.json",
        "/..%2fadmin.json",
    ];
    for path in paths {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = raw(api.address(), request.as_bytes(), PATIENCE);
        // The page is the same for everybody, and asks the API by itself.
        let is_page = status(&answer) == 200 && answer.contains("content-type: text/html");
        assert!(is_page || [400, 401, 404, 405].contains(&status(&answer)), "{path}: {answer}");
        assert!(!answer.contains("\"data\"") && !answer.contains("token"), "{path}: {answer}");
    }
    let methods = ["TRACE", "CONNECT", "get", "GET\t", "PROPFIND", "X"];
    for method in methods {
        let request = format!("{method} /api/jobs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = raw(api.address(), request.as_bytes(), PATIENCE);
        assert!([400, 401, 404, 405].contains(&status(&answer)), "{method}: {answer}");
    }
}

#[test]
fn what_is_too_large_is_refused_and_costs_others_nothing() {
    let forebay = serving(&[]);
    let api = &forebay.api;
    let long = "a".repeat(300_000);
    let many = (0..300).map(|number| format!("X-{number}: a\r\n")).collect::<Vec<_>>().concat();
    let heads = [
        format!("GET /api/jobs?name={long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /api/health HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /api/health HTTP/1.1\r\nHost: a\r\nCookie: {long}\r\n\r\n"),
        format!("GET /api/health HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("{long} / HTTP/1.1\r\n\r\n"),
    ];
    for head in heads {
        let answer = raw(api.address(), head.as_bytes(), PATIENCE);
        let shown = &head[..40];
        assert!(answer.is_empty() || [400, 414, 431].contains(&status(&answer)), "{shown}: {answer}");
        assert_eq!(ask(api, Method::GET, "/api/health/live", &[]).status, 200, "{shown}");
    }
    let key = format!("Bearer {API_KEY}");
    let body = vec![b' '; 40 << 20];
    let answer = api.send(Method::POST, "/api/ingest", &[("authorization", &key)], &body).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.body);
    for path in ["/api/session", "/api/connections", "/api/keys", "/api/sources", "/api/rebuilds"] {
        let answer =
            api.send(Method::POST, path, &[("authorization", &format!("Bearer {}", api.token()))], &body[..100_000]);
        assert_eq!(answer.unwrap().status, 413, "{path}");
    }
    assert_eq!(ask(api, Method::GET, "/api/health", &[]).status, 200);
}

#[test]
fn no_request_is_hidden_in_another() {
    let forebay = serving(&[]);
    let address = forebay.api.address();
    let hidden = "GET /api/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [
        format!(
            "POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 45\r\n\r\n{hidden}"),
        format!("POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n{hidden}"),
        format!("POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!(
            "POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("POST /api/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("POST /api/session HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ];
    for bytes in both {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let (answer, closed) = read(&mut stream);
        let answers = answer.matches("HTTP/1.").count();
        assert!(answers <= 1 && !answer.contains("openapi"), "{bytes}: {answer}");
        assert!(closed, "what follows is not heard: {bytes}: {answer}");
    }
    // Nor is one that is sent right behind another lost.
    let two = format!("{hidden}GET /api/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = raw(address, two.as_bytes(), PATIENCE);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2);
}

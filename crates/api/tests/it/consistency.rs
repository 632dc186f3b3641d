//! How new the answers are, and how new a client may ask them to be.

use std::time::{Duration, Instant};

use event_log::EventLog;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Answer, Server, event};

const READS: [&str; 4] = ["/api/jobs", "/api/jobs/a", "/api/jobs/a/events", "/api/jobs/a?asOf=1"];

fn get(server: &Server, path: &str) -> Answer {
    server.client.get(path).admin().send()
}

fn number(answer: &Answer, header: &str) -> u64 {
    answer.header(header).unwrap_or_else(|| panic!("no {header}: {answer:?}")).parse().unwrap()
}

fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { '&' } else { '?' })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_client_has_is_not_sent_again() {
    let server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    for path in READS {
        let whole = get(&server, path);
        let tag = whole.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "a strong one: {tag}");
        assert_eq!(get(&server, path).header("etag"), Some(&*tag));
        assert_eq!(server.client.request(Method::HEAD, path).admin().send().header("etag"), Some(&*tag));
        for has in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let same = server.client.get(path).admin().header("if-none-match", &has).send();
            assert_eq!((same.status, &same.body, same.header("etag")), (304, &Value::Null, Some(&*tag)), "{has}");
            assert!(matches!(same.header("content-length"), None | Some("0")));
            assert_eq!(number(&same, "forebay-applied"), 1);
            number(&same, "forebay-staleness-ms");
        }
    }
    let tag = get(&server, "/api/jobs/a").header("etag").unwrap().to_owned();
    server.given(&json!([event("a", "active", "2026-02-27T10:29:56Z")]));
    let changed = server.client.get("/api/jobs/a").admin().header("if-none-match", &tag).send();
    assert_eq!((changed.status, &changed.body["state"]), (200, &json!("active")));
    assert_ne!(changed.header("etag"), Some(&*tag));
    let missing = server.client.get("/api/jobs/b").admin().header("if-none-match", "*").send();
    missing.error(404, "NOT_FOUND");
    assert_eq!((missing.header("etag"), number(&missing, "forebay-applied")), (None, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_is_answered_as_soon_as_its_position_is_applied() {
    let server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    for (next, path) in (2..).zip(READS) {
        let client = server.client.clone();
        let waiting = with(path, &format!("atLeast={next}.3"));
        let reader = std::thread::spawn(move || {
            let answer = client.get(&waiting).admin().send();
            (answer, Instant::now())
        });
        // Not there yet: nothing answers before the event is sent.
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reader.is_finished());
        let sent = Instant::now();
        server.ingest(&json!([event("a", "active", &format!("2026-02-27T10:30:{next:02}Z"))]));
        let (answer, answered) = reader.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(number(&answer, "forebay-applied") >= next);
        // Woken by the event, not by the end of its patience, which is 5 s.
        assert!(answered - sent < Duration::from_secs(4), "{path}: {:?}", answered - sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_for_what_never_comes_is_told_so() {
    let server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    let ahead = ["/api/jobs?atLeast=999999", "/api/jobs/a/events?atLeast=2.0", "/api/jobs/a?asOf=2.0"];
    let asking = ahead.map(|path| {
        let client = server.client.clone();
        std::thread::spawn(move || client.get(path).admin().send())
    });
    for answer in asking.map(|asking| asking.join().unwrap()) {
        answer.error(503, "UNAVAILABLE");
        assert_eq!((answer.header("retry-after"), number(&answer, "forebay-applied")), (Some("2"), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_older_than_asked_for_is_refused_and_its_age_is_told() {
    let mut server = Server::start().await;
    for number in 0..20 {
        server.ingest(&json!([event("a", "active", &format!("2026-02-27T10:30:{number:02}Z"))]));
        // Everything that was acknowledged before the read began.
        let exact = get(&server, "/api/jobs/a/events?maxStaleness=0");
        assert_eq!(exact.body["data"].as_array().unwrap().len(), number + 1);
    }
    server.nats.kill();
    let old = server.client.until("/api/jobs", |answer| number(answer, "forebay-staleness-ms") > 600);
    assert_eq!((old.status, number(&old, "forebay-applied")), (200, 20));
    for path in READS {
        let refused = get(&server, &with(path, "maxStaleness=500"));
        refused.error(503, "UNAVAILABLE");
        assert_eq!(refused.header("retry-after"), Some("2"));
        assert!(number(&refused, "forebay-staleness-ms") > 500);
    }
    assert_eq!(get(&server, "/api/jobs/a?maxStaleness=3600000").status, 200);
    get(&server, "/api/jobs/a/events").error(503, "UNAVAILABLE");
    server.nats.restart();
    server.client.until("/api/jobs/a/events?maxStaleness=0", |answer| answer.status == 200);
    let young = server.client.until("/api/jobs", |answer| number(answer, "forebay-staleness-ms") < 500);
    assert_eq!(young.header("forebay-stale"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_a_log_that_is_gone_answer_and_say_so() {
    let server = Server::start().await;
    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z"), event("a", "active", "2026-02-27T10:29:56Z")]));
    let before = get(&server, "/api/jobs/a");
    server.log.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
    let stale = server.client.until("/api/jobs/a", |answer| answer.header("forebay-stale").is_some());
    assert_eq!((stale.status, stale.header("forebay-stale")), (200, Some("log-missing")));
    assert_eq!((&stale.body, stale.header("etag")), (&before.body, before.header("etag")));
    get(&server, "/api/jobs/a?atLeast=1").error(503, "UNAVAILABLE");
    get(&server, "/api/jobs/a?maxStaleness=0").error(503, "UNAVAILABLE");

    // Another log, where another event stands at the same place: that is nobody's evidence.
    let other = EventLog::open(server.nats.config()).await.unwrap();
    assert_eq!(other.info().await.unwrap().last_sequence, 0);
    let answer = server
        .ingest(&json!([event("a", "queued", "2026-02-27T10:29:55Z"), event("a", "failed", "2026-02-27T10:29:56Z")]));
    assert_eq!((answer.status, &answer.body["sequence"]), (202, &json!(1)));
    let events = get(&server, "/api/jobs/a/events");
    assert_eq!((events.status, events.header("forebay-stale")), (200, Some("log-missing")));
    let data = events.body["data"].as_array().unwrap();
    assert_eq!(data[0]["event"]["job"]["state"], "queued", "the very same event");
    assert_eq!((&data[1]["event"], &data[1]["missing"]), (&Value::Null, &json!("gone")));
    let as_of = get(&server, "/api/jobs/a?asOf=1");
    assert_eq!((&as_of.body["state"], &as_of.body["truncated"]), (&json!("queued"), &json!(true)));
    assert_eq!(get(&server, "/api/jobs/a").body, before.body);
}

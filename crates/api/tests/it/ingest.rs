//! Good batches, and good events in bad company.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{CONNECTION, KEY, Server, event};

fn body(events: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({ "events": events })).unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_acknowledged_with_its_position_and_recognised_when_sent_again() {
    let server = Server::start().await;
    let mut events =
        json!([event("a", "queued", "2026-02-27T10:29:55Z"), event("a", "active", "2026-02-27T10:29:56.000001Z"),]);
    events[1]["type"] = json!("job_state_change");
    let first = server.ingest(&events);
    assert_eq!(first.status, 202);
    assert_eq!(first.body, json!({ "accepted": 2, "duplicates": 0, "rejected": [], "sequence": 1 }));
    assert_eq!(server.last_sequence().await, 1, "the answer came after the log had it");
    let again = server.ingest(&events);
    assert_eq!(again.body, json!({ "accepted": 2, "duplicates": 2, "rejected": [], "sequence": 1 }));
    assert_eq!(server.last_sequence().await, 1);
    let read = server.client.get("/api/jobs/a?atLeast=1").admin().send();
    assert_eq!((read.status, &read.body["state"]), (200, &json!("active")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_named_and_does_not_sink_its_batch() {
    let server = Server::start().await;
    let mut foreign = event("b", "queued", "2026-02-27T10:29:55Z");
    foreign["connectionId"] = json!(Uuid::from_u128(1));
    let mut stateless = event("c", "queued", "2026-02-27T10:29:55Z");
    stateless["job"]["state"] = json!("sleeping");
    let good = event("a", "queued", "2026-02-27T10:29:55Z");
    let answer = server.ingest(&json!([foreign, good, 7, stateless, event("", "queued", "2026-02-27T10:29:55Z")]));
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["accepted"], 1);
    let rejected: Vec<_> =
        answer.body["rejected"].as_array().unwrap().iter().map(|it| (&it["index"], &it["code"])).collect();
    let invalid = json!("VALIDATION_ERROR");
    let expected = [
        (&json!(0), &json!("CONNECTION_MISMATCH")),
        (&json!(2), &invalid),
        (&json!(3), &invalid),
        (&json!(4), &invalid),
    ];
    assert_eq!(rejected, expected);
    let total = |path: &str| server.client.get(path).admin().send().body["pagination"]["total"].clone();
    assert_eq!(total("/api/jobs?atLeast=1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_a_good_event_is_answered_and_not_stored() {
    let server = Server::start().await;
    let empty = server.ingest(&json!([]));
    assert_eq!(
        (empty.status, empty.body),
        (202, json!({ "accepted": 0, "duplicates": 0, "rejected": [], "sequence": null }))
    );
    let bad = server.ingest(&json!([{}]));
    assert_eq!((bad.status, &bad.body["accepted"], &bad.body["sequence"]), (202, &json!(0), &Value::Null));
    assert_eq!(server.last_sequence().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_plain_gzipped_and_in_chunks() {
    let server = Server::start().await;
    let post = || server.client.post("/api/ingest", &Value::Null).bearer(KEY);
    for (number, id) in ["plain", "gzip", "chunked", "both"].into_iter().enumerate() {
        let body = body(&json!([event(id, "queued", "2026-02-27T10:29:55Z")]));
        let gzip = || post().header("content-encoding", "gzip").body(gzipped(&body));
        let answer = match id {
            "plain" => post().body(body).send(),
            "gzip" => gzip().send(),
            "chunked" => post().body(body).send_chunked(),
            _ => gzip().send_chunked(),
        };
        assert_eq!((answer.status, &answer.body["sequence"]), (202, &json!(number + 1)), "{id}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_one_message_is_stored_in_several() {
    let server = Server::start().await;
    let events: Vec<Value> = (0..150)
        .map(|number| {
            let mut event = event(&format!("job-{number}"), "failed", "2026-02-27T10:29:55Z");
            event["job"]["stacktrace"] = json!("x".repeat(40_000));
            event
        })
        .collect();
    let events = json!(events);
    let first = server.ingest(&events);
    assert_eq!((first.status, &first.body["accepted"], &first.body["duplicates"]), (202, &json!(150), &json!(0)));
    let last = server.last_sequence().await;
    assert!(last > 1, "6 MB in one message");
    assert_eq!(first.body["sequence"], last);
    let again = server.ingest(&events);
    assert_eq!((&again.body["duplicates"], &again.body["sequence"]), (&json!(150), &json!(last)));
    let read = server.client.get(&format!("/api/jobs?atLeast={last}")).admin().send();
    assert_eq!(read.body["pagination"]["total"], 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_depths_are_taken_and_kept_out_of_the_log() {
    let server = Server::start().await;
    let worker = |state: &str| {
        json!({
            "type": "worker.state_change", "timestamp": "2026-02-27T10:29:55Z", "framework": "celery",
            "connectionId": CONNECTION, "worker": { "externalId": "celery@w1", "hostname": "celery@w1", "state": state },
        })
    };
    let queue = json!({
        "type": "queue_snapshot", "timestamp": "2026-02-27T10:29:55Z", "framework": "celery",
        "connectionId": CONNECTION, "queue": { "name": "default", "depth": 7 },
    });
    let live = server.ingest(&json!([worker("heartbeat"), queue, worker("heartbeat")]));
    assert_eq!((live.status, &live.body["accepted"], &live.body["sequence"]), (202, &json!(3), &Value::Null));
    assert_eq!(server.last_sequence().await, 0);
    let facts = server.ingest(&json!([worker("heartbeat"), worker("online"), worker("offline")]));
    assert_eq!((&facts.body["accepted"], &facts.body["sequence"]), (&json!(3), &json!(1)));
}

/// The status of an answer, if it comes within this time.
fn status(mut stream: &TcpStream, time: Duration) -> Option<String> {
    stream.set_read_timeout(Some(time)).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    Some(String::from_utf8(answer["HTTP/1.1 ".len()..].to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_arrive_at_once_wait_for_room_and_nothing_else_waits_for_them() {
    const LARGEST: usize = 32 << 20;
    let server = Server::start().await;
    let begin = |length: usize, body: &[u8]| {
        let mut stream = TcpStream::connect(&server.client.address).unwrap();
        let head = format!("POST /api/ingest HTTP/1.1\r\nhost: forebay\r\nauthorization: Bearer {KEY}\r\n");
        write!(stream, "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        stream
    };
    // Announced and not sent, eight of the largest take all the room there is.
    let mut large: Vec<TcpStream> = (0..8).map(|_| begin(LARGEST, b"{")).collect();
    let small = body(&json!([event("small", "queued", "2026-02-27T10:29:55Z")]));
    let mut waiting = begin(small.len(), &small);
    let started = Instant::now();
    while status(&waiting, Duration::from_millis(100)).is_some() {
        assert!(started.elapsed() < Duration::from_secs(10), "any number of them is taken in at once");
        waiting = begin(small.len(), &small);
    }
    // Reads and refusals need no room.
    assert_eq!(server.client.get("/api/jobs").admin().send().status, 200);
    server.client.post("/api/ingest", &json!({})).bearer("nobody's").send().error(401, "UNAUTHORIZED");
    assert_eq!(status(&waiting, Duration::from_millis(100)), None);
    // One sender gives up, and the next has its turn.
    drop(large.pop());
    assert_eq!(status(&waiting, Duration::from_secs(15)).as_deref(), Some("202"));
}

//! The live event stream.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use projector::{Frames, Happening, QueueCount, WorkerSeen};
use serde_json::{Value, json};
use ureq::http::Method;
use uuid::Uuid;

use crate::harness::{Bare, CONNECTION, DEADLINE, PASSWORD, Server, TOKEN, event, until};

/// A frame as it arrives.
#[derive(Clone, Debug, PartialEq)]
struct Frame {
    id: String,
    event: String,
    data: Value,
}

/// A client of the stream.
struct Watcher {
    socket: BufReader<TcpStream>,
    head: String,
    /// What arrived, and how much of it was looked at.
    text: String,
    read: usize,
    /// The id that stands before all frames.
    begin: String,
}

impl Watcher {
    /// Sends the request, and reads nothing.
    fn connect(server: &Server, query: &str, headers: &str) -> TcpStream {
        let mut socket = TcpStream::connect(server.client.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "GET /api/events/stream?{query} HTTP/1.1\r\nHost: forebay\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        socket
    }

    fn open(server: &Server, query: &str) -> Self {
        Self::on(Self::connect(server, query, ""))
    }

    fn after(server: &Server, query: &str, last_event_id: &str) -> Self {
        Self::on(Self::connect(server, query, &format!("Last-Event-ID: {last_event_id}\r\n")))
    }

    /// Reads the head and the opening.
    fn on(socket: TcpStream) -> Self {
        let (mut socket, mut head) = (BufReader::new(socket), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert!(socket.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut watcher = Self { socket, head, text: String::new(), read: 0, begin: String::new() };
        let opening = watcher.block().unwrap();
        watcher.begin.push_str(opening.strip_prefix("retry: 2000\nid: ").unwrap());
        watcher
    }

    /// The next lines up to an empty one, but for heartbeats, which come when they are due; `None` at the end of the stream.
    fn block(&mut self) -> Option<String> {
        loop {
            let block = self.any_block()?;
            if !block.contains("\nevent: heartbeat\n") {
                return Some(block);
            }
        }
    }

    fn any_block(&mut self) -> Option<String> {
        loop {
            let rest = &self.text[self.read..];
            if let Some(end) = rest.find("\n\n") {
                let block = rest[..end].to_owned();
                self.read += end + 2;
                return Some(block);
            }
            self.text.drain(..std::mem::take(&mut self.read));
            let mut length = String::new();
            self.socket.read_line(&mut length).unwrap();
            let length = usize::from_str_radix(length.trim_end(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.socket.read_exact(&mut chunk).unwrap();
            if length == 0 {
                assert_eq!(self.text, "", "the stream ends with a whole frame");
                return None;
            }
            self.text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
    }

    fn next(&mut self) -> Option<Frame> {
        let block = self.block()?;
        let lines: Vec<&str> = block.lines().collect();
        let [id, event, data] = lines[..] else { panic!("{block}") };
        Some(Frame {
            id: id.strip_prefix("id: ").unwrap().to_owned(),
            event: event.strip_prefix("event: ").unwrap().to_owned(),
            data: serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
        })
    }

    fn frames(&mut self, number: usize) -> Vec<Frame> {
        (0..number).map(|_| self.next().unwrap()).collect()
    }

    /// What comes before the mark that everybody gets.
    fn until_mark(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next().filter(|frame| frame.event != "resync")).collect()
    }
}

fn number(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

fn count(connection: Uuid, name: &str, depth: u64) -> Happening {
    Happening::Queue(QueueCount { connection, name: name.into(), depth: Some(depth), consumers: None })
}

fn worker(active_jobs: u64) -> WorkerSeen {
    let (id, hostname) = (Uuid::from_u128(7), "celery@one".into());
    WorkerSeen { connection: CONNECTION, id, hostname, state: "busy", active_jobs }
}

fn frames(server: &Server) -> &Arc<Frames> {
    server.projector.frames()
}

/// A job event with a task name and a queue.
fn named(id: &str, state: &str, time: &str, name: &str, queue: &str) -> Value {
    let mut event = event(id, state, time);
    event["job"]["name"] = json!(name);
    event["job"]["queue"] = json!(queue);
    event
}

fn external(server: &Server, id: &str) -> String {
    let answer = server.client.get(&format!("/api/jobs/{id}")).admin().send();
    answer.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_job_is_told_in_order_as_it_happens() {
    let server = Server::start().await;
    // What was there before is no news.
    server.given(&json!([event("old", "queued", "2026-02-27T10:00:00Z")]));
    let mut watcher = Watcher::open(&server, &format!("connectionId={CONNECTION}"));
    for header in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(watcher.head.contains(&format!("{header}\r\n")), "{}", watcher.head);
    }
    let began = number(&watcher.begin);
    server.given(&json!([event("job", "queued", "2026-02-27T10:29:55Z")]));
    let queued = watcher.next().unwrap();
    let id = external(&server, "job");
    let told = |state: &str, previous: Value, timestamp: &str| {
        json!({
            "id": id, "name": "app.tasks.send_email", "state": state, "previousState": previous, "timestamp": timestamp,
        })
    };
    assert_eq!(queued.event, "job:state_change");
    assert_eq!(queued.data, told("queued", Value::Null, "2026-02-27T10:29:55.000Z"));
    assert_eq!(number(&queued.id), began + 1);
    // In one batch with others, and not in order; a repeat tells nothing.
    server.given(&json!([
        event("other", "queued", "2026-02-27T10:29:57.250Z"),
        event("job", "completed", "2026-02-27T10:29:58.5Z"),
        event("job", "active", "2026-02-27T10:29:56Z"),
        event("job", "queued", "2026-02-27T10:29:55Z"),
    ]));
    let rest = watcher.frames(3);
    assert_eq!(rest[0].data, told("active", json!("queued"), "2026-02-27T10:29:56.000Z"));
    assert_eq!(rest[1].data["timestamp"], "2026-02-27T10:29:57.250Z");
    assert_eq!(rest[2].data, told("completed", json!("active"), "2026-02-27T10:29:58.500Z"));
    // What comes late and changes the past alone is no news either; what follows is.
    server.given(&json!([event("job", "queued", "2026-02-27T10:29:54Z")]));
    server.given(&json!([event("other", "active", "2026-02-27T10:30:00Z")]));
    assert_eq!(watcher.next().unwrap().data["timestamp"], "2026-02-27T10:30:00.000Z");

    frames(&server).push(vec![
        Happening::WorkerHeartbeat(worker(3)),
        Happening::WorkerState(WorkerSeen { state: "offline", ..worker(0) }),
        count(CONNECTION, "a \"queue\"\n", 12),
    ]);
    let id = Uuid::from_u128(7);
    let expected = [
        ("worker:heartbeat", json!({ "id": id, "hostname": "celery@one", "state": "busy", "activeJobs": 3 })),
        ("worker:state_change", json!({ "id": id, "hostname": "celery@one", "state": "offline", "activeJobs": 0 })),
        ("queue:snapshot", json!({ "name": "a \"queue\"\n", "depth": 12, "consumers": null })),
    ];
    for (name, data) in expected {
        let frame = watcher.next().unwrap();
        assert_eq!((frame.event.as_str(), frame.data), (name, data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_of_what_it_asks_for_and_of_nothing_else() {
    let server = Server::start().await;
    let other = Uuid::from_u128(9);
    let own_id = proto_id("a");
    let queries = [
        String::new(),
        format!("connectionId={CONNECTION}"),
        format!("connectionId={other}"),
        "types=job".to_owned(),
        "types=worker,queue".to_owned(),
        "name=app.mail".to_owned(),
        "queue=slow".to_owned(),
        "queue=slow&types=job".to_owned(),
        "jobId=a".to_owned(),
        format!("jobId={own_id}"),
        format!("jobId=a&connectionId={other}"),
        "jobId=a&name=app.sum".to_owned(),
    ];
    let mut watchers: Vec<Watcher> = queries.iter().map(|query| Watcher::open(&server, query)).collect();
    server.given(&json!([
        named("a", "queued", "2026-02-27T10:00:01Z", "app.mail", "slow"),
        named("b", "queued", "2026-02-27T10:00:02Z", "app.mail", "fast"),
        named("c", "queued", "2026-02-27T10:00:03Z", "app.sum", "slow"),
    ]));
    frames(&server).push(vec![
        Happening::WorkerHeartbeat(worker(1)),
        count(CONNECTION, "slow", 4),
        count(other, "slow", 5),
        count(CONNECTION, "fast", 6),
        Happening::Replaced,
    ]);
    // a, b, c: the jobs; w: the worker; 4, 5, 6: the counts.
    let expected = ["abcw456", "abcw46", "5", "abc", "w456", "ab", "ac45", "ac", "a", "a", "", ""];
    let letter = |frame: &Frame| match frame.event.as_str() {
        "job:state_change" => {
            let place = ["a", "b", "c"].into_iter().find(|id| frame.data["id"] == proto_id(id).to_string());
            place.unwrap().to_owned()
        }
        "worker:heartbeat" => "w".to_owned(),
        _ => frame.data["depth"].to_string(),
    };
    for ((watcher, query), expected) in watchers.iter_mut().zip(&queries).zip(expected) {
        let told: String = watcher.until_mark().iter().map(letter).collect();
        assert_eq!(told, expected, "{query}");
    }
}

fn proto_id(job: &str) -> Uuid {
    proto_events::job_id(CONNECTION, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_goes_on_without_loss_or_repeat() {
    let server = Server::start().await;
    let mut whole = Watcher::open(&server, "types=job");
    let mut cut = Watcher::open(&server, "types=job");
    let (mut last, mut seen) = (cut.begin.clone(), Vec::new());
    for round in 0..8 {
        let batch = |begin: usize| -> Value {
            let time = |minute| format!("2026-02-27T1{round}:{minute:02}:00Z");
            (begin..begin + 20).map(|n| event(&format!("job-{round}-{n}"), "queued", &time(n))).collect()
        };
        server.given(&batch(0));
        // Cut off in the midst of them, or before the first.
        let some = cut.frames(round * 3 % 20);
        last = some.last().map_or(last, |frame| frame.id.clone());
        seen.extend(some);
        drop(cut);
        server.given(&batch(20));
        cut = if round % 2 == 0 {
            // The address stays that of the first time.
            Watcher::after(&server, "types=job&lastEventId=of-long-ago", &last)
        } else {
            Watcher::open(&server, &format!("types=job&lastEventId={last}"))
        };
        assert_eq!(cut.begin, last);
    }
    seen.extend(cut.frames(8 * 40 - seen.len()));
    assert_eq!(seen, whole.frames(8 * 40));
    let numbers: Vec<u64> = seen.iter().map(|frame| number(&frame.id)).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_too_late_or_from_elsewhere_is_told_to_read_anew() {
    let server = Server::start().await;
    let early = Watcher::open(&server, "").begin;
    frames(&server).push(vec![count(CONNECTION, "celery", 1); projector::FRAMES_KEPT + 1_000]);
    for (id, reason) in [(early.as_str(), "too-old"), ("0000000000000000-3", "unknown-id"), ("one", "unknown-id")] {
        let mut watcher = Watcher::after(&server, "", id);
        let resync = watcher.next().unwrap();
        assert_eq!(resync.event, "resync");
        assert_eq!(resync.data, json!({ "reason": reason, "lastEventId": id }));
        assert_eq!(resync.id, watcher.begin);
        // And then live.
        frames(&server).push(vec![count(CONNECTION, "celery", 2)]);
        let next = watcher.next().unwrap();
        assert_eq!((number(&next.id), &next.data["depth"]), (number(&resync.id) + 1, &json!(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off_with_a_last_event_and_others_go_on() {
    let server = Server::start().await;
    let slow = Watcher::connect(&server, "", "");
    let mut fast = Watcher::open(&server, "");
    let frames = Arc::clone(frames(&server));
    // Both streams are there, beside the projector and ourselves.
    until("the streams", || Arc::strong_count(&frames) == 4);
    // What the sockets take comes on top of the ring.
    for round in 0..300 {
        frames.push((0..1_000).map(|depth| count(CONNECTION, "celery", depth)).collect());
        for step in 1..=1_000 {
            let block = fast.block().unwrap();
            let id = block.lines().next().unwrap().strip_prefix("id: ").unwrap();
            assert_eq!(number(id), round * 1_000 + step, "{block}");
        }
    }
    let mut slow = Watcher::on(slow);
    let mut last = slow.begin.clone();
    let end = loop {
        let frame = slow.next().unwrap();
        if frame.event != "queue:snapshot" {
            break frame;
        }
        assert_eq!(number(&frame.id), number(&last) + 1);
        last = frame.id;
    };
    assert_eq!((end.event.as_str(), &end.id), ("overflow", &last));
    assert_eq!(end.data, json!({ "reason": "too-slow", "lastEventId": last }));
    assert_eq!(slow.next(), None, "that was all");
    assert!(number(&last) < 200_000, "it was {last}");
    let mut rest = Vec::new();
    slow.socket.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_are_all_told_of_everything() {
    let server = Server::start().await;
    let watchers: Vec<Watcher> = (0..200).map(|_| Watcher::open(&server, "types=job")).collect();
    let reading: Vec<_> =
        watchers.into_iter().map(|mut watcher| std::thread::spawn(move || (watcher.frames(900), watcher))).collect();
    for second in 0..30 {
        let states = [("queued", 0), ("active", 1), ("completed", 2)];
        let events = (0..10).flat_map(|job| {
            states.map(|(state, step)| {
                let time = format!("2026-02-27T10:{second:02}:{:02}.{job}Z", step * 10);
                event(&format!("job-{second}-{job}"), state, &time)
            })
        });
        server.given(&events.collect());
    }
    let told: Vec<_> = reading.into_iter().map(|reader| reader.join().unwrap()).collect();
    let (first, _) = &told[0];
    assert!(first.windows(2).all(|pair| number(&pair[0].id) + 1 == number(&pair[1].id)));
    assert!(told.iter().all(|(frames, _)| frames == first), "all are told the same");
    let streams = Arc::strong_count(frames(&server));
    drop(told);
    // Who is gone costs nothing any more.
    until("their end", || Arc::strong_count(frames(&server)) == streams - 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_server_stops_the_streams_end_and_nobody_waits_for_who_does_not_read() {
    let server = Server::start().await;
    let mut watchers: Vec<Watcher> = (0..10).map(|_| Watcher::open(&server, "")).collect();
    let stuck = Watcher::connect(&server, "", "");
    let count = count(CONNECTION, "celery", 1);
    for _ in 0..100 {
        frames(&server).push(vec![count.clone(); 1_000]);
        for watcher in &mut watchers {
            (0..1_000).for_each(|_| assert!(watcher.block().is_some()));
        }
    }
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    for mut watcher in watchers {
        assert_eq!(watcher.next(), None);
    }
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_request_is_answered_in_the_envelope() {
    let bare = Bare::start(PASSWORD).await;
    bare.client.get("/api/events/stream").admin().send().error(503, "UNAVAILABLE");
    let server = Server::start().await;
    server.client.get("/api/events/stream").send().error(401, "UNAUTHORIZED");
    server.client.post("/api/events/stream", &json!({})).admin().send().error(405, "METHOD_NOT_ALLOWED");
    for (query, field) in [("types=jobs", "types"), ("connectionId=x", "connectionId"), ("jobs=a", "jobs")] {
        let answer = server.client.get(&format!("/api/events/stream?{query}")).admin().send();
        let error = answer.error(400, "VALIDATION_ERROR");
        assert!(error["details"][field].is_string(), "{error}");
    }
    let head = server.client.request(Method::HEAD, "/api/events/stream").admin().send();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    until("only the projector has them", || Arc::strong_count(frames(&server)) == 1);
}

//! The Redis source against a real redis-server and a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

mod apart;
mod depths;
mod harness;
mod sentinel;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use harness::{CONNECTION, Log, Redis, changes, connected, eventually, flood, publish, spawn, task, worker};
use proto_events::{Event, SourceState as Heard, WorkerState};
use redis::cmd;
use rustix::process::Signal;
use serde_json::{Value, json};
use sources::{SourceHandle, SourceState, SourceStatus};
use uuid::Uuid;

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.job.as_ref().unwrap().external_id.as_str()).collect()
}

fn numbered(numbers: std::ops::Range<usize>, in_one_array: usize) -> Vec<Value> {
    let events: Vec<Value> = numbers.map(|number| task("started", &number.to_string())).collect();
    events.chunks(in_one_array).map(|array| json!(array)).collect()
}

async fn status(source: &SourceHandle, what: &str, is: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
    eventually(what, || async {
        let status = source.status();
        if is(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_celery_publishes_arrives_in_the_log_of_its_connection() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |_| {});
    let other = Uuid::from_u128(8);
    let prefixed = spawn(&format!("{}3?global_keyprefix=p*", redis.url().trim_end_matches('0')), &log.log, |config| {
        config.name = "prefixed".to_owned();
        config.connection = other;
    });
    connected(&source).await;
    connected(&prefixed).await;
    let mut client = redis.client("");
    assert_eq!(publish(&mut client, "/0", "worker.online", &worker("online", "celery@w")), 1);
    assert_eq!(publish(&mut client, "/0", "worker.heartbeat", &worker("heartbeat", "celery@w")), 1);
    assert_eq!(publish(&mut client, "/0", "task.sent", &task("sent", "a")), 1);
    assert_eq!(publish(&mut client, "/0", "task.multi", &json!([task("received", "a"), task("started", "a")])), 1);
    assert_eq!(publish(&mut client, "/0", "task.progress", &task("progress", "a")), 1);
    // Not ours: another database, a prefix that only a pattern would take for the other source's.
    assert_eq!(publish(&mut client, "/1", "task.sent", &task("sent", "x")), 0);
    assert_eq!(publish(&mut client, "pp/3", "task.sent", &task("sent", "x")), 0);
    assert_eq!(publish(&mut client, "p*/3", "task.sent", &task("sent", "b")), 1);
    // What cannot be read is counted, said, and stops nothing.
    let () = cmd("PUBLISH").arg("/0.celeryev/task.sent").arg("not kombu").query(&mut client).unwrap();
    assert_eq!(publish(&mut client, "/0", "task.multi", &json!([task("failed", ""), task("succeeded", "a")])), 1);

    let events = log.read(6, |event| event.job.is_some()).await;
    let of = |connection| -> Vec<Event> {
        events
            .iter()
            .filter(|(of, event)| *of == connection && event.job.is_some())
            .map(|(_, event)| event.clone())
            .collect()
    };
    assert_eq!(ids(&of(CONNECTION)), ["a"; 5]);
    assert_eq!(ids(&of(other)), ["b"]);
    assert_eq!(changes(&events), [(Heard::Connected, None); 2]);
    let workers: Vec<_> = events.iter().filter_map(|(_, event)| event.worker.as_ref()).collect();
    assert_eq!(workers.iter().map(|worker| worker.state).collect::<Vec<_>>(), [WorkerState::Online]);

    let status = source.status();
    assert_eq!((status.events, status.worker_events, status.batches, status.decode_errors), (7, 2, 7, 2));
    assert_eq!((status.reconnects, status.dropped, status.queue_bytes), (0, 0, 0));
    assert!(status.last_event_at.is_some() && status.last_decode_error.unwrap().contains("uuid"));
    heartbeat_is_kept_beside_the_log(&log, "celery@w").await;
    source.stop().await;
    let events = log.read(3, |event| event.source.is_some()).await;
    assert_eq!(changes(&events)[2], (Heard::Disconnected, Some("Forebay stopped")));
}

/// Heartbeats have their own stream, with one message for each worker.
async fn heartbeat_is_kept_beside_the_log(log: &Log, hostname: &str) {
    let client = async_nats::connect(log.server.address()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("FOREBAY_STATUS").await.unwrap();
    let subject = format!("forebay.v1.status.{CONNECTION}.worker.>");
    eventually("the heartbeat is published", || async {
        let message = stream.get_last_raw_message_by_subject(&subject).await.map_err(|error| error.to_string())?;
        let event = proto_events::decode(&message.payload).unwrap().remove(0).unwrap();
        assert_eq!(event.worker.unwrap().external_id, hostname);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_back_is_heard_again_and_the_gap_is_told() {
    let (mut redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |_| {});
    connected(&source).await;
    publish(&mut redis.client(""), "/0", "task.sent", &task("sent", "before"));
    // Who published is answered before those who listen.
    status(&source, "it is heard", |status| status.events == 1).await;
    redis.kill();
    let down = status(&source, "the loss is noticed", |status| status.state == SourceState::Down).await;
    assert!(down.reason.is_some_and(|reason| !reason.is_empty()));
    let missed = status(&source, "it counts", |status| status.missed > down.missed + 0.3).await.missed;
    let nobody = Some("no Redis listens there");
    status(&source, "the next attempt says why", |status| status.reason.as_deref() == nobody).await;
    redis.restart();
    connected(&source).await;
    let back = source.status();
    assert_eq!((back.reconnects, &back.reason), (1, &None));
    assert!(back.missed >= missed);
    assert_eq!(source.status().missed.to_bits(), back.missed.to_bits(), "it goes on counting");
    publish(&mut redis.client(""), "/0", "task.sent", &task("sent", "after"));

    let events = log.read(2, |event| event.job.is_some()).await;
    let told: Vec<_> = changes(&events).into_iter().map(|(state, _)| state).collect();
    assert_eq!(told, [Heard::Connected, Heard::Disconnected, Heard::Connected]);
    let jobs: Vec<Event> = events.into_iter().map(|(_, event)| event).filter(|event| event.job.is_some()).collect();
    assert_eq!(ids(&jobs), ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_dead_without_a_word_is_noticed() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |_| {});
    connected(&source).await;
    redis.signal(Signal::STOP);
    let down = status(&source, "the silence is noticed", |status| status.state == SourceState::Down).await;
    assert!(down.reason.unwrap().contains("not answer"));
    // Missed from when it was last heard, not from when we found out.
    assert!(down.missed >= 1.0, "{}", down.missed);
    redis.signal(Signal::CONT);
    connected(&source).await;
    publish(&mut redis.client(""), "/0", "task.sent", &task("sent", "after"));
    assert_eq!(ids(&log.jobs(1).await), ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_full_speed_arrives_whole() {
    const EVENTS: usize = 50_000;
    let (redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |_| {});
    connected(&source).await;
    let arrays = numbered(0..EVENTS, 20);
    tokio::task::block_in_place(|| flood(&mut redis.client(""), &arrays));
    let jobs = log.jobs(EVENTS).await;
    let distinct: HashSet<_> = ids(&jobs).into_iter().collect();
    assert_eq!((jobs.len(), distinct.len()), (EVENTS, EVENTS));
    let status = source.status();
    assert_eq!((status.events, status.dropped, status.decode_errors, status.reconnects), (50_000, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_nothing_is_lost_that_the_queue_can_hold_and_the_rest_is_counted() {
    let (redis, mut log) = (Redis::start(), Log::open().await);
    let roomy = spawn(&redis.url(), &log.log, |_| {});
    let narrow = spawn(&redis.url(), &log.log, |config| {
        config.connection = Uuid::from_u128(9);
        config.queue_bytes = 200_000;
    });
    connected(&roomy).await;
    connected(&narrow).await;
    log.server.kill();
    // Long texts, so that the log's own buffers are full before our queue is.
    let text = "x".repeat(9_900);
    let messages: Vec<Value> = (0..4_000)
        .map(|number| {
            let mut event = task("failed", &number.to_string());
            event["exception"] = json!(text);
            event
        })
        .collect();
    tokio::task::block_in_place(|| flood(&mut redis.client(""), &messages));
    log.server.restart();

    let narrow_id = Uuid::from_u128(9);
    let done = status(&narrow, "the queue is empty again", |status| {
        status.queue_bytes == 0 && status.batches + status.dropped == 4_000
    })
    .await;
    assert!(done.dropped > 0, "the test must fill the queue: {done:?}");
    let wanted = 4_000 + 4_000 - usize::try_from(done.dropped).unwrap();
    let events = log.read(wanted, |event| event.job.is_some()).await;
    let (of_narrow, of_roomy): (Vec<_>, Vec<_>) =
        events.iter().filter(|(_, event)| event.job.is_some()).partition(|(connection, _)| *connection == narrow_id);
    let distinct = |events: &[&(Uuid, Event)]| {
        events.iter().map(|(_, event)| event.job.as_ref().unwrap().external_id.clone()).collect::<HashSet<_>>().len()
    };
    assert_eq!(roomy.status().dropped, 0);
    assert_eq!(distinct(&of_roomy), 4_000);
    assert_eq!(distinct(&of_narrow), 4_000 - usize::try_from(done.dropped).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_without_tasks_bring_the_advice_and_tasks_take_it_away() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |config| config.hint_after = Duration::from_millis(300));
    connected(&source).await;
    assert_eq!(source.status().hint, None);
    let mut client = redis.client("");
    publish(&mut client, "/0", "worker.heartbeat", &worker("heartbeat", "celery@w"));
    // Those who send tasks say nothing of the workers' settings.
    publish(&mut client, "/0", "task.sent", &task("sent", "a"));
    let hint = status(&source, "the advice comes", |status| status.hint.is_some()).await.hint.unwrap();
    assert!(hint.contains("-E") && hint.contains("task_send_sent_event = True"), "{hint}");
    publish(&mut client, "/0", "task.multi", &json!([task("received", "a")]));
    status(&source, "the advice goes", |status| status.hint.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_not_let_us_in_says_what_to_do_and_doing_it_helps() {
    let (redis, log) = (Redis::with(&["--requirepass", "s3cret"]), Log::open().await);
    let place = format!("127.0.0.1:{}/0", redis.port);
    let refused = async |url: String, expected: &str| {
        let source = spawn(&url, &log.log, |_| {});
        let status = status(&source, expected, |status| status.state == SourceState::Refused).await;
        let reason = status.reason.clone().unwrap();
        assert!(reason.contains(expected) && !format!("{status:?} {source:?}").contains("s3cret"), "{status:?}");
        (source, reason)
    };
    refused(format!("redis://{place}"), "Redis wants a password").await;
    refused(format!("redis://:wrong-s3cret@{place}"), "refused the user (default) or password").await;
    let mut client = redis.client("s3cret");
    let rules = ["SETUSER", "forebay", "on", ">s3cret-too", "resetchannels", "-@all"];
    let () = cmd("ACL").arg(&rules).query(&mut client).unwrap();
    let (source, reason) = refused(format!("redis://forebay:s3cret-too@{place}"), "may not listen").await;
    // Word for word what the reason tells.
    let (_, advice) = reason.split_once("allow it with  ACL ").unwrap();
    let () = cmd("ACL").arg(advice.split(' ').collect::<Vec<_>>()).query(&mut client).unwrap();
    connected(&source).await;
    assert_eq!(publish(&mut client, "/0", "task.sent", &task("sent", "a")), 1);
    assert_eq!(ids(&log.jobs(1).await), ["a"]);
    assert_eq!(source.status().url_masked, format!("redis://forebay:***@{place}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_against_the_given_authority() {
    let dir = tempfile::tempdir().unwrap();
    harness::certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (certificate, key, authority) = (file("server.pem"), file("key.pem"), file("ca.pem"));
    let options = [
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ];
    let redis = Redis::with(&options);
    let log = Log::open().await;
    let url = format!("rediss://localhost:{}/0", redis.port);
    let unknown = spawn(&url, &log.log, |_| {});
    let reason = status(&unknown, "it is refused", |status| status.state == SourceState::Refused).await.reason.unwrap();
    assert!(reason.contains("certificate") && reason.contains("ssl_ca_certs"), "{reason}");
    let missing = spawn(&format!("{url}?ssl_ca_certs=/no/such/ca.pem"), &log.log, |_| {});
    let reason = status(&missing, "it is refused", |status| status.state == SourceState::Refused).await.reason.unwrap();
    assert!(reason.contains("/no/such/ca.pem"), "{reason}");
    let known = spawn(&format!("{url}?ssl_cert_reqs=required&ssl_ca_certs={authority}"), &log.log, |_| {});
    let unchecked = spawn(&format!("{url}?ssl_cert_reqs=none"), &log.log, |_| {});
    connected(&known).await;
    connected(&unchecked).await;
    assert_eq!(publish(&mut redis.client(""), "/0", "task.sent", &task("sent", "a")), 2);
    assert_eq!(ids(&log.jobs(2).await), ["a", "a"]);
}

/// A network that delivers half a message and takes its time with the rest: longer than one read waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_in_pieces_is_heard_whole() {
    let log = Log::open().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = spawn(&format!("redis://{}/0", listener.local_addr().unwrap()), &log.log, |config| {
        config.patience = Duration::from_secs(20);
    });
    let pieces = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let _ = peer.read(&mut [0; 1_000]).unwrap();
        let pattern = "/0.celeryev/*";
        let answer = format!("*3\r\n$10\r\npsubscribe\r\n${}\r\n{pattern}\r\n:1\r\n", pattern.len());
        peer.write_all(answer.as_bytes()).unwrap();
        let channel = "/0.celeryev/task.multi";
        for number in 0..3 {
            let body = harness::kombu("task.multi", &json!([task("started", &format!("{number}"))]));
            let message = format!(
                "*4\r\n$8\r\npmessage\r\n${}\r\n{pattern}\r\n${}\r\n{channel}\r\n${}\r\n{body}\r\n",
                pattern.len(),
                channel.len(),
                body.len()
            );
            let (begin, end) = message.split_at(message.len() * (number + 1) / 4);
            peer.write_all(begin.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(1_200));
            peer.write_all(end.as_bytes()).unwrap();
        }
        peer
    });
    assert_eq!(ids(&log.jobs(3).await), ["0", "1", "2"]);
    assert_eq!((source.status().reconnects, source.status().decode_errors), (0, 0));
    drop(pieces.join().unwrap());
}

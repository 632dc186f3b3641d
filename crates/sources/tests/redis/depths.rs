//! How full the queues are.

use std::collections::BTreeMap;

use event_log::StatusChange;
use proto_events::{EventType, Framework};
use redis::{Connection, cmd, pipe};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{CONNECTION, Log, Redis, connected, eventually, spawn};

const SEPARATOR: &str = "\x06\x16";

/// Binds a queue as kombu does.
fn bind(to: &mut Connection, prefix: &str, exchange: &str, queue: &str) {
    let member = [queue, "", queue].join(SEPARATOR);
    cmd("SADD").arg(format!("{prefix}_kombu.binding.{exchange}")).arg(member).exec(to).unwrap();
}

fn push(to: &mut Connection, list: &str, messages: usize) {
    let mut pushes = pipe();
    for _ in 0..messages {
        pushes.cmd("LPUSH").arg(list).arg("{}").ignore();
    }
    pushes.exec(to).unwrap();
}

/// The depths that are published for a connection, until they are as wanted; with what is said beside them.
async fn depths(log: &Log, connection: Uuid, wanted: &[(&str, u64)]) -> BTreeMap<String, Value> {
    let wanted: BTreeMap<&str, u64> = wanted.iter().copied().collect();
    let mut statuses = log.log.statuses();
    let (mut known, mut beside) = (BTreeMap::new(), BTreeMap::new());
    let follow = async {
        while known.iter().map(|(name, depth): (&String, &u64)| (name.as_str(), *depth)).ne(wanted.clone()) {
            let Some(StatusChange::Said(status)) = statuses.next().await else { continue };
            if status.connection != connection {
                continue;
            }
            let event = proto_events::decode(&status.payload).unwrap().remove(0).unwrap();
            assert_eq!((event.kind, event.framework), (EventType::QueueSnapshot, Framework::Celery));
            let queue = *event.queue.unwrap();
            assert_eq!(queue.consumers, None);
            beside.insert(queue.name.clone(), Value::Object(queue.extensions));
            known.insert(queue.name, queue.depth.unwrap());
        }
    };
    let done = tokio::time::timeout(crate::harness::SOON, follow).await;
    assert!(done.is_ok(), "known are {known:?}, wanted {wanted:?}");
    beside
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queues_of_a_broker_are_found_and_their_depth_is_that_of_all_their_lists() {
    let (mut redis, log) = (Redis::start(), Log::open().await);
    let mut client = redis.client("");
    // Keys of results between those of the bindings, so that one look does not find all at once.
    let mut results = pipe();
    for number in 0..3_000 {
        results.cmd("SET").arg(format!("celery-task-meta-{number}")).arg("x").ignore();
    }
    results.exec(&mut client).unwrap();
    for queue in ["celery", "mail", "a b*:ü"] {
        bind(&mut client, "", queue, queue);
    }
    for (exchange, queue) in [
        ("celeryev", "celeryev.0b2d"),
        ("celery.pidbox", "celery@w.celery.pidbox"),
        ("reply.celery.pidbox", "0b2d.reply.celery.pidbox"),
    ] {
        bind(&mut client, "", exchange, queue);
        push(&mut client, queue, 1);
    }
    // What is none of ours must not stop us: no set, no list, no queue.
    cmd("SET").arg("_kombu.binding.strange").arg("x").exec(&mut client).unwrap();
    bind(&mut client, "", "odd", "no-list");
    cmd("SET").arg("no-list").arg("x").exec(&mut client).unwrap();
    cmd("SADD").arg("_kombu.binding.celery").arg("nonsense").exec(&mut client).unwrap();
    push(&mut client, "celery", 2);
    push(&mut client, &format!("celery{SEPARATOR}3"), 3);
    push(&mut client, &format!("celery{SEPARATOR}9"), 4);
    push(&mut client, "a b*:ü", 1);
    cmd("HSET").arg("unacked").arg(&["a", "{}", "b", "{}"]).exec(&mut client).unwrap();

    let source = spawn(&redis.url(), &log.log, |_| {});
    connected(&source).await;
    let beside = depths(&log, CONNECTION, &[("celery", 9), ("mail", 0), ("a b*:ü", 1)]).await;
    assert_eq!(beside["celery"], json!({ "unackedOfAllQueues": 2 }));
    push(&mut client, "mail", 5);
    bind(&mut client, "", "late", "late");
    depths(&log, CONNECTION, &[("celery", 9), ("mail", 5), ("a b*:ü", 1), ("late", 0)]).await;
    assert_eq!(source.status().hint, None);

    drop(client);
    redis.kill();
    redis.restart();
    connected(&source).await;
    let mut client = redis.client("");
    bind(&mut client, "", "mail", "mail");
    push(&mut client, "mail", 6);
    depths(&log, CONNECTION, &[("celery", 9), ("mail", 6), ("a b*:ü", 1), ("late", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_and_a_prefix_have_queues_of_their_own() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let mut client = redis.client("");
    bind(&mut client, "", "elsewhere", "elsewhere");
    cmd("SELECT").arg(3).exec(&mut client).unwrap();
    bind(&mut client, "p*", "celery", "celery");
    bind(&mut client, "", "celery", "unprefixed");
    bind(&mut client, "pp", "celery", "of another");
    push(&mut client, "p*celery", 2);
    push(&mut client, "celery", 7);
    // The separator that Celery's manual gives as another choice.
    cmd("SADD").arg("p*_kombu.binding.colon").arg("colon::colon").exec(&mut client).unwrap();
    push(&mut client, "p*colon:6", 1);
    let url = format!("{}3?global_keyprefix=p*", redis.url().trim_end_matches('0'));
    let source = spawn(&url, &log.log, |_| {});
    connected(&source).await;
    depths(&log, CONNECTION, &[("celery", 2), ("colon", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lets_us_only_listen_is_listened_to_and_says_what_is_missing() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let mut client = redis.client("");
    let rules = "SETUSER forebay on >s3cret resetkeys resetchannels &/2.celeryev/* nocommands +psubscribe +ping";
    cmd("ACL").arg(rules.split(' ').collect::<Vec<_>>()).exec(&mut client).unwrap();
    cmd("SELECT").arg(2).exec(&mut client).unwrap();
    bind(&mut client, "", "celery", "celery");
    push(&mut client, "celery", 2);
    let source = spawn(&format!("redis://forebay:s3cret@127.0.0.1:{}/2", redis.port), &log.log, |_| {});
    connected(&source).await;
    let hint = eventually("the hint", async || source.status().hint.ok_or_else(String::new)).await;
    assert!(hint.contains("depth of queues is not known") && !hint.contains("s3cret"), "{hint}");
    // Word for word what the hint tells.
    let (_, advice) = hint.split_once("allow it with  ACL ").unwrap();
    cmd("ACL").arg(advice.split(' ').collect::<Vec<_>>()).exec(&mut client).unwrap();
    depths(&log, CONNECTION, &[("celery", 2)]).await;
    eventually("the hint goes", async || source.status().hint.map_or(Ok(()), Err)).await;
}

//! Many brokers in one server, some of them added while it runs.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay_tests::{Flood, Forebay, Options, Redis, forebay_binary, wait_for};
use serde_json::Value;

fn source<'a>(health: &'a Value, name: &str) -> &'a Value {
    let sources = health["sources"].as_array().unwrap();
    sources.iter().find(|source| source["name"] == name).unwrap_or(&Value::Null)
}

/// Publishes the events of some jobs, and waits until the connection has so many jobs in all.
fn work(forebay: &Forebay, redis: &Redis, flood: &mut Flood, connection: &str, jobs: usize, in_all: u64) {
    let (messages, _) = flood.messages(jobs, 5);
    redis.publish("/0.celeryev/task.multi", &messages);
    let path = format!("/api/jobs?limit=1&connectionId={connection}");
    wait_for("the jobs to be recorded", 60, || {
        (forebay.api.try_get(&path)?.body["pagination"]["total"] == in_all).then_some(())
    });
}

#[test]
fn brokers_are_added_and_removed_while_the_server_runs_and_each_stands_for_itself() {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let (mut shop, mail, mut flood) = (Redis::start(), Redis::start(), Flood::new(1, start));
    let mut forebay = Forebay::start(Options::celery(&[format!("shop={}", shop.url(0))]));
    let shop_id = source(&forebay.health(), "shop")["connectionId"].as_str().unwrap().to_owned();
    work(&forebay, &shop, &mut flood, &shop_id, 10, 10);

    // The password goes over standard input.
    let mut adding = Command::new(forebay_binary())
        .args(["sources", "add", "mail", "-", "--json", "--data-dir"])
        .arg(forebay.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    adding.stdin.take().unwrap().write_all(mail.url(0).as_bytes()).unwrap();
    let added = adding.wait_with_output().unwrap();
    let added: Value = serde_json::from_slice(&added.stdout).unwrap_or_else(|_| panic!("{added:?}"));
    assert_eq!((&added["origin"], &added["name"]), (&"api".into(), &"mail".into()));
    let mail_id = added["connectionId"].as_str().unwrap().to_owned();
    forebay.wait_until("hear it", |health| source(health, "mail")["state"] == "connected");
    work(&forebay, &mail, &mut flood, &mail_id, 20, 20);

    // One that is gone does not harm the other, and health tells which it is.
    shop.stop();
    forebay.wait_until("miss the one alone", |health| {
        source(health, "shop")["state"] == "down" && source(health, "mail")["state"] == "connected"
    });
    assert_eq!(forebay.health()["message"], "not connected to its broker: shop");
    work(&forebay, &mail, &mut flood, &mail_id, 20, 40);
    let events = |name: &str| source(&forebay.health(), name)["events"].as_u64().unwrap();
    assert!(events("shop") < events("mail"));
    shop.restart();

    forebay.crash_and_restart();
    forebay.wait_until("hear both", |health| {
        ["shop", "mail"].iter().all(|name| source(health, name)["state"] == "connected")
    });
    work(&forebay, &mail, &mut flood, &mail_id, 5, 45);
    work(&forebay, &shop, &mut flood, &shop_id, 5, 15);

    let listed = forebay.command(&["sources"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("configuration") && listed.contains("api"), "{listed}");
    let refused = forebay.command(&["sources", "remove", "shop"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--celery"), "{refused:?}");
    assert!(forebay.command(&["sources", "remove", "mail"]).status.success());
    assert_eq!(source(&forebay.health(), "mail"), &Value::Null);
    // Nobody listens there any more, and a restart does not bring it back.
    let (messages, _) = flood.messages(1, 5);
    mail.publish("/0.celeryev/task.multi", &messages);
    forebay.crash_and_restart();
    assert_eq!(forebay.health()["sources"].as_array().unwrap().len(), 1);
    work(&forebay, &shop, &mut flood, &shop_id, 5, 20);
    let left = forebay.api.get(&format!("/api/jobs?limit=1&connectionId={mail_id}"));
    assert_eq!(left.body["pagination"]["total"], 45, "its jobs stay, and no more came");
    let missing = forebay.api.get("/api/coverage").body["data"].clone();
    let gaps: Vec<&Value> = missing.as_array().unwrap().iter().filter(|it| it["what"] == "listening").collect();
    assert!(gaps.iter().any(|gap| gap["source"] == "shop"), "{missing:#}");
    let lasts = |gap: &&&Value| gap["source"] == "mail" && gap["to"].is_null();
    assert_eq!(gaps.iter().find(lasts), None, "nobody misses what mail would hear");
}

#[test]
fn whatever_is_bound_in_redis_queues_that_can_be_asked_for_are_told() {
    let redis = Redis::start();
    let bind = |key: &str, queue: &str| redis.command(&["SADD", key, &format!("a\u{6}\u{16}\u{6}\u{16}{queue}")]);
    // A name that no event can tell stands before the good one, and what is no list or no set.
    bind("_kombu.binding.celery", &"A".repeat(9 << 20));
    bind("_kombu.binding.celery", "a hash");
    bind("_kombu.binding.celery", "a\0 >*\r\n.b");
    redis.command(&["HSET", "a hash", "field", "value"]);
    redis.command(&["SET", "_kombu.binding.of nothing", "text"]);
    redis.command(&["SADD", "_kombu.binding.:", "", ":", "::", "\u{6}\u{16}"]);
    redis.command(&["SET", "unacked", "text"]);
    bind("_kombu.binding.celery", "mail");
    redis.command(&["RPUSH", "mail", "1", "2", "3"]);
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let depths = wait_for("the depth of what is a queue", 60, || {
        let queues = forebay.api.get("/api/queues?timeRange=1h").body["data"].as_array()?.clone();
        let depth = |name: &str| queues.iter().find(|queue| queue["name"] == name).map(|queue| queue["depth"].clone());
        Some([depth("mail")?, depth("a\0 >*\r\n.b")?, depth("a hash").unwrap_or_default()])
    });
    assert_eq!(depths, [Value::from(3), Value::from(0), Value::Null]);
}

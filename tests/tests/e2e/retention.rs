//! What is kept, and what goes: by age, and for want of room. Buckets of an hour are seconds here, since a short
//! retention has short buckets.

use std::time::{Duration, Instant};

use event_log::testing::SmallDisk;
use forebay_tests::{Answer, Forebay, Options, wait_for};
use serde_json::{Value, json};

const MEGABYTE: usize = 1_000_000;
/// Bytes that an event of these tests takes in the log, about.
const EVENT: usize = 2_000;

fn event(id: &str, state: &str, millisecond: u64) -> Value {
    json!({
        "type": "job.state_change", "framework": "celery",
        "timestamp": format!("2026-02-27T10:{:02}:{:02}.{:03}Z", millisecond / 60_000 % 60, millisecond / 1_000 % 60, millisecond % 1_000),
        "job": { "externalId": id, "name": "shop.pay", "state": state, "args": "x".repeat(EVENT - 200) },
    })
}

fn serving(arguments: &[&str]) -> Options {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Options { arguments, ..Options::default() }
}

/// Posts jobs of one event each, of so many bytes in all; gives the answer.
fn post(forebay: &Forebay, prefix: &str, bytes: usize) -> Answer {
    let events: Vec<_> = (0..bytes / EVENT).map(|job| event(&format!("{prefix}-{job}"), "queued", 0)).collect();
    forebay.api.ingest(&events).unwrap()
}

fn retention(forebay: &Forebay) -> Value {
    forebay.health()["retention"].take()
}

fn verified(forebay: &Forebay) {
    let verified = forebay.command(&["verify"]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn what_is_older_than_asked_for_goes_and_what_goes_on_says_so() {
    let mut forebay = Forebay::start(serving(&["--retention", "4s"]));
    let first = forebay.api.ingest(&[event("old", "completed", 0), event("long", "queued", 0)]).unwrap();
    assert_eq!(first.status, 202);
    let mut millisecond = 1;
    let gone = wait_for("the old job to go", 30, || {
        assert_eq!(forebay.api.ingest(&[event("long", "active", millisecond)]).unwrap().status, 202);
        millisecond += 1;
        let answer = forebay.api.get("/api/jobs/old");
        (answer.status == 404).then_some(answer)
    });
    assert!(gone.body["error"]["details"].is_object(), "it says since when the log reaches back: {}", gone.body);
    let check = |forebay: &Forebay| {
        let long = forebay.api.job("long").unwrap();
        assert_eq!((&long["state"], &long["truncated"]), (&json!("active"), &json!(true)), "{long:#}");
        assert_eq!(forebay.api.job("old"), None);
        verified(forebay);
    };
    check(&forebay);
    let told =
        wait_for("the trim to be told", 10, || Some(retention(&forebay)).filter(|it| it["lastTrim"].is_object()));
    assert_eq!((&told["state"], &told["keepSeconds"]), (&json!("keeping"), &json!(4)), "{told}");
    assert_eq!(told["lastTrim"]["cause"], "age", "{told}");
    assert_eq!(forebay.health()["status"], "ok");

    // A restart and a rebuild know the same: all that is left is in the log.
    forebay.crash_and_restart();
    if forebay.api.job("long").is_some() {
        check(&forebay);
    }
    let rebuilt = forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    // Nobody tells of it any more, and then it goes as well; the log holds no more than a few moments.
    wait_for("the other job to go, too", 30, || (forebay.api.job("long").is_none()).then_some(()));
    verified(&forebay);
    assert!(forebay.health()["log"]["firstSequence"].as_u64() > first.body["sequence"].as_u64());
}

#[test]
fn a_log_that_is_too_large_keeps_less_and_a_flood_is_refused_until_there_is_room() {
    let forebay = Forebay::start(serving(&["--retention", "72s", "--max-log-size", "4MB"]));
    // Buckets of 3 s. The first of them is old before there is too much.
    assert_eq!(post(&forebay, "first", 3 * MEGABYTE).status, 202);
    let began = Instant::now();
    wait_for("a bucket to be over", 10, || (began.elapsed() > Duration::from_millis(3_100)).then_some(()));
    assert_eq!(post(&forebay, "second", MEGABYTE / 2).status, 202);
    // What is kept is decided before it is done.
    let told = wait_for("less to be kept", 20, || {
        Some(retention(&forebay)).filter(|it| it["state"] == "shortened" && it["lastTrim"].is_object())
    });
    assert_eq!(told["lastTrim"]["cause"], "room", "{told}");
    assert!(told["logBytes"].as_u64().unwrap() < 3_200_000 && told["allowedBytes"] == 4_000_000, "{told}");
    let health = forebay.health();
    assert_eq!(
        (&health["status"], &health["reason"]),
        (&json!("degraded"), &json!("RETENTION_SHORTENED")),
        "{health:#}"
    );
    assert!(health["message"].as_str().unwrap().contains("--max-log-size"), "{health:#}");
    assert!(health["disk"]["freeBytes"].as_u64() > Some(0) && health["disk"]["viewsBytes"].as_u64() > Some(0));
    assert_eq!(forebay.api.job("first-0"), None);
    assert!(forebay.api.job("second-0").is_some());

    // All of this is younger than a bucket, so nothing of it goes for what comes after it.
    let mut accepted = 0;
    let refused = wait_for("ingest to be refused", 60, || {
        let answer = post(&forebay, &format!("flood-{accepted}"), MEGABYTE / 10);
        accepted += 1;
        (answer.status != 202).then_some(answer)
    });
    assert_eq!((refused.status, &refused.body["error"]["code"]), (503, &json!("UNAVAILABLE")), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    wait_for("health to say so", 2, || (forebay.health()["reason"] == "LOG_FULL").then_some(()));
    let last = format!("flood-{}-0", accepted - 2);
    assert!(forebay.api.job(&last).is_some(), "reads are answered, and what was taken is there");
    wait_for("events to be taken again", 30, || (post(&forebay, "later", EVENT).status == 202).then_some(()));
    wait_for("it to be recorded", 10, || forebay.api.job("later-0"));
    assert!(forebay.health()["log"]["bytes"].as_u64() < Some(4_000_000), "the limit holds");
    verified(&forebay);
}

#[test]
fn a_disk_that_others_fill_refuses_events_and_is_got_over() {
    let name = "retention::a_disk_that_others_fill_refuses_events_and_is_got_over";
    let Some(disk) = SmallDisk::mount(200, name) else { return };
    let forebay = Forebay::start_in(tempfile::tempdir_in(disk.path()).unwrap(), serving(&[]));
    let mut taken = 0;
    let mut take = || {
        let answer = post(&forebay, &format!("job-{taken}"), MEGABYTE / 10);
        taken += usize::from(answer.status == 202);
        answer.status
    };
    for _ in 0..10 {
        assert_eq!(take(), 202);
    }
    disk.fill(10 << 20);
    wait_for("ingest to be refused", 30, || (take() == 503).then_some(()));
    assert_eq!(forebay.health()["reason"], "LOG_FULL");
    disk.relieve();
    wait_for("events to be taken again", 30, || (take() == 202).then_some(()));
    wait_for("all to be well", 30, || (forebay.health()["status"] == "ok").then_some(()));
    // Nothing of it was old enough to go.
    for job in 0..taken {
        assert!(forebay.api.job(&format!("job-{job}-0")).is_some(), "job {job} of {taken}");
    }
    verified(&forebay);
}

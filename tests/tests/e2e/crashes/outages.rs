//! Everything around a source goes away in the midst of a flood from Redis, one after the other. What is not in the record
//! afterwards is what Redis gave to nobody, and the times of that are told.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use event_log::testing::TestServer;
use forebay_tests::{Flood, FloodJob, Forebay, Options, Publisher, Redis, job_id, setting, wait_or_show};
use serde_json::Value;

use super::world::{verify, wait_until_whole};

/// Events in one message.
const EVENTS_EACH: usize = 20;
/// Events of a job of the flood, on average; good enough for the pace.
const EVENTS_OF_JOB: f64 = 4.4;
/// How often the flood's next part is published.
const PART: Duration = Duration::from_millis(50);
/// What was given to a process that dies so soon after may die with it.
const IN_FLIGHT: f64 = 2.0;
/// Epoch seconds by which the clocks of what is compared here may differ: when it is noticed that a source hears nothing.
const NOTICED: f64 = 3.0;

/// Jobs published together.
struct Part {
    /// Epoch seconds before and after.
    from: f64,
    to: f64,
    jobs: Vec<FloodJob>,
    heard: Heard,
}

/// Whether somebody heard them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    All,
    Nothing,
    /// Some of it, or Redis did not say.
    Unclear,
}

fn epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Publishes so many events a second until it is over. It catches up when it was held up.
fn flood(publisher: Publisher, rate: f64, over: &AtomicBool) -> Vec<Part> {
    let mut flood = Flood::new(9, epoch());
    let (begin, mut parts) = (Instant::now(), Vec::new());
    while !over.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_secs_f64() * rate - flood.events() as f64;
        if due < rate * PART.as_secs_f64() {
            std::thread::sleep(PART);
            continue;
        }
        // At most half a second's worth in one part.
        let jobs = (due.min(rate / 2.0) / EVENTS_OF_JOB) as usize;
        let (messages, jobs) = flood.messages(jobs.max(1), EVENTS_EACH);
        let from = epoch();
        let heard = match publisher.try_publish("/0.celeryev/task.multi", &messages) {
            Ok(counts) if counts.iter().all(|&count| count > 0) => Heard::All,
            Ok(counts) if counts.iter().all(|&count| count == 0) => Heard::Nothing,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Heard::Nothing,
            Ok(_) | Err(_) => Heard::Unclear,
        };
        parts.push(Part { from, to: epoch(), jobs, heard });
    }
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!("{} events in {seconds:.1} s, {:.0} a second", flood.events(), flood.events() as f64 / seconds);
    parts
}

/// Tells the flood to end, also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The times, in epoch seconds, at which Forebay says that it did not listen.
fn gaps(forebay: &Forebay) -> Vec<(f64, f64)> {
    let time = |value: &Value| {
        value.as_str().map(|text| DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis() as f64 / 1e3)
    };
    let answer = forebay.api.get("/api/coverage").body;
    let missing = answer["data"].as_array().unwrap().iter().filter(|it| it["what"] == "listening");
    missing.map(|it| (time(&it["from"]).unwrap(), time(&it["to"]).unwrap_or(f64::INFINITY))).collect()
}

/// `OUTAGE_RATE` events a second, and the log is away for `OUTAGE_SECONDS`.
#[test]
fn what_redis_gave_to_nobody_is_missing_and_told_and_nothing_else_is() {
    let (rate, outage) = (setting("OUTAGE_RATE", 2_000.0), setting("OUTAGE_SECONDS", 4.0));
    let outage = Duration::from_secs_f64(outage);
    let (mut redis, mut nats) = (Redis::start(), TestServer::start());
    let mut options = Options::celery(&[redis.url(0)]);
    options.arguments.extend(["--nats-url".to_owned(), format!("nats://{}", nats.address())]);
    let mut forebay = Forebay::start(options);
    let (over, publisher) = (AtomicBool::new(false), redis.publisher());
    // When something died to which events may have been given just before.
    let mut deaths = Vec::new();
    let parts = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(publisher, rate, &over));
        let stop = Stop(&over);
        let flows = |forebay: &mut Forebay| {
            let before = Cell::new(None);
            forebay.wait_for_seconds("hear the flood", 300, |health| {
                let source = &health["sources"][0];
                let events = source["events"].as_u64().unwrap_or_default();
                let first = before.get().unwrap_or(events);
                before.set(Some(first));
                source["state"] == "connected" && events >= first + rate as u64
            });
        };
        flows(&mut forebay);

        // How long a fault lasts is part of it, here and below.
        nats.kill();
        std::thread::sleep(outage);
        nats.restart();
        forebay.wait_for_seconds("reach its log", 60, |health| health["log"]["connected"] == true);
        flows(&mut forebay);

        deaths.push(epoch());
        redis.stop();
        std::thread::sleep(outage.min(Duration::from_secs(5)));
        redis.restart();
        flows(&mut forebay);
        // That it listens again might die with it otherwise, and one gap would be told for both.
        closed_gaps(&forebay, 1);

        deaths.push(epoch());
        forebay.kill();
        std::thread::sleep(outage.min(Duration::from_secs(5)));
        forebay.launch();
        flows(&mut forebay);
        drop(stop);
        flood.join().unwrap()
    });
    forebay.wait_for_seconds("be well", 300, |health| health["status"] == "ok");
    wait_until_whole(&forebay);
    check(&forebay, &parts, &deaths);
    let sources = forebay.command(&["sources"]);
    let text = String::from_utf8_lossy(&sources.stdout);
    assert!(text.contains("connected") && text.contains("Forebay was not running"), "{text}");
    verify(&mut forebay);
}

/// Waits until so many gaps are told, each with its end. What is told is up to some seconds old.
fn closed_gaps(forebay: &Forebay, at_least: usize) -> Vec<(f64, f64)> {
    wait_or_show("the source to have listened again", 60, || {
        let gaps = gaps(forebay);
        let is_over = gaps.len() >= at_least && gaps.iter().all(|(_, to)| to.is_finite());
        if is_over { Ok(gaps) } else { Err(gaps) }
    })
}

fn check(forebay: &Forebay, parts: &[Part], deaths: &[f64]) {
    let gaps = closed_gaps(forebay, deaths.len());
    let (mut heard, mut unheard) = (0, 0);
    for part in parts {
        let in_flight = deaths.iter().any(|death| (part.from - IN_FLIGHT..part.to + IN_FLIGHT).contains(death));
        match part.heard {
            Heard::All if !in_flight => {
                heard += part.jobs.len();
                for job in &part.jobs {
                    let record = forebay.api.job(&job_id(&job.id)).unwrap_or_else(|| panic!("{} is missing", job.id));
                    assert_eq!(record["state"], job.state, "{record:#}");
                }
            }
            Heard::Nothing => {
                unheard += part.jobs.len();
                let is_told = gaps.iter().any(|(from, to)| from - NOTICED <= part.from && part.to <= to + NOTICED);
                assert!(is_told, "nobody listened from {} to {}, and it is not told: {gaps:?}", part.from, part.to);
                for job in &part.jobs {
                    assert!(forebay.api.job(&job_id(&job.id)).is_none(), "nobody was given {}", job.id);
                }
            }
            Heard::All | Heard::Unclear => {}
        }
    }
    let all: usize = parts.iter().map(|part| part.jobs.len()).sum();
    let told: f64 = gaps.iter().map(|(from, to)| to - from).sum();
    eprintln!(
        "{all} jobs: {heard} surely given, all recorded; {unheard} given to nobody, in {told:.1} s that are told"
    );
    assert!(unheard > 100 && heard > 1_000, "{heard} and {unheard} of {all} jobs");
    // What is told is what was.
    for (from, to) in &gaps {
        let inside = |part: &&Part| part.heard == Heard::All && from + NOTICED < part.from && part.to < to - NOTICED;
        let wrong = parts.iter().find(inside).map(|part| (part.from, part.to));
        assert!(wrong.is_none(), "somebody listened at {wrong:?}, but {from} to {to} is told");
    }
}
